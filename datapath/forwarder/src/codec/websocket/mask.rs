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

#[cfg(test)]
mod tests {
    use super::apply;

    #[test]
    fn equals_the_plain_loop_at_every_length_offset_and_alignment() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let bytes: Vec<u8> = (0..80u8).map(|i| i.wrapping_mul(151)).collect();
        for start in 0..9 {
            for len in 0..=64 {
                for offset in 0..9 {
                    let mut masked = bytes.clone();
                    apply(&mut masked[start..start + len], key, offset);
                    let expected: Vec<u8> = bytes
                        .iter()
                        .enumerate()
                        .map(|(i, byte)| match i.checked_sub(start) {
                            Some(at) if at < len => byte ^ key[(at + offset) % 4],
                            Some(_) | None => *byte,
                        })
                        .collect();
                    assert_eq!(masked, expected, "start {start}, length {len}, offset {offset}");
                }
            }
        }
    }
}
