//! Frames and handshakes by the plainest code that can.

use std::io::{ErrorKind, Read};

/// FIN and an opcode.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
/// A first fragment, one in the middle, the last one.
pub const TEXT_FIRST: u8 = 0x01;
pub const BINARY_FIRST: u8 = 0x02;
pub const MIDDLE: u8 = 0x00;
pub const LAST: u8 = 0x80;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame from a client.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, Some(KEY))
}

/// A frame from a server.
pub fn bare(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, None)
}

/// The header of a client's frame, its length written as told.
pub fn header(first: u8, length: u8, extended: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | length], extended, &KEY].concat()
}

fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
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

/// First byte, unmasked payload, and whether it was masked; None: the connection ended.
pub fn next_frame(stream: &mut impl Read) -> Option<(u8, Vec<u8>, bool)> {
    let mut read = |len: usize| -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        match stream.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
            Err(error) => panic!("{error}"),
        }
    };
    let start = read(2)?;
    let len = match start[1] & 0x7f {
        126 => usize::from(u16::from_be_bytes(*read(2)?.first_chunk()?)),
        127 => u64::from_be_bytes(*read(8)?.first_chunk()?) as usize,
        len => usize::from(len),
    };
    let masked = start[1] & 0x80 != 0;
    let key = if masked { read(4)? } else { vec![0; 4] };
    let payload = read(len)?.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
    Some((start[0], payload, masked))
}

/// A request or an answer up to its empty line; what there was when the connection ended before.
pub fn head(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).expect("a head") {
            0 => break,
            _ => bytes.push(byte[0]),
        }
    }
    String::from_utf8(bytes).expect("a head is text")
}

/// The answer of a server that takes the request.
pub fn accept(request: &str, headers: &str) -> Vec<u8> {
    let lines = request.lines().filter_map(|line| line.split_once(": "));
    let key = lines.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map(|(_, key)| key).next();
    let accept = tungstenite::handshake::derive_accept_key(key.expect("a key").as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{headers}\r\n"
    )
    .into_bytes()
}
