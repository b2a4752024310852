//! Every listener kind with every cluster kind: a message arrives as it was, or is dropped by a reason that is counted.
//!
//! The table is `pairs.md`; `UPDATE_GOLDEN=1 cargo test -p l7mp-proxy --test pairs` writes it anew.

mod common;
#[path = "pairs/peers.rs"]
mod peers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{PATIENCE, Proxy};
use peers::{Conversation, Framing, Kind, Message, Place, Server, answer, ask, connect, question, serve};

const SIZES: [usize; 5] = [0, 1, 1_200, 9_000, 65_507];
/// How long the peers are looked at between two looks at the counters.
const LOOK: Duration = Duration::from_millis(10);

const LISTENERS: [(&str, Kind); 12] = [
    ("UDP", Kind::Udp),
    ("UDP gro: false", Kind::Udp),
    ("TCP raw", Kind::Tcp(Framing::Raw)),
    ("TCP line", Kind::Tcp(Framing::Line)),
    ("TCP u16be", Kind::Tcp(Framing::U16be)),
    ("TCP u32be", Kind::Tcp(Framing::U32be)),
    ("WebSocket binary", Kind::WebSocket { text: false }),
    ("WebSocket text", Kind::WebSocket { text: true }),
    ("Unix stream raw", Kind::UnixStream(Framing::Raw)),
    ("Unix stream u32be", Kind::UnixStream(Framing::U32be)),
    ("Unix seqpacket", Kind::Seqpacket),
    ("Unix dgram", Kind::Dgram),
];

const CLUSTERS: [(&str, Option<Kind>); 13] = [
    ("UDP", Some(Kind::Udp)),
    ("UDP gro: false", Some(Kind::Udp)),
    ("TCP raw", Some(Kind::Tcp(Framing::Raw))),
    ("TCP line", Some(Kind::Tcp(Framing::Line))),
    ("TCP u16be", Some(Kind::Tcp(Framing::U16be))),
    ("TCP u32be", Some(Kind::Tcp(Framing::U32be))),
    ("WebSocket", Some(Kind::WebSocket { text: false })),
    ("Unix stream raw", Some(Kind::UnixStream(Framing::Raw))),
    ("Unix stream u32be", Some(Kind::UnixStream(Framing::U32be))),
    ("Unix seqpacket", Some(Kind::Seqpacket)),
    ("Unix dgram", Some(Kind::Dgram)),
    ("Echo", None),
    ("Discard", None),
];

const LEGEND: &str = "# Message pairs

What becomes of a message from a client of each kind of listener to a server of each kind of cluster (`>`), and of the
server's message back (`<`); one entry stands for both where they are alike. Sizes in bytes.

* *intact*: it arrived as one message with the same bytes (and, at a WebSocket, as text or binary as it was sent).
* *bytes*: every byte arrived in order; a raw byte stream has no boundaries.
* `a name`: dropped, and counted once as `l7mp_messages_dropped_total{reason=\"a name\"}`.
* *swallowed*: the cluster took it, and answers nothing.
* \u{2013}: it cannot be said. An empty write means nothing on a raw stream, and an empty packet reads as the end.

";

#[test]
fn every_pair_delivers_a_message_intact_or_counts_why_not() {
    let directory = tempfile::tempdir().unwrap();
    let servers: Vec<Option<Server>> = CLUSTERS
        .iter()
        .map(|(name, kind)| kind.map(|kind| serve(kind, &directory.path().join(file("server", name)))))
        .collect();
    let proxy = Proxy::start(&format!("listeners:\n{}clusters:\n{}", listeners(), clusters(&servers)));
    for (name, kind) in CLUSTERS {
        // Servers are outside of the proxy's root; a hard link brings their sockets in.
        if matches!(kind, Some(Kind::UnixStream(_) | Kind::Seqpacket | Kind::Dgram)) {
            let name = file("server", name);
            std::fs::hard_link(directory.path().join(&name), proxy.root().join(&name)).unwrap();
        }
    }
    let addresses = proxy.addresses();
    let mut table = String::from(LEGEND);
    let header = SIZES.map(thousands).join(" | ");
    writeln!(table, "| listener | cluster | {header} |\n|---|---|{}", "---|".repeat(SIZES.len())).unwrap();
    for (listener, kind) in LISTENERS {
        for ((cluster, cluster_kind), server) in CLUSTERS.iter().zip(&servers) {
            let name = file(listener, cluster);
            let path = proxy.root().join(&name);
            let place = addresses.get(&name).map_or(Place::Unix(&path), |&address| Place::Inet(address));
            let mut pair = Pair {
                proxy: &proxy,
                what: format!("{listener} and {cluster}"),
                client: connect(kind, &place, &directory.path().join("client")),
                kind,
                server: server.as_ref().zip(*cluster_kind),
                discard: *cluster == "Discard",
                expected: proxy.drops(),
            };
            let cells: Vec<String> = SIZES.iter().map(|&size| pair.cell(size)).collect();
            pair.nothing_is_left();
            writeln!(table, "| {listener} | {cluster} | {} |", cells.join(" | ")).unwrap();
        }
    }
    println!("{table}");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pairs.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &table).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    let differences: Vec<String> = expected
        .lines()
        .zip(table.lines())
        .filter(|(expected, is)| expected != is)
        .map(|(expected, is)| format!("- {expected}\n+ {is}"))
        .collect();
    assert!(expected == table, "differs from tests/pairs.md:\n{}", differences.join("\n"));
}

