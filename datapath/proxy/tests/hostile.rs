//! Bad input, bad surroundings, signals: each has its message or its counter, and nobody else notices.
//!
//! `L7MP_HOSTILE_SECONDS` sets how long random bytes are sent (10 is the full run), `L7MP_SEED` which.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Proxy, number_from_env, run_to_end, within};

const BINARY: &str = env!("CARGO_BIN_EXE_l7mp-proxy");

const ECHO: &str = "
listeners: [{name: in, spec: {UDP: {port: 0}}, rules: [{action: {route: {destination: echo}}}]}]
clusters: [{name: echo, spec: {Echo: {}}}]
";

/// What a bystander says while the machine is flooded; its answers may come late.
const UNDER_FIRE: &[u8] = b"under fire";

/// A UDP client that has a session with an Echo cluster.
struct Bystander(UdpSocket);

impl Bystander {
    fn of(address: SocketAddr) -> Bystander {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(address).unwrap();
        let bystander = Bystander(socket);
        bystander.is_served();
        bystander
    }

    /// The same while the machine is flooded, when the kernel may lose a packet.
    fn is_answered(&self) -> bool {
        self.0.send(UNDER_FIRE).expect("the proxy listens");
        let mut buffer = [0; 100];
        match self.0.recv(&mut buffer) {
            Ok(len) => {
                assert_eq!(&buffer[..len], UNDER_FIRE);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }

    /// A message goes out and comes back, nothing else does.
    #[track_caller]
    fn is_served(&self) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let message = NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.0.send(&message).expect("the proxy listens");
        let mut buffer = [0; 100];
        let mut receive = || self.0.recv(&mut buffer).expect("the bystander gets its answer");
        let mut len = receive();
        while len == UNDER_FIRE.len() {
            len = receive();
        }
        assert_eq!(buffer[..len], message);
    }
}

/// The errors of an answer, as `--check` prints them.
fn errors(answer: &common::Answer) -> Vec<String> {
    let document = answer.json();
    let errors = document["errors"].as_array().unwrap_or_else(|| panic!("no errors: {}", answer.body));
    let line = |error: &serde_json::Value| match error["path"].as_str().unwrap() {
        "" => error["message"].as_str().unwrap().to_owned(),
        path => format!("{path}: {}", error["message"].as_str().unwrap()),
    };
    errors.iter().map(line).collect()
}

fn version(proxy: &Proxy) -> u64 {
    proxy.get("/api/v1/config").json()["version"].as_u64().unwrap()
}

/// An address that no other test has.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, 64 + (process >> 8 & 63) as u8, process as u8, number as u8), 9_001))
}

fn listener_at(address: SocketAddr, protocol: &str) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "listeners: [{{name: in, spec: {{{protocol}: {{port: {port}, address: {ip}}}}}, \
         rules: [{{action: {{route: {{destination: {{spec: {{Echo: {{}}}}}}}}}}}}]}}]"
    )
}

// ---------------------------------------------------------------------------------------------------------- documents

#[test]
fn broken_documents_are_refused_with_every_error_and_change_nothing() {
    let proxy = Proxy::start(ECHO);
    let bystander = Bystander::of(proxy.address("in"));
    let broken = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/tests/broken");
    let mut documents: Vec<PathBuf> = fs::read_dir(broken).unwrap().map(|entry| entry.unwrap().path()).collect();
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(documents.len() >= 30);
    for path in documents {
        let expected = fs::read_to_string(path.with_extension("errors")).unwrap();
        let (code, printed) = run_to_end(Command::new(BINARY).arg("--check").arg(&path));
        assert_eq!((code, &printed), (Some(1), &expected), "{}", path.display());
        let answer = proxy.request("PUT", "/api/v1/config", &fs::read_to_string(&path).unwrap());
        assert_eq!(answer.status, 422, "{}: {}", path.display(), answer.body);
        let lines: Vec<&str> = expected.lines().collect();
        assert_eq!(errors(&answer).join("\n").lines().collect::<Vec<_>>(), lines, "{}", path.display());
    }
    assert_eq!(version(&proxy), 1);
    bystander.is_served();
    let (code, printed) = run_to_end(Command::new(BINARY).args(["--check", "/nothing/here.yaml"]));
    assert_eq!(code, Some(1));
    assert!(printed.contains("cannot read /nothing/here.yaml"), "{printed}");
}

