//! Ordered sends: byte streams, seqpacket, Unix dgram.
//!
//! Each link has an outbox. One operation is in flight per link: a gather of up to 64 pieces on a byte stream, a chain
//! of linked messages on the others, so that a full socket delays what follows and never reorders it. A frame is sent
//! from the receive buffer that it arrived in; only what waits behind a slow reader is copied, lest it pins the pool.

use std::io;
use std::ptr;
use std::time::Duration;

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::CancelBuilder;
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::limits;
use l7mp_forwarder::verdict::{Head, SocketError};

use crate::buffers::{Buffers, Class};
use crate::connect::socket_error;
use crate::engine::{Engine, Timer};
use crate::event::Event;
use crate::files::Target;
use crate::links::{Destination, Kind, Link, Phase};
use crate::outbox::{Entry, copy};
use crate::send::{Piece, empty_header, send_error_reason};
use crate::token::{Op, Token};

/// Pieces of memory that one operation gathers.
const PIECES: usize = 64;
/// Messages that one chain links.
const CHAIN: usize = 16;
/// Pieces of one frame: head, payload, newline.
const PIECES_PER_FRAME: usize = 3;
/// How soon a full Unix dgram peer is tried again: an unconnected socket cannot be polled for it.
const RETRY_AFTER: Duration = Duration::from_millis(1);

const _: () = assert!(CHAIN * PIECES_PER_FRAME <= PIECES);

/// What follows a line-framed message.
static NEWLINE: u8 = b'\n';

/// The memory of an operation in flight: headers, pieces, heads. Lent to a link while it sends.
pub(crate) struct Gather {
    headers: [libc::msghdr; CHAIN],
    iovecs: [libc::iovec; PIECES],
    heads: [Head; PIECES],
    link: LinkId,
    /// Completions that are still to come.
    pending: usize,
}

/// All of them; as many as links have sent at the same time.
#[derive(Default)]
pub(crate) struct Gathers {
    #[expect(clippy::vec_box, reason = "the kernel has the address of each while the vector grows")]
    all: Vec<Box<Gather>>,
    free: Vec<u32>,
}

impl Gathers {
    fn take(&mut self, link: LinkId) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(Box::new(Gather {
                headers: [empty_header(); CHAIN],
                iovecs: [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PIECES],
                heads: [Head::EMPTY; PIECES],
                link,
                pending: 0,
            }));
            self.free.reserve(self.all.len());
            (self.all.len() - 1) as u32
        });
        self.all[index as usize].link = link;
        index
    }

    fn give_back(&mut self, index: u32) {
        self.free.push(index);
    }

    /// Links with an operation in flight.
    fn busy(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.all.iter().filter(|gather| gather.pending > 0).map(|gather| gather.link)
    }
}

impl Gather {
    /// Points the pieces at the entry's bytes after `skip`, from piece `at` on. Says where the next piece goes.
    fn fill(&mut self, mut at: usize, entry: &mut Entry, mut skip: usize, buffers: &Buffers) -> usize {
        let head_slot = at;
        self.heads[head_slot] = entry.head;
        let payload = match &mut entry.piece {
            Piece::Received { class, buffer, start, len } => {
                buffers.address(*class, *buffer, *start as usize, *len as usize).as_ptr()
            }
            Piece::Owned(bytes) => bytes.as_mut_ptr(),
        };
        let parts = [
            (self.heads[head_slot].as_ptr().cast_mut(), entry.head.len()),
            (payload, entry.piece.len()),
            ((&raw const NEWLINE).cast_mut(), usize::from(entry.newline)),
        ];
        for (base, len) in parts {
            let skipped = skip.min(len);
            skip -= skipped;
            if len > skipped {
                self.iovecs[at] = libc::iovec { iov_base: base.wrapping_add(skipped).cast(), iov_len: len - skipped };
                at += 1;
            }
        }
        at
    }

