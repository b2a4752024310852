//! Multishot receives: arming, what a completion means, arming again.
//!
//! A multishot ends when its pool is empty, with an empty datagram, or with an error. Arming again while the pool is
//! empty only fails again; so readers wait in a queue, and of each class at most as many are armed per turn as buffers
//! are free, after buffers were put back.

use std::ptr;

use io_uring::opcode;
use io_uring::types::RecvMsgOut;
use l7mp_forwarder::address::{ClientAddr, LocalAddr};
use l7mp_forwarder::ids::LinkId;

use crate::address::{INET_NAME_BYTES, UNIX_NAME_BYTES, parse_inet, parse_unix};
use crate::buffers::{Class, HEADROOM_BYTES};
use crate::cmsg::{self, CONTROL_BYTES, SEGMENT_BYTES};
use crate::connect::socket_error;
use crate::engine::{Engine, Reader};
use crate::event::{Event, Received, Source};
use crate::links::{Kind, Phase};
use crate::listeners::{ListenerKind, is_datagram};
use crate::ring::Completion;
use crate::send::empty_header;
use crate::token::{Op, Token};

/// Bytes of `struct io_uring_recvmsg_out`.
const RECVMSG_OUT_BYTES: usize = 16;

/// What a receive asks for beside the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    Plain,
    /// The segment size of trains.
    Segments,
    /// The sender, where it sent to, and the segment size of trains.
    Inet,
    /// The sender's name.
    Unix,
}

/// The headers that multishot recvmsg is armed with. The kernel keeps what they say, not where they are.
pub(crate) struct Shapes([libc::msghdr; 4]);

impl Shapes {
    pub fn new() -> Shapes {
        let shape = |name: usize, control: usize| {
            let mut header = empty_header();
            header.msg_namelen = name as _;
            header.msg_controllen = control as _;
            header.msg_iov = ptr::null_mut();
            header
        };
        Shapes([shape(0, 0), shape(0, SEGMENT_BYTES), shape(INET_NAME_BYTES, CONTROL_BYTES), shape(UNIX_NAME_BYTES, 0)])
    }

    fn get(&self, shape: Shape) -> &libc::msghdr {
        &self.0[shape as usize]
    }
}

/// What a recvmsg wrote into its buffer.
struct Arrival {
    start: usize,
    len: usize,
    truncated: bool,
}

