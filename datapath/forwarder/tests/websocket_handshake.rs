//! The opening handshake: the example of RFC 6455, every malformed request with its status, every wrong response with
//! its error, and tungstenite at the other end.

use std::io::{self, Read, Write};

use l7mp_forwarder::codec::websocket::handshake::{
    Expected, Refusal, Request, RequestError, Response, ResponseError, accept_key, read_request, read_response,
    request, select_protocol,
};
use l7mp_forwarder::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX};
use proptest::prelude::*;
use tungstenite::handshake::{HandshakeError, MidHandshake};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const NONCE: [u8; 16] = *b"the sample nonce";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A good request: its lines, without the empty one at the end.
const LINES: [&str; 6] = [
    "GET /chat?room=1 HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn joined(lines: &[&str]) -> Vec<u8> {
    let mut text = lines.join("\r\n");
    text.push_str("\r\n\r\n");
    text.into_bytes()
}

/// The good lines, with the one that starts like `line` (up to its first `:` or space) replaced, or `line` added.
fn with(line: &str) -> Vec<u8> {
    let name = |line: &str| line[..line.find([':', ' ']).unwrap()].to_ascii_lowercase();
    let mut lines = LINES.to_vec();
    match lines.iter_mut().find(|known| name(known) == name(line)) {
        Some(known) => *known = line,
        None => lines.push(line),
    }
    joined(&lines)
}

/// The good lines and one more.
fn plus(line: &str) -> Vec<u8> {
    joined(&[&LINES[..], &[line]].concat())
}

/// The good lines without the one that starts so.
fn without(start: &str) -> Vec<u8> {
    joined(&LINES.into_iter().filter(|line| !line.starts_with(start)).collect::<Vec<_>>())
}

fn read(bytes: &[u8]) -> Result<Request, u16> {
    match read_request(bytes) {
        Ok(Some((used, request))) => {
            assert_eq!(used, bytes.len());
            Ok(request)
        }
        Ok(None) => panic!("incomplete: {}", String::from_utf8_lossy(bytes)),
        Err(refusal) => Err(refusal.status),
    }
}

