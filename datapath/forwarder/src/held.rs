//! Messages that wait for their ring to close: in order, bounded per session and per worker.

use std::collections::VecDeque;

use crate::codec::MessageType;
use crate::ids::LinkId;
use crate::limits::{
    HELD_BYTES_MAX, HELD_BYTES_TOTAL_MAX, HELD_LOSSLESS_BYTES_MAX, HELD_LOSSLESS_MESSAGES_MAX, HELD_MESSAGES_MAX,
};

/// A message that waits, and the link it came from.
#[derive(Debug)]
pub struct HeldMessage {
    /// Where it came from; it goes to that link's `next`.
    pub from: LinkId,
    /// A copy of the payload.
    pub payload: Vec<u8>,
    /// Its type.
    pub kind: MessageType,
}

/// What one session holds.
#[derive(Debug, Default)]
pub struct Held {
    messages: VecDeque<HeldMessage>,
    bytes: usize,
}

/// What all sessions of a worker hold together, in bytes.
#[derive(Debug, Default)]
pub struct HeldTotal(usize);

impl HeldTotal {
    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.0
    }
}

impl Held {
    /// Holds a message, or gives it back when there is no room. There is more of it for a source that is not `lossy`:
    /// it is paused, and what it had sent before must not get lost.
    pub fn push(&mut self, message: HeldMessage, lossy: bool, total: &mut HeldTotal) -> Result<(), HeldMessage> {
        let bytes = message.payload.len();
        let (messages_max, bytes_max) = match lossy {
            true => (HELD_MESSAGES_MAX, HELD_BYTES_MAX),
            false => (HELD_LOSSLESS_MESSAGES_MAX, HELD_LOSSLESS_BYTES_MAX),
        };
        if self.messages.len() >= messages_max
            || self.bytes + bytes > bytes_max
            || total.0 + bytes > HELD_BYTES_TOTAL_MAX
        {
            return Err(message);
        }
        self.bytes += bytes;
        total.0 += bytes;
        self.messages.push_back(message);
        Ok(())
    }

    /// The oldest message.
    pub fn pop(&mut self, total: &mut HeldTotal) -> Option<HeldMessage> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.payload.len();
        total.0 -= message.payload.len();
        Some(message)
    }

    /// All that wait, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &HeldMessage> {
        self.messages.iter()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// The bytes of all that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> HeldMessage {
        HeldMessage { from: LinkId::new(0, 0), payload: vec![0; bytes], kind: MessageType::Untyped }
    }

    #[test]
    fn holds_in_order_up_to_its_bounds() {
        let (mut held, mut total) = (Held::default(), HeldTotal::default());
        for n in 0..HELD_MESSAGES_MAX {
            assert!(held.push(message(n), true, &mut total).is_ok());
        }
        assert!(held.push(message(0), true, &mut total).is_err());
        for n in 0..HELD_MESSAGES_MAX {
            assert_eq!(held.pop(&mut total).map(|m| m.payload.len()), Some(n));
        }
        assert!(held.is_empty());
        assert_eq!(total.0, 0);
    }

    #[test]
    fn bytes_are_bounded_per_session() {
        let (mut held, mut total) = (Held::default(), HeldTotal::default());
        assert!(held.push(message(HELD_BYTES_MAX), true, &mut total).is_ok());
        assert!(held.push(message(1), true, &mut total).is_err());
    }
}
