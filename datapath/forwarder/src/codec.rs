//! How messages lie in bytes, per link: `decode` with the sender's codec, `encode` with the receiver's.
//!
//! A codec works in place: a whole message is a range of the bytes that were received, and only a message that
//! straddles two reads is copied, into a `partial::Partial`, which is bounded.

use std::ops::Range;

use crate::counters::DropReason;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::verdict::Head;

mod length;
mod line;
mod partial;
mod raw;
pub mod websocket;

pub use length::{Length, Width};
pub use line::Line;
pub use websocket::{PayloadType, Role, WebSocket};

/// The framing of one link, with what it has kept of an unfinished message.
///
/// Idle, it owns no heap memory; `size_of::<Codec>()` is at most [`Codec::BYTES_MAX`].
#[derive(Debug)]
pub enum Codec {
    /// Every slice is one message, an empty one too (UDP, Unix dgram).
    Datagram,
    /// Every slice is one message; an empty one cannot be sent, since it reads as the end (Unix seqpacket).
    Seqpacket,
    /// A byte stream without framing: every read is a message, and boundaries may be lost.
    Raw,
    /// A byte stream whose messages end with a newline.
    Line(Line),
    /// A byte stream with a big-endian length before each message.
    Length(Length),
    /// WebSocket, RFC 6455.
    WebSocket(WebSocket),
}

/// What a sender said of a message's type. Only WebSocket does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageType {
    /// The protocol knows no types.
    #[default]
    Untyped,
    /// WebSocket opcode 2.
    Binary,
    /// WebSocket opcode 1; valid UTF-8.
    Text,
}

/// What a codec found at the start of the bytes.
#[derive(Debug, PartialEq)]
pub enum Decoded {
    /// A whole message, in place (unmasked).
    Message {
        /// Where in the bytes that were given.
        range: Range<usize>,
        /// Its type.
        kind: MessageType,
    },
    /// A message that straddled reads or frames: it was copied together.
    Reassembled {
        /// The message.
        bytes: Vec<u8>,
        /// Its type.
        kind: MessageType,
    },
    /// The start of something: consumed, kept in the codec. Also what needs no answer (a pong), and whatever comes
    /// after the end of the conversation.
    Kept,
    /// Send this back to the peer (a pong), and go on.
    Reply(Vec<u8>),
    /// The peer ended the conversation in an orderly way (WebSocket Close). `reply` answers it, if that is due; messages
    /// may still be sent before it, not after it.
    End {
        /// The close frame to send, if none was sent before.
        reply: Option<Vec<u8>>,
    },
    /// The peer broke the rules. Send `reply` (a close frame with the right code; empty for framings without one, and
    /// when a close frame was sent before), and close. Nothing more can be decoded.
    Violation {
        /// What to send before the socket is closed; may be empty.
        reply: Vec<u8>,
        /// How the message at fault is counted.
        reason: DropReason,
    },
}

/// What the end of a byte stream left behind.
#[derive(Debug, PartialEq, Eq)]
pub enum Finish {
    /// Nothing: the stream ended between two messages.
    Clean,
    /// A last line that no newline ended is a message.
    Message {
        /// The message; copied.
        bytes: Vec<u8>,
        /// Its type.
        kind: MessageType,
    },
    /// The stream ended inside a message, which is lost.
    Lost,
}

/// What stands around a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// In front.
    pub head: Head,
    /// Behind: a newline, or nothing.
    pub newline: bool,
}

impl Envelope {
    /// Nothing around the payload.
    pub const NONE: Envelope = Envelope { head: Head::EMPTY, newline: false };
}

impl Codec {
    /// The most that a codec takes inside a link, in bytes.
    pub const BYTES_MAX: usize = 48;

    /// Newline-terminated messages.
    pub fn line() -> Codec {
        Codec::Line(Line::default())
    }

    /// Messages behind a big-endian length.
    pub fn length(width: Width) -> Codec {
        Codec::Length(Length::new(width))
    }

    /// WebSocket after the handshake. `untyped` is what a message of a protocol without types is sent as.
    pub fn websocket(role: Role, untyped: PayloadType) -> Codec {
        Codec::WebSocket(WebSocket::new(role, untyped))
    }

    /// Whether frames that this side sends are masked, so that `decode`, `encode` and `close` need fresh random keys.
    /// For all others any key will do.
    pub fn masks(&self) -> bool {
        match self {
            Codec::WebSocket(websocket) => websocket.role() == Role::Client,
            Codec::Datagram | Codec::Seqpacket | Codec::Raw | Codec::Line(_) | Codec::Length(_) => false,
        }
    }

    /// Takes one thing from the start of the bytes, and tells how many bytes that was: at least one when any were
    /// given (an empty datagram is `(0, Message { range: 0..0, .. })`). Call it until all are consumed.
    ///
    /// A whole message is unmasked in place. `mask` masks what a client answers (pong, close); see [`Codec::masks`].
    /// A reply is a whole frame, ready for the socket.
    pub fn decode(&mut self, bytes: &mut [u8], mask: [u8; 4]) -> (usize, Decoded) {
        match self {
            Codec::Datagram => raw::decode_datagram(bytes),
            Codec::Seqpacket | Codec::Raw => raw::decode(bytes),
            Codec::Line(line) => line.decode(bytes),
            Codec::Length(length) => length.decode(bytes),
            Codec::WebSocket(websocket) => websocket.decode(bytes, mask),
        }
    }

    /// Frames a payload for this link. A WebSocket client masks it in place with `mask`; an error leaves it untouched.
    pub fn encode(&mut self, payload: &mut [u8], kind: MessageType, mask: [u8; 4]) -> Result<Envelope, DropReason> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(DropReason::Oversized);
        }
        match self {
            Codec::Datagram => Ok(Envelope::NONE),
            Codec::Seqpacket | Codec::Raw => raw::encode(payload),
            Codec::Line(line) => line.encode(payload),
            Codec::Length(length) => length.encode(payload),
            Codec::WebSocket(websocket) => websocket.encode(payload, kind, mask),
        }
    }

    /// The peer's stream ended: what remains.
    pub fn finish(&mut self) -> Finish {
        match self {
            Codec::Datagram | Codec::Seqpacket | Codec::Raw => Finish::Clean,
            Codec::Line(line) => line.finish(),
            Codec::Length(length) => length.finish(),
            Codec::WebSocket(websocket) => websocket.finish(),
        }
    }

    /// The frame that ends the conversation from our side, once: a WebSocket Close. None for the others, and when a
    /// close frame was sent before. Afterwards `encode` refuses, while `decode` still takes what the peer sends until
    /// its own Close. A code that must not be sent (RFC 6455, section 7.4) is left out.
    pub fn close(&mut self, code: u16, mask: [u8; 4]) -> Option<Vec<u8>> {
        match self {
            Codec::WebSocket(websocket) => websocket.close(code, mask),
            Codec::Datagram | Codec::Seqpacket | Codec::Raw | Codec::Line(_) | Codec::Length(_) => None,
        }
    }

    /// How many bytes of an unfinished message are kept: at most one message, a header and a control frame.
    pub fn pending(&self) -> usize {
        match self {
            Codec::Datagram | Codec::Seqpacket | Codec::Raw => 0,
            Codec::Line(line) => line.pending(),
            Codec::Length(length) => length.pending(),
            Codec::WebSocket(websocket) => websocket.pending(),
        }
    }
}

const _: () = assert!(size_of::<Codec>() <= Codec::BYTES_MAX);
