//! UDP: datagrams are joined into trains, sent without waiting, and forgotten when the kernel reported no error.
//!
//! ```text
//!   send(frame) -> open train --another link or size--> pushed --enter--> failed? resend or lose : sent --> retired
//! ```
//!
//! A send with MSG_DONTWAIT completes while it is submitted, and its success makes no completion. So once the
//! submission queue is empty and the completions were read, every train that reported nothing was taken: all slots,
//! their iovecs and their holds on receive buffers are free again.

use std::io;
use std::ptr;

use io_uring::opcode;
use io_uring::squeue::Flags;
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::limits;
use l7mp_forwarder::verdict::SocketError;

use crate::address::{INET_NAME_BYTES, InetName, Name};
use crate::buffers::Class;
use crate::cmsg::ControlBuffer;
use crate::engine::Engine;
use crate::event::Event;
use crate::files::Target;
use crate::links::{Destination, Kind, Link, Phase};
use crate::token::{Op, Token};

/// Trains that one flush may hold.
const SLOTS: usize = 1024;
/// Pieces of memory that one flush may hold.
const IOVECS: usize = 4096;
/// Datagrams of a train: UDP_MAX_SEGMENTS before Linux 6.9, and what GRO gives.
const TRAIN_DATAGRAMS_MAX: u16 = 64;

const _: () = assert!(IOVECS >= SLOTS + TRAIN_DATAGRAMS_MAX as usize);

/// Where the bytes of a queued send lie.
#[derive(Debug)]
pub(crate) enum Piece {
    /// In a receive buffer.
    Received { class: Class, buffer: u16, start: u32, len: u32 },
    /// On the heap.
    Owned(Vec<u8>),
}

impl Piece {
    pub fn len(&self) -> usize {
        match self {
            Piece::Received { len, .. } => *len as usize,
            Piece::Owned(bytes) => bytes.len(),
        }
    }
}

/// One sendmsg: a datagram, or several of one size to one link.
struct Train {
    header: libc::msghdr,
    control: ControlBuffer,
    name: InetName,
    target: Target,
    link: LinkId,
    /// Size of its datagrams; the last may be shorter.
    segment: usize,
    bytes: usize,
    datagrams: u16,
    messages: u32,
    iovec_first: usize,
    iovec_end: usize,
    /// A shorter datagram ended it.
    sealed: bool,
    /// Its error was dealt with.
    failed: bool,
}

/// The trains of this turn and what they point to. Nothing here moves while the kernel may look at it.
pub(crate) struct Trains {
    slots: Box<[Train]>,
    used: usize,
    /// The last slot is not pushed yet.
    open: bool,
    iovecs: Box<[libc::iovec]>,
    iovecs_used: usize,
    holds: Vec<(Class, u16)>,
    owned: Vec<Vec<u8>>,
    /// Tells the completions of one flush from those of another.
    flush: u32,
}

const NO_IOVEC: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

impl Trains {
    pub fn new() -> Trains {
        Trains {
            slots: (0..SLOTS).map(|_| Train::empty()).collect(),
            used: 0,
            open: false,
            iovecs: vec![NO_IOVEC; IOVECS].into_boxed_slice(),
            iovecs_used: 0,
            holds: Vec::with_capacity(IOVECS),
            owned: Vec::with_capacity(64),
            flush: 0,
        }
    }

    /// Nothing waits for the next enter.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The open train, when `len` more bytes for `link` may join it.
    fn joinable(&mut self, link: &Link, len: usize) -> Option<&mut Train> {
        if !self.open || self.iovecs_used == IOVECS {
            return None;
        }
        let train = &mut self.slots[self.used - 1];
        let joins = train.link == link.id
            && !train.sealed
            && len > 0
            && len <= train.segment
            && train.segment <= usize::from(link.segment_max)
            && train.datagrams < TRAIN_DATAGRAMS_MAX
            && train.bytes + len <= limits::UDP_PAYLOAD_BYTES_MAX;
        joins.then_some(train)
    }

    fn is_full(&self) -> bool {
        self.used == SLOTS || self.iovecs_used == IOVECS
    }