#[test]
fn bodies_of_10_mb_are_refused_and_leave_no_memory_behind() {
    let proxy = Proxy::start(ECHO);
    let bystander = Bystander::of(proxy.address("in"));
    let body = "x".repeat(10 << 20);
    let before = proxy.memory();
    for _ in 0..10 {
        let answer = proxy.request("PUT", "/api/v1/config", &body);
        assert_eq!(answer.status, 413, "{}", answer.body);
        assert!(errors(&answer)[0].contains("longer than 8388608 bytes"), "{}", answer.body);
        bystander.is_served();
    }
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert_eq!(version(&proxy), 1);
}

#[test]
fn if_match_guards_the_version_and_a_dry_run_binds_nothing_that_stays() {
    let proxy = Proxy::start(ECHO);
    let (udp, tcp) = (own_address(), own_address());
    let document = format!(
        "
listeners:
  - {{name: udp, spec: {{UDP: {{port: 9001, address: {}}}}}, rules: []}}
  - {{name: tcp, spec: {{TCP: {{port: 9001, address: {}}}}}, rules: []}}
  - {{name: unix, spec: {{UnixDomainSocket: {{filename: dry.sock}}}}, rules: []}}
",
        udp.ip(),
        tcp.ip()
    );
    let tried = proxy.request("PUT", "/api/v1/config?dry_run=true", &document);
    assert_eq!(tried.status, 200, "{}", tried.body);
    assert_eq!((tried.json()["changed"].as_bool(), version(&proxy)), (Some(true), 1));
    let taken = UdpSocket::bind(udp).expect("a dry run leaves no UDP socket");
    drop(TcpListener::bind(tcp).expect("a dry run leaves no TCP socket"));
    assert!(!proxy.root().join("dry.sock").exists(), "a dry run leaves no file");
    let tried = proxy.request("PUT", "/api/v1/config?dry_run=true", &document);
    assert_eq!((tried.status, errors(&tried).len()), (422, 1), "{}", tried.body);
    assert!(errors(&tried)[0].starts_with("listeners[0].spec.UDP: cannot listen on UDP "), "{}", tried.body);
    assert!(!proxy.root().join("dry.sock").exists(), "a failed dry run leaves no file");
    drop(taken);

    let stale = proxy.request_with("PUT", "/api/v1/config", "If-Match: \"7\"\r\n", &document);
    assert_eq!((stale.status, version(&proxy)), (412, 1), "{}", stale.body);
    let right = proxy.request_with("PUT", "/api/v1/config", "If-Match: \"1\"\r\n", &document);
    assert_eq!((right.status, version(&proxy)), (200, 2), "{}", right.body);
    assert!(proxy.root().join("dry.sock").exists());
}

// ------------------------------------------------------------------------------------------------------- random bytes

const EVERY_KIND: &str = "
listeners:
  - {name: bystander, spec: {UDP: {port: 0}}, rules: [{action: {route: {destination: echo}}}]}
  - {name: udp, spec: {UDP: {port: 0}}, options: {max_sessions: 1000}, rules: [{action: {route: {destination: echo}}}]}
  - {name: plain, spec: {UDP: {port: 0, gro: false}}, options: {max_sessions: 1000}, rules: [{action: {route: {destination: ws}}}]}
  - {name: raw, spec: {TCP: {port: 0}}, rules: [{action: {route: {destination: ws}}}]}
  - {name: line, spec: {TCP: {port: 0, framing: line}}, rules: [{action: {route: {destination: echo}}}]}
  - {name: u16be, spec: {TCP: {port: 0, framing: u16be}}, rules: [{action: {route: {destination: line}}}]}
  - {name: u32be, spec: {TCP: {port: 0, framing: u32be}}, rules: [{action: {route: {destination: echo}}}]}
  - {name: ws, spec: {WebSocket: {port: 0}}, rules: [{action: {route: {destination: echo}}}]}
  - {name: text, spec: {WebSocket: {port: 0, payload: text}}, rules: [{action: {route: {destination: ws}}}]}
  - {name: stream, spec: {UnixDomainSocket: {filename: stream}}, rules: [{action: {route: {destination: echo}}}]}
  - {name: dgram, spec: {UnixDomainSocket: {filename: dgram, type: dgram}}, rules: [{action: {route: {destination: echo}}}]}
  - {name: packet, spec: {UnixDomainSocket: {filename: packet, type: seqpacket}}, rules: [{action: {route: {destination: echo}}}]}
