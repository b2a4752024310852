//! A connection: our socket as the engine has it, the way between, and what the peer has read of it.

use std::collections::VecDeque;

use l7mp_forwarder::codec::websocket::Role;
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::time::Time;
use l7mp_forwarder::verdict::CloseHow;

use crate::message::{Message, Scanner};
use crate::wire::{Seen, Speaker, Wire};

/// Above this a socket's queue is blocked; small, so that it happens.
pub const HIGH_BYTES: usize = 4096;
/// The longest read of a stream; messages are shorter.
pub const READ_BYTES_MAX: usize = 3000;
/// Below this it is drained.
pub const LOW_BYTES: usize = 1024;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// A client, by its index.
    Client(usize),
    /// A server, by its number.
    Server(usize),
}

/// What travels between two kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parcel {
    /// Bytes of a stream, or a datagram.
    Bytes(Vec<u8>),
    /// FIN.
    End,
    /// RST.
    Reset,
}

/// A frame in the engine's queue.
#[derive(Debug)]
pub struct Queued {
    /// What is left of it.
    pub bytes: Vec<u8>,
    /// Its whole length.
    pub len: usize,
    /// 1 for a message.
    pub messages: u32,
    /// May be dropped.
    pub lossy: bool,
}

/// Reads along with a direction of a connection.
#[derive(Debug)]
pub struct Tap {
    speaker: Speaker,
    scanner: Scanner,
    /// Whose messages these are; of one client only.
    owner: Option<u32>,
    /// Nothing sensible is expected any more.
    deaf: bool,
}

impl Tap {
    fn new(wire: Wire, role: Role) -> Tap {
        Tap { speaker: Speaker::new(wire, role), scanner: Scanner::default(), owner: None, deaf: false }
    }

    /// What comes next means nothing.
    pub fn deafen(&mut self) {
        self.deaf = true;
    }

    /// The messages that are complete.
    ///
    /// # Errors
    ///
    /// Bytes that are not what this direction may say.
    pub fn read(&mut self, bytes: &[u8], raw: bool) -> Result<Vec<Message>, String> {
        if self.deaf {
            return Ok(Vec::new());
        }
        let mut messages = Vec::new();
        for seen in self.speaker.read(bytes) {
            match seen {
                Seen::Message(payload) => {
                    let found = self.scanner.push(&payload);
                    if !raw && (found.len() != 1 || self.scanner.garbage > 0) {
                        return Err(format!("not a message: {}", payload.escape_ascii()));
                    }
                    messages.extend(found);
                }
                Seen::Answer(_) => {}
                Seen::End => self.deaf = true,
                Seen::Fault => return Err("breaks its protocol".to_owned()),
            }
        }
        for message in &messages {
            if *self.owner.get_or_insert(message.client) != message.client {
                return Err(format!("a message of client {} for client {:?}", message.client, self.owner));
            }
        }
        Ok(messages)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    /// The forwarder's name for our socket.
    pub link: LinkId,
    /// Protocol.
    pub wire: Wire,
    /// Who is at the other end.
    pub far: Far,
    /// Messages may have lost their boundaries.
    pub raw: bool,
    /// It shares a listener's socket.
    pub flow: bool,
    /// Connected, and not closed.
    pub connected: bool,
    /// The engine reads it.
    pub reading: bool,
    /// What was read before the engine was told to stop still arrives.
    pub late_read: bool,
    /// FIN follows what is queued.
    pub shut: bool,
    /// FIN was sent.
    pub shut_sent: bool,
    /// It is being closed.
    pub closing: Option<CloseHow>,
    /// Its end or failure was reported: nothing more is.
    pub over: bool,
    /// The engine said `closed`.
    pub gone: bool,
    /// The engine's queue.
    pub out: VecDeque<Queued>,
    /// Bytes in it.
    pub out_bytes: usize,
    /// The forwarder was told that it is full.
    pub blocked: bool,
    /// The other end broke it.
    pub reset: bool,
    /// How often the other end refused a datagram.
    pub refusals: u32,
    /// What waits in our kernel.
    pub inbox: VecDeque<Parcel>,
    /// A pump event is under way.
    pub pumping: bool,
    /// A read event is under way.
    pub read_due: bool,
    /// When the last parcel arrives at the peer, at us: streams do not overtake themselves.
    pub arrivals: (Time, Time),
    /// Bytes per millisecond that the peer takes.
    pub rate: usize,
    /// What arrives at the forwarder.
    pub tap_in: Tap,
    /// What leaves it.
    pub tap_out: Tap,
    /// The peer.
    pub peer: Speaker,
    /// What the peer reads.
    pub peer_scanner: Scanner,
    /// The peer's process died or hangs: what arrives there is lost, also when another takes its place.
    pub peer_gone: bool,
    /// The peer's end was reported: it is no longer read, and only a reset is still noticed.
    pub ended: bool,
    /// The peer has said its end.
    pub peer_ended: bool,
}

impl Conn {
    /// A socket that is not connected.
    pub fn new(link: LinkId, wire: Wire, far: Far, raw: bool) -> Conn {
        let (near, far_role) = match far {
            Far::Client(_) => (Role::Server, Role::Client),
            Far::Server(_) => (Role::Client, Role::Server),
        };
        Conn {
            link,
            wire,
            far,
            raw,
            flow: false,
            connected: false,
            reading: false,
            late_read: false,
            shut: false,
            shut_sent: false,
            closing: None,
            over: false,
            gone: false,
            out: VecDeque::new(),
            out_bytes: 0,
            blocked: false,
            reset: false,
            refusals: 0,
            inbox: VecDeque::new(),
            pumping: false,
            read_due: false,
            arrivals: (Time::ZERO, Time::ZERO),
            rate: usize::MAX,
            tap_in: Tap::new(wire, near),
            tap_out: Tap::new(wire, far_role),
            peer: Speaker::new(wire, far_role),
            peer_scanner: Scanner::default(),
            peer_gone: false,
            ended: false,
            peer_ended: false,
        }
    }

    /// Takes the oldest lossy frame that was not begun; how many messages it was.
    pub fn drop_oldest(&mut self) -> Option<u32> {
        let at = self.out.iter().position(|frame| frame.lossy && frame.bytes.len() == frame.len)?;
        let frame = self.out.remove(at)?;
        self.out_bytes -= frame.bytes.len();
        Some(frame.messages)
    }

    /// Empties the queue; how many messages there were.
    pub fn clear(&mut self) -> u32 {
        self.out_bytes = 0;
        self.out.drain(..).map(|frame| frame.messages).sum()
    }

    /// Up to `limit` bytes of a stream, or one datagram, from the kernel.
    pub fn take_read(&mut self, limit: usize) -> Option<Parcel> {
        if !self.wire.is_stream() {
            return self.inbox.pop_front();
        }
        let mut bytes = Vec::new();
        while bytes.len() < limit {
            match self.inbox.front_mut() {
                Some(Parcel::Bytes(front)) => {
                    let taken = front.len().min(limit - bytes.len());
                    bytes.extend(front.drain(..taken));
                    if front.is_empty() {
                        self.inbox.pop_front();
                    }
                }
                Some(Parcel::End | Parcel::Reset) if bytes.is_empty() => return self.inbox.pop_front(),
                Some(Parcel::End | Parcel::Reset) | None => break,
            }
        }
        (!bytes.is_empty()).then_some(Parcel::Bytes(bytes))
    }
}