/// A client of one listener, and the server of the cluster behind.
struct Pair<'a> {
    proxy: &'a Proxy,
    what: String,
    client: Conversation,
    kind: Kind,
    /// None: an in-process cluster.
    server: Option<(&'a Server, Kind)>,
    discard: bool,
    /// Drops that are accounted for.
    expected: BTreeMap<String, u64>,
}

impl Pair<'_> {
    /// Both directions at one size.
    fn cell(&mut self, size: usize) -> String {
        let forth = self.forth(size);
        let back = self.back(size);
        match back {
            Some(back) if back != forth => format!("> {forth}, < {back}"),
            _ => forth,
        }
    }

    /// From the client to the server, or through the in-process cluster.
    fn forth(&mut self, size: usize) -> String {
        if size == 0 && self.kind.says_nothing() {
            return "\u{2013}".to_owned();
        }
        let message = question(size, self.text());
        let swallowed = self.swallowed();
        self.client.send(&message).unwrap_or_else(|error| panic!("{}: {size} bytes: {error}", self.what));
        match self.server {
            Some((server, kind)) => {
                let expected = Message { text: message.text && matches!(kind, Kind::WebSocket { .. }), ..message };
                let hear = |_: &mut Conversation| server.heard.recv_timeout(LOOK).ok();
                self.outcome(&expected, hear, self.kind.is_raw() || kind.is_raw())
            }
            None if self.discard => {
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let (messages, bytes) = self.swallowed();
                    if messages > swallowed.0 && bytes == swallowed.1 + size as u64 {
                        return "swallowed".to_owned();
                    }
                    if let Some(reason) = self.new_drop() {
                        return reason;
                    }
                    assert!(Instant::now() < deadline, "{}: {size} bytes are not swallowed", self.what);
                }
            }
            None => self.outcome(&message, look, self.kind.is_raw()),
        }
    }

    /// From the server to the client; None: there is nobody to say anything.
    fn back(&mut self, size: usize) -> Option<String> {
        let (_, kind) = self.server?;
        if size == 0 && kind.says_nothing() {
            return Some("\u{2013}".to_owned());
        }
        self.client.send(&ask(size, self.text())).unwrap();
        Some(self.outcome(&answer(size, self.text()), look, self.kind.is_raw() || kind.is_raw()))
    }

    /// Whether the client's messages are text.
    fn text(&self) -> bool {
        self.kind == Kind::WebSocket { text: true }
    }

    /// Waits for a message, or for the counter of its loss.
    fn outcome(
        &mut self,
        expected: &Message,
        mut hear: impl FnMut(&mut Conversation) -> Option<Message>,
        raw: bool,
    ) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut heard: Vec<Message> = Vec::new();
        loop {
            let looked = Instant::now();
            while looked.elapsed() < LOOK {
                heard.extend(hear(&mut self.client));
                let bytes: usize = heard.iter().map(|message| message.bytes.len()).sum();
                if !heard.is_empty() && bytes >= expected.bytes.len() {
                    return self.judged(expected, &heard, raw);
                }
            }
            if let Some(reason) = self.new_drop() {
                return reason;
            }
            let what = &self.what;
            let size = expected.bytes.len();
            let log = self.proxy.log();
            assert!(
                Instant::now() < deadline,
                "{what}: {size} bytes neither arrive nor are counted as dropped:\n{log}"
            );
        }
    }

    fn judged(&self, expected: &Message, heard: &[Message], raw: bool) -> String {
        let joined: Vec<u8> = heard.iter().flat_map(|message| message.bytes.clone()).collect();
        let what = format!("{}: {} bytes", self.what, expected.bytes.len());
        assert!(joined == expected.bytes, "{what} arrive altered");
        assert!(heard.iter().all(|message| message.text == expected.text), "{what} arrive as another type");
        if raw {
            return "bytes".to_owned();
        }
        assert_eq!(heard.len(), 1, "{what} arrive in pieces");
        "intact".to_owned()
    }

    /// The reason that was counted since the last look; once.
    fn new_drop(&mut self) -> Option<String> {
        let now = self.proxy.drops();
        let changed: Vec<(&String, u64)> = now
            .iter()
            .map(|(reason, &count)| (reason, count - self.expected[reason]))
            .filter(|&(_, n)| n > 0)
            .collect();
        let reason = match changed[..] {
            [] => return None,
            [(reason, 1)] => format!("`{reason}`"),
            _ => panic!("{}: one message, dropped as {changed:?}", self.what),
        };
        self.expected = now;
        Some(reason)
    }

    /// Nothing arrived twice, nothing else was dropped.
    fn nothing_is_left(&mut self) {
        assert_eq!(self.new_drop(), None, "{}", self.what);
        let more = self.server.and_then(|(server, _)| server.heard.try_recv().ok());
        assert!(more.is_none() && look(&mut self.client).is_none(), "{}: something arrived twice", self.what);
    }

    /// What the Discard cluster took.
    fn swallowed(&self) -> (u64, u64) {
        let of = |name: &str| self.proxy.metric(name, "cluster=\"discard\",direction=\"out\"");
        (of("l7mp_cluster_messages_total"), of("l7mp_cluster_bytes_total"))
    }
}

