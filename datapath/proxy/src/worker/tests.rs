//! What a message and an idle session cost: the real loop with the real engine and forwarder, in a thread whose
//! allocations are counted.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use l7mp_api::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::control::{ApplyOptions, Control};
use crate::ledger::{self, Ledger};

const PATIENCE: Duration = Duration::from_secs(20);

/// A worker that turns in a thread of its own, and what the admin thread would know of it.
struct Bench {
    control: Control,
    cut: Arc<AtomicBool>,
    windows: Receiver<AllocationInfo>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    fn start(config: &str) -> Bench {
        let cut = Arc::new(AtomicBool::new(false));
        let (started, start) = mpsc::channel();
        let (report, windows) = mpsc::channel();
        let thread = {
            let cut = Arc::clone(&cut);
            thread::spawn(move || turn_and_report(&started, &report, &cut))
        };
        let handle = start.recv().expect("the worker starts");
        let settings = ledger::Settings { bind: Some([127, 0, 0, 1].into()), ..ledger::Settings::default() };
        let control = Control::new(vec![handle], Ledger::new(1, settings), "test".to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = Config::read(config).unwrap();
        runtime.block_on(control.apply(config, ApplyOptions::default())).unwrap();
        Bench { control, cut, windows, thread: Some(thread) }
    }

    /// What the worker allocated since this was last asked.
    fn window(&self) -> AllocationInfo {
        self.cut.store(true, Ordering::SeqCst);
        self.control.workers[0].waker.wake();
        self.windows.recv_timeout(PATIENCE).expect("the worker turns")
    }

    /// The port of the only listener.
    fn port(&self) -> u16 {
        self.control.sockets()[0].address.unwrap().port()
    }

    fn shared(&self) -> &Shared {
        &self.control.workers[0].shared
    }

    fn costs(&self) -> Costs {
        let Shared { counters, engine, .. } = self.shared();
        Costs {
            messages: counters.messages_out.get(),
            copies: counters.payload_copies.get() + engine.payload_copies.get(),
            enters: engine.enters.get(),
            completions: engine.completions.get(),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The worker ends when nobody takes its reports.
        self.windows = mpsc::channel().1;
        self.cut.store(true, Ordering::SeqCst);
        self.control.workers[0].waker.wake();
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            ended.unwrap().expect("the worker did not panic");
        }
    }
}

/// The worker's thread: windows in which it turns, one after the other, until nobody asks any more.
fn turn_and_report(started: &Sender<Handle>, report: &Sender<AllocationInfo>, cut: &AtomicBool) {
    let identity = Identity { worker: 0, workers: 1, seed: 7 };
    let (mut worker, handle) = Worker::new(identity, Settings::default()).expect("a ring");
    started.send(handle).expect("the test waits");
    let mut asked = true;
    while asked {
        let window = measure(|| {
            while !cut.swap(false, Ordering::SeqCst) {
                worker.turn().expect("the kernel goes on");
            }
        });
        asked = report.send(window).is_ok();
    }
}

/// Counters of a worker at some time.
#[derive(Clone, Copy)]
struct Costs {
    messages: u64,
    copies: u64,
    enters: u64,
    completions: u64,
}

impl Costs {
    fn since(self, before: Costs) -> Costs {
        Costs {
            messages: self.messages - before.messages,
            copies: self.copies - before.copies,
            enters: self.enters - before.enters,
            completions: self.completions - before.completions,
        }
    }

    fn per_message(self) -> String {
        let per_message = |count: u64| count as f64 / self.messages as f64;
        format!(
            "{} messages, per message {:.2} io_uring_enter calls, {:.2} completions",
            self.messages,
            per_message(self.enters),
            per_message(self.completions)
        )
    }
}

/// A UDP server that answers each datagram as it is. It ends with the process.
fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((count, peer)) => drop(socket.send_to(&buffer[..count], peer)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}"),
            }
        }
    });
    address
}

fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends `count` messages, `in_flight` of them under way, and waits for every answer.
fn ping_pong(client: &UdpSocket, count: usize, in_flight: usize) {
    let (message, mut buffer) = ([7; 1000], [0; 2000]);
    let mut sent = 0;
    for answered in 0..count {
        while sent < count && sent < answered + in_flight {
            client.send(&message).unwrap();
            sent += 1;
        }
        assert_eq!(client.recv(&mut buffer).unwrap(), message.len());
    }
}

