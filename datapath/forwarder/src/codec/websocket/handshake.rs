//! The opening handshake (RFC 6455, section 4), from bytes to bytes.
//!
//! [`read_request`] and [`Request::accept`] are the server's side, [`request`] and [`read_response`] the client's. The
//! caller gathers what was read until the reader is satisfied, fails, or the deadline has passed.

use std::fmt::Write;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha1::{Digest, Sha1};

mod client;
mod server;

pub use client::{Expected, RequestError, Response, ResponseError, read_response, request};
pub use server::{Refusal, Request, read_request, select_protocol};

/// What the server appends to the client's key (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Standard base64. Bits beyond the last byte are ignored: clients that fill the key with random letters exist.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// `Sec-WebSocket-Accept` for a key as it was sent (RFC 6455, section 4.2.2).
pub fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(GUID).finalize();
    BASE64.encode(digest)
}

/// The values of a header, in order.
fn values<'a>(headers: &'a [httparse::Header<'_>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.trim_ascii())
}

/// What a header that must stand once says; `Err` if it stands more often.
fn single<'a>(headers: &'a [httparse::Header<'_>], name: &str) -> Result<Option<&'a [u8]>, Repeated> {
    let mut values = values(headers, name);
    let first = values.next();
    if values.next().is_some() { Err(Repeated) } else { Ok(first) }
}

/// A header that must stand once stands more often.
struct Repeated;

/// The elements of comma-separated lists; empty ones mean nothing (RFC 9110, section 5.6.1).
fn elements<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether a token stands in any of a header's lists, in any case.
fn lists_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    elements(values(headers, name)).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// A token as a name, a method or a subprotocol is one (RFC 9110, section 5.6.2).
fn token(bytes: &[u8]) -> Option<&str> {
    let is_token_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if bytes.is_empty() || !bytes.iter().all(is_token_byte) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

/// Appends a header line. The caller has checked the value.
fn push_header(text: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{name}: {value}\r\n");
}
