//! Messages that end with a newline, which is not part of them. A carriage return before it is.

use super::partial::Partial;
use super::{Decoded, Envelope, Finish, MessageType};
use crate::counters::DropReason;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::verdict::Head;

/// Line framing, with the start of an unfinished line.
#[derive(Debug, Default)]
pub struct Line {
    partial: Partial,
    /// A line was too long: the rest of the stream means nothing.
    broken: bool,
}

impl Line {
    pub(super) fn decode(&mut self, bytes: &[u8]) -> (usize, Decoded) {
        if self.broken {
            return (bytes.len(), Decoded::Kept);
        }
        let newline = newline_in(bytes);
        let len = newline.unwrap_or(bytes.len());
        if self.partial.len() + len > MESSAGE_BYTES_MAX {
            self.broken = true;
            self.partial.take();
            return (bytes.len(), Decoded::Violation { reply: Vec::new(), reason: DropReason::Oversized });
        }
        let Some(len) = newline else {
            self.partial.push(bytes, bytes.len());
            return (bytes.len(), Decoded::Kept);
        };
        let kind = MessageType::Untyped;
        if self.partial.is_empty() {
            return (len + 1, Decoded::Message { range: 0..len, kind });
        }
        self.partial.push(&bytes[..len], len);
        (len + 1, Decoded::Reassembled { bytes: self.partial.take(), kind })
    }

    pub(super) fn encode(&self, payload: &[u8]) -> Result<Envelope, DropReason> {
        let (line, newline) = match payload.strip_suffix(b"\n") {
            Some(line) => (line, false),
            None => (payload, true),
        };
        if line.contains(&b'\n') {
            return Err(DropReason::Unframeable);
        }
        Ok(Envelope { head: Head::EMPTY, newline })
    }

    pub(super) fn finish(&mut self) -> Finish {
        if self.partial.is_empty() {
            return Finish::Clean;
        }
        Finish::Message { bytes: self.partial.take(), kind: MessageType::Untyped }
    }

    pub(super) fn pending(&self) -> usize {
        self.partial.len()
    }
}

/// Where the first newline is. In blocks, because `contains` on bytes looks at a word at a time.
fn newline_in(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 128;
    let block = bytes.chunks(BLOCK).position(|block| block.contains(&b'\n'))?;
    let start = block * BLOCK;
    bytes[start..].iter().position(|&byte| byte == b'\n').map(|at| start + at)
}