    /// Starts a train with nothing in it.
    fn start(&mut self, link: &Link, segment: usize) {
        let train = &mut self.slots[self.used];
        train.link = link.id;
        train.target = link.target;
        (train.name, train.control) = match link.destination.as_deref() {
            Some(Destination::Inet { name, source }) => (*name, *source),
            Some(Destination::Unix { .. }) | None => (NO_NAME, ControlBuffer::EMPTY),
        };
        train.segment = segment;
        (train.bytes, train.datagrams, train.messages) = (0, 0, 0);
        (train.sealed, train.failed) = (false, false);
        (train.iovec_first, train.iovec_end) = (self.iovecs_used, self.iovecs_used);
        self.used += 1;
        self.open = true;
    }

    /// Adds bytes at `start` to the open train. There is room for an iovec.
    fn append(&mut self, start: *mut u8, len: usize, messages: u32) {
        let train = &mut self.slots[self.used - 1];
        train.bytes += len;
        train.datagrams += 1;
        train.messages += messages;
        train.sealed = len < train.segment;
        if train.iovec_end > train.iovec_first {
            let last = &mut self.iovecs[train.iovec_end - 1];
            if last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == start {
                last.iov_len += len;
                return;
            }
        }
        self.iovecs[self.iovecs_used] = libc::iovec { iov_base: start.cast(), iov_len: len };
        self.iovecs_used += 1;
        train.iovec_end = self.iovecs_used;
    }

    /// Completes the header of the open train, and names its slot.
    fn seal(&mut self) -> Option<usize> {
        if !self.open {
            return None;
        }
        self.open = false;
        let index = self.used - 1;
        let train = &mut self.slots[index];
        if train.datagrams > 1 {
            train.control.push_segment(train.segment as u16);
        }
        let iovecs = &mut self.iovecs[train.iovec_first..train.iovec_end];
        train.point_header(iovecs);
        Some(index)
    }
}

const NO_NAME: InetName = Name { bytes: [0; INET_NAME_BYTES], len: 0 };

/// A header that names nothing.
pub(crate) fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is a C struct of integers and pointers, for which all zeroes is a value.
    unsafe { std::mem::zeroed() }
}

impl Train {
    fn empty() -> Train {
        Train {
            header: empty_header(),
            control: ControlBuffer::EMPTY,
            name: NO_NAME,
            target: Target::NONE,
            link: LinkId::new(0, 0),
            segment: 0,
            bytes: 0,
            datagrams: 0,
            messages: 0,
            iovec_first: 0,
            iovec_end: 0,
            sealed: false,
            failed: false,
        }
    }

    fn point_header(&mut self, iovecs: &mut [libc::iovec]) {
        let control = self.control.as_bytes();
        self.header.msg_control = if control.is_empty() { ptr::null_mut() } else { control.as_ptr().cast_mut().cast() };
        self.header.msg_controllen = control.len() as _;
        self.header.msg_name = if self.name.len == 0 { ptr::null_mut() } else { self.name.bytes.as_mut_ptr().cast() };
        self.header.msg_namelen = self.name.len.into();
        self.header.msg_iov = iovecs.as_mut_ptr();
        self.header.msg_iovlen = iovecs.len() as _;
    }
}

impl Engine {
    /// Queues a datagram.
    pub(crate) fn send_datagram(&mut self, id: LinkId, piece: Piece, messages: u32) {
        let len = piece.len();
        let Some(link) = self.links.get(id) else { return };
        if self.trains.joinable(link, len).is_none() {
            self.start_train(id, len);
        }
        let start = match piece {
            Piece::Received { class, buffer, start, len } => {
                if self.trains.holds.last() != Some(&(class, buffer)) {
                    self.buffers.hold(class, buffer);
                    self.trains.holds.push((class, buffer));
                }
                self.buffers.address(class, buffer, start as usize, len as usize).as_ptr()
            }
            Piece::Owned(mut bytes) => {
                // The heap block stays where it is when the vector that owns it moves.
                let start = bytes.as_mut_ptr();
                self.trains.owned.push(bytes);
                start
            }
        };
        self.trains.append(start, len, messages);
    }

    fn start_train(&mut self, id: LinkId, segment: usize) {
        self.push_train();
        if self.trains.is_full() {
            self.flush();
        }
        if let Some(link) = self.links.get(id) {
            self.trains.start(link, segment);
        }
    }

