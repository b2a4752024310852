//! Messages that no framing bounds: a datagram, a packet, a read.

use super::{Decoded, Envelope, MessageType};
use crate::counters::DropReason;
use crate::limits::MESSAGE_BYTES_MAX;

/// The whole datagram, whatever its length.
pub(super) fn decode_datagram(bytes: &[u8]) -> (usize, Decoded) {
    (bytes.len(), Decoded::Message { range: 0..bytes.len(), kind: MessageType::Untyped })
}

/// What was read, up to the longest message. Nothing read is no message.
pub(super) fn decode(bytes: &[u8]) -> (usize, Decoded) {
    if bytes.is_empty() {
        return (0, Decoded::Kept);
    }
    let used = bytes.len().min(MESSAGE_BYTES_MAX);
    (used, Decoded::Message { range: 0..used, kind: MessageType::Untyped })
}

/// The payload as it is; an empty one would not arrive.
pub(super) fn encode(payload: &[u8]) -> Result<Envelope, DropReason> {
    if payload.is_empty() { Err(DropReason::Empty) } else { Ok(Envelope::NONE) }
}
