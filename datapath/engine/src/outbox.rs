//! What waits to be sent on an ordered link.

use std::collections::VecDeque;

use l7mp_forwarder::verdict::Head;

use crate::buffers::{Buffers, Class};
use crate::event::Received;
use crate::send::Piece;

/// Room for entries that an empty outbox keeps.
const ENTRIES_KEPT: usize = 64;

/// A frame that waits.
#[derive(Debug)]
pub(crate) struct Entry {
    pub head: Head,
    pub piece: Piece,
    pub newline: bool,
    pub lossy: bool,
    pub messages: u32,
}

impl Entry {
    /// Bytes with its framing.
    pub fn len(&self) -> usize {
        self.head.len() + self.piece.len() + usize::from(self.newline)
    }

    /// The receive buffer that it pins.
    pub fn pin(&self) -> Option<(Class, u16)> {
        match self.piece {
            Piece::Received { class, buffer, .. } => Some((class, buffer)),
            Piece::Owned(_) => None,
        }
    }
}

/// What waits to be sent on a link, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub entries: VecDeque<Entry>,
    /// Bytes of the first entry that the kernel took already.
    pub head_sent: usize,
    /// Bytes queued, those in flight included.
    pub bytes: usize,
    /// The operation in flight.
    pub gather: Option<u32>,
    /// Entries, from the front, that it covers.
    pub in_flight: usize,
    /// Receive buffers that entries pin.
    pub pinned: usize,
    /// Stands in the list of links to pump.
    pub dirty: bool,
    /// Waits for the retry timer.
    pub waiting: bool,
    /// `Blocked` was reported.
    pub blocked: bool,
    /// The operation in flight is being cancelled.
    pub cancelling: bool,
}

impl Outbox {
    /// Whether an operation is in flight.
    pub fn is_in_flight(&self) -> bool {
        self.gather.is_some()
    }

    /// Nothing waits and nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives back the room that a burst took. Nothing is queued.
    pub fn shrink(&mut self) {
        if self.entries.is_empty() {
            self.entries.shrink_to(ENTRIES_KEPT);
        }
    }

    /// The first entry that may be dropped: lossy, and not in the kernel's hands.
    pub fn oldest_lossy(&self) -> Option<usize> {
        let first = self.in_flight.max(usize::from(self.head_sent > 0));
        (first..self.entries.len()).find(|&at| self.entries[at].lossy)
    }

    /// Appends. The entry's buffer is held already.
    pub fn push(&mut self, entry: Entry) {
        if entry.pin().is_some() && self.entries.back().and_then(Entry::pin) != entry.pin() {
            self.pinned += 1;
        }
        self.bytes += entry.len();
        self.entries.push_back(entry);
    }

    /// Takes an entry out. Its buffer is released.
    pub fn remove(&mut self, at: usize, buffers: &mut Buffers) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        let sent = if at == 0 { std::mem::take(&mut self.head_sent) } else { 0 };
        self.bytes -= entry.len() - sent;
        if let Some((class, buffer)) = entry.pin() {
            buffers.drop_use(class, buffer);
            let before = at.checked_sub(1).and_then(|before| self.entries.get(before)).and_then(Entry::pin);
            let after = self.entries.get(at).and_then(Entry::pin);
            if before != entry.pin() && after != entry.pin() {
                self.pinned = self.pinned.saturating_sub(1);
            }
        }
        if self.entries.is_empty() {
            self.pinned = 0;
        }
        Some(entry)
    }

    /// Copies what pins receive buffers and is not in flight; says how many payloads that were.
    pub fn unpin(&mut self, buffers: &mut Buffers) -> u64 {
        let mut copies = 0;
        for entry in self.entries.iter_mut().skip(self.in_flight) {
            if let Piece::Received { class, buffer, start, len } = entry.piece {
                entry.piece = Piece::Owned(copy(buffers, class, buffer, start, len));
                buffers.drop_use(class, buffer);
                copies += 1;
            }
        }
        self.pinned = self.in_flight.min(self.pinned);
        copies
    }
}

/// A copy of a part of a receive buffer.
pub(crate) fn copy(buffers: &mut Buffers, class: Class, buffer: u16, start: u32, len: u32) -> Vec<u8> {
    buffers.bytes(&Received { class, buffer, start, len, stride: 0 }).to_vec()
}