#[test]
fn accepts_the_example_of_rfc_6455_section_1_3() {
    assert_eq!(accept_key(KEY), ACCEPT);
    let bytes = joined(&[
        "GET /chat HTTP/1.1",
        "Host: server.example.com",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Origin: http://example.com",
        "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Version: 13",
    ]);
    let request = read(&bytes).unwrap();
    assert_eq!(request.protocols, ["chat", "superchat"]);
    assert_eq!(
        String::from_utf8(request.accept(Some("chat"))).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
    for not_offered in [None, Some("other"), Some("chat\r\nX: y")] {
        let answer = String::from_utf8(request.accept(not_offered)).unwrap();
        assert!(!answer.contains("Protocol:") && !answer.contains("X: y"), "{answer}");
    }
}

#[test]
fn reads_target_host_and_headers() {
    let request = read(&plus("X-Player:  \u{e9}va ")).unwrap();
    assert_eq!((request.method, request.version), ("GET", "1.1"));
    assert_eq!(request.target, "/chat?room=1");
    assert_eq!((request.path(), request.query()), ("/chat", Some("room=1")));
    assert_eq!(request.host, "server.example.com");
    assert_eq!(request.key, KEY);
    assert_eq!(request.header("x-player"), Some("\u{e9}va"));
    assert_eq!(request.headers.len(), 6);
    assert_eq!(request.headers[0], ("host".into(), "server.example.com".into()));

    for (target, path, query, host) in [
        ("/", "/", None, "server.example.com"),
        ("/?", "/", Some(""), "server.example.com"),
        ("/a/b?c?d", "/a/b", Some("c?d"), "server.example.com"),
        ("ws://other:9000/a?b", "/a", Some("b"), "other:9000"),
        ("http://other", "/", None, "other"),
        ("HTTP://other?q", "/", Some("q"), "other"),
    ] {
        let request = read(&with(&format!("GET {target} HTTP/1.1"))).unwrap();
        assert_eq!((request.path(), request.query(), &*request.host), (path, query, host), "{target}");
    }
}

#[test]
fn accepts_what_browsers_and_proxies_make_of_a_request() {
    for (name, bytes) in [
        ("other case", with("UPGRADE: WebSocket")),
        ("lists", with("Connection: keep-alive, Upgrade")),
        ("lists in other case", with("connection:upgrade,close")),
        ("a list over two headers", [&joined(&LINES)[..joined(&LINES).len() - 2], b"Connection: x\r\n\r\n"].concat()),
        ("several protocols in Upgrade", with("Upgrade: h2c, websocket")),
        ("an empty body", with("Content-Length: 0")),
        ("extensions, which are not taken", with("Sec-WebSocket-Extensions: permessage-deflate")),
        ("an empty line in front", [b"\r\n", &joined(&LINES)[..]].concat()),
        ("a key that fills its last bits", with("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB==")),
        ("empty elements", with("Sec-WebSocket-Protocol: , a,, b ,")),
    ] {
        let accepted = read(&bytes);
        assert!(accepted.is_ok(), "{name}: {accepted:?}");
        let answer = String::from_utf8(accepted.unwrap().accept(None)).unwrap();
        assert!(!answer.contains("Extensions"), "{name}: {answer}");
    }
    let request = read(&plus("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b")).unwrap();
    assert_eq!(request.protocols, ["a", "b"]);
}

#[test]
fn malformed_requests_get_their_status() {
    let many: Vec<String> = (0..HANDSHAKE_HEADERS_MAX).map(|i| format!("X-{i}: y")).collect();
    let long = format!("X: {}", "y".repeat(HANDSHAKE_BYTES_MAX));
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("POST", joined(&["POST / HTTP/1.1", "Host: a"]), 405),
        ("HEAD", joined(&[&["HEAD / HTTP/1.1"], &LINES[1..]].concat()), 405),
        ("lower-case get", joined(&[&["get / HTTP/1.1"], &LINES[1..]].concat()), 405),
        ("HTTP/1.0", with("GET / HTTP/1.0"), 400),
        ("HTTP/2.0", joined(&["PRI * HTTP/2.0"]), 505),
        ("no version", joined(&["GET /"]), 400),
        ("no target", joined(&["GET  HTTP/1.1"]), 400),
        ("asterisk", with("GET * HTTP/1.1"), 400),
        ("an authority", with("GET a:80 HTTP/1.1"), 400),
        ("another scheme", with("GET ftp://a/ HTTP/1.1"), 400),
        ("no authority in the URL", with("GET ws:///a HTTP/1.1"), 400),
        ("a fragment", with("GET /a#b HTTP/1.1"), 400),
        ("no Host", without("Host"), 400),
        ("two Hosts", plus("Host: other"), 400),
        ("an empty Host", with("Host:"), 400),
        ("a Host with a space", with("Host: a b"), 400),
        ("an ordinary request", joined(&["GET / HTTP/1.1", "Host: a"]), 426),
        ("no Upgrade", without("Upgrade"), 426),
        ("another Upgrade", with("Upgrade: h2c"), 426),
        ("almost the right Upgrade", with("Upgrade: websockets"), 426),
        ("no Connection", without("Connection"), 400),
        ("another Connection", with("Connection: keep-alive"), 400),
        ("no version of WebSocket", without("Sec-WebSocket-Version"), 426),
        ("version 8", with("Sec-WebSocket-Version: 8"), 426),
        ("version 013", with("Sec-WebSocket-Version: 013"), 426),
        ("two versions", plus("Sec-WebSocket-Version: 13"), 400),
        ("no key", without("Sec-WebSocket-Key"), 400),
        ("two keys", plus("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        ("an empty key", with("Sec-WebSocket-Key:"), 400),
        ("a key of 15 bytes", with("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"), 400),
        ("a key of 17 bytes", with("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA="), 400),
        ("a key without padding", with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400),
        ("a key that is not base64", with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q=="), 400),
        ("a long key", with(&format!("Sec-WebSocket-Key: {}", "A".repeat(400))), 400),
        ("a subprotocol with a space", with("Sec-WebSocket-Protocol: a b"), 400),
        ("a subprotocol twice", with("Sec-WebSocket-Protocol: a, b, a"), 400),
        ("a body", with("Content-Length: 5"), 400),
        ("a chunked body", with("Transfer-Encoding: chunked"), 400),
        ("a header without a colon", plus("nonsense"), 400),
        ("a folded header", plus(" folded"), 400),
        ("a space before the colon", plus("X : y"), 400),
        ("a control character in a value", plus("X: a\0b"), 400),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        ("frames", b"\x81\x05Hello".to_vec(), 400),
        ("too many headers", joined(&[&LINES[..], &many.iter().map(String::as_str).collect::<Vec<_>>()].concat()), 431),
        ("too long", plus(&long), 431),
        ("too long and not at its end", plus(&long)[..HANDSHAKE_BYTES_MAX].to_vec(), 431),
    ];
    for (name, bytes, status) in cases {
        assert_eq!(read(&bytes).map(|_| ()), Err(status), "{name}");
    }
}

#[test]
fn the_longest_request_passes() {
    let padding = HANDSHAKE_BYTES_MAX - plus("X: ").len();
    let bytes = plus(&format!("X: {}", "y".repeat(padding)));
    assert_eq!(bytes.len(), HANDSHAKE_BYTES_MAX);
    assert!(read(&bytes).is_ok());
    assert_eq!(read(&plus(&format!("X: {}", "y".repeat(padding + 1)))), Err(431));
}

#[test]
fn an_incomplete_request_awaits_more_and_leaves_what_follows() {
    let mut bytes = joined(&LINES);
    for len in 0..bytes.len() {
        assert_eq!(read_request(&bytes[..len]), Ok(None), "{len} bytes");
    }
    let len = bytes.len();
    bytes.extend(b"\x81\x80\0\0\0\0");
    assert_eq!(read_request(&bytes).unwrap().unwrap().0, len);
}

#[test]
fn refusals_are_whole_responses() {
    let refusals = [
        Refusal { status: 400, reason: "bad" },
        Refusal::NOT_FOUND,
        Refusal { status: 405, reason: "GET only" },
        Refusal::TIMEOUT,
        Refusal { status: 426, reason: "WebSocket only" },
        Refusal::TOO_LARGE,
        Refusal::UNAVAILABLE,
        Refusal { status: 505, reason: "HTTP/1.1 only" },
    ];
    for (refusal, status) in refusals.into_iter().zip([400, 404, 405, 408, 426, 431, 503, 505]) {
        let bytes = refusal.response();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let header = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value)
        };
        assert_eq!(header("Content-Length").unwrap().parse(), Ok(body.len()));
        assert_eq!(body, format!("{}\n", refusal.reason));
        assert!(header("Connection").unwrap().contains("close"));
        assert_eq!(header("Upgrade"), (status == 426).then_some("websocket"), "{status}");
        assert_eq!(header("Sec-WebSocket-Version"), (status == 426).then_some("13"), "{status}");
        assert_eq!(header("Allow"), (status == 405).then_some("GET"), "{status}");
    }
}

#[test]
fn the_clients_order_decides_between_subprotocols() {
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    for (offered, supported, chosen) in [
        (&["a", "b"][..], &["b", "a"][..], Some("a")),
        (&["a", "b"], &["b"], Some("b")),
        (&["a", "b"], &["c"], None),
        (&["a", "b"], &[], Some("a")),
        (&[], &["a"], None),
        (&[], &[], None),
        (&["A"], &["a"], None),
    ] {
        let found = select_protocol(&list(offered), &list(supported));
        assert_eq!(found.as_deref(), chosen, "{offered:?} {supported:?}");
    }
}

#[test]
fn writes_a_request() {
    let headers = [
        ("X-Player".to_owned(), "eva 7".to_owned()),
        ("Host".to_owned(), "other".to_owned()),
        ("sec-websocket-key".to_owned(), "stale".to_owned()),
        ("Connection".to_owned(), "keep-alive".to_owned()),
        ("sec-websocket-extensions".to_owned(), "permessage-deflate".to_owned()),
    ];
    let (bytes, expected) = request("[::1]:8080", "/a?b=c%20d", Some("chat,superchat"), &headers, NONCE).unwrap();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "GET /a?b=c%20d HTTP/1.1\r\nHost: [::1]:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: chat, superchat\r\nX-Player: eva 7\r\n\r\n"
    );
    assert_eq!(expected.accept, ACCEPT);
    assert_eq!(expected.protocols, ["chat", "superchat"]);
}

