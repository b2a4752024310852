//! WebSocket in both roles against foreign implementations (Python's `websockets`, tungstenite), and what malformed
//! handshakes and frames are answered with, over real sockets.

mod common;
#[path = "websocket/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use common::{PATIENCE, Proxy, within};
use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};
use wire::*;

const LIMIT: usize = 64 * 1024;

// ------------------------------------------------------------------------------------------------------- foreign peers

/// A Python that has the `websockets` package. None, with the reason on stderr: there is none here; in CI that fails.
fn python() -> Option<&'static (String, PathBuf)> {
    static FOUND: OnceLock<Option<(String, PathBuf)>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-websockets");
        let works = |python: &str| {
            let mut command = Command::new(python);
            command.args(["-c", "import websockets"]).env("PYTHONPATH", &cache);
            command.output().is_ok_and(|output| output.status.success())
        };
        let candidates = ["python3", "/usr/bin/python3"];
        if let Some(python) = candidates.into_iter().find(|python| works(python)) {
            return Some((python.to_owned(), cache));
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&cache).arg("websockets");
        let installed = pip.output().is_ok_and(|output| output.status.success());
        (installed && works("python3")).then(|| ("python3".to_owned(), cache))
    });
    if found.is_none() {
        let message = "no Python with the package `websockets`, and pip could not install it";
        assert!(std::env::var_os("CI").is_none(), "{message}");
        eprintln!("skipped: {message}");
    }
    found.as_ref()
}

fn script(name: &str) -> Option<Command> {
    let (python, cache) = python()?;
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/websocket").join(name));
    command.env("PYTHONPATH", cache).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

const ECHO: &str = "
listeners:
  - name: in
    spec: {WebSocket: {port: 0, subprotocols: [alpha, beta]}}
    rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]
";

