//! The two speeds of the forwarder: a [`Verdict`] is returned for every message, a [`Command`] is queued
//! for slow work and drained once per turn.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::Range;

use crate::address::{ClientAddr, EndpointAddr, LocalAddr, UnixName};
use crate::counters::DropReason;
use crate::ids::{LinkId, ListenerId};

/// What became of the bytes given to `step`.
#[derive(Debug)]
pub struct Step {
    /// How many bytes were consumed. Never 0 unless none were given.
    pub used: usize,
    /// What to do now.
    pub verdict: Verdict,
}

/// What to do with a message.
#[derive(Debug)]
pub enum Verdict {
    /// Send it to the next link.
    Forward(Frame),
    /// Send this to where the bytes came from (pong, close, handshake answer). Not a message.
    Reply(Frame),
    /// Nothing now: it was copied into `held` or `partial`, or an in-process link consumed it.
    Kept,
    /// Nothing: it was dropped, and counted.
    Dropped(DropReason),
}

/// Bytes ready for a socket: a head, a payload, a tail. It borrows nothing.
#[derive(Debug)]
pub struct Frame {
    /// The link whose socket sends it.
    pub to: LinkId,
    /// What stands before the payload (WebSocket header, length prefix).
    pub head: Head,
    /// The message itself.
    pub payload: Payload,
    /// A newline after the payload (line framing).
    pub newline: bool,
    /// May be dropped, oldest first, when `to` cannot keep up: its source is a lossy protocol.
    pub lossy: bool,
    /// 1 for a message, 0 for what the protocol itself sends (pong, close, handshake).
    pub messages: u32,
}

/// Where the payload of a frame lies.
#[derive(Debug)]
pub enum Payload {
    /// In the bytes that were given to `step`, counted from their start.
    Received(Range<usize>),
    /// Here: held, reassembled and generated messages.
    Owned(Vec<u8>),
}

/// Up to 14 bytes in front of a payload, by value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; Head::BYTES_MAX],
    len: u8,
}

impl Head {
    /// The longest WebSocket header: 2 bytes, 8 of length, 4 of mask.
    pub const BYTES_MAX: usize = 14;
    /// No head.
    pub const EMPTY: Head = Head { bytes: [0; Head::BYTES_MAX], len: 0 };

    /// Appends bytes; what does not fit is a bug of the codec, and is cut.
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(self.len() + bytes.len() <= Head::BYTES_MAX);
        for &byte in bytes.iter().take(Head::BYTES_MAX - self.len()) {
            self.bytes[usize::from(self.len)] = byte;
            self.len += 1;
        }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl std::ops::Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Slow work for the engine. Every link that an engine command created ends with one `closed` event, and only
/// then is its slot used again.
#[derive(Debug)]
pub enum Command {
    /// Make a socket and connect it. Answered by `opened` or `failed`; reading starts with `Resume`.
    Open {
        /// The link that the socket belongs to.
        link: LinkId,
        /// Kind of socket and its local side.
        transport: Transport,
        /// Where to connect.
        remote: EndpointAddr,
    },
    /// Give a link the shared socket of a UDP listener: what it sends goes to `peer`, from `local`. Not answered.
    OpenFlow {
        /// The link.
        link: LinkId,
        /// Whose socket.
        listener: ListenerId,
        /// To whom.
        peer: ClientAddr,
        /// From which address and port of ours.
        local: LocalAddr,
    },
    /// Give a link the socket of a Unix dgram listener: what it sends goes to `peer`. Not answered.
    OpenUnixFlow {
        /// The link.
        link: LinkId,
        /// Whose socket.
        listener: ListenerId,
        /// To whom.
        peer: UnixName,
    },
    /// Send a frame outside of a step: handshakes, held messages. Its payload is `Owned`.
    Send(Frame),
    /// Start or go on reading.
    Resume(LinkId),
    /// Stop reading; what was read already still arrives.
    Pause(LinkId),
    /// Send FIN after what is queued.
    Shutdown(LinkId),
    /// Close the socket. Answered by `closed`.
    Close {
        /// The link.
        link: LinkId,
        /// `Flush`: after what is queued was sent, at most `CLOSE_LINGER` later. Reading stops at once.
        how: CloseHow,
    },
}

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    /// After what is queued was sent.
    Flush,
    /// At once; what is queued is dropped as `closed`.
    Abort,
}

/// Kind of an upstream socket and its local side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A connected UDP socket.
    Udp {
        /// Bind to this address first; port 0 is the kernel's choice.
        bind: Option<SocketAddr>,
        /// Receive trains.
        gro: bool,
    },
    /// A TCP connection with TCP_NODELAY.
    Tcp {
        /// Bind to this address first; port 0 is the kernel's choice.
        bind: Option<SocketAddr>,
    },
    /// A Unix stream socket.
    UnixStream,
    /// A Unix seqpacket socket.
    UnixSeqpacket,
    /// A Unix dgram socket, bound to an autobind (abstract) name so that the peer can answer.
    UnixDgram,
}

/// The downstream side of an accepted or first-seen peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// Who.
    pub peer: ClientAddr,
    /// The address of ours that it used.
    pub local: LocalAddr,
}

/// Why an upstream socket could not be opened, or why a live one broke. `Copy`, so that it can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketError {
    /// Nobody listens there (ECONNREFUSED, ENOENT), or a connected UDP socket was refused twice within
    /// [`crate::limits::REFUSED_WINDOW`].
    Refused,
    /// No way there (EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL).
    Unreachable,
    /// The peer broke the connection (ECONNRESET, EPIPE).
    Reset,
    /// No descriptors, ports or memory left (EMFILE, ENFILE, EADDRINUSE, ENOBUFS, ENOMEM).
    Exhausted,
    /// Anything else.
    Other,
}

/// Any address of a family, for a bind that names only a port.
pub fn unspecified(like: &SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}
