//! How messages lie in bytes, per link: `decode` with the sender's codec, `encode` with the receiver's.
//!
//! A codec works in place: a whole message is a range of the bytes that were received, and only a message that
//! straddles two reads is copied, into a `partial::Partial`, which is bounded.



use std::ops::Range;

use crate::counters::DropReason;
use crate::verdict::Head;

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
    /// The start of something: consumed, kept in the codec.
    Kept,
    /// Send this back to the peer (a pong), and go on.
    Reply(Vec<u8>),
    /// The peer ended the conversation in an orderly way (WebSocket Close). `reply` answers it, if that is due.
    End {
        /// The close frame to send, if none was sent before.
        reply: Option<Vec<u8>>,
    },
    /// The peer broke the rules. Send `reply` (a close frame with the right code; empty for framings without one), and
    /// close. Nothing more can be decoded.
    Violation {
        /// What to send before the socket is closed; may be empty.
        reply: Vec<u8>,
        /// How the message at fault is counted.
        reason: DropReason,
    },
}

/// What stands around a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// In front.
    pub head: Head,
    /// Behind: a newline, or nothing.
    pub newline: bool,
}