#[test]
fn a_python_client_is_served() {
    let proxy = Proxy::start(ECHO);
    let Some(mut command) = script("client.py") else { return };
    let output = command.arg(proxy.address("in").port().to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "held: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().count(), 9, "{said}");
    within(|| (proxy.metric("l7mp_sessions_active", "") == 0).then_some(()));
    assert_eq!(proxy.dropped("oversized"), 3);
    assert_eq!(proxy.drops().values().sum::<u64>(), 3);
}

/// A running server.py.
struct PythonServer {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl PythonServer {
    fn start() -> Option<PythonServer> {
        let mut child = script("server.py")?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut server = PythonServer { child, lines, port: 0 };
        server.port = server.line().strip_prefix("port ").unwrap().parse().unwrap();
        Some(server)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Client = WebSocket<TcpStream>;

fn tungstenite_client(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Client {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    tungstenite::client(request, stream).unwrap().0
}

fn ask(client: &mut Client, text: &str) -> Message {
    client.send(Message::text(text)).unwrap();
    client.read().unwrap()
}

fn close_code(client: &mut Client) -> Option<u16> {
    loop {
        match client.read() {
            Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_python_server_is_talked_to() {
    let Some(mut server) = PythonServer::start() else { return };
    let port = server.port;
    let proxy = Proxy::start(&format!(
        "
listeners:
  - {{name: plain, spec: {{WebSocket: {{port: 0}}}}, rules: [{{action: {{route: {{destination: plain}}}}}}]}}
  - {{name: set, spec: {{WebSocket: {{port: 0}}}}, rules: [{{action: {{route: {{destination: set}}}}}}]}}
  - name: rewritten
    spec: {{WebSocket: {{port: 0}}}}
    rules:
      - action:
          rewrite: [{{path: /HTTP/url, valueStr: '/new?y=2'}}, {{path: /HTTP/headers/x-token, valueStr: secret}}]
          route: {{destination: set}}
  - {{name: udp, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: text}}}}}}]}}
clusters:
  - {{name: plain, spec: {{WebSocket: {{port: {port}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}
  - name: set
    spec: {{WebSocket: {{port: {port}, path: /set, host: game.example, subprotocol: beta}}}}
    endpoints: [{{spec: {{address: 127.0.0.1}}}}]
  - {{name: text, spec: {{WebSocket: {{port: {port}, payload: text}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}
"
    ));
    let about =
        |client: &mut Client| -> Value { serde_json::from_str(ask(client, "!about").to_text().unwrap()).unwrap() };
    let expected = |path: &str, host: &str, offered: Value, subprotocol: Value, token: Value| {
        serde_json::json!({"path": path, "host": host, "offered": offered, "subprotocol": subprotocol, "token": token,
            "extensions": null})
    };
    let own_host = format!("127.0.0.1:{port}");

    // The client's own path, subprotocol and headers; then the cluster's; then a rewritten path and header.
    let headers = [("sec-websocket-protocol", "beta"), ("x-token", "mine"), ("sec-websocket-extensions", "x")];
    let mut plain = tungstenite_client(proxy.address("plain"), "/own?x=1", &headers);
    let of_client = expected("/own?x=1", &own_host, "beta".into(), "beta".into(), "mine".into());
    assert_eq!(about(&mut plain), of_client);
    let mut set = tungstenite_client(proxy.address("set"), "/own", &[]);
    assert_eq!(about(&mut set), expected("/set", "game.example", "beta".into(), "beta".into(), Value::Null));
    let mut rewritten = tungstenite_client(proxy.address("rewritten"), "/own", &[("x-token", "mine")]);
    let of_rule = expected("/new?y=2", "game.example", "beta".into(), "beta".into(), "secret".into());
    assert_eq!(about(&mut rewritten), of_rule);

    // Types, sizes, fragments, pings.
    for message in [
        Message::text(""),
        Message::text("\u{20ac}"),
        Message::binary(vec![]),
        Message::binary(vec![0xff; 200]),
        Message::binary(vec![7; LIMIT]),
        Message::text("t".repeat(LIMIT)),
    ] {
        plain.send(message.clone()).unwrap();
        assert!(plain.read().unwrap() == message);
    }
    assert_eq!(ask(&mut plain, "!fragments"), Message::text("fragments"));
    assert_eq!(plain.read().unwrap(), Message::binary([vec![b'a'; 20_000], vec![b'b'; 20_000]].concat()));
    assert_eq!(ask(&mut plain, "!ping"), Message::text("pong"));

    // UDP as text.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    udp.send_to(b"!about", proxy.address("udp")).unwrap();
    let mut buffer = [0; 1000];
    let len = udp.recv(&mut buffer).unwrap();
    let about: Value = serde_json::from_slice(&buffer[..len]).unwrap();
    assert_eq!(about, expected("/", &own_host, Value::Null, Value::Null, Value::Null));

    // The server's Close reaches the client; too long a message is refused; the client's Close reaches the server.
    plain.send(Message::text("!close 4002")).unwrap();
    assert_eq!(close_code(&mut plain), Some(1000));
    assert_eq!(server.line(), "closed 4002");
    set.send(Message::text(format!("!long {}", LIMIT + 1))).unwrap();
    assert_eq!(close_code(&mut set), Some(1011));
    assert_eq!(server.line(), "closed 1009");
    rewritten.close(None).unwrap();
    assert_eq!(close_code(&mut rewritten), None);
    assert_eq!(server.line(), "closed 1000");
}

// ---------------------------------------------------------------------------------------------- malformed handshakes

const DOORS: &str = "
listeners:
  - name: in
    spec: {WebSocket: {port: 0}}
    rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]
  - name: path
    spec: {WebSocket: {port: 0, path: /chat}}
    rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]
  - {name: no-rule, spec: {WebSocket: {port: 0}}, rules: []}
  - {name: refuses, spec: {WebSocket: {port: 0}}, rules: [{action: {refuse: closed today}}]}
  - {name: no-endpoint, spec: {WebSocket: {port: 0}}, rules: [{action: {route: {destination: nobody}}}]}
  - {name: dead, spec: {WebSocket: {port: 0}}, rules: [{action: {route: {destination: dead}}}]}
clusters:
  - {name: nobody, spec: {TCP: {port: 1}}}
  - {name: dead, spec: {UnixDomainSocket: {}}, endpoints: [{spec: {filename: nobody-is-here}}]}
";

/// The lines of a good request.
const LINES: [&str; 6] = [
    "GET /chat?room=1 HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn joined(lines: &[&str]) -> Vec<u8> {
    [lines.join("\r\n").as_bytes(), b"\r\n\r\n"].concat()
}

/// The good lines, the `n`th replaced (or left out).
fn with(n: usize, line: &str) -> Vec<u8> {
    let mut lines = LINES.to_vec();
    lines[n] = line;
    lines.retain(|line| !line.is_empty());
    joined(&lines)
}

fn plus(line: &str) -> Vec<u8> {
    joined(&[&LINES[..], &[line]].concat())
}

/// Sends a request and reads what comes until the server closes.
fn answered(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // A server that does not read all of a request may reset the connection behind its answer.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {answer:?}"))
}

#[test]
fn malformed_requests_get_their_status_and_the_connection_ends() {
    let proxy = Proxy::start(DOORS);
    let long = format!("X: {}", "y".repeat(8 * 1024));
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    let cases: Vec<(&str, &str, Vec<u8>, u16)> = vec![
        ("POST", "in", with(0, "POST / HTTP/1.1"), 405),
        ("HTTP/1.0", "in", with(0, "GET / HTTP/1.0"), 400),
        ("HTTP/2", "in", joined(&["PRI * HTTP/2.0"]), 505),
        ("no version", "in", with(0, "GET /"), 400),
        ("an authority", "in", with(0, "GET a:80 HTTP/1.1"), 400),
        ("no Host", "in", with(1, ""), 400),
        ("two Hosts", "in", plus("Host: other"), 400),
        ("an ordinary request", "in", joined(&["GET / HTTP/1.1", "Host: a"]), 426),
        ("another Upgrade", "in", with(2, "Upgrade: h2c"), 426),
        ("no Connection", "in", with(3, ""), 400),
        ("another Connection", "in", with(3, "Connection: keep-alive"), 400),
        ("no key", "in", with(4, ""), 400),
        ("a short key", "in", with(4, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"), 400),
        ("a key that is not base64", "in", with(4, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q=="), 400),
        ("two keys", "in", plus(LINES[4]), 400),
        ("no version of WebSocket", "in", with(5, ""), 426),
        ("version 8", "in", with(5, "Sec-WebSocket-Version: 8"), 426),
        ("a subprotocol twice", "in", plus("Sec-WebSocket-Protocol: a, a"), 400),
        ("a body", "in", plus("Content-Length: 5"), 400),
        ("a chunked body", "in", plus("Transfer-Encoding: chunked"), 400),
        ("a folded header", "in", plus(" folded"), 400),
        ("a header without a colon", "in", plus("nonsense"), 400),
        ("a zero byte", "in", plus("X: a\0b"), 400),
        ("TLS", "in", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        ("frames", "in", b"\x81\x05Hello".to_vec(), 400),
        ("too many headers", "in", plus(many.trim_end()), 431),
        ("too long", "in", plus(&long), 431),
        ("too long and not at its end", "in", plus(&long)[..8 * 1024].to_vec(), 431),
        ("another path", "path", with(0, "GET /other HTTP/1.1"), 404),
        ("almost the path", "path", with(0, "GET /chat/ HTTP/1.1"), 404),
        ("no rule", "no-rule", joined(&LINES), 404),
        ("a rule that refuses", "refuses", joined(&LINES), 503),
        ("no endpoint", "no-endpoint", joined(&LINES), 503),
        ("an endpoint that is not there", "dead", joined(&LINES), 503),
    ];
    println!("| request | status |\n|---|---|");
    for (name, listener, request, expected) in &cases {
        let answer = answered(proxy.address(listener), request);
        assert_eq!(status(&answer), *expected, "{name}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let head = head.to_ascii_lowercase();
        let connection = head.lines().find_map(|line| line.strip_prefix("connection: "));
        assert!(connection.is_some_and(|tokens| tokens.ends_with("close")), "{name}: {head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{name}: {answer}");
        assert_eq!(head.contains("\r\nsec-websocket-version: 13"), *expected == 426, "{name}: {head}");
        println!("| {name} | {expected} |");
    }
    let failures = proxy.metric("l7mp_listener_handshake_failures_total", "");
    assert_eq!(failures, cases.len() as u64);
    within(|| (proxy.metric("l7mp_sessions_active", "") == 0).then_some(()));
    // The same door still opens.
    tungstenite_client(proxy.address("path"), "/chat", &[]);
}

#[test]
fn a_client_that_does_not_finish_its_request_gets_408() {
    let proxy = Proxy::start(DOORS);
    let answer = answered(proxy.address("in"), b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgr");
    assert_eq!(status(&answer), 408, "{answer}");
    assert_eq!(proxy.metric("l7mp_sessions_closed_total", "reason=\"handshake\""), 1);
}

#[test]
fn the_101_waits_until_the_ring_is_open() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let proxy = Proxy::start(&format!(
        "
listeners: [{{name: in, spec: {{WebSocket: {{port: 0}}}}, rules: [{{action: {{route: {{destination: slow}}}}}}]}}]
clusters: [{{name: slow, spec: {{WebSocket: {{port: {port}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
"
    ));
    let mut client = TcpStream::connect(proxy.address("in")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // Frames may follow at once; they wait with the request.
    client.write_all(&[joined(&LINES), masked(TEXT, b"early")].concat()).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = head(&mut upstream);
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "a 101 for a ring that is not open");
    client.set_nonblocking(false).unwrap();
    upstream.write_all(&accept(&request, "")).unwrap();
    assert!(head(&mut client).starts_with("HTTP/1.1 101 "));
    assert_eq!(next_frame(&mut upstream), Some((TEXT, b"early".to_vec(), true)));
    upstream.write_all(&bare(TEXT, b"late")).unwrap();
    assert_eq!(next_frame(&mut client), Some((TEXT, b"late".to_vec(), false)));
}

// --------------------------------------------------------------------------------------------------- malformed frames

fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

/// Malformed frames of a client, each with the close code that it gets.
fn faults() -> Vec<(String, Vec<u8>, u16)> {
    let half = vec![0; LIMIT / 2];
    let over = (LIMIT as u64 + 1).to_be_bytes();
    let mut cases: Vec<(String, Vec<u8>, u16)> = vec![
        ("text without a mask".into(), bare(TEXT, b"a"), 1002),
        ("ping without a mask".into(), bare(PING, b""), 1002),
        ("close without a mask".into(), bare(CLOSE, b""), 1002),
        ("fragmented ping".into(), masked(0x09, b""), 1002),
        ("ping of 126 bytes".into(), masked(PING, &[0; 126]), 1002),
        ("close of 126 bytes".into(), masked(CLOSE, &close_payload(1000, &[b'x'; 124])), 1002),
        ("continuation of nothing".into(), masked(LAST, b"a"), 1002),
        ("text inside a message".into(), [masked(TEXT_FIRST, b"a"), masked(TEXT, b"b")].concat(), 1002),
        ("125 in 16 bits".into(), header(BINARY, 126, &125u16.to_be_bytes()), 1002),
        ("65,535 in 64 bits".into(), header(BINARY, 127, &65_535u64.to_be_bytes()), 1002),
        ("the top bit of 64".into(), header(BINARY, 127, &(1u64 << 63).to_be_bytes()), 1002),
        ("a byte too long".into(), header(BINARY, 127, &over), 1009),
        ("63 bits of length".into(), header(BINARY, 127, &(u64::MAX >> 1).to_be_bytes()), 1009),
        (
            "fragments too long".into(),
            [masked(BINARY_FIRST, &half), masked(MIDDLE, &half), masked(LAST, b"x")].concat(),
            1009,
        ),
        ("text that is not UTF-8".into(), masked(TEXT, b"a\xff"), 1007),
        ("text that ends inside a character".into(), masked(TEXT, b"\xe2\x82"), 1007),
        ("a surrogate".into(), masked(TEXT, b"\xed\xa0\x80"), 1007),
        (
            "fragments that are not UTF-8".into(),
            [masked(TEXT_FIRST, b"\xe2"), masked(LAST, b"\x28\xa1")].concat(),
            1007,
        ),
        ("close of 1 byte".into(), masked(CLOSE, b"\x03"), 1002),
        ("close whose reason is not UTF-8".into(), masked(CLOSE, &close_payload(1000, b"\xff")), 1007),
    ];
    for reserved in [0x40, 0x20, 0x10] {
        cases.push((format!("reserved bit {reserved:#x}"), masked(TEXT | reserved, b"a"), 1002));
    }
    for opcode in [3, 7, 11, 15] {
        cases.push((format!("opcode {opcode}"), masked(0x80 | opcode, b"a"), 1002));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        cases.push((format!("close code {code}"), masked(CLOSE, &close_payload(code, b"")), 1002));
    }
    cases
}

#[test]
fn malformed_frames_of_a_client_get_their_close_code() {
    let proxy = Proxy::start(DOORS);
    let address = proxy.address("in");
    println!("| frame | close code |\n|---|---|");
    let cases = faults();
    for (name, bytes, code) in &cases {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&joined(&LINES)).unwrap();
        assert!(head(&mut client).starts_with("HTTP/1.1 101 "));
        let all = [masked(TEXT, b"before"), bytes.clone(), masked(TEXT, b"after")].concat();
        // The server may have closed before all is written.
        let _ = client.write_all(&all);
        assert_eq!(next_frame(&mut client), Some((TEXT, b"before".to_vec(), false)), "{name}");
        assert_eq!(next_frame(&mut client), Some((CLOSE, code.to_be_bytes().to_vec(), false)), "{name}");
        assert_eq!(next_frame(&mut client), None, "{name}: the connection ends");
        println!("| {name} | {code} |");
    }
    within(|| (proxy.metric("l7mp_sessions_active", "") == 0).then_some(()));
    assert_eq!(proxy.metric("l7mp_sessions_closed_total", "reason=\"protocol\""), cases.len() as u64);
}

/// A proxy whose UDP clients each get a connection to a server that the test plays itself.
struct Upstream {
    server: TcpListener,
    proxy: Proxy,
}

impl Upstream {
    fn start() -> Upstream {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let proxy = Proxy::start(&format!(
            "
listeners: [{{name: in, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: ws}}}}}}]}}]
clusters:
  - name: ws
    spec: {{WebSocket: {{port: {port}, path: /up, subprotocol: game}}}}
    endpoints: [{{spec: {{address: 127.0.0.1}}}}]
"
        ));
        Upstream { server, proxy }
    }

    /// A new client's first datagram, and the connection that it leads to, with the request.
    fn client(&self) -> (UdpSocket, TcpStream, String) {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(self.proxy.address("in")).unwrap();
        client.send(b"hello").unwrap();
        let (mut stream, _) = self.server.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = head(&mut stream);
        assert!(request.starts_with("GET /up HTTP/1.1\r\n"), "{request}");
        (client, stream, request)
    }
}

#[test]
fn malformed_frames_of_a_server_get_their_close_code() {
    let upstream = Upstream::start();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("masked text", masked(TEXT, b"a"), 1002),
        ("masked ping", masked(PING, b"a"), 1002),
        ("masked close", masked(CLOSE, b""), 1002),
        ("a reserved bit", bare(TEXT | 0x40, b"a"), 1002),
        ("opcode 3", bare(0x83, b"a"), 1002),
        ("fragmented ping", bare(0x09, b""), 1002),
        ("continuation of nothing", bare(LAST, b"a"), 1002),
        ("125 in 16 bits", [&[BINARY, 126][..], &125u16.to_be_bytes()].concat(), 1002),
        ("text that is not UTF-8", bare(TEXT, b"\xff"), 1007),
        ("a byte too long", [&[BINARY, 127][..], &(LIMIT as u64 + 1).to_be_bytes()].concat(), 1009),
        ("close code 1005", bare(CLOSE, &close_payload(1005, b"")), 1002),
    ];
    println!("| frame of a server | close code |\n|---|---|");
    for (name, bytes, code) in &cases {
        let (client, mut stream, request) = upstream.client();
        stream
            .write_all(&[accept(&request, "Sec-WebSocket-Protocol: game\r\n"), bare(TEXT, b"before")].concat())
            .unwrap();
        assert_eq!(next_frame(&mut stream), Some((BINARY, b"hello".to_vec(), true)), "{name}");
        let mut buffer = [0; 100];
        assert_eq!(client.recv(&mut buffer).unwrap(), 6, "{name}");
        let _ = stream.write_all(bytes);
        assert_eq!(next_frame(&mut stream), Some((CLOSE, code.to_be_bytes().to_vec(), true)), "{name}");
        assert_eq!(next_frame(&mut stream), None, "{name}: the connection ends");
        println!("| {name} | {code} |");
    }
    within(|| (upstream.proxy.metric("l7mp_sessions_active", "") == 0).then_some(()));
}

#[test]
fn malformed_answers_of_a_server_fail_the_opening() {
    let upstream = Upstream::start();
    let edit = |from: &'static str, to: &'static str| {
        move |request: &str| String::from_utf8(accept(request, "")).unwrap().replace(from, to).into_bytes()
    };
    type Answer = Box<dyn Fn(&str) -> Vec<u8>>;
    let cases: Vec<(&str, Answer)> = vec![
        ("200", Box::new(edit("101 Switching Protocols", "200 OK"))),
        ("404", Box::new(|_| b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec())),
        ("HTTP/1.0", Box::new(edit("HTTP/1.1", "HTTP/1.0"))),
        ("no Upgrade", Box::new(edit("Upgrade: websocket\r\n", ""))),
        ("another Upgrade", Box::new(edit("Upgrade: websocket", "Upgrade: h2c"))),
        ("no Connection", Box::new(edit("Connection: Upgrade\r\n", ""))),
        ("another key's accept", Box::new(edit("Accept: ", "Accept: x"))),
        ("no accept", Box::new(edit("Sec-WebSocket-Accept", "X-Accept"))),
        ("a subprotocol that was not offered", Box::new(|request| accept(request, "Sec-WebSocket-Protocol: x\r\n"))),
        ("an extension", Box::new(|request| accept(request, "Sec-WebSocket-Extensions: permessage-deflate\r\n"))),
        ("no HTTP", Box::new(|_| b"\x00\x01\x02\x03 hello\r\n\r\n".to_vec())),
        ("too long", Box::new(|request| accept(request, &format!("X: {}\r\n", "y".repeat(9_000))))),
        ("its end", Box::new(|_| Vec::new())),
    ];
    let failures = |proxy: &Proxy| proxy.metric("l7mp_cluster_handshake_failures_total", "cluster=\"ws\"");
    for (n, (name, answer)) in cases.iter().enumerate() {
        let (_client, mut stream, request) = upstream.client();
        let _ = stream.write_all(&answer(&request));
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(next_frame(&mut stream), None, "{name}");
        let done = || (upstream.proxy.dropped("open_failed") == n as u64 + 1).then_some(());
        common::within(done);
    }
    // An end without an answer is no failed handshake but a connection that broke; either is a failed opening.
    assert!(failures(&upstream.proxy) >= cases.len() as u64 - 1);
}