    /// Hands the open train to the submission queue.
    pub(crate) fn push_train(&mut self) {
        let Some(index) = self.trains.seal() else { return };
        let train = &self.trains.slots[index];
        let send = opcode::SendMsg::new(train.target.field(), &train.header)
            .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(Token::new(Op::Train, index as u32, self.trains.flush).pack());
        let send = train.target.mark(send);
        self.stats.datagram_sends += 1;
        // SAFETY: header, name, control and iovecs lie in boxes that are neither moved nor reused, and the payload in
        // held buffers or owned vectors that are not freed, before `retire_trains`. It runs once the submission queue
        // is empty, and with MSG_DONTWAIT the operation has completed by then. The socket is open: a link's is closed
        // only when no train is left (`finish_closing`).
        unsafe { self.push(&send) };
    }

    /// The kernel refused a train.
    pub(crate) fn train_failed(&mut self, token: Token, errno: i32) {
        let index = token.index as usize;
        if token.generation != Token::new(Op::Train, 0, self.trains.flush).generation || index >= self.trains.used {
            self.stats.stale += 1;
            return;
        }
        let train = &mut self.trains.slots[index];
        train.failed = true;
        let (link, messages, datagrams) = (train.link, train.messages, train.datagrams);
        match errno {
            libc::EINVAL | libc::EMSGSIZE | libc::EIO if datagrams > 1 => self.resend_apart(index, errno),
            libc::ECONNREFUSED => {
                if self.was_refused(link) {
                    self.lose(link, messages, DropReason::Disconnected);
                } else {
                    self.resend(index);
                }
            }
            _ => self.lose(link, messages, send_error_reason(errno)),
        }
    }

    /// Counts a refusal of a connected UDP socket. True when it was the second within the window: it is broken now.
    pub(crate) fn was_refused(&mut self, id: LinkId) -> bool {
        let now = self.now;
        let Some(link) = self.links.get(id) else { return true };
        if !matches!(link.kind, Kind::Udp { .. }) {
            return false;
        }
        let again = link.refused_at.is_some_and(|before| now.since(before) < limits::REFUSED_WINDOW);
        link.refused_at = Some(now);
        if again || !link.is_open() {
            self.break_link(id, SocketError::Refused);
            return true;
        }
        false
    }

    /// Sends a train once more: the refusal was news of an earlier one.
    fn resend(&mut self, index: usize) {
        let train = &self.trains.slots[index];
        let (link, messages, bytes) = (train.link, train.messages, train.bytes);
        self.stats.resent += u64::from(train.datagrams);
        match send_now(train.target, &train.header) {
            Ok(()) => self.sent(link, messages, bytes as u64),
            Err(libc::ECONNREFUSED) => {
                self.was_refused(link);
                self.lose(link, messages, DropReason::Disconnected);
            }
            Err(errno) => self.lose(link, messages, send_error_reason(errno)),
        }
    }

    /// Sends the datagrams of a train one by one: they are longer than the path takes in segments, or the device
    /// cannot compute checksums of segments.
    fn resend_apart(&mut self, index: usize, errno: i32) {
        let train = &self.trains.slots[index];
        let (id, segment, target) = (train.link, train.segment, train.target);
        let datagrams = train.datagrams;
        let mut header = train.header;
        let mut control = ControlBuffer::EMPTY;
        if let Some(link) = self.links.get(id) {
            link.segment_max = if errno == libc::EIO { 0 } else { segment.saturating_sub(1) as u16 };
            if let Some(Destination::Inet { source, .. }) = link.destination.as_deref() {
                control = *source;
            }
        }
        let control = control.as_bytes();
        header.msg_control = if control.is_empty() { ptr::null_mut() } else { control.as_ptr().cast_mut().cast() };
        header.msg_controllen = control.len() as _;
        self.stats.resent += u64::from(datagrams);
        for datagram in 0..usize::from(datagrams) {
            let train = &self.trains.slots[index];
            let iovecs = &self.trains.iovecs[train.iovec_first..train.iovec_end];
            let range = datagram * segment..train.bytes.min((datagram + 1) * segment);
            let mut parts = [NO_IOVEC; TRAIN_DATAGRAMS_MAX as usize];
            let count = cut(iovecs, range.clone(), &mut parts);
            header.msg_iov = parts.as_mut_ptr();
            header.msg_iovlen = count as _;
            match send_now(target, &header) {
                Ok(()) => self.sent(id, 1, range.len() as u64),
                Err(errno) => self.lose(id, 1, send_error_reason(errno)),
            }
        }
    }

