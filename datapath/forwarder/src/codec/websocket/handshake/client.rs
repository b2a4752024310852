//! The client's side of the handshake (RFC 6455, section 4.1).

use std::fmt;

use base64::Engine as _;

use super::{BASE64, Repeated, accept_key, elements, lists_token, push_header, single, token, values};
use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX};

/// Headers of another hop, and those of the handshake itself: never passed on (RFC 9110, section 7.6.1).
const OWN_HEADERS: [&str; 16] = [
    "host",
    "upgrade",
    "connection",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "sec-websocket-accept",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
];

/// What the response must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The subprotocols that were offered.
    pub protocols: Vec<String>,
}

/// Why a request cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The host is empty, or has characters that no authority has.
    Host,
    /// The path does not start with `/`, or has characters that no target has.
    Path,
    /// A subprotocol is not a token, or stands twice.
    Protocol,
    /// A header's name is not a token, or its value has control characters.
    Header {
        /// Its name.
        name: String,
    },
    /// It would be longer than [`HANDSHAKE_BYTES_MAX`].
    TooLarge,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Host => f.write_str("the host of a WebSocket request is not host or host:port"),
            RequestError::Path => f.write_str("the path of a WebSocket request is not a path that HTTP can carry"),
            RequestError::Protocol => f.write_str("a WebSocket subprotocol is not a token, or is given twice"),
            RequestError::Header { name } => {
                write!(f, "the header {name:?} cannot be passed on: not a token, or control characters in its value")
            }
            RequestError::TooLarge => {
                write!(f, "the WebSocket request would be longer than {HANDSHAKE_BYTES_MAX} bytes")
            }
        }
    }
}

impl std::error::Error for RequestError {}

/// Writes a request: `host` as `Host` has it, `path` with its query, `protocol` a subprotocol or a comma-separated list
/// of them, further headers (those that belong to one hop or to the handshake are left out).
///
/// Nothing that is given can add a line to the request: it is an error instead.
pub fn request(
    host: &str,
    path: &str,
    protocol: Option<&str>,
    headers: &[(String, String)],
    nonce: [u8; 16],
) -> Result<(Vec<u8>, Expected), RequestError> {
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\,\"<>".contains(&byte)) {
        return Err(RequestError::Host);
    }
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(RequestError::Path);
    }
    let protocols = offered(protocol)?;
    let key = BASE64.encode(nonce);
    let mut text = format!("GET {path} HTTP/1.1\r\n");
    push_header(&mut text, "Host", host);
    push_header(&mut text, "Upgrade", "websocket");
    push_header(&mut text, "Connection", "Upgrade");
    push_header(&mut text, "Sec-WebSocket-Key", &key);
    push_header(&mut text, "Sec-WebSocket-Version", "13");
    if !protocols.is_empty() {
        push_header(&mut text, "Sec-WebSocket-Protocol", protocols.join(", "));
    }
    for (name, value) in headers {
        if token(name.as_bytes()).is_none() || value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(RequestError::Header { name: name.clone() });
        }
        if !OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            push_header(&mut text, name, value);
        }
    }
    text.push_str("\r\n");
    if text.len() > HANDSHAKE_BYTES_MAX {
        return Err(RequestError::TooLarge);
    }
    Ok((text.into_bytes(), Expected { accept: accept_key(&key), protocols }))
}

fn offered(protocol: Option<&str>) -> Result<Vec<String>, RequestError> {
    let mut protocols: Vec<String> = Vec::new();
    for name in protocol.into_iter().flat_map(|list| list.split(',')) {
        let name = token(name.trim_ascii().as_bytes()).ok_or(RequestError::Protocol)?;
        if protocols.iter().any(|known| known == name) {
            return Err(RequestError::Protocol);
        }
        protocols.push(name.to_owned());
    }
    Ok(protocols)
}

/// A response that makes the connection a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The subprotocol that the server chose among those offered.
    pub protocol: Option<String>,
}

/// Why a response does not make the connection a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Not an HTTP/1.1 response.
    Malformed,
    /// Longer than [`HANDSHAKE_BYTES_MAX`], or more than [`HANDSHAKE_HEADERS_MAX`] headers.
    TooLarge,
    /// Another status than 101.
    Status(u16),
    /// `Upgrade` is not `websocket`.
    Upgrade,
    /// `Connection` does not list `Upgrade`.
    Connection,
    /// `Sec-WebSocket-Accept` does not answer our key: whoever answers is no WebSocket server, or answers another.
    Accept,
    /// A subprotocol that was not offered.
    Protocol,
    /// An extension, though none was offered.
    Extension,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseError::Malformed => f.write_str("the answer to the WebSocket request is not HTTP/1.1"),
            ResponseError::TooLarge => {
                write!(f, "the answer to the WebSocket request is longer than {HANDSHAKE_BYTES_MAX} bytes")
            }
            ResponseError::Status(status) => write!(f, "the WebSocket request was answered with status {status}"),
            ResponseError::Upgrade => f.write_str("the answer's Upgrade is not websocket"),
            ResponseError::Connection => f.write_str("the answer's Connection does not list Upgrade"),
            ResponseError::Accept => f.write_str("the answer's Sec-WebSocket-Accept does not fit the request's key"),
            ResponseError::Protocol => f.write_str("the answer chose a subprotocol that was not offered"),
            ResponseError::Extension => f.write_str("the answer chose an extension, and none was offered"),
        }
    }
}

impl std::error::Error for ResponseError {}

/// Reads a response from its start, and tells how long it is; None: it is not complete yet. Frames may follow it.
pub fn read_response(bytes: &[u8], expected: &Expected) -> Result<Option<(usize, Response)>, ResponseError> {
    let mut headers = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let used = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(used)) if used <= HANDSHAKE_BYTES_MAX => used,
        Ok(httparse::Status::Partial) if bytes.len() < HANDSHAKE_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => return Err(ResponseError::TooLarge),
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooLarge),
        Err(_) => return Err(ResponseError::Malformed),
    };
    match (parsed.code, parsed.version) {
        (Some(101), Some(1)) => {}
        (Some(101), _) | (None, _) => return Err(ResponseError::Malformed),
        (Some(status), _) => return Err(ResponseError::Status(status)),
    }
    let headers = &*parsed.headers;
    if !lists_token(headers, "upgrade", "websocket") {
        return Err(ResponseError::Upgrade);
    }
    if !lists_token(headers, "connection", "upgrade") {
        return Err(ResponseError::Connection);
    }
    match single(headers, "sec-websocket-accept") {
        Ok(Some(accept)) if accept == expected.accept.as_bytes() => {}
        Ok(_) | Err(Repeated) => return Err(ResponseError::Accept),
    }
    if elements(values(headers, "sec-websocket-extensions")).next().is_some() {
        return Err(ResponseError::Extension);
    }
    Ok(Some((used, Response { protocol: chosen_protocol(headers, expected)? })))
}

fn chosen_protocol(headers: &[httparse::Header<'_>], expected: &Expected) -> Result<Option<String>, ResponseError> {
    let chosen = single(headers, "sec-websocket-protocol").map_err(|Repeated| ResponseError::Protocol)?;
    match chosen {
        None => Ok(None),
        Some(chosen) => {
            let known = expected.protocols.iter().find(|offered| offered.as_bytes() == chosen);
            known.cloned().map(Some).ok_or(ResponseError::Protocol)
        }
    }
}
