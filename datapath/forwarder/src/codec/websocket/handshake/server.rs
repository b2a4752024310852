//! The server's side of the handshake (RFC 6455, section 4.2).

use super::{BASE64, Repeated, accept_key, elements, lists_token, push_header, single, token, values};
use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX};
use base64::Engine as _;

/// A request that may become a WebSocket: everything but its path was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Always `GET`.
    pub method: &'static str,
    /// `1.1`.
    pub version: &'static str,
    /// Path and query as they were sent.
    pub target: String,
    /// Where the path ends in `target`.
    path_len: usize,
    /// The authority that the client thinks it talks to.
    pub host: String,
    /// All headers in order, names in lower case; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// `Sec-WebSocket-Key`; 16 bytes in base64.
    pub key: String,
    /// The subprotocols that the client offers, most wanted first; each a token, none twice.
    pub protocols: Vec<String>,
}

impl Request {
    /// The target without its query; starts with `/`.
    pub fn path(&self) -> &str {
        &self.target[..self.path_len]
    }

    /// What follows the `?`, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.target[self.path_len..].strip_prefix('?')
    }

    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The answer 101. A protocol that the client did not offer is left out, as it must be.
    pub fn accept(&self, protocol: Option<&str>) -> Vec<u8> {
        let mut text = String::from("HTTP/1.1 101 Switching Protocols\r\n");
        push_header(&mut text, "Upgrade", "websocket");
        push_header(&mut text, "Connection", "Upgrade");
        push_header(&mut text, "Sec-WebSocket-Accept", accept_key(&self.key));
        if let Some(protocol) = protocol.filter(|wanted| self.protocols.iter().any(|offered| offered == wanted)) {
            push_header(&mut text, "Sec-WebSocket-Protocol", protocol);
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, for the client to read.
    pub reason: &'static str,
}

impl Refusal {
    /// The path is not the listener's, or no rule matches.
    pub const NOT_FOUND: Refusal = Refusal { status: 404, reason: "nothing is served here" };
    /// The request took longer than [`crate::limits::HANDSHAKE_TIMEOUT`].
    pub const TIMEOUT: Refusal = Refusal { status: 408, reason: "the request took too long" };
    /// The request is longer than [`HANDSHAKE_BYTES_MAX`], or has more than [`HANDSHAKE_HEADERS_MAX`] headers.
    pub const TOO_LARGE: Refusal = Refusal { status: 431, reason: "the request is too large" };
    /// The session could not be opened, or is refused.
    pub const UNAVAILABLE: Refusal = Refusal { status: 503, reason: "the session could not be opened" };

    const fn bad(reason: &'static str) -> Refusal {
        Refusal { status: 400, reason }
    }

    const fn upgrade_required(reason: &'static str) -> Refusal {
        Refusal { status: 426, reason }
    }

    /// The answer; the connection is closed after it.
    pub fn response(&self) -> Vec<u8> {
        let body = format!("{}\n", self.reason);
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, status_text(self.status));
        match self.status {
            405 => push_header(&mut text, "Allow", "GET"),
            // RFC 9110, section 15.5.22, and RFC 6455, section 4.4.
            426 => {
                push_header(&mut text, "Upgrade", "websocket");
                push_header(&mut text, "Sec-WebSocket-Version", "13");
            }
            _ => {}
        }
        push_header(&mut text, "Connection", if self.status == 426 { "Upgrade, close" } else { "close" });
        push_header(&mut text, "Content-Type", "text/plain; charset=utf-8");
        push_header(&mut text, "Content-Length", body.len());
        text.push_str("\r\n");
        text.push_str(&body);
        text.into_bytes()
    }
}

fn status_text(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// Reads a request from its start, and tells how long it is; None: it is not complete yet. What follows it in `bytes`
/// is not looked at: a client must wait for the 101, and one that did not sent frames.
pub fn read_request(bytes: &[u8]) -> Result<Option<(usize, Request)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let used = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(used)) if used <= HANDSHAKE_BYTES_MAX => used,
        Ok(httparse::Status::Partial) if bytes.len() < HANDSHAKE_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => return Err(Refusal::TOO_LARGE),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TOO_LARGE),
        Err(httparse::Error::Version) => {
            return Err(Refusal { status: 505, reason: "the request is not HTTP/1.1" });
        }
        Err(_) => return Err(Refusal::bad("the request is not HTTP")),
    };
    check_request_line(&parsed)?;
    let (target, authority) = split_target(parsed.path.unwrap_or_default())?;
    let host = host_of(parsed.headers, authority)?;
    check_no_body(parsed.headers)?;
    check_upgrade(parsed.headers)?;
    let request = Request {
        method: "GET",
        version: "1.1",
        path_len: target.find('?').unwrap_or(target.len()),
        target,
        host,
        key: key_of(parsed.headers)?,
        protocols: protocols_of(parsed.headers)?,
        headers: parsed.headers.iter().map(owned_header).collect(),
    };
    Ok(Some((used, request)))
}