    /// Every pushed train was submitted, and its failure read: what was not refused is sent.
    pub(crate) fn retire_trains(&mut self) {
        debug_assert!(!self.trains.open);
        for index in 0..self.trains.used {
            let train = &self.trains.slots[index];
            if !train.failed {
                self.sent(train.link, train.messages, train.bytes as u64);
            }
        }
        for at in 0..self.trains.holds.len() {
            let (class, buffer) = self.trains.holds[at];
            self.buffers.drop_use(class, buffer);
        }
        let trains = &mut self.trains;
        trains.holds.clear();
        trains.owned.clear();
        (trains.used, trains.iovecs_used) = (0, 0);
        trains.flush = trains.flush.wrapping_add(1);
    }

    /// Reports messages that the kernel took.
    pub(crate) fn sent(&mut self, link: LinkId, messages: u32, bytes: u64) {
        if let Some(Event::Sent { link: last, messages: m, bytes: b }) = self.events.back_mut()
            && *last == link
        {
            *m += messages;
            *b += bytes;
            return;
        }
        self.events.push_back(Event::Sent { link, messages, bytes });
    }

    /// Reports messages that will not go out.
    pub(crate) fn lose(&mut self, link: LinkId, messages: u32, reason: DropReason) {
        if messages == 0 {
            return;
        }
        if let Some(Event::Lost { link: last, messages: m, reason: r }) = self.events.back_mut()
            && (*last, *r) == (link, reason)
        {
            *m += messages;
            return;
        }
        self.events.push_back(Event::Lost { link, messages, reason });
    }

    /// The socket is of no more use.
    pub(crate) fn break_link(&mut self, id: LinkId, error: SocketError) {
        let Some(link) = self.links.get(id) else { return };
        if link.phase == Phase::Open {
            link.phase = Phase::Dead;
            self.events.push_back(Event::Broken(id, error));
            self.stop_reading(id);
            self.empty_outbox(id, DropReason::Disconnected);
            self.cancel_ordered(id);
        }
    }
}

/// Sends a message by a plain system call.
fn send_now(target: Target, header: &libc::msghdr) -> Result<(), i32> {
    // SAFETY: the header and all that it points to belong to a train that is not retired, or to the caller's frame; the
    // descriptor is that of an open socket.
    let sent = unsafe { libc::sendmsg(target.fd, header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) }
}

/// Writes the iovecs of `range` of the bytes of `iovecs` to `parts`, and says how many.
fn cut(iovecs: &[libc::iovec], range: std::ops::Range<usize>, parts: &mut [libc::iovec]) -> usize {
    let mut count = 0;
    let mut at = 0;
    for iovec in iovecs {
        let (first, end) = (range.start.max(at), range.end.min(at + iovec.iov_len));
        if first < end && count < parts.len() {
            let base = iovec.iov_base.cast::<u8>().wrapping_add(first - at);
            parts[count] = libc::iovec { iov_base: base.cast(), iov_len: end - first };
            count += 1;
        }
        at += iovec.iov_len;
    }
    count
}

/// How a datagram that the kernel refused is counted.
pub(crate) fn send_error_reason(errno: i32) -> DropReason {
    match errno {
        libc::EMSGSIZE => DropReason::Oversized,
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => DropReason::SendBufferFull,
        libc::ECONNREFUSED | libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN => DropReason::Disconnected,
        _ => DropReason::SendError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_is_cut_across_its_pieces() {
        let mut bytes = *b"abcdefghij";
        let base = bytes.as_mut_ptr();
        let iovecs = [(0, 3), (3, 1), (4, 6)]
            .map(|(at, len)| libc::iovec { iov_base: base.wrapping_add(at).cast(), iov_len: len });
        let mut parts = [NO_IOVEC; 4];
        let lens = |parts: &[libc::iovec]| parts.iter().map(|part| part.iov_len).collect::<Vec<_>>();
        assert_eq!(cut(&iovecs, 0..4, &mut parts), 2);
        assert_eq!(lens(&parts[..2]), [3, 1]);
        assert_eq!(cut(&iovecs, 2..6, &mut parts), 3);
        assert_eq!(lens(&parts[..3]), [1, 1, 2]);
        assert_eq!(cut(&iovecs, 10..10, &mut parts), 0);
    }
}
