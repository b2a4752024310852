//! Ordered transports end to end: message boundaries, slow readers, half close, bulk both ways.
//!
//! `L7MP_MESSAGES` sets how many messages the boundary tests send (100,000 is the full run), `L7MP_BULK_MB` how much the
//! bulk tests carry each way.

mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Proxy, number_from_env};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};

/// Messages of the boundary tests that are under way at once.
const IN_FLIGHT: usize = 64;
/// A write that makes no progress for so long meets full buffers all the way.
const STALLED: Duration = Duration::from_millis(500);
/// Memory that a slow reader may cost: the pool of stream buffers (4 MiB), a backlog, and what the allocator keeps of
/// copies. The stream that it does not read is five times as long.
const SLOW_READER_BYTES_MAX: u64 = 12 * 1024 * 1024;

// ------------------------------------------------------------------------------------------------------ boundaries

/// Message `number`: its number, and a length and filling that follow from it.
fn message(number: u64) -> Vec<u8> {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(8 + (mixed % 1200) as usize, mixed as u8);
    bytes
}

/// What the transcoder does: it flips the filling, and leaves number and length.
fn transcode(message: &mut [u8]) {
    for byte in &mut message[8..] {
        *byte = !*byte;
    }
}

/// A transcoder on a Unix seqpacket socket; each message is one.
fn seqpacket_transcoder(path: &Path) {
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listener, 16).unwrap();
    thread::spawn(move || {
        let connection: OwnedFd = rustix::net::accept(&listener).unwrap();
        let mut buffer = vec![0; 65_536];
        while let Ok((count @ 1.., _)) = rustix::net::recv(&connection, &mut buffer[..], RecvFlags::empty()) {
            transcode(&mut buffer[..count]);
            rustix::net::send(&connection, &buffer[..count], SendFlags::NOSIGNAL).unwrap();
        }
    });
}

/// A transcoder on a Unix stream socket; a 32-bit length stands before each message.
fn u32be_transcoder(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        let (mut from, mut to) = (io::BufReader::new(&connection), &connection);
        while let Some(mut message) = read_frame(&mut from) {
            transcode(&mut message);
            let mut frame = (message.len() as u32).to_be_bytes().to_vec();
            frame.extend_from_slice(&message);
            to.write_all(&frame).unwrap();
        }
    });
}

/// The next length-prefixed message; `None` at the end. A stream that ends inside of one is a fault.
fn read_frame(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut prefix = [0; 4];
    match from.read(&mut prefix[..1]).unwrap() {
        0 => return None,
        _ => from.read_exact(&mut prefix[1..]).unwrap(),
    }
    let len = u32::from_be_bytes(prefix) as usize;
    assert!(len <= 65_536, "no length: {len}");
    let mut message = vec![0; len];
    from.read_exact(&mut message).unwrap();
    Some(message)
}

/// A UDP server that answers each datagram as it is.
fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..count], peer).unwrap();
        }
    });
    address
}