clusters:
  - {name: echo, spec: {Echo: {}}}
  - {name: ws, spec: {WebSocket: {port: 1}}, endpoints: [{spec: {address: 127.0.0.1}}]}
  - {name: line, spec: {TCP: {port: 1, framing: line}}, endpoints: [{spec: {address: 127.0.0.1}}]}
";

/// Numbers that look random: xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = if self.below(4) == 0 { self.below(60_000) } else { self.below(200) };
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// What a protocol's parser meets after its first look: sane starts, random ends.
    fn almost(&mut self) -> Vec<u8> {
        let start: &[u8] = match self.below(6) {
            0 => b"\x82\x83\0\0\0\0abc",
            1 => b"\x89\x80\0\0\0\0",
            2 => b"\0\x05hello",
            3 => b"\0\0\0\x05hello",
            4 => b"hello\n",
            _ => b"",
        };
        [start, &self.bytes()].concat()
    }
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Writes into a connection, reads a little or nothing, and leaves in one way or another.
fn harass(mut stream: impl Read + Write, random: &mut Random) {
    if random.below(2) == 0 && stream.write_all(UPGRADE).is_err() {
        return;
    }
    for _ in 0..random.below(8) {
        if stream.write_all(&random.almost()).is_err() {
            return;
        }
        if random.below(3) == 0 {
            let _ = stream.read(&mut vec![0; 4096]);
        }
    }
}

fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the listener takes connections");
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    stream
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the listener takes connections");
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    stream
}