fn look(client: &mut Conversation) -> Option<Message> {
    client.receive().ok()
}

fn thousands(size: usize) -> String {
    if size < 1_000 { size.to_string() } else { format!("{},{:03}", size / 1_000, size % 1_000) }
}

/// A name for a listener and its socket's file.
fn file(first: &str, second: &str) -> String {
    format!("{first}.{second}").to_lowercase().replace([' ', ':'], "")
}

fn listeners() -> String {
    let mut text = String::new();
    for (listener, kind) in LISTENERS {
        for (cluster, _) in CLUSTERS {
            let name = file(listener, cluster);
            let spec = match kind {
                Kind::Udp => format!("UDP: {{port: 0, gro: {}}}", listener == "UDP"),
                Kind::Tcp(framing) => format!("TCP: {{port: 0, framing: {}}}", framing.name()),
                Kind::WebSocket { text: true } => "WebSocket: {port: 0, payload: text}".to_owned(),
                Kind::WebSocket { text: false } => "WebSocket: {port: 0}".to_owned(),
                unix => format!("UnixDomainSocket: {{filename: /{name}, {}}}", unix_kind(unix)),
            };
            let action = format!("{{route: {{destination: {}}}}}", file(cluster, "").trim_end_matches('.'));
            writeln!(text, "  - {{name: {name}, spec: {{{spec}}}, rules: [{{action: {action}}}]}}").unwrap();
        }
    }
    text
}

fn clusters(servers: &[Option<Server>]) -> String {
    let mut text = String::new();
    for ((cluster, kind), server) in CLUSTERS.iter().zip(servers) {
        let name = file(cluster, "");
        let name = name.trim_end_matches('.');
        let port = server.as_ref().map_or(0, |server| server.port);
        let spec = match kind {
            None => format!("{cluster}: {{}}"),
            Some(Kind::Udp) => format!("UDP: {{port: {port}, gro: {}}}", *cluster == "UDP"),
            Some(Kind::Tcp(framing)) => format!("TCP: {{port: {port}, framing: {}}}", framing.name()),
            Some(Kind::WebSocket { .. }) => format!("WebSocket: {{port: {port}}}"),
            Some(unix) => format!("UnixDomainSocket: {{{}}}", unix_kind(*unix)),
        };
        let endpoint = match kind {
            None => String::new(),
            Some(Kind::Udp | Kind::Tcp(_) | Kind::WebSocket { .. }) => "{spec: {address: 127.0.0.1}}".to_owned(),
            Some(_) => format!("{{spec: {{filename: {}}}}}", file("server", cluster)),
        };
        writeln!(text, "  - {{name: {name}, spec: {{{spec}}}, endpoints: [{endpoint}]}}").unwrap();
    }
    text
}