impl Engine {
    /// Starts or goes on reading.
    pub(crate) fn resume(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id).filter(|link| link.is_open() && !link.kind.is_flow()) else { return };
        link.reading.wanted = true;
        self.queue_link(id);
    }

    /// Stops reading. What the kernel read already still arrives.
    pub(crate) fn stop_reading(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        link.reading.wanted = false;
        if link.reading.armed && !link.reading.cancelling {
            link.reading.cancelling = true;
            let token = Token::link(Op::Receive, id).with_class(link.kind.class());
            self.cancel(token, Token::link(Op::Cancel, id));
        }
    }

    /// A cancellation missed its operation: it is tried again if the operation is still there.
    pub(crate) fn cancel_missed(&mut self, token: Token) {
        if self.links.get(token.link_id()).is_some_and(|link| link.is_busy()) {
            self.missed_cancels.push(token.link_id());
        }
    }

    /// Cancels again what was missed.
    pub(crate) fn cancel_again(&mut self) {
        while let Some(id) = self.missed_cancels.pop() {
            let Some(link) = self.links.get(id) else { continue };
            let (reading, closing) = (link.reading, link.phase == Phase::Closing);
            let connecting = closing && link.connecting.is_some();
            let receive = Token::link(Op::Receive, id).with_class(link.kind.class());
            if reading.armed && reading.cancelling {
                self.cancel(receive, Token::link(Op::Cancel, id));
            }
            if connecting {
                self.cancel(Token::link(Op::Connect, id), Token::link(Op::Cancel, id));
            }
            self.cancel_ordered_again(id);
        }
    }

    /// Lets a link's reader wait for its turn, if it should read and does not.
    pub(crate) fn queue_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        let reading = &mut link.reading;
        if reading.wanted && !reading.armed && !reading.queued && !reading.ended {
            reading.queued = true;
            let class = link.kind.class();
            self.readers[class as usize].push_back(Reader::Link(id));
        }
    }

    /// Lets a reader wait for its turn.
    pub(crate) fn queue_reader(&mut self, reader: Reader) {
        match reader {
            Reader::Link(id) => self.queue_link(id),
            Reader::Listener(index) => {
                let Some(listener) = self.listeners.get(index).filter(|listener| !listener.leaving) else { return };
                let class = listener.class();
                self.readers[class as usize].push_back(reader);
            }
        }
    }

    /// Some reader waits to be armed.
    pub(crate) fn has_readers(&self) -> bool {
        self.readers.iter().any(|queue| !queue.is_empty())
    }

    /// Arms readers that wait, as many of each class as it has free buffers.
    pub(crate) fn arm_readers(&mut self) {
        for class in Class::ALL {
            let free = usize::from(self.buffers.free(class));
            let count = self.readers[class as usize].len().min(free);
            for _ in 0..count {
                match self.readers[class as usize].pop_front() {
                    Some(Reader::Link(id)) => self.arm_link(id),
                    Some(Reader::Listener(index)) => self.arm_listener(index),
                    None => break,
                }
            }
        }
    }

    fn arm_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        let reading = &mut link.reading;
        reading.queued = false;
        if !reading.wanted || reading.armed || reading.ended || !matches!(link.phase, Phase::Open | Phase::Lingering) {
            return;
        }
        reading.armed = true;
        let (target, kind) = (link.target, link.kind);
        let token = Token::link(Op::Receive, id).with_class(kind.class());
        let entry = match shape_of(kind) {
            None => opcode::RecvMulti::new(target.field(), kind.class().group()).build(),
            Some(shape) => {
                opcode::RecvMsgMulti::new(target.field(), self.shapes.get(shape), kind.class().group()).build()
            }
        };
        let entry = target.mark(entry.user_data(token.pack()));
        // SAFETY: the header is boxed in the engine and outlives its submission; the kernel writes only into buffers of
        // the registered group, which outlive the ring. The socket stays open until the link is no longer armed.
        unsafe { self.push(&entry) };
    }

    fn arm_listener(&mut self, index: u32) {
        let Some(listener) = self.listeners.get(index) else { return };
        if listener.armed || listener.leaving {
            return;
        }
        if !is_datagram(listener.kind) {
            return self.arm_accept(index);
        }
        listener.armed = true;
        let (target, class) = (listener.target(), listener.class());
        let shape = if listener.kind == ListenerKind::UnixDgram { Shape::Unix } else { Shape::Inet };
        let token = self.listeners.token(Op::ListenerReceive, index).with_class(class);
        let entry = opcode::RecvMsgMulti::new(target.field(), self.shapes.get(shape), class.group())
            .build()
            .user_data(token.pack());
        let entry = target.mark(entry);
        // SAFETY: as in `arm_link`; the socket stays open until the listener is no longer armed.
        unsafe { self.push(&entry) };
    }

    /// A completion of a link's receive.
    pub(crate) fn link_received(&mut self, token: Token, completion: Completion) -> Option<Event> {
        let id = token.link_id();
        let buffer = completion.buffer();
        let Some(link) = self.links.get(id) else {
            self.stats.stale += 1;
            self.discard(token.class, buffer);
            return None;
        };
        if !completion.more() {
            link.reading.armed = false;
            link.reading.cancelling = false;
        }
        let (kind, phase) = (link.kind, link.phase);
        let event = match (phase, completion.result) {
            (Phase::Open, 0..) => self.link_bytes(id, kind, completion),
            (Phase::Open, error) => self.link_receive_failed(id, kind, -error),
            (Phase::Lingering, result) => {
                self.discard(token.class, buffer);
                if result <= 0 && !matches!(-result, libc::ENOBUFS | libc::ECANCELED) {
                    self.close_socket(id);
                }
                None
            }
            _ => {
                self.discard(token.class, buffer);
                None
            }
        };
        self.queue_link(id);
        event
    }

    fn link_bytes(&mut self, id: LinkId, kind: Kind, completion: Completion) -> Option<Event> {
        let class = kind.class();
        let len = completion.result as usize;
        let Some(shape) = shape_of(kind) else {
            let buffer = completion.buffer();
            if len == 0 {
                self.discard(class, buffer);
                return self.link_ended(id);
            }
            let (start, len) = (HEADROOM_BYTES as u32, len as u32);
            return Some(Event::Received {
                link: id,
                bytes: Received { class, buffer: buffer?, start, len, stride: len },
            });
        };
        let buffer = completion.buffer()?;
        let Some((arrival, control)) = self.arrival(class, buffer, shape, len) else {
            self.discard(class, Some(buffer));
            return None;
        };
        if kind == Kind::Seqpacket && arrival.len == 0 {
            self.discard(class, Some(buffer));
            return self.link_ended(id);
        }
        if arrival.truncated {
            return self.oversized(class, buffer, Source::Link(id));
        }
        let bytes = received(class, buffer, &arrival, control.segment);
        Some(Event::Received { link: id, bytes })
    }

    fn link_ended(&mut self, id: LinkId) -> Option<Event> {
        let link = self.links.get(id)?;
        link.reading.ended = true;
        match link.write_error {
            Some(error) => {
                self.break_link(id, error);
                None
            }
            None => Some(Event::Ended(id)),
        }
    }

    fn link_receive_failed(&mut self, id: LinkId, kind: Kind, errno: i32) -> Option<Event> {
        match (kind, errno) {
            (_, libc::ENOBUFS) => self.stats.enobufs += 1,
            (_, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            (Kind::Udp { .. }, libc::ECONNREFUSED) => {
                self.was_refused(id);
            }
            // News of a datagram that some router did not like: it was counted when it was sent.
            (
                Kind::Udp { .. } | Kind::UnixDgram,
                libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EMSGSIZE
                | libc::EPROTO
                | libc::EACCES
                | libc::ECONNRESET,
            ) => {}
            _ => self.break_link(id, socket_error(errno)),
        }
        None
    }

    /// A completion of a datagram listener's receive.
    pub(crate) fn listener_received(&mut self, token: Token, completion: Completion) -> Option<Event> {
        let class = token.class;
        let buffer = completion.buffer();
        let Some(listener) = self.listeners.of(token) else {
            self.stats.stale += 1;
            self.discard(class, buffer);
            return None;
        };
        listener.armed &= completion.more();
        let (id, kind, local) = (listener.id, listener.kind, listener.local);
        let (rearm, leaving) = (!listener.armed && !listener.leaving, listener.leaving);
        if rearm {
            match -completion.result {
                libc::ENOBUFS => {
                    self.stats.enobufs += 1;
                    self.queue_reader(Reader::Listener(token.index));
                }
                error
                    if error <= 0
                        || matches!(
                            error,
                            libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ECONNRESET
                        ) =>
                {
                    self.queue_reader(Reader::Listener(token.index));
                }
                _ => self.back_off(token.index),
            }
        }
        let buffer = buffer?;
        let shape = if kind == ListenerKind::UnixDgram { Shape::Unix } else { Shape::Inet };
        let len = usize::try_from(completion.result).unwrap_or(0);
        let name = self.listener_name(class, buffer, shape, len);
        let arrival = self.arrival(class, buffer, shape, len).filter(|_| !leaving);
        let Some((arrival, control)) = arrival else {
            self.discard(class, Some(buffer));
            return None;
        };
        if arrival.truncated {
            return self.oversized(class, buffer, Source::Listener(id));
        }
        let bytes = received(class, buffer, &arrival, control.segment);
        match name {
            Sender::Unix(peer) => Some(Event::UnixDatagram { listener: id, peer, bytes }),
            Sender::Inet(peer) => {
                let local = local.map(|local| match control.destination {
                    Some(destination) => cmsg::local_addr(destination, local.port()),
                    None => LocalAddr::new(local),
                });
                let Some((peer, local)) = peer.zip(local) else {
                    self.discard(class, Some(bytes.buffer));
                    return None;
                };
                Some(Event::Datagram { listener: id, peer, local, bytes })
            }
        }
    }

    /// Who sent what lies in a listener's buffer.
    fn listener_name(&self, class: Class, buffer: u16, shape: Shape, len: usize) -> Sender {
        let parsed = RecvMsgOut::parse(self.buffers.raw(class, buffer, len), self.shapes.get(shape));
        let name = parsed.as_ref().map_or(&[][..], |out| out.name_data());
        match shape {
            Shape::Unix => Sender::Unix(parse_unix(name)),
            Shape::Plain | Shape::Segments | Shape::Inet => Sender::Inet(parse_inet(name).map(ClientAddr::new)),
        }
    }

    /// Where the payload lies in a buffer of `len` bytes that a recvmsg filled, and what it says beside.
    fn arrival(&self, class: Class, buffer: u16, shape: Shape, len: usize) -> Option<(Arrival, cmsg::Control)> {
        let header = self.shapes.get(shape);
        let out = RecvMsgOut::parse(self.buffers.raw(class, buffer, len), header).ok()?;
        #[allow(clippy::unnecessary_cast, reason = "glibc says size_t, musl socklen_t")]
        let control_bytes = header.msg_controllen as usize;
        let start = HEADROOM_BYTES + RECVMSG_OUT_BYTES + header.msg_namelen as usize + control_bytes;
        let len = out.payload_data().len();
        // The prefix may leave some room behind the longest payload, which differs by kind of socket.
        let truncated = out.is_payload_truncated() || len > class.payload_bytes();
        let arrival = Arrival { start, len, truncated };
        Some((arrival, cmsg::parse(out.control_data())))
    }

    fn oversized(&mut self, class: Class, buffer: u16, source: Source) -> Option<Event> {
        self.stats.oversized += 1;
        self.discard(class, Some(buffer));
        Some(Event::Oversized(source))
    }

    /// Puts a buffer back that nobody wants.
    fn discard(&mut self, class: Class, buffer: Option<u16>) {
        if let Some(buffer) = buffer {
            self.buffers.drop_use(class, buffer);
        }
    }
}

/// Who sent a datagram.
enum Sender {
    Inet(Option<ClientAddr>),
    Unix(Option<l7mp_forwarder::address::UnixName>),
}

/// How a link receives; `None` for a plain recv.
fn shape_of(kind: Kind) -> Option<Shape> {
    match kind {
        Kind::Bytes => None,
        Kind::Udp { gro: true } => Some(Shape::Segments),
        Kind::Udp { gro: false } | Kind::Seqpacket | Kind::UnixDgram => Some(Shape::Plain),
        Kind::UdpFlow | Kind::UnixFlow => None,
    }
}

fn received(class: Class, buffer: u16, arrival: &Arrival, segment: Option<u32>) -> Received {
    let len = arrival.len as u32;
    let stride = segment.filter(|&segment| segment > 0 && segment < len).unwrap_or(len);
    Received { class, buffer, start: arrival.start as u32, len, stride }
}