fn seqpacket(path: &Path, random: &mut Random) {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send, socket};
    let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&fd, &SocketAddrUnix::new(path).unwrap()).expect("the listener takes connections");
    for _ in 0..random.below(8) {
        let _ = send(&fd, &random.bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// Packets that the kernel threw away between two sockets of this machine, because it had too little time for them.
fn lost_in_the_kernel() -> u64 {
    let cpus = fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let dropped = cpus.lines().filter_map(|cpu| cpu.split(' ').nth(1));
    dropped.map(|count| u64::from_str_radix(count, 16).unwrap()).sum()
}

/// Ends the attacks, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn random_bytes_at_every_port_disturb_nobody() {
    let seed = number_from_env("L7MP_SEED", 7);
    let duration = Duration::from_secs(number_from_env("L7MP_HOSTILE_SECONDS", 3));
    println!("L7MP_SEED={seed}");
    // Servers that answer with random bytes.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let document = EVERY_KIND.replace("port: 1", &format!("port: {port}"));
    let http = own_address();
    let proxy = Proxy::start_with(&document, &["--workers", "2", "--http", &http.to_string()]);
    thread::spawn(move || {
        let mut random = Random(seed | 1 << 40);
        for stream in server.incoming().flatten() {
            let mut random = Random(random.next());
            thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
                let _ = stream.set_write_timeout(Some(Duration::from_millis(20)));
                harass(stream, &mut random);
            });
        }
    });
    let addresses = proxy.addresses();
    let bystander = Bystander::of(addresses["bystander"]);
    let root = proxy.root();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends_with_this = Over(&over);
        let attack = |number: u64, mut once: Box<dyn FnMut(&mut Random) + Send>| {
            let over = &over;
            scope.spawn(move || {
                let mut random = Random(seed << 8 | number);
                while !over.load(Ordering::Relaxed) {
                    once(&mut random);
                }
            });
        };
        for (number, name) in ["raw", "line", "u16be", "u32be", "ws", "text"].into_iter().enumerate() {
            let address = addresses[name];
            attack(number as u64, Box::new(move |random| harass(tcp(address), random)));
        }
        for (number, name) in ["udp", "plain"].into_iter().enumerate() {
            let address = addresses[name];
            let send = move |random: &mut Random| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                for _ in 0..20 {
                    let _ = socket.send_to(&random.almost(), address);
                }
            };
            attack(10 + number as u64, Box::new(send));
        }
        let (stream, dgram, packet) = (root.join("stream"), root.join("dgram"), root.join("packet"));
        attack(20, Box::new(move |random| harass(unix(&stream), random)));
        let send = move |random: &mut Random| {
            let socket = UnixDatagram::unbound().unwrap();
            socket.set_nonblocking(true).unwrap();
            for _ in 0..20 {
                let _ = socket.send_to(&random.bytes(), &dgram);
            }
        };
        attack(21, Box::new(send));
        attack(22, Box::new(move |random| seqpacket(&packet, random)));
        let admin = proxy.admin_socket();
        attack(23, Box::new(move |random| harass(unix(&admin), random)));
        attack(24, Box::new(move |random| harass(tcp(http), random)));

        bystander.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (end, lost_before) = (Instant::now() + duration, lost_in_the_kernel());
        let mut unanswered = 0;
        while Instant::now() < end {
            unanswered += u64::from(!bystander.is_answered());
            thread::sleep(Duration::from_millis(1));
        }
        let lost = lost_in_the_kernel() - lost_before;
        assert!(unanswered <= lost, "{unanswered} messages without an answer; the kernel lost {lost} packets");
    });
    bystander.0.set_read_timeout(Some(PATIENCE)).unwrap();
    bystander.is_served();
    assert_eq!(proxy.get("/healthz").status, 200);
    // Everything is accounted for, once the connections are gone.
    let sum = |name: &str| proxy.metric(name, "");
    within(|| {
        let out = sum("l7mp_messages_out_total") + proxy.drops().values().sum::<u64>();
        (sum("l7mp_messages_in_total") == out + sum("l7mp_messages_held") + sum("l7mp_messages_queued")).then_some(())
    });
    // The streams' sessions end with their clients.
    for name in ["raw", "line", "u16be", "u32be", "ws", "text", "stream", "packet"] {
        let labels = format!("listener=\"{name}\"");
        within(|| (proxy.metric("l7mp_listener_sessions_active", &labels) == 0).then_some(()));
        assert!(proxy.metric("l7mp_listener_sessions_opened_total", &labels) > 10, "{name} was hardly attacked");
    }
    println!("{} messages, drops {:?}", sum("l7mp_messages_in_total"), proxy.drops());
    assert!(proxy.memory() < 200 << 20, "{} bytes", proxy.memory());
}

// ------------------------------------------------------------------------------------------------------ second proxies

#[test]
fn a_second_proxy_on_a_live_admin_socket_says_so() {
    let proxy = Proxy::start(ECHO);
    let bystander = Bystander::of(proxy.address("in"));
    let mut command = Command::new(BINARY);
    let (code, printed) = run_to_end(command.args(["--workers", "1", "--admin-socket"]).arg(proxy.admin_socket()));
    assert_eq!(code, Some(1), "{printed}");
    let expected = format!("a proxy already listens on the admin socket {}", proxy.admin_socket().display());
    assert!(printed.contains(&expected) && printed.contains("--admin-socket"), "{printed}");
    assert_eq!(version(&proxy), 1);
    bystander.is_served();
}

#[test]
fn a_second_proxy_on_a_live_port_says_so() {
    let directory = tempfile::tempdir().unwrap();
    for protocol in ["UDP", "TCP", "WebSocket"] {
        let address = own_address();
        let document = listener_at(address, protocol);
        let _first = Proxy::start(&document);
        let file = directory.path().join("second.yaml");
        fs::write(&file, &document).unwrap();
        let mut command = Command::new(BINARY);
        command
            .arg("--config")
            .arg(&file)
            .args(["--workers", "1", "--admin-socket"])
            .arg(directory.path().join("admin"));
        let (code, printed) = run_to_end(&mut command);
        assert_eq!(code, Some(1), "{printed}");
        let kind = if protocol == "UDP" { "UDP" } else { "TCP" };
        let place = format!("listeners[0].spec.{protocol}: cannot listen on {kind} {address}: another process has it");
        assert!(printed.contains(&place), "{printed}");
    }
}

