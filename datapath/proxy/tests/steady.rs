//! What sessions cost the real process. What they cost its allocator, byte by byte, is counted in `worker/tests.rs`.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use common::{PATIENCE, Proxy};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const SESSIONS: usize = 5000;
const BYTES_PER_SESSION_MAX: u64 = 2 * 1024;
/// The limit of open files that many systems start a process with.
const OPEN_FILES_USUAL: u64 = 1024;

/// A UDP server that answers each datagram as it is. It ends with the process.
fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..count], peer).unwrap();
        }
    });
    address
}

/// Address `n` of many on which a wildcard listener is reached: each is a session of its own for one client.
fn address(n: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 1, (n / 250) as u8, (n % 250 + 1) as u8], port))
}

/// One message there and back.
fn ping(client: &UdpSocket, to: SocketAddr) {
    let mut buffer = [0; 100];
    client.send_to(&[7; 100], to).unwrap();
    assert_eq!(client.recv_from(&mut buffer).unwrap(), (100, to));
}

/// Every session was a failed opening once the 1,024 files were used up that a process starts with.
#[test]
fn thousands_of_sessions_under_the_usual_limit_of_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_FILES_USUAL), maximum }).unwrap();
    let proxy = Proxy::start(&format!(
        "
listeners: [{{name: in, spec: {{UDP: {{port: 0, address: 0.0.0.0}}}}, rules: [{{action: {{route: {{destination: c}}}}}}]}}]
clusters: [{{name: c, spec: {{UDP: {{port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
",
        udp_echo().port()
    ));
    let port = proxy.address("in").port();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // Receive buffers, of which each is touched in its time, are no cost of a session.
    for _ in 0..1000 {
        ping(&client, address(0, port));
    }
    let before = proxy.memory();
    for n in 1..=SESSIONS {
        ping(&client, address(n, port));
    }
    let each = (proxy.memory() - before) / SESSIONS as u64;
    assert_eq!(proxy.metric("l7mp_sessions_active", ""), SESSIONS as u64 + 1);
    println!("an idle UDP session takes {each} bytes of the process's memory ({SESSIONS} sessions)");
    assert!(each <= BYTES_PER_SESSION_MAX, "an idle UDP session takes {each} bytes");

    let counters = ["l7mp_messages_out_total", "l7mp_worker_enters_total", "l7mp_worker_completions_total"];
    let counts = || counters.map(|name| proxy.metric(name, ""));
    let before = counts();
    for n in 0..SESSIONS {
        ping(&client, address(n, port));
    }
    let after = counts();
    let [messages, enters, completions] = [0, 1, 2].map(|n| (after[n] - before[n]) as f64);
    assert_eq!(messages, 2.0 * SESSIONS as f64);
    println!("per message: {:.2} io_uring_enter calls, {:.2} completions", enters / messages, completions / messages);
    assert_eq!(proxy.metric("l7mp_messages_dropped_total", ""), 0);
}