fn udp_listener(cluster: &str, port: u16) -> String {
    format!(
        "
listeners: [{{name: in, spec: {{UDP: {{port: 0, address: 0.0.0.0}}}}, rules: [{{action: {{route: {{destination: c}}}}}}]}}]
clusters: [{{name: c, spec: {{{cluster}: {{port: {port}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
"
    )
}

fn websocket_listener(port: u16) -> String {
    format!(
        "
listeners: [{{name: in, spec: {{WebSocket: {{port: 0}}}}, rules: [{{action: {{route: {{destination: c}}}}}}]}}]
clusters: [{{name: c, spec: {{UDP: {{port: {port}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
"
    )
}

/// Messages through these workers, the first of which is asked: no allocation, no copy.
fn costs_nothing(what: &str, benches: &[&Bench]) {
    const MESSAGES: usize = 10_000;
    let client = client(SocketAddr::from(([127, 0, 0, 1], benches[0].port())));
    for in_flight in [1, 8] {
        // Queues get the size that they need, and a little more than in what is counted.
        ping_pong(&client, 1000, 2 * in_flight);
        for bench in benches {
            let _ = bench.window();
        }
        let before: Vec<Costs> = benches.iter().map(|bench| bench.costs()).collect();
        ping_pong(&client, MESSAGES, in_flight);
        for (n, (bench, before)) in benches.iter().zip(before).enumerate() {
            let allocated = bench.window();
            let costs = bench.costs().since(before);
            println!(
                "{what}, proxy {n}, {in_flight} under way: {}, {} allocations, {} copies",
                costs.per_message(),
                allocated.count_total,
                costs.copies
            );
            assert_eq!(costs.messages, 2 * MESSAGES as u64, "there and back");
            assert_eq!(allocated.count_total, 0, "{what}, proxy {n}: allocations for {} messages", costs.messages);
            assert_eq!(costs.copies, 0, "{what}, proxy {n}: copies of payloads for {} messages", costs.messages);
        }
    }
}

#[test]
fn udp_to_udp_allocates_and_copies_nothing() {
    let bench = Bench::start(&udp_listener("UDP", udp_echo().port()));
    costs_nothing("UDP -> UDP", &[&bench]);
}

#[test]
fn udp_to_websocket_to_udp_allocates_and_copies_nothing() {
    let back = Bench::start(&websocket_listener(udp_echo().port()));
    let front = Bench::start(&udp_listener("WebSocket", back.port()));
    costs_nothing("UDP -> WebSocket -> UDP", &[&front, &back]);
}

/// Room for the sockets of a test that opens thousands.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

/// Opens `count` UDP sessions, one message there and back on each: one client talks to as many addresses of loopback.
fn open_sessions(bench: &Bench, count: usize) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = bench.port();
    let mut buffer = [0; 100];
    for n in 0..count {
        let to = SocketAddr::from(([127, 1, (n / 250) as u8, (n % 250 + 1) as u8], port));
        client.send_to(&[7; 100], to).unwrap();
        let (_, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(from, to);
    }
    assert_eq!(bench.shared().counters.sessions_active.get(), count as u64);
}

/// Bytes that a worker has allocated and not freed since the last window, per session.
fn bytes_per_session(what: &str, bench: &Bench, count: usize, bytes_max: i64) {
    assert_eq!(bench.shared().counters.sessions_active.get(), count as u64, "{what}");
    let each = bench.window().bytes_current / count as i64;
    println!("an idle session {what}: {each} bytes of user-space memory ({count} sessions)");
    assert!(each <= bytes_max, "an idle session {what} takes {each} bytes");
    assert!(each > 0, "nothing was counted");
}

#[test]
fn an_idle_udp_session_takes_at_most_2_kib() {
    const SESSIONS: usize = 5000;
    raise_open_files();
    let bench = Bench::start(&udp_listener("UDP", udp_echo().port()));
    bench.window();
    open_sessions(&bench, SESSIONS);
    bytes_per_session("UDP -> UDP", &bench, SESSIONS, 2 * 1024);
}

#[test]
fn an_idle_websocket_session_takes_at_most_8_kib() {
    const SESSIONS: usize = 2000;
    raise_open_files();
    let back = Bench::start(&websocket_listener(udp_echo().port()));
    let front = Bench::start(&udp_listener("WebSocket", back.port()));
    back.window();
    front.window();
    open_sessions(&front, SESSIONS);
    bytes_per_session("UDP -> WebSocket", &front, SESSIONS, 8 * 1024);
    bytes_per_session("WebSocket -> UDP", &back, SESSIONS, 8 * 1024);
}