#[test]
fn a_second_proxy_on_a_live_unix_socket_says_so() {
    let document = |file: &Path| {
        format!("listeners: [{{name: in, spec: {{UnixDomainSocket: {{filename: {}}}}}, rules: []}}]", file.display())
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.sock");
    let first = Proxy::start_without_root("{}");
    first.put(&document(&path));
    let second = Proxy::start_without_root("{}");
    let answer = second.request("PUT", "/api/v1/config", &document(&path));
    assert_eq!(answer.status, 422, "{}", answer.body);
    let expected = "listeners[0].spec.UnixDomainSocket: cannot listen on the Unix socket";
    assert!(errors(&answer)[0].starts_with(expected), "{}", answer.body);
    assert!(errors(&answer)[0].contains("another process has it"), "{}", answer.body);
    UnixStream::connect(&path).expect("the first one still listens");
    // A file that is no socket stays.
    fs::write(directory.path().join("file"), "mine").unwrap();
    let answer = second.request("PUT", "/api/v1/config", &document(&directory.path().join("file")));
    assert!(errors(&answer)[0].contains("a file that is no socket is in its place"), "{}", answer.body);
    assert_eq!(fs::read_to_string(directory.path().join("file")).unwrap(), "mine");
}

// ------------------------------------------------------------------------------------------------------------- escapes

#[test]
fn listeners_cannot_leave_the_unix_root() {
    let proxy = Proxy::start(ECHO);
    let (root, outside) = (proxy.root(), proxy.root().join("../outside"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir(root.join("below")).unwrap();
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../outside", root.join("relative")).unwrap();
    symlink("below", root.join("inside")).unwrap();
    symlink("/proc/self/cwd", root.join("magic")).unwrap();
    let long = format!("{}/x.sock", ["a-long-name-of-a-directory"; 9].join("/"));
    fs::create_dir_all(root.join(&long).parent().unwrap()).unwrap();
    let put = |filename: &str| {
        let spec = format!("{{UnixDomainSocket: {{filename: {filename}}}}}");
        proxy.request("PUT", "/api/v1/config", &format!("listeners: [{{name: in, spec: {spec}, rules: []}}]"))
    };
    for filename in [
        "../outside/x.sock",
        "/../outside/x.sock",
        "below/../../outside/x.sock",
        "absolute/x.sock",
        "relative/x.sock",
        "magic/x.sock",
    ] {
        let answer = put(filename);
        assert_eq!(answer.status, 422, "{filename}: {}", answer.body);
        let error = &errors(&answer)[0];
        assert!(error.starts_with("listeners[0].spec.UnixDomainSocket: cannot listen on"), "{filename}: {error}");
        assert!(
            error.contains("it leads out of the --unix-root") || filename.starts_with("magic"),
            "{filename}: {error}"
        );
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing came to be outside");
    for (filename, path) in
        [("/x.sock", "x.sock"), ("below/x.sock", "below/x.sock"), ("inside/y.sock", "below/y.sock"), (&long, &long)]
    {
        let answer = put(filename);
        assert_eq!(answer.status, 200, "{filename}: {}", answer.body);
        assert!(root.join(path).exists(), "{filename}");
    }
    let answer = put(&"long".repeat(30));
    assert!(errors(&answer)[0].contains("its file's name is too long"), "{}", answer.body);
    // A socket file that became a link is not followed when its listener leaves.
    fs::write(outside.join("kept"), "").unwrap();
    let long = root.join(long);
    fs::remove_file(&long).unwrap();
    symlink(outside.join("kept"), &long).unwrap();
    proxy.put("{}");
    assert!(outside.join("kept").exists());
    assert!(!root.join("x.sock").exists());
}

#[test]
fn endpoints_cannot_leave_the_unix_root() {
    let proxy = Proxy::start("{}");
    let (root, outside) = (proxy.root(), proxy.root().join("../outside"));
    fs::create_dir(&outside).unwrap();
    let server = UnixListener::bind(outside.join("x.sock")).unwrap();
    server.set_nonblocking(true).unwrap();
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../outside", root.join("relative")).unwrap();
    symlink(outside.join("x.sock"), root.join("file")).unwrap();
    for (n, filename) in ["../outside/x.sock", "absolute/x.sock", "relative/x.sock", "file", "/../outside/x.sock"]
        .into_iter()
        .enumerate()
    {
        proxy.put(&format!(
            "
listeners: [{{name: in, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: out}}}}}}]}}]
clusters: [{{name: out, spec: {{UnixDomainSocket: {{framing: line}}}}, endpoints: [{{spec: {{filename: {filename}}}}}]}}]
"
        ));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"let me out", proxy.address("in")).unwrap();
        within(|| (proxy.dropped("open_failed") == n as u64 + 1).then_some(()));
        assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{filename} led outside");
    }
}

