//! Masking: payload XOR key, the key repeated (RFC 6455, section 5.3). It is its own inverse.

/// Masks or unmasks bytes that start `offset` bytes into their frame's payload.
///
/// Eight bytes at a time, which the compiler widens to vectors.
pub fn apply(bytes: &mut [u8], mut key: [u8; 4], offset: usize) {
    key.rotate_left(offset % 4);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}