    fn point_header(&mut self, message: usize, pieces: std::ops::Range<usize>, destination: Option<&Destination>) {
        let header = &mut self.headers[message];
        (header.msg_name, header.msg_namelen) = match destination {
            Some(Destination::Unix { name }) => (name.bytes.as_ptr().cast_mut().cast(), name.len.into()),
            Some(Destination::Inet { .. }) | None => (ptr::null_mut(), 0),
        };
        header.msg_iovlen = pieces.len() as _;
        header.msg_iov = self.iovecs[pieces].as_mut_ptr();
    }
}

impl Engine {
    /// Queues a frame on an ordered link.
    pub(crate) fn enqueue(&mut self, id: LinkId, entry: Entry) {
        let Some(link) = self.links.get(id) else { return };
        let kind = link.kind;
        let len = entry.len();
        if len == 0 && matches!(kind, Kind::Bytes | Kind::Seqpacket) {
            return self.lose(id, entry.messages, DropReason::Empty);
        }
        if !self.make_room(id, &entry) {
            return self.lose(id, entry.messages, DropReason::Backlog);
        }
        let entry = self.pin_or_copy(id, entry);
        let Some(link) = self.links.get(id).filter(|link| link.is_open()) else {
            return self.lose(id, entry.messages, DropReason::Disconnected);
        };
        if let Some((class, buffer)) = entry.pin() {
            self.buffers.hold(class, buffer);
        }
        let outbox = link.outbox.get_or_insert_default();
        outbox.push(entry);
        if !outbox.blocked
            && (outbox.bytes > limits::OUTBOX_HIGH_BYTES || outbox.entries.len() > limits::OUTBOX_MESSAGES_MAX)
        {
            outbox.blocked = true;
            self.events.push_back(Event::Blocked(id));
        }
        self.mark_dirty(id);
    }