#[test]
fn no_path_of_a_document_leads_to_the_admin_socket() {
    let proxy = Proxy::start_without_root("{}");
    let base = proxy.root();
    let admin = proxy.admin_socket();
    symlink(admin.parent().unwrap(), base.join("directory")).unwrap();
    symlink(&admin, base.join("file")).unwrap();
    let cluster = |filename: &Path| {
        format!(
            "
listeners: [{{name: in, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: out}}}}}}]}}]
clusters: [{{name: out, spec: {{UnixDomainSocket: {{}}}}, endpoints: [{{spec: {{filename: {}}}}}]}}]
",
            filename.display()
        )
    };
    let listener = |filename: &Path| {
        format!(
            "listeners: [{{name: in, spec: {{UnixDomainSocket: {{filename: {}}}}}, rules: []}}]",
            filename.display()
        )
    };
    let beside = admin.with_file_name("beside.sock");
    for (document, place) in [
        (listener(&admin), "listeners[0].spec.UnixDomainSocket.filename"),
        (listener(&beside), "listeners[0].spec.UnixDomainSocket.filename"),
        (listener(&base.join("directory/x.sock")), "listeners[0].spec.UnixDomainSocket.filename"),
        (cluster(&admin), "clusters[0].endpoints[0].spec.filename"),
        (cluster(&beside), "clusters[0].endpoints[0].spec.filename"),
        (cluster(&base.join("directory/admin.sock")), "clusters[0].endpoints[0].spec.filename"),
        (cluster(&base.join("file")), "clusters[0].endpoints[0].spec.filename"),
    ] {
        let answer = proxy.request("PUT", "/api/v1/config", &document);
        assert_eq!(answer.status, 422, "{document}: {}", answer.body);
        assert!(errors(&answer)[0].starts_with(place), "{}", answer.body);
        assert!(errors(&answer)[0].contains("the directory of the admin socket"), "{}", answer.body);
    }
    assert!(admin.exists() && version(&proxy) == 1);

    // A path that becomes a link afterwards leads to a door that answers nobody of this process.
    let later = base.join("later");
    proxy.put(&cluster(&later));
    symlink(&admin, &later).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"GET /api/v1/config HTTP/1.1\r\nHost: l7mp\r\n\r\n", proxy.address("in")).unwrap();
    let mut buffer = [0; 4096];
    let len = client.recv(&mut buffer).unwrap();
    let answer = String::from_utf8_lossy(&buffer[..len]);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

// -------------------------------------------------------------------------------------------------------- surroundings

