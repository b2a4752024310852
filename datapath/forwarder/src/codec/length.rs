//! Messages behind a big-endian length of 2 or 4 bytes, which does not count itself.

use super::partial::Partial;
use super::{Decoded, Envelope, Finish, MessageType};
use crate::counters::DropReason;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::verdict::Head;

/// How wide the length is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// `u16be`: 2 bytes.
    U16,
    /// `u32be`: 4 bytes.
    U32,
}

impl Width {
    const fn bytes(self) -> usize {
        match self {
            Width::U16 => 2,
            Width::U32 => 4,
        }
    }

    /// The longest message that can be told by it.
    const fn message_bytes_max(self) -> usize {
        match self {
            Width::U16 => u16::MAX as usize,
            Width::U32 => MESSAGE_BYTES_MAX,
        }
    }
}

/// Length framing, with the start of an unfinished message.
#[derive(Debug)]
pub struct Length {
    partial: Partial,
    /// The first `prefix_len` bytes of the length. Complete while a message is unfinished.
    prefix: [u8; 4],
    prefix_len: u8,
    width: Width,
    /// A message was too long: the rest of the stream means nothing.
    broken: bool,
}

impl Length {
    /// Nothing kept.
    pub fn new(width: Width) -> Length {
        Length { partial: Partial::default(), prefix: [0; 4], prefix_len: 0, width, broken: false }
    }

    pub(super) fn decode(&mut self, bytes: &[u8]) -> (usize, Decoded) {
        if self.broken {
            return (bytes.len(), Decoded::Kept);
        }
        let start = self.take_prefix(bytes);
        let Some(message_len) = self.message_len() else {
            return (bytes.len(), Decoded::Kept);
        };
        if message_len > MESSAGE_BYTES_MAX {
            self.broken = true;
            self.prefix_len = 0;
            return (bytes.len(), Decoded::Violation { reply: Vec::new(), reason: DropReason::Oversized });
        }
        let missing = message_len - self.partial.len();
        let arrived = &bytes[start..];
        if arrived.len() < missing {
            if !arrived.is_empty() {
                self.partial.push(arrived, missing);
            }
            return (bytes.len(), Decoded::Kept);
        }
        self.prefix_len = 0;
        let end = start + missing;
        let kind = MessageType::Untyped;
        if self.partial.is_empty() {
            return (end, Decoded::Message { range: start..end, kind });
        }
        self.partial.push(&bytes[start..end], missing);
        (end, Decoded::Reassembled { bytes: self.partial.take(), kind })
    }

    pub(super) fn encode(&self, payload: &[u8]) -> Result<Envelope, DropReason> {
        if payload.len() > self.width.message_bytes_max() {
            return Err(DropReason::Oversized);
        }
        let len = (payload.len() as u32).to_be_bytes();
        let mut head = Head::EMPTY;
        head.push(&len[len.len() - self.width.bytes()..]);
        Ok(Envelope { head, newline: false })
    }

    pub(super) fn finish(&mut self) -> Finish {
        let clean = self.prefix_len == 0;
        self.prefix_len = 0;
        self.partial.take();
        if clean { Finish::Clean } else { Finish::Lost }
    }

    pub(super) fn pending(&self) -> usize {
        usize::from(self.prefix_len) + self.partial.len()
    }

    /// Completes the length, as far as the bytes go; tells how many it took.
    fn take_prefix(&mut self, bytes: &[u8]) -> usize {
        let kept = usize::from(self.prefix_len);
        let taken = bytes.len().min(self.width.bytes() - kept);
        self.prefix[kept..kept + taken].copy_from_slice(&bytes[..taken]);
        self.prefix_len += taken as u8;
        taken
    }

    /// The length, once it is complete.
    fn message_len(&self) -> Option<usize> {
        if usize::from(self.prefix_len) < self.width.bytes() {
            return None;
        }
        let [a, b, c, d] = self.prefix;
        Some(match self.width {
            Width::U16 => usize::from(u16::from_be_bytes([a, b])),
            Width::U32 => u32::from_be_bytes([a, b, c, d]) as usize,
        })
    }
}