fn unix_kind(kind: Kind) -> String {
    match kind {
        Kind::UnixStream(framing) => format!("type: stream, framing: {}", framing.name()),
        Kind::Seqpacket => "type: seqpacket".to_owned(),
        Kind::Dgram => "type: dgram".to_owned(),
        Kind::Udp | Kind::Tcp(_) | Kind::WebSocket { .. } => panic!("{kind:?} is no Unix socket"),
    }
}

/// What a protocol cannot carry is dropped by name, and what follows still arrives.
#[test]
fn contents_that_a_protocol_cannot_carry_are_dropped_by_name() {
    let line = serve(Kind::Tcp(Framing::Line), Path::new(""));
    let proxy = Proxy::start(&format!(
        "
listeners:
  - {{name: line, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: line}}}}}}]}}
  - {{name: in, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: text}}}}}}]}}
  - {{name: text, spec: {{WebSocket: {{port: 0}}}}, rules: [{{action: {{route: {{destination: echo}}}}}}]}}
  - name: unnamed
    spec: {{UnixDomainSocket: {{filename: dgram, type: dgram}}}}
    rules: [{{action: {{route: {{destination: echo}}}}}}]
clusters:
  - {{name: echo, spec: {{Echo: {{}}}}}}
  - {{name: line, spec: {{TCP: {{framing: line, port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}
  - {{name: text, spec: {{WebSocket: {{payload: text}}}}, endpoints: []}}
",
        line.port
    ));
    let text_port = proxy.address("text").port();
    let document = proxy.get("/api/v1/config").json()["config"].clone();
    let mut document = document;
    document["clusters"][2]["endpoints"] = serde_json::json!([{"spec": {"address": "127.0.0.1", "port": text_port}}]);
    proxy.put(&document.to_string());

    let message = |bytes: &[u8]| Message { bytes: bytes.to_vec(), text: false };
    let mut client = connect(Kind::Udp, &Place::Inet(proxy.address("line")), Path::new(""));
    for bytes in [&b"a\nb"[..], b"\n\n", b"whole", b"with its newline\n"] {
        client.send(&message(bytes)).unwrap();
    }
    assert_eq!(line.heard.recv_timeout(PATIENCE).unwrap(), message(b"whole"));
    assert_eq!(line.heard.recv_timeout(PATIENCE).unwrap(), message(b"with its newline"));
    assert_eq!(proxy.dropped("unframeable"), 2);

    let mut client = connect(Kind::Udp, &Place::Inet(proxy.address("in")), Path::new(""));
    for bytes in [&b"\xff"[..], b"\xe2\x82", "\u{20ac}".as_bytes()] {
        client.send(&message(bytes)).unwrap();
    }
    assert_eq!(common::within(|| client.receive().ok()), message("\u{20ac}".as_bytes()));
    assert_eq!(proxy.dropped("not_utf8"), 2);

    let unnamed = std::os::unix::net::UnixDatagram::unbound().unwrap();
    unnamed.send_to(b"no answer please", proxy.root().join("dgram")).unwrap();
    common::within(|| (proxy.dropped("no_peer_address") == 1).then_some(()));
    assert_eq!(proxy.drops().values().sum::<u64>(), 5);
}

/// Without a root, the name of the socket is its path, not one under /proc that means something to the proxy only.
#[test]
fn a_unix_dgram_client_may_speak_to_the_address_that_it_heard_from() {
    let proxy = Proxy::start_without_root("{}");
    let path = proxy.root().join("in.sock");
    proxy.put(&format!(
        "
listeners:
  - name: in
    spec: {{UnixDomainSocket: {{filename: {}, type: dgram}}}}
    rules: [{{action: {{route: {{destination: {{spec: {{Echo: {{}}}}}}}}}}}}]
",
        path.display()
    ));
    let client = std::os::unix::net::UnixDatagram::bind(proxy.root().join("client.sock")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"one", &path).unwrap();
    let mut buffer = [0; 10];
    let (_, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(from.as_pathname(), Some(path.as_path()));
    client.send_to_addr(b"three", &from).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 5);
}