/// Which subprotocol to speak: the first that the client offers and the listener supports; the client's first, if the
/// listener names none.
pub fn select_protocol(offered: &[String], supported: &[String]) -> Option<String> {
    offered.iter().find(|protocol| supported.is_empty() || supported.contains(protocol)).cloned()
}

fn check_request_line(request: &httparse::Request<'_, '_>) -> Result<(), Refusal> {
    if request.method != Some("GET") {
        return Err(Refusal { status: 405, reason: "a WebSocket starts with GET" });
    }
    if request.version != Some(1) {
        return Err(Refusal::bad("a WebSocket needs HTTP/1.1"));
    }
    Ok(())
}

/// Path and query of a target in origin form or absolute form, and the authority of the latter (RFC 9112, section
/// 3.2).
fn split_target(target: &str) -> Result<(String, Option<&str>), Refusal> {
    const BAD: Refusal = Refusal::bad("the target is neither a path nor a URL");
    if target.contains('#') {
        return Err(Refusal::bad("the target has a fragment"));
    }
    if target.starts_with('/') {
        return Ok((target.to_owned(), None));
    }
    let (scheme, rest) = target.split_once("://").ok_or(BAD)?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(BAD);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((format!("{slash}{path}"), Some(authority)))
}

/// The authority of the target, else the `Host` header, which must stand once in any case.
fn host_of(headers: &[httparse::Header<'_>], authority: Option<&str>) -> Result<String, Refusal> {
    const BAD: Refusal = Refusal::bad("exactly one Host header is needed");
    let host = single(headers, "host").map_err(|Repeated| BAD)?.ok_or(BAD)?;
    let host = std::str::from_utf8(host).map_err(|_| BAD)?;
    let host = authority.unwrap_or(host);
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BAD);
    }
    Ok(host.to_owned())
}

fn check_no_body(headers: &[httparse::Header<'_>]) -> Result<(), Refusal> {
    let has_length = values(headers, "content-length").any(|value| value != b"0");
    if has_length || values(headers, "transfer-encoding").next().is_some() {
        return Err(Refusal::bad("a WebSocket request has no body"));
    }
    Ok(())
}

fn check_upgrade(headers: &[httparse::Header<'_>]) -> Result<(), Refusal> {
    if !lists_token(headers, "upgrade", "websocket") {
        return Err(Refusal::upgrade_required("only WebSocket is served here"));
    }
    if !lists_token(headers, "connection", "upgrade") {
        return Err(Refusal::bad("Connection does not say Upgrade"));
    }
    match single(headers, "sec-websocket-version") {
        Ok(Some(b"13")) => Ok(()),
        Ok(Some(_) | None) => Err(Refusal::upgrade_required("only version 13 of WebSocket is served")),
        Err(Repeated) => Err(Refusal::bad("Sec-WebSocket-Version stands more than once")),
    }
}

fn key_of(headers: &[httparse::Header<'_>]) -> Result<String, Refusal> {
    const BAD: Refusal = Refusal::bad("exactly one Sec-WebSocket-Key of 16 bytes in base64 is needed");
    let key = single(headers, "sec-websocket-key").map_err(|Repeated| BAD)?.ok_or(BAD)?;
    let mut nonce = [0; 18];
    match BASE64.decode_slice(key, &mut nonce) {
        Ok(16) => std::str::from_utf8(key).map(str::to_owned).map_err(|_| BAD),
        Ok(_) | Err(_) => Err(BAD),
    }
}

fn protocols_of(headers: &[httparse::Header<'_>]) -> Result<Vec<String>, Refusal> {
    let mut protocols: Vec<String> = Vec::new();
    for element in elements(values(headers, "sec-websocket-protocol")) {
        let protocol = token(element).ok_or(Refusal::bad("a subprotocol is not a token"))?;
        if protocols.iter().any(|known| known == protocol) {
            return Err(Refusal::bad("a subprotocol is offered twice"));
        }
        protocols.push(protocol.to_owned());
    }
    Ok(protocols)
}

fn owned_header(header: &httparse::Header<'_>) -> (String, String) {
    (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value.trim_ascii()).into_owned())
}