    /// Drops the oldest lossy frames until a lossy one fits. False when it does not.
    fn make_room(&mut self, id: LinkId, entry: &Entry) -> bool {
        if !entry.lossy {
            return true;
        }
        loop {
            let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_mut()) else { return true };
            let fits = outbox.entries.len() < limits::OUTBOX_MESSAGES_MAX
                && (outbox.bytes + entry.len() <= limits::OUTBOX_HIGH_BYTES || outbox.is_empty());
            if fits {
                return true;
            }
            let dropped = outbox.oldest_lossy().and_then(|oldest| outbox.remove(oldest, &mut self.buffers));
            match dropped {
                Some(dropped) => self.lose(id, dropped.messages, DropReason::Backlog),
                None => return false,
            }
        }
    }

    /// Copies the payload when the link's queue pins enough of the pool already.
    fn pin_or_copy(&mut self, id: LinkId, mut entry: Entry) -> Entry {
        let Piece::Received { class, buffer, start, len } = entry.piece else { return entry };
        let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_ref()) else { return entry };
        let (pinned, slow) = (outbox.pinned, outbox.is_in_flight() || outbox.waiting);
        if pinned >= limits::OUTBOX_PINNED_MAX && !slow {
            // Not slow yet as far as we know: give the kernel a chance to take it all.
            self.flush();
        }
        let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_ref()) else { return entry };
        let slow = outbox.is_in_flight() || outbox.waiting;
        if outbox.pinned >= limits::OUTBOX_PINNED_MAX || (slow && self.buffers.is_scarce(class)) {
            entry.piece = Piece::Owned(copy(&mut self.buffers, class, buffer, start, len));
            self.stats.payload_copies += 1;
        }
        entry
    }

    /// Notes that a link has something to send.
    fn mark_dirty(&mut self, id: LinkId) {
        let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_mut()) else { return };
        if !outbox.dirty && !outbox.waiting && outbox.gather.is_none() && !outbox.is_empty() {
            outbox.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Starts an operation on every link that has something to send and none in flight.
    pub(crate) fn pump(&mut self) {
        while let Some(id) = self.dirty.pop() {
            let Some(link) = self.links.get(id) else { continue };
            let Some(outbox) = link.outbox.as_mut() else { continue };
            outbox.dirty = false;
            if outbox.gather.is_some() || outbox.is_empty() || !matches!(link.phase, Phase::Open | Phase::Flushing) {
                continue;
            }
            match link.kind {
                Kind::Bytes => self.send_gathered(id),
                Kind::Seqpacket | Kind::UnixDgram | Kind::UnixFlow => self.send_chained(id),
                Kind::Udp { .. } | Kind::UdpFlow => {}
            }
        }
    }

    /// One sendmsg for as many entries as fit.
    fn send_gathered(&mut self, id: LinkId) {
        let index = self.gathers.take(id);
        let gather = &mut self.gathers.all[index as usize];
        let Some(link) = self.links.get(id) else { return };
        let target = link.target;
        let Some(outbox) = link.outbox.as_mut() else { return };
        let mut pieces = 0;
        let mut skip = outbox.head_sent;
        for entry in &mut outbox.entries {
            if pieces + PIECES_PER_FRAME > PIECES {
                break;
            }
            pieces = gather.fill(pieces, entry, skip, &self.buffers);
            skip = 0;
            outbox.in_flight += 1;
        }
        gather.point_header(0, 0..pieces, None);
        gather.pending = 1;
        outbox.gather = Some(index);
        self.push_ordered(id, index, 0, target, libc::MSG_NOSIGNAL, Flags::empty());
    }

    /// A chain of messages, each of which starts when the one before was taken.
    fn send_chained(&mut self, id: LinkId) {
        let index = self.gathers.take(id);
        let gather = &mut self.gathers.all[index as usize];
        let Some(link) = self.links.get(id) else { return };
        let (target, kind) = (link.target, link.kind);
        let Some(outbox) = link.outbox.as_mut() else { return };
        let count = outbox.entries.len().min(CHAIN);
        let mut piece = 0;
        for (message, entry) in outbox.entries.iter_mut().take(count).enumerate() {
            let end = gather.fill(piece, entry, 0, &self.buffers);
            gather.point_header(message, piece..end, link.destination.as_deref());
            piece = end;
        }
        gather.pending = count;
        outbox.in_flight = count;
        outbox.gather = Some(index);
        // An unconnected socket is always writable to poll, so waiting for room would spin in the kernel.
        let wait = if kind == Kind::UnixFlow { libc::MSG_DONTWAIT } else { 0 };
        // A chain ends where a submission ends.
        self.reserve(count);
        for message in 0..count {
            let flags = if message + 1 < count { Flags::IO_LINK } else { Flags::empty() };
            self.push_ordered(id, index, message, target, libc::MSG_NOSIGNAL | wait, flags);
        }
    }

    fn push_ordered(&mut self, id: LinkId, gather: u32, message: usize, target: Target, flags: i32, link: Flags) {
        let header: *const libc::msghdr = &self.gathers.all[gather as usize].headers[message];
        let send = opcode::SendMsg::new(target.field(), header)
            .flags(flags as u32)
            .build()
            .flags(link)
            .user_data(Token::link(Op::Ordered, id).pack());
        let send = target.mark(send);
        // SAFETY: header, pieces and heads lie in a boxed gather that is lent to this link until all its completions
        // came. The payloads belong to entries of the outbox, which stay there (`oldest_lossy` passes over them) and
        // hold their buffers as long; a name lies in the link's boxed destination, and neither link nor socket goes
        // before `is_busy` says that nothing is in flight.
        unsafe { self.push(&send) };
    }

    /// A completion of an ordered send.
    pub(crate) fn ordered_completed(&mut self, token: Token, result: i32) {
        let id = token.link_id();
        let Some(link) = self.links.get(id) else {
            self.stats.stale += 1;
            return;
        };
        let kind = link.kind;
        let Some(index) = link.outbox.as_ref().and_then(|outbox| outbox.gather) else { return };
        match (kind, result) {
            (Kind::Bytes, 0..) => self.bytes_taken(id, result as usize),
            (_, 0..) => self.message_taken(id, result as usize),
            (_, error) => self.ordered_failed(id, kind, -error),
        }
        let gather = &mut self.gathers.all[index as usize];
        gather.pending -= 1;
        if gather.pending == 0 {
            self.gathers.give_back(index);
            self.gather_done(id);
        }
    }

    /// A byte stream took `taken` bytes.
    fn bytes_taken(&mut self, id: LinkId, taken: usize) {
        let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_mut()) else { return };
        let mut left = taken;
        let mut messages = 0;
        while let Some(front) = outbox.entries.front() {
            let rest = front.len() - outbox.head_sent;
            if left < rest {
                outbox.head_sent += left;
                outbox.bytes -= left;
                break;
            }
            left -= rest;
            outbox.in_flight = outbox.in_flight.saturating_sub(1);
            messages += outbox.remove(0, &mut self.buffers).map_or(0, |entry| entry.messages);
            if left == 0 {
                break;
            }
        }
        self.sent(id, messages, taken as u64);
    }

    /// A message was taken whole.
    fn message_taken(&mut self, id: LinkId, bytes: usize) {
        if let Some(entry) = self.take_front(id) {
            self.sent(id, entry.messages, bytes as u64);
        }
    }

    fn take_front(&mut self, id: LinkId) -> Option<Entry> {
        let outbox = self.links.get(id)?.outbox.as_mut()?;
        outbox.in_flight = outbox.in_flight.saturating_sub(1);
        outbox.remove(0, &mut self.buffers)
    }

    fn ordered_failed(&mut self, id: LinkId, kind: Kind, errno: i32) {
        match (kind, errno) {
            // We cancelled it, or a message before it in the chain failed: it stays where it is.
            (_, libc::ECANCELED | libc::EINTR) => {}
            (Kind::UnixFlow | Kind::UnixDgram, libc::EAGAIN) => self.retry_later(id),
            (Kind::UnixFlow, _)
            | (Kind::Seqpacket | Kind::UnixDgram, libc::EMSGSIZE | libc::ENOBUFS | libc::ENOMEM) => {
                if let Some(entry) = self.take_front(id) {
                    self.lose(id, entry.messages, send_error_reason(errno));
                }
            }
            (Kind::Bytes, libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) | (Kind::Seqpacket, libc::EAGAIN) => {
                self.retry_later(id)
            }
            (Kind::Bytes | Kind::Seqpacket, _) => self.write_failed(id, socket_error(errno)),
            (Kind::UnixDgram | Kind::Udp { .. } | Kind::UdpFlow, _) => self.break_link(id, socket_error(errno)),
        }
    }

    /// A stream takes nothing more. Its peer may have answered before it left: that is read first.
    fn write_failed(&mut self, id: LinkId, error: SocketError) {
        let Some(link) = self.links.get(id) else { return };
        if link.reading.ended || link.phase != Phase::Open {
            self.break_link(id, error);
            if self.links.get(id).is_some_and(|link| link.phase == Phase::Flushing) {
                self.close_socket(id);
            }
            return;
        }
        link.write_error = Some(error);
    }

    fn retry_later(&mut self, id: LinkId) {
        let at = self.now + RETRY_AFTER;
        let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_mut()) else { return };
        if !outbox.waiting {
            outbox.waiting = true;
            self.timers.push(at, Timer::Retry(id));
        }
    }

    /// The retry timer of a link fired.
    pub(crate) fn retry(&mut self, id: LinkId) {
        if let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_mut()) {
            outbox.waiting = false;
            self.mark_dirty(id);
        }
    }

    /// All completions of the link's operation came.
    fn gather_done(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        let (phase, dead) = (link.phase, link.write_error.is_some());
        let Some(outbox) = link.outbox.as_mut() else { return };
        (outbox.gather, outbox.in_flight) = (None, 0);
        if std::mem::take(&mut outbox.cancelling) {
            self.stats.payload_copies += outbox.unpin(&mut self.buffers);
        }
        if outbox.blocked
            && outbox.bytes <= limits::OUTBOX_LOW_BYTES
            && outbox.entries.len() <= limits::OUTBOX_MESSAGES_MAX / 2
        {
            outbox.blocked = false;
            self.events.push_back(Event::Drained(id));
        }
        let empty = outbox.is_empty();
        if empty {
            outbox.shrink();
        }
        match phase {
            Phase::Open if dead => self.empty_outbox(id, DropReason::Disconnected),
            Phase::Open if empty => self.shutdown_if_due(id),
            Phase::Flushing if empty => self.flushed(id),
            Phase::Open | Phase::Flushing => self.mark_dirty(id),
            Phase::Dead => self.empty_outbox(id, DropReason::Disconnected),
            Phase::Closing | Phase::Lingering | Phase::Opening | Phase::Vacant => {
                self.empty_outbox(id, DropReason::Closed)
            }
        }
    }

    /// Loses what is queued and not in flight.
    pub(crate) fn empty_outbox(&mut self, id: LinkId, reason: DropReason) {
        loop {
            let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_mut()) else { return };
            if outbox.entries.len() <= outbox.in_flight {
                return;
            }
            let last = outbox.entries.len() - 1;
            let Some(entry) = outbox.remove(last, &mut self.buffers) else { return };
            self.lose(id, entry.messages, reason);
        }
    }

    /// Cancels the ordered send in flight; what it did not send stays queued.
    pub(crate) fn cancel_ordered(&mut self, id: LinkId) {
        let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_mut()) else { return };
        if outbox.gather.is_none() || outbox.cancelling {
            return;
        }
        outbox.cancelling = true;
        self.cancel_ordered_again(id);
    }

    /// Cancels the ordered send in flight, if it is being cancelled and still there.
    pub(crate) fn cancel_ordered_again(&mut self, id: LinkId) {
        let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_ref()) else { return };
        if outbox.gather.is_none() || !outbox.cancelling {
            return;
        }
        let data = Token::link(Op::Ordered, id).pack();
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::user_data(data).all())
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(Token::link(Op::Cancel, id).pack());
        // SAFETY: a cancellation by user data points to no memory.
        unsafe { self.push(&cancel) };
    }

    /// Copies the backlog of slow links while less than a quarter of a pool is free.
    pub(crate) fn unpin_if_scarce(&mut self) {
        if !Class::ALL.iter().any(|&class| self.buffers.is_scarce(class)) {
            return;
        }
        let busy: Vec<LinkId> = self.gathers.busy().collect();
        for id in busy {
            let Some(outbox) = self.links.get(id).and_then(|link| link.outbox.as_mut()) else { continue };
            if outbox.pinned > 0 {
                self.stats.payload_copies += outbox.unpin(&mut self.buffers);
                self.cancel_ordered(id);
            }
        }
    }

    /// FIN, if it was asked for and nothing is queued.
    pub(crate) fn shutdown_if_due(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        if link.shut && link.outbox.as_ref().is_none_or(|outbox| outbox.is_empty()) {
            shutdown(link);
        }
    }

    /// Whether everything given to `send` was taken.
    pub(crate) fn is_flushed(link: &Link) -> bool {
        link.outbox.as_ref().is_none_or(|outbox| outbox.is_empty())
    }
}

/// Sends FIN.
pub(crate) fn shutdown(link: &Link) {
    if let Some(socket) = link.socket.as_ref() {
        let done: io::Result<()> = rustix::net::shutdown(socket, rustix::net::Shutdown::Write).map_err(Into::into);
        // ENOTCONN: the peer was faster.
        drop(done);
    }
}
