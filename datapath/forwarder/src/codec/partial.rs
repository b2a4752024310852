//! The unfinished message of a byte stream, bounded.

use crate::limits::MESSAGE_BYTES_MAX;

/// Bytes of a message whose rest has not arrived. It owns no memory while empty.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// At most `MESSAGE_BYTES_MAX`, in length and (as the allocator allows) in capacity.
    bytes: Vec<u8>,
}

impl Partial {
    /// How many bytes are kept.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether none are kept.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends. `expected` is what is known to be still to come, these bytes included: room for it is made at once.
    /// The caller has checked that the message stays within its limit.
    pub(super) fn push(&mut self, bytes: &[u8], expected: usize) -> &mut [u8] {
        let start = self.bytes.len();
        self.reserve(expected.max(bytes.len()));
        self.bytes.extend_from_slice(bytes);
        &mut self.bytes[start..]
    }

    /// What is kept.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes what is kept, and leaves nothing.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// The first time exactly what is needed; then at least double, so that a message of many small pieces is not
    /// copied once per piece; never beyond the limit of a message.
    fn reserve(&mut self, additional: usize) {
        let needed = self.bytes.len() + additional;
        debug_assert!(needed <= MESSAGE_BYTES_MAX, "the caller bounds its messages");
        if needed <= self.bytes.capacity() {
            return;
        }
        let capacity = needed.max((2 * self.bytes.capacity()).min(MESSAGE_BYTES_MAX));
        self.bytes.reserve_exact(capacity - self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::{MESSAGE_BYTES_MAX, Partial};

    #[test]
    fn takes_exactly_what_is_expected() {
        let mut partial = Partial::default();
        assert_eq!(partial.push(b"abc", 1000), b"abc");
        assert_eq!(partial.bytes.capacity(), 1000);
        assert_eq!(partial.push(b"de", 997), b"de");
        assert_eq!(partial.bytes.capacity(), 1000);
        assert_eq!(partial.take(), b"abcde");
        assert_eq!(partial.bytes.capacity(), 0, "what is empty owns nothing");
    }

    #[test]
    fn many_small_pieces_make_few_reallocations_and_stay_within_the_limit() {
        let mut partial = Partial::default();
        let mut capacities = vec![];
        for _ in 0..MESSAGE_BYTES_MAX {
            partial.push(b"x", 1);
            capacities.push(partial.bytes.capacity());
        }
        capacities.dedup();
        assert!(capacities.len() <= 18, "{capacities:?}");
        assert_eq!(capacities.last(), Some(&MESSAGE_BYTES_MAX));
    }
}