#[test]
fn without_io_uring_the_proxy_says_what_to_change() {
    const IO_URING_SETUP: &str = "425";
    const IO_URING_REGISTER: &str = "427";
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/without_syscall.py");
    if Command::new("python3").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "no python3 to install a seccomp filter with");
        return eprintln!("skipped: no python3 to install a seccomp filter with");
    }
    let directory = tempfile::tempdir().unwrap();
    for (number, errno, expected) in [
        (IO_URING_SETUP, "1", "io_uring is forbidden (EPERM)"),
        (IO_URING_SETUP, "38", "Linux 6.1 or newer is needed"),
        (IO_URING_SETUP, "12", "not enough memory for the ring"),
        (IO_URING_REGISTER, "1", "io_uring is forbidden (EPERM)"),
    ] {
        let mut command = Command::new("python3");
        command.arg(&helper).args([number, errno, BINARY, "--workers", "1", "--admin-socket"]);
        let (code, printed) = run_to_end(command.arg(directory.path().join("admin/admin.sock")));
        assert_eq!(code, Some(1), "{printed}");
        assert!(printed.starts_with("l7mp-proxy: cannot start the datapath: "), "{printed}");
        assert!(printed.contains(expected), "{number} fails with {errno}: {printed}");
    }
}

#[test]
fn too_few_open_files_are_an_error_at_the_start_and_no_disaster_later() {
    let directory = tempfile::tempdir().unwrap();
    let limited = |files: u32| {
        let mut command = Command::new("sh");
        let line = format!("ulimit -n {files}; exec \"$@\"");
        command.args(["-c", &line, "sh", BINARY, "--workers", "2", "--admin-socket"]);
        command.arg(directory.path().join("admin/admin.sock"));
        command
    };
    for files in [6, 8, 10, 16, 32, 64, 95] {
        let (code, printed) = run_to_end(&mut limited(files));
        assert_eq!(code, Some(1), "{files} files: {printed}");
        assert!(printed.contains(&format!("the limit of open files is {files}; 2 workers need 96")), "{printed}");
    }

    // A proxy that runs out of them later goes on serving.
    let proxy = Proxy::start(
        "
listeners:
  - {name: in, spec: {UDP: {port: 0}}, rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]}
  - {name: tcp, spec: {TCP: {port: 0}}, rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]}
",
    );
    let bystander = Bystander::of(proxy.address("in"));
    let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard] = [0, 1].map(|n| files.split_whitespace().nth(n).unwrap());
    assert_eq!(soft, hard, "the soft limit is raised to the hard one");
    let open = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count();
    let limit = format!("--nofile={0}:{0}", open + 20);
    let (code, printed) = run_to_end(Command::new("prlimit").args(["--pid", &proxy.pid().to_string(), &limit]));
    assert_eq!(code, Some(0), "{printed}");
    let address = proxy.address("tcp");
    let clients: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    for mut client in &clients {
        let _ = client.write_all(b"x");
    }
    bystander.is_served();
    drop(clients);
    let echoed = || {
        let mut client = TcpStream::connect(address).ok()?;
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        client.write_all(b"x").ok()?;
        client.read_exact(&mut [0]).ok()
    };
    within(echoed);
    bystander.is_served();
    assert_eq!(proxy.get("/healthz").status, 200);
}

// -------------------------------------------------------------------------------------------------- signals and deaths

