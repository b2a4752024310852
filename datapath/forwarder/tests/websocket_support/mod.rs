//! Frames written and read by the plainest code that can: nothing of the codec under test is used.

#![allow(dead_code, reason = "each test binary uses its part")]

use l7mp_forwarder::codec::{Codec, Decoded, MessageType};
use l7mp_forwarder::counters::DropReason;

/// FIN and an opcode.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
/// A first fragment, one in the middle, the last one.
pub const TEXT_FIRST: u8 = 0x01;
pub const BINARY_FIRST: u8 = 0x02;
pub const MIDDLE: u8 = 0x00;
pub const LAST: u8 = 0x80;

/// Masks what peers of a server send.
pub const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Masks what the codec sends.
pub const OUR_KEY: [u8; 4] = [0xa5, 0x01, 0xfe, 0x7c];

/// A frame, its first byte given.
pub fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mask_bit = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(mask_bit | len as u8),
        len @ 126..=65_535 => {
            bytes.push(mask_bit | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(mask_bit | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key.into_iter().flatten());
    bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ key.map_or(0, |key| key[i % 4])));
    bytes
}

/// First byte and unmasked payload of every frame in `bytes`, which must hold whole frames, all masked or none.
pub fn frames(mut bytes: &[u8], masked: bool) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[1] & 0x80 != 0, masked, "the mask bit of a sent frame");
        let (mut at, len) = match bytes[1] & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (10, u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize),
            len => (2, usize::from(len)),
        };
        let mut key = [0; 4];
        if masked {
            key.copy_from_slice(&bytes[at..at + 4]);
            at += 4;
        }
        let payload = bytes[at..at + len].iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
        found.push((bytes[0], payload));
        bytes = &bytes[at + len..];
    }
    found
}

/// What a codec made of bytes, without how it got there.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Message(MessageType, Vec<u8>),
    Reply(Vec<u8>),
    End(Option<Vec<u8>>),
    Violation(Vec<u8>, DropReason),
}

/// Gives `bytes` to the codec in the pieces that `cuts` makes (sizes, repeated), and gathers what it saw.
pub fn drive(codec: &mut Codec, bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut rest = bytes;
    let mut sizes = cuts.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |&size| size.clamp(1, rest.len()));
        let (slice, after) = rest.split_at(size);
        let mut slice = slice.to_vec();
        rest = after;
        let mut at = 0;
        while at < slice.len() {
            let (used, decoded) = codec.decode(&mut slice[at..], OUR_KEY);
            assert!(used > 0 && used <= slice.len() - at, "consumed {used} of {}", slice.len() - at);
            match decoded {
                Decoded::Message { range, kind } => {
                    assert!(range.end <= used);
                    seen.push(Seen::Message(kind, slice[at..][range].to_vec()));
                }
                Decoded::Reassembled { bytes, kind } => seen.push(Seen::Message(kind, bytes)),
                Decoded::Kept => {}
                Decoded::Reply(reply) => seen.push(Seen::Reply(reply)),
                Decoded::End { reply } => seen.push(Seen::End(reply)),
                Decoded::Violation { reply, reason } => seen.push(Seen::Violation(reply, reason)),
            }
            at += used;
        }
    }
    seen
}