#[test]
fn nothing_adds_a_line_to_a_request() {
    let header = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let bad_header = |name: &str| RequestError::Header { name: name.to_owned() };
    let long = "x".repeat(HANDSHAKE_BYTES_MAX);
    type Case<'a> = (&'a str, &'a str, Option<&'a str>, Vec<(String, String)>, RequestError);
    let cases: Vec<Case<'_>> = vec![
        ("", "/", None, vec![], RequestError::Host),
        ("a\r\nX: y", "/", None, vec![], RequestError::Host),
        ("a b", "/", None, vec![], RequestError::Host),
        ("a/b", "/", None, vec![], RequestError::Host),
        ("user@a", "/", None, vec![], RequestError::Host),
        ("h\u{f4}te", "/", None, vec![], RequestError::Host),
        ("a", "", None, vec![], RequestError::Path),
        ("a", "b", None, vec![], RequestError::Path),
        ("a", "/ HTTP/1.1\r\nX: y", None, vec![], RequestError::Path),
        ("a", "/\u{e9}", None, vec![], RequestError::Path),
        ("a", "/b#c", None, vec![], RequestError::Path),
        ("a", "/\0", None, vec![], RequestError::Path),
        ("a", "/", Some(""), vec![], RequestError::Protocol),
        ("a", "/", Some("b c"), vec![], RequestError::Protocol),
        ("a", "/", Some("b\r\nX: y"), vec![], RequestError::Protocol),
        ("a", "/", Some("b,"), vec![], RequestError::Protocol),
        ("a", "/", Some("b,b"), vec![], RequestError::Protocol),
        ("a", "/", None, header("X", "a\r\nY: z"), bad_header("X")),
        ("a", "/", None, header("X", "a\nb"), bad_header("X")),
        ("a", "/", None, header("X", "a\0"), bad_header("X")),
        ("a", "/", None, header("X\r\nY", "a"), bad_header("X\r\nY")),
        ("a", "/", None, header("", "a"), bad_header("")),
        ("a", "/", None, header("X", &long), RequestError::TooLarge),
        ("a", "/", None, header("Host", "a\r\nY: z"), bad_header("Host")),
    ];
    for (host, path, protocol, headers, error) in cases {
        let result = request(host, path, protocol, &headers, NONCE);
        assert_eq!(result, Err(error.clone()), "{host:?} {path:?} {protocol:?} {headers:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

/// A response's lines after the status line.
const ANSWER: [&str; 3] =
    ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="];

#[test]
fn wrong_responses_get_their_error() {
    const STATUS: &str = "HTTP/1.1 101 Switching Protocols";
    let [upgrade, connection, accept] = ANSWER;
    let expected = Expected { accept: ACCEPT.to_owned(), protocols: vec!["a".to_owned(), "b".to_owned()] };
    let long = format!("X: {}", "y".repeat(HANDSHAKE_BYTES_MAX));
    let chosen = |protocol: Option<&str>| Ok(Response { protocol: protocol.map(str::to_owned) });
    let cases: Vec<(Vec<&str>, Result<Response, ResponseError>)> = vec![
        (vec![STATUS, upgrade, connection, accept], chosen(None)),
        (vec![STATUS, "upgrade: WEBSOCKET", "connection: x, upgrade", accept], chosen(None)),
        (vec!["HTTP/1.1 101 ", upgrade, connection, accept], chosen(None)),
        (vec![STATUS, upgrade, connection, accept, "Sec-WebSocket-Protocol: b"], chosen(Some("b"))),
        (vec![STATUS, upgrade, connection, accept, "Sec-WebSocket-Protocol: c"], Err(ResponseError::Protocol)),
        (vec![STATUS, upgrade, connection, accept, "Sec-WebSocket-Protocol: a, b"], Err(ResponseError::Protocol)),
        (
            vec![STATUS, upgrade, connection, accept, "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a"],
            Err(ResponseError::Protocol),
        ),
        (vec![STATUS, upgrade, connection, accept, "Sec-WebSocket-Extensions: x"], Err(ResponseError::Extension)),
        (vec![STATUS, connection, accept], Err(ResponseError::Upgrade)),
        (vec![STATUS, "Upgrade: h2c", connection, accept], Err(ResponseError::Upgrade)),
        (vec![STATUS, upgrade, accept], Err(ResponseError::Connection)),
        (vec![STATUS, upgrade, "Connection: close", accept], Err(ResponseError::Connection)),
        (vec![STATUS, upgrade, connection], Err(ResponseError::Accept)),
        (vec![STATUS, upgrade, connection, accept, accept], Err(ResponseError::Accept)),
        (vec![STATUS, upgrade, connection, "Sec-WebSocket-Accept: AAAA"], Err(ResponseError::Accept)),
        (vec!["HTTP/1.1 200 OK"], Err(ResponseError::Status(200))),
        (vec!["HTTP/1.1 404 Not Found", "Content-Length: 0"], Err(ResponseError::Status(404))),
        (vec!["HTTP/1.0 503 Later"], Err(ResponseError::Status(503))),
        (vec!["HTTP/1.0 101 Switching", upgrade, connection, accept], Err(ResponseError::Malformed)),
        (vec!["SSH-2.0-OpenSSH"], Err(ResponseError::Malformed)),
        (vec!["\u{81}\u{5}Hello"], Err(ResponseError::Malformed)),
        (vec![STATUS, &long], Err(ResponseError::TooLarge)),
    ];
    for (lines, result) in cases {
        let bytes = joined(&lines);
        let read = read_response(&bytes, &expected).map(|read| read.expect("complete").1);
        assert_eq!(read, result, "{lines:?}");
        if let Err(error) = result {
            assert!(!error.to_string().is_empty());
        }
    }
    let mut bytes = joined(&[&[STATUS], &ANSWER[..]].concat());
    for len in 0..bytes.len() {
        assert_eq!(read_response(&bytes[..len], &expected), Ok(None), "{len} bytes");
    }
    let len = bytes.len();
    bytes.extend(b"\x81\x02hi");
    assert_eq!(read_response(&bytes, &expected).unwrap().unwrap().0, len, "frames may follow");
}

/// A connection whose peer is this test.
#[derive(Debug, Default)]
struct Pipe {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = buffer.len().min(self.input.len());
        buffer[..len].copy_from_slice(&self.input[..len]);
        self.input.drain(..len);
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn tungstenite_accepts_our_request_and_we_its_answer() {
    let (bytes, expected) = request("a.example:81", "/x?y", None, &[], NONCE).unwrap();
    let socket = tungstenite::accept(Pipe { input: bytes, ..Pipe::default() }).expect("accepted");
    let answer = &socket.get_ref().output;
    assert_eq!(read_response(answer, &expected), Ok(Some((answer.len(), Response { protocol: None }))));
}

#[test]
fn we_accept_tungstenites_request_and_it_our_answer() {
    let Err(HandshakeError::Interrupted(mut middle)) = tungstenite::client("ws://a.example:81/x?y", Pipe::default())
    else {
        panic!("it must await our answer");
    };
    let pipe: &mut Pipe = MidHandshake::get_mut(&mut middle).get_mut();
    let request = read(&pipe.output).unwrap();
    assert_eq!((request.target.as_str(), request.host.as_str()), ("/x?y", "a.example:81"));
    pipe.input = request.accept(None);
    middle.handshake().expect("it takes our answer");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        (at, byte) in (0usize..200, any::<u8>()),
    ) {
        let expected = Expected { accept: ACCEPT.to_owned(), protocols: vec![] };
        let _ = read_request(&bytes);
        let _ = read_response(&bytes, &expected);
        let mut changed = joined(&LINES);
        let at = at % changed.len();
        changed[at] = byte;
        if let Ok(Some((_, request))) = read_request(&changed) {
            prop_assert!(request.path().starts_with('/'));
            request.accept(None);
        }
        let mut answer = joined(&[&["HTTP/1.1 101 Switching Protocols"], &ANSWER[..]].concat());
        let at = at % answer.len();
        answer[at] = byte;
        let _ = read_response(&answer, &expected);
    }

    #[test]
    fn any_text_makes_one_request_or_an_error(
        host in "[a-z\r\n:. ]{0,12}",
        path in "/[a-z\r\n#? %]{0,12}",
        protocol in prop::option::of("[a-z\r\n, ]{0,12}"),
        value in "\\PC{0,10}[\r\n]?[a-z]{0,3}",
        nonce in any::<[u8; 16]>(),
    ) {
        let headers = [("x-value".to_owned(), value)];
        if let Ok((bytes, _)) = request(&host, &path, protocol.as_deref(), &headers, nonce) {
            let read = read(&bytes).expect("our own request is a good one");
            prop_assert_eq!(read.host, host);
            prop_assert_eq!(read.target, path);
            prop_assert_eq!(read.headers.len(), 6 + usize::from(protocol.is_some()));
        }
    }
}