#[test]
fn a_killed_proxy_gives_its_ports_and_files_to_its_successor() {
    let (udp, tcp) = (own_address(), own_address());
    let mut proxy = Proxy::start_with(
        &format!(
            "
listeners:
  - {{name: in, spec: {{UDP: {{port: 9001, address: {}}}}}, rules: [{{action: {{route: {{destination: echo}}}}}}]}}
  - {{name: tcp, spec: {{TCP: {{port: 9001, address: {}}}}}, rules: [{{action: {{route: {{destination: echo}}}}}}]}}
  - {{name: unix, spec: {{UnixDomainSocket: {{filename: in.sock}}}}, rules: [{{action: {{route: {{destination: echo}}}}}}]}}
clusters: [{{name: echo, spec: {{Echo: {{}}}}}}]
",
            udp.ip(),
            tcp.ip()
        ),
        &["--workers", "2"],
    );
    for _ in 0..3 {
        let bystander = Bystander::of(udp);
        let mut streams = [TcpStream::connect(tcp).unwrap(), TcpStream::connect(tcp).unwrap()];
        let mut local = UnixStream::connect(proxy.root().join("in.sock")).unwrap();
        for stream in &mut streams {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        local.write_all(b"x").unwrap();
        local.read_exact(&mut [0]).unwrap();
        let killed = Instant::now();
        proxy.kill_and_restart();
        println!("back after {:?}", killed.elapsed());
        bystander.is_served();
    }
}

#[test]
fn sigterm_drains_and_ends_with_0() {
    let mut proxy = Proxy::start(
        "
listeners:
  - {name: in, spec: {UDP: {port: 0}}, rules: [{action: {route: {destination: echo}}}]}
  - {name: unix, spec: {UnixDomainSocket: {filename: in.sock}}, rules: [{action: {route: {destination: echo}}}]}
clusters: [{name: echo, spec: {Echo: {}}}]
",
    );
    let address = proxy.address("in");
    let bystander = Bystander::of(address);
    proxy.signal("-TERM");
    proxy.wait_until("the proxy is not ready", |proxy| proxy.get("/readyz").status == 503);
    within(|| (proxy.get("/api/v1/info").json()["draining"] == true).then_some(()));
    bystander.is_served();
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"too late", address).unwrap();
    within(|| (proxy.dropped("draining") == 1).then_some(()));
    let sessions = proxy.get("/api/v1/sessions").json();
    let name = sessions["sessions"][0]["name"].as_str().unwrap().to_owned();
    let socket = proxy.root().join("in.sock");
    assert!(socket.exists());
    assert_eq!(proxy.request("DELETE", &format!("/api/v1/sessions/{name}"), "").status, 204);
    assert_eq!(proxy.wait_exit(), Some(0));
    assert!(!socket.exists() && !proxy.admin_socket().exists(), "its files are gone");
}

#[test]
fn a_second_signal_ends_at_once_and_a_drain_does_not_last_for_ever() {
    for (first, second) in [("-TERM", "-TERM"), ("-INT", "-TERM")] {
        let mut proxy = Proxy::start(ECHO);
        let _bystander = Bystander::of(proxy.address("in"));
        proxy.signal(first);
        proxy.wait_until("it drains", |proxy| proxy.get("/api/v1/info").json()["draining"] == true);
        let signalled = Instant::now();
        proxy.signal(second);
        assert_eq!(proxy.wait_exit(), Some(0));
        assert!(signalled.elapsed() < Duration::from_secs(5), "30 s were not waited for");
        assert!(proxy.log().contains("a second signal: ending at once"), "{}", proxy.log());
    }
    let mut proxy = Proxy::start_with(ECHO, &["--workers", "2", "--drain-timeout", "200ms"]);
    let _bystander = Bystander::of(proxy.address("in"));
    proxy.signal("-TERM");
    assert_eq!(proxy.wait_exit(), Some(0));
}

#[test]
fn sighup_reads_the_file_again_unless_it_is_bad_or_a_document_was_put() {
    let mut proxy = Proxy::start(ECHO);
    let bystander = Bystander::of(proxy.address("in"));
    let said = |proxy: &Proxy, text: &str| proxy.log().contains(text);

    fs::write(proxy.config_file(), "listeners: [{name: in, spec: {UDP: {prt: 1}}}]").unwrap();
    proxy.signal("-HUP");
    proxy.wait_until("the bad file is reported", |proxy| said(proxy, "SIGHUP: nothing has changed"));
    assert!(said(&proxy, "listeners[0].spec.UDP.prt: unknown field"), "{}", proxy.log());
    assert_eq!(version(&proxy), 1);
    fs::remove_file(proxy.config_file()).unwrap();
    proxy.signal("-HUP");
    proxy.wait_until("the missing file is reported", |proxy| said(proxy, "cannot read"));
    bystander.is_served();

    let more = format!("{ECHO}routes: [{{name: r, destination: echo}}]");
    fs::write(proxy.config_file(), &more).unwrap();
    proxy.signal("-HUP");
    proxy.wait_until("the good file is adopted", |proxy| version(proxy) == 2);
    bystander.is_served();

    proxy.put(ECHO);
    proxy.signal("-HUP");
    proxy.wait_until("it is refused", |proxy| said(proxy, "SIGHUP refused"));
    assert_eq!(version(&proxy), 3);
    bystander.is_served();
    assert_eq!(proxy.address("in").ip(), IpAddr::from([127, 0, 0, 1]));
}