/// UDP -> WebSocket between two proxies -> Unix transcoder -> back -> UDP worker -> back, one client with 64 under way.
fn every_boundary_is_kept(transcoder: fn(&Path), spec: &str) {
    let count = number_from_env("L7MP_MESSAGES", 20_000);
    let behind = format!(
        "
listeners: [{{name: in, spec: {{WebSocket: {{port: 0}}}}, rules: [{{action: {{route: {{destination: t}}}}}}]}}]
clusters: [{{name: t, spec: {{UnixDomainSocket: {spec}}}, endpoints: [{{spec: {{filename: t.sock}}}}]}}]
"
    );
    let behind = Proxy::start(&behind);
    transcoder(&behind.root().join("t.sock"));
    let front = Proxy::start(&format!(
        "
listeners:
- {{name: in, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: worker, ingress: [ws]}}}}}}]}}
clusters:
- {{name: ws, spec: {{WebSocket: {{port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}
- {{name: worker, spec: {{UDP: {{port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}
",
        behind.address("in").port(),
        udp_echo().port()
    ));

    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(front.address("in")).unwrap();
    let mut buffer = [0; 65_536];
    let begun = Instant::now();
    let mut sent = 0;
    for answered in 0..count {
        while sent < count && sent < answered + IN_FLIGHT as u64 {
            client.send(&message(sent)).unwrap();
            sent += 1;
        }
        let received = client.recv(&mut buffer).unwrap_or_else(|error| {
            panic!("{error} at message {answered}\n{}\n{}", front.get("/metrics").body, behind.get("/metrics").body)
        });
        let mut expected = message(answered);
        transcode(&mut expected);
        assert!(
            buffer[..received] == expected,
            "message {answered} came back as {received} bytes, not {}",
            expected.len()
        );
    }
    let took = begun.elapsed();
    println!(
        "{spec}: {count} messages, {IN_FLIGHT} under way, all boundaries kept, in {:.1} s: {:.1} us each",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / count as f64
    );
    for proxy in [&front, &behind] {
        assert_eq!(proxy.metric("l7mp_messages_dropped_total", ""), 0);
    }
    assert_eq!(front.metric("l7mp_messages_in_total", ""), 3 * count);
    assert_eq!(behind.metric("l7mp_messages_in_total", ""), 2 * count);
}

#[test]
fn a_seqpacket_transcoder_keeps_every_boundary() {
    every_boundary_is_kept(seqpacket_transcoder, "{type: seqpacket}");
}

#[test]
fn a_length_prefixed_transcoder_keeps_every_boundary() {
    every_boundary_is_kept(u32be_transcoder, "{framing: u32be}");
}

// ------------------------------------------------------------------------------------------------------ byte streams

/// Bytes that repeat only after a prime number of them: a lost, doubled or moved piece shows.
struct Pattern {
    block: Vec<u8>,
    at: usize,
}

impl Pattern {
    fn new(mut seed: u64) -> Pattern {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 24) as u8
        };
        Pattern { block: (0..1_000_003).map(|_| next()).collect(), at: 0 }
    }

    /// The bytes from here on, as many as lie together.
    fn ahead(&self) -> &[u8] {
        &self.block[self.at..]
    }

    fn advance(&mut self, count: usize) {
        self.at = (self.at + count) % self.block.len();
    }

    /// Writes up to `total` bytes; how many, when the stream has a write timeout and stalls.
    fn write(&mut self, mut to: impl Write, total: usize) -> usize {
        let mut written = 0;
        while written < total {
            let count = self.ahead().len().min(total - written).min(64 * 1024);
            match to.write(&self.ahead()[..count]) {
                Ok(count) => {
                    self.advance(count);
                    written += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("after {written} bytes: {error}"),
            }
        }
        written
    }

    /// Reads to the end of the stream, and checks every byte; how many.
    fn read_to_end(&mut self, mut from: impl Read) -> usize {
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
        loop {
            let count = from.read(&mut buffer).unwrap_or_else(|error| panic!("after {total} bytes: {error}"));
            if count == 0 {
                return total;
            }
            let mut bytes = &buffer[..count];
            while !bytes.is_empty() {
                let piece = bytes.len().min(self.ahead().len());
                assert!(bytes[..piece] == self.ahead()[..piece], "other bytes than were sent, after {total}");
                self.advance(piece);
                bytes = &bytes[piece..];
            }
            total += count;
        }
    }
}

/// A connected byte stream of either family.
trait ByteStream: Read + Write + Send + Sized + 'static {
    fn another(&self) -> Self;
    fn finish(&self);
    fn patience(&self, read: Duration, write: Duration);
}

impl ByteStream for TcpStream {
    fn another(&self) -> TcpStream {
        self.try_clone().unwrap()
    }

    fn finish(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }

    fn patience(&self, read: Duration, write: Duration) {
        self.set_read_timeout(Some(read)).unwrap();
        self.set_write_timeout(Some(write)).unwrap();
    }
}

impl ByteStream for UnixStream {
    fn another(&self) -> UnixStream {
        self.try_clone().unwrap()
    }

    fn finish(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }

    fn patience(&self, read: Duration, write: Duration) {
        self.set_read_timeout(Some(read)).unwrap();
        self.set_write_timeout(Some(write)).unwrap();
    }
}

/// When a side that has sent everything says so.
#[derive(Clone, Copy)]
enum Finish {
    /// At once.
    First,
    /// Behind the end of what it receives. A WebSocket has no halves: its Close ends both directions.
    Last,
}

/// Sends one pattern while it receives another, to both ends; how many bytes arrived.
fn both_ways(mut stream: impl ByteStream, send: u64, receive: u64, total: usize, finish: Finish) -> usize {
    let mut sender = stream.another();
    let sending = thread::spawn(move || {
        assert_eq!(Pattern::new(send).write(&mut sender, total), total, "the stream stalled");
        if let Finish::First = finish {
            sender.finish();
        }
    });
    let received = Pattern::new(receive).read_to_end(&mut stream);
    sending.join().unwrap();
    if let Finish::Last = finish {
        stream.finish();
    }
    received
}

/// Bulk in both directions at once between a client and an endpoint.
fn bulk<A: ByteStream, B: ByteStream>(
    what: &str,
    finish: Finish,
    connect: impl FnOnce() -> A,
    accept: impl FnOnce() -> B + Send + 'static,
) {
    const UP: u64 = 11;
    const DOWN: u64 = 12;
    let total = number_from_env("L7MP_BULK_MB", 50) as usize * 1_000_000;
    let endpoint = thread::spawn(move || {
        let stream = accept();
        stream.patience(PATIENCE, PATIENCE);
        both_ways(stream, DOWN, UP, total, finish)
    });
    let begun = Instant::now();
    let client = connect();
    client.patience(PATIENCE, PATIENCE);
    assert_eq!(both_ways(client, UP, DOWN, total, Finish::First), total, "{what}: answers");
    assert_eq!(endpoint.join().unwrap(), total, "{what}: requests");
    let took = begun.elapsed().as_secs_f64();
    println!("{what}: {total} bytes each way in {took:.2} s: {:.0} MB/s", 2e-6 * total as f64 / took);
}

/// A listener of this spec in front of a TCP endpoint.
fn to_tcp(listener: &str, endpoint: SocketAddr) -> Proxy {
    to_tcp_with(listener, endpoint, "1")
}

fn to_tcp_with(listener: &str, endpoint: SocketAddr, workers: &str) -> Proxy {
    let config = format!(
        "
listeners: [{{name: in, spec: {listener}, rules: [{{action: {{route: {{destination: out}}}}}}]}}]
clusters: [{{name: out, spec: {{TCP: {{port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
",
        endpoint.port()
    );
    Proxy::start_with(&config, &["--workers", workers])
}

/// A TCP listener in front of another proxy's WebSocket listener.
fn tcp_to_websocket(next: &Proxy) -> Proxy {
    Proxy::start(&format!(
        "
listeners: [{{name: in, spec: {{TCP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: out}}}}}}]}}]
clusters: [{{name: out, spec: {{WebSocket: {{port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
",
        next.address("in").port()
    ))
}

fn tcp_endpoint() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn nothing_is_left(proxy: &mut Proxy) {
    proxy.wait_until("every session has ended", |proxy| proxy.metric("l7mp_sessions_active", "") == 0);
    assert_eq!(proxy.metric("l7mp_sessions_closed_total", "reason=\"finished\""), 1);
    assert_eq!(proxy.metric("l7mp_messages_dropped_total", ""), 0);
}

#[test]
fn bulk_both_ways_through_tcp() {
    let (listener, address) = tcp_endpoint();
    let mut proxy = to_tcp("{TCP: {port: 0}}", address);
    let entry = proxy.address("in");
    bulk("TCP -> TCP", Finish::First, || TcpStream::connect(entry).unwrap(), move || listener.accept().unwrap().0);
    nothing_is_left(&mut proxy);
}

#[test]
fn bulk_both_ways_through_two_proxies_and_websocket() {
    let (listener, address) = tcp_endpoint();
    let mut behind = to_tcp("{WebSocket: {port: 0}}", address);
    let mut front = tcp_to_websocket(&behind);
    let entry = front.address("in");
    bulk(
        "TCP -> WebSocket -> TCP",
        Finish::Last,
        || TcpStream::connect(entry).unwrap(),
        move || listener.accept().unwrap().0,
    );
    nothing_is_left(&mut front);
    nothing_is_left(&mut behind);
}

#[test]
fn bulk_both_ways_through_unix_streams() {
    let mut proxy = Proxy::start(
        "
listeners:
- {name: in, spec: {UnixDomainSocket: {filename: in.sock}}, rules: [{action: {route: {destination: out}}}]}
clusters:
- {name: out, spec: {UnixDomainSocket: {}}, endpoints: [{spec: {filename: out.sock}}]}
",
    );
    let listener = UnixListener::bind(proxy.root().join("out.sock")).unwrap();
    let entry = proxy.root().join("in.sock");
    bulk("Unix -> Unix", Finish::First, || UnixStream::connect(entry).unwrap(), move || listener.accept().unwrap().0);
    nothing_is_left(&mut proxy);
}

// ------------------------------------------------------------------------------------------------------ half close

/// Answers every connection with what it read, once nothing more comes.
fn answers_at_the_end(listener: TcpListener) {
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            write!(stream, "read {text:?}").unwrap();
        }
    });
}

fn socat_gets_its_answer(entry: SocketAddr) {
    let mut socat = Command::new("socat")
        .args(["-t", "20", "-", &format!("TCP:{entry}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("socat is installed");
    socat.stdin.take().unwrap().write_all(b"x\n").unwrap();
    let output = socat.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), r#"read "x\n""#);
}

#[test]
fn half_close_through_tcp() {
    let (listener, address) = tcp_endpoint();
    answers_at_the_end(listener);
    let mut proxy = to_tcp("{TCP: {port: 0}}", address);
    socat_gets_its_answer(proxy.address("in"));
    nothing_is_left(&mut proxy);
}

#[test]
fn half_close_through_two_proxies_and_websocket() {
    let (listener, address) = tcp_endpoint();
    answers_at_the_end(listener);
    let mut behind = to_tcp("{WebSocket: {port: 0}}", address);
    let mut front = tcp_to_websocket(&behind);
    socat_gets_its_answer(front.address("in"));
    nothing_is_left(&mut front);
    nothing_is_left(&mut behind);
}

/// Its FIN looks like that of an endpoint that still listens; the client's next bytes tell the two apart.
#[test]
fn a_client_of_an_endpoint_that_is_gone_is_told() {
    let (listener, address) = tcp_endpoint();
    let mut proxy = to_tcp("{TCP: {port: 0}}", address);
    let mut client = TcpStream::connect(proxy.address("in")).unwrap();
    client.patience(PATIENCE, PATIENCE);
    client.write_all(b"x").unwrap();
    let (mut endpoint, _) = listener.accept().unwrap();
    endpoint.read_exact(&mut [0]).unwrap();
    drop(endpoint);
    assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(proxy.metric("l7mp_sessions_active", ""), 1, "the client may still speak");
    proxy.wait_until("the session has ended", |proxy| {
        let broken = (&client).write_all(b"y").is_err();
        broken || proxy.metric("l7mp_sessions_active", "") == 0
    });
    proxy.wait_until("the session has ended", |proxy| proxy.metric("l7mp_sessions_active", "") == 0);
    assert_eq!(proxy.metric("l7mp_sessions_closed_total", "reason=\"disconnect\""), 1);
}

#[test]
fn many_streams_on_two_workers() {
    const STREAMS: usize = 32;
    const BYTES: usize = 1_000_000;
    let (listener, address) = tcp_endpoint();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || io::copy(&mut stream.another(), &mut &stream).map(|_| stream.finish()));
        }
    });
    let mut proxy = to_tcp_with("{TCP: {port: 0}}", address, "2");
    let entry = proxy.address("in");
    let clients: Vec<_> = (0..STREAMS as u64)
        .map(|n| {
            thread::spawn(move || {
                let client = TcpStream::connect(entry).unwrap();
                client.patience(PATIENCE, PATIENCE);
                both_ways(client, n + 1, n + 1, BYTES, Finish::First)
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), BYTES);
    }
    proxy.wait_until("every session has ended", |proxy| proxy.metric("l7mp_sessions_active", "") == 0);
    assert_eq!(proxy.metric("l7mp_sessions_closed_total", "reason=\"finished\""), STREAMS as u64);
    assert_eq!(proxy.metric("l7mp_messages_dropped_total", ""), 0);
}

// ------------------------------------------------------------------------------------------------------ slow readers

/// An endpoint whose connections do as their first byte says: echo, or be given to the test.
fn endpoint_of_two_minds(listener: TcpListener, given: Sender<TcpStream>) {
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut first = [0];
            stream.read_exact(&mut first).unwrap();
            match first[0] {
                b'e' => drop(thread::spawn(move || io::copy(&mut stream.another(), &mut stream))),
                _ => given.send(stream).unwrap(),
            }
        }
    });
}

/// A session beside a stalled one: every answer comes.
fn others_are_undisturbed(entry: SocketAddr) -> Duration {
    let mut stream = TcpStream::connect(entry).unwrap();
    stream.patience(PATIENCE, PATIENCE);
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"e").unwrap();
    let mut slowest = Duration::ZERO;
    for round in 0..200_u32 {
        let begun = Instant::now();
        stream.write_all(&round.to_be_bytes()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(u32::from_be_bytes(answer), round);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

/// One side writes until nothing moves, another session goes on, then the other side reads: everything is there.
fn stalled(proxy: &mut Proxy, what: &str, mut writer: TcpStream, mut reader: TcpStream) {
    const SEED: u64 = 21;
    const TOTAL: usize = 64 * 1024 * 1024;
    // Code and buffers that every session touches are no cost of a slow one.
    others_are_undisturbed(proxy.address("in"));
    let before = proxy.memory();
    writer.patience(PATIENCE, STALLED);
    let mut pattern = Pattern::new(SEED);
    let stuck = pattern.write(&mut writer, TOTAL);
    assert!(stuck < TOTAL, "{what}: {TOTAL} bytes fit into the buffers of a reader that does not read");
    let slowest = others_are_undisturbed(proxy.address("in"));
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown <= SLOW_READER_BYTES_MAX, "{what}: a slow reader costs {grown} bytes");
    reader.patience(PATIENCE, PATIENCE);
    let reading = thread::spawn(move || Pattern::new(SEED).read_to_end(&mut reader));
    writer.patience(PATIENCE, PATIENCE);
    assert_eq!(pattern.write(&mut writer, TOTAL - stuck), TOTAL - stuck);
    writer.finish();
    assert_eq!(reading.join().unwrap(), TOTAL, "{what}: not every byte arrived");
    assert_eq!(proxy.metric("l7mp_messages_dropped_total", ""), 0);
    println!(
        "{what}: {stuck} bytes in buffers, {grown} more bytes of memory, slowest of 200 answers beside it {slowest:?}"
    );
}

#[test]
fn a_slow_endpoint_loses_nothing_and_stops_nobody() {
    let (listener, address) = tcp_endpoint();
    let (given, streams) = channel();
    endpoint_of_two_minds(listener, given);
    let mut proxy = to_tcp("{TCP: {port: 0}}", address);
    let mut client = TcpStream::connect(proxy.address("in")).unwrap();
    client.write_all(b"s").unwrap();
    let endpoint = streams.recv_timeout(PATIENCE).unwrap();
    stalled(&mut proxy, "slow endpoint", client, endpoint);
}

#[test]
fn a_slow_client_loses_nothing_and_stops_nobody() {
    let (listener, address) = tcp_endpoint();
    let (given, streams) = channel();
    endpoint_of_two_minds(listener, given);
    let mut proxy = to_tcp("{TCP: {port: 0}}", address);
    let mut client = TcpStream::connect(proxy.address("in")).unwrap();
    client.write_all(b"s").unwrap();
    let endpoint = streams.recv_timeout(PATIENCE).unwrap();
    stalled(&mut proxy, "slow client", endpoint, client);
}

#[test]
fn a_slow_reader_behind_websocket_loses_nothing() {
    let (listener, address) = tcp_endpoint();
    let (given, streams) = channel();
    endpoint_of_two_minds(listener, given);
    let behind = to_tcp("{WebSocket: {port: 0}}", address);
    let mut front = tcp_to_websocket(&behind);
    let mut client = TcpStream::connect(front.address("in")).unwrap();
    client.write_all(b"s").unwrap();
    let endpoint = streams.recv_timeout(PATIENCE).unwrap();
    let before = behind.memory();
    stalled(&mut front, "slow endpoint behind WebSocket", client, endpoint);
    let grown = behind.memory().saturating_sub(before);
    assert!(grown <= SLOW_READER_BYTES_MAX, "the second proxy grew by {grown} bytes");
    assert_eq!(behind.metric("l7mp_messages_dropped_total", ""), 0);
}

/// Datagrams for a reader that does not read: the oldest are dropped, and what arrives is whole frames in order.
#[test]
fn datagrams_for_a_slow_reader_are_dropped_oldest_first() {
    const COUNT: u64 = 20_000;
    const BATCH: u64 = 100;
    let (listener, address) = tcp_endpoint();
    let mut proxy = Proxy::start(&format!(
        "
listeners: [{{name: in, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: out}}}}}}]}}]
clusters: [{{name: out, spec: {{TCP: {{port: {}, framing: u32be}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
",
        address.port()
    ));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(proxy.address("in")).unwrap();
    let before = proxy.memory();
    client.send(&message(0)).unwrap();
    let (endpoint, _) = listener.accept().unwrap();
    proxy.wait_until("the session is open", |proxy| proxy.metric("l7mp_messages_out_total", "") == 1);
    let mut sent = 1;
    while sent < COUNT {
        for _ in 0..BATCH.min(COUNT - sent) {
            client.send(&message(sent)).unwrap();
            sent += 1;
        }
        // The kernel's queue is not what is tested: nothing may be lost in it.
        proxy.wait_until("the proxy took them", |proxy| proxy.metric("l7mp_messages_in_total", "") == sent);
    }
    let dropped = proxy.dropped("backlog");
    let grown = proxy.memory().saturating_sub(before);
    assert!(dropped > 0, "{COUNT} datagrams fit into the buffers of a reader that does not read");
    assert_eq!(proxy.metric("l7mp_messages_dropped_total", ""), dropped);
    assert!(grown <= SLOW_READER_BYTES_MAX, "a slow reader costs {grown} bytes");

    endpoint.patience(PATIENCE, PATIENCE);
    let mut from = io::BufReader::new(&endpoint);
    let (mut arrived, mut next, mut gaps) = (0, 0, 0);
    while next < COUNT {
        let frame = read_frame(&mut from).expect("the newest arrive");
        let number = u64::from_be_bytes(frame[..8].try_into().unwrap());
        assert!(number >= next, "message {number} after {next}");
        assert!(frame == message(number), "message {number} is not what was sent");
        gaps += u64::from(number > next);
        (arrived, next) = (arrived + 1, number + 1);
    }
    assert_eq!(arrived + dropped, COUNT, "each arrived or was counted");
    assert_eq!(proxy.metric("l7mp_messages_out_total", ""), arrived);
    assert!(gaps > 0);
    println!(
        "datagrams for a slow reader: {arrived} arrived whole, {dropped} dropped in {gaps} gaps, {grown} more bytes"
    );
}
