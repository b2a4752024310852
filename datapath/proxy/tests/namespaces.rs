//! UDP as the kernel gives it: many addresses of one host, trains of datagrams, several workers.

mod common;

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Proxy};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt};

/// How long an answer is waited for before its question is asked again: interfaces come up in their own time.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// A network namespace without a name: it goes with its last user, whatever becomes of the test.
struct Namespace(File);

impl Namespace {
    /// `None` without the right to make one, which `CI=true` does not excuse.
    fn new() -> Option<Namespace> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok::<_, nix::Error>(File::open("/proc/thread-self/ns/net").expect("a namespace has its file"))
        });
        match made.join().expect("the thread ends") {
            Ok(file) => Some(Namespace(file)),
            Err(error) => {
                let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
                assert!(!in_ci, "no network namespace ({error}), and CI=true wants this test to run");
                eprintln!("skipped: no network namespace ({error}); run it as root");
                None
            }
        }
    }

    /// Runs something inside, processes that it starts included.
    fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            let inner = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace is entered");
                inside()
            });
            inner.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip` with these arguments, one command per line.
    fn ip(&self, commands: &str) {
        self.run(|| {
            for command in commands.lines().map(str::trim).filter(|command| !command.is_empty()) {
                let status = Command::new("ip").args(command.split(' ')).status().expect("ip is installed");
                assert!(status.success(), "ip {command}");
            }
        });
    }

    /// A path that names it for `ip`.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0))).unwrap();
        socket.set_read_timeout(Some(ASK_AGAIN)).unwrap();
        socket
    }
}

/// Sends a message until its answer comes; who sent that.
fn ask(client: &UdpSocket, gateway: SocketAddr, message: &str) -> SocketAddr {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 2000];
    loop {
        assert!(Instant::now() < deadline, "no answer from {gateway} to {message}");
        match client.send_to(message.as_bytes(), gateway) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable) => {
                thread::yield_now();
                continue;
            }
            Err(error) => panic!("to {gateway}: {error}"),
        }
        while let Ok((count, from)) = client.recv_from(&mut buffer) {
            if &buffer[..count] == message.as_bytes() {
                return from;
            }
        }
    }
}

fn session_names(proxy: &Proxy) -> Vec<String> {
    let sessions = proxy.get("/api/v1/sessions?limit=1000").json();
    let names = sessions["sessions"].as_array().unwrap().iter();
    names.map(|session| session["name"].as_str().unwrap().to_owned()).collect()
}

/// Clients of every address, several of each and one that talks to all: everybody is answered from where they asked.
fn each_is_answered_from_where_it_asked(proxy: &Proxy, clients: &[UdpSocket], gateways: &[SocketAddr]) {
    for round in 0..3 {
        for client in clients {
            let own = client.local_addr().unwrap();
            for gateway in gateways.iter().filter(|gateway| gateway.is_ipv4() == own.is_ipv4()) {
                assert_eq!(ask(client, *gateway, &format!("{round} from {own} to {gateway}")), *gateway);
            }
        }
    }
    let names = session_names(proxy);
    for client in clients {
        let own = client.local_addr().unwrap();
        for gateway in gateways.iter().filter(|gateway| gateway.is_ipv4() == own.is_ipv4()) {
            let prefix = format!("UDP:{own}-{gateway}-");
            let sessions = names.iter().filter(|name| name.starts_with(&prefix)).count();
            assert_eq!(sessions, 1, "sessions {prefix}* among {names:#?}");
        }
    }
    assert!(names.iter().all(|name| !name.contains("ffff")), "IPv4-mapped addresses in {names:#?}");
}

/// A wildcard gateway in front of a worker. Both are where they are started.
fn gateway(address: &str, workers: &str) -> Proxy {
    let worker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "
listeners:
- {{name: in, spec: {{UDP: {{port: 0, address: '{address}'}}}}, rules: [{{action: {{route: {{destination: w}}}}}}]}}
clusters: [{{name: w, spec: {{UDP: {{port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
",
        worker.local_addr().unwrap().port()
    );
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((count, peer)) = worker.recv_from(&mut buffer) {
            worker.send_to(&buffer[..count], peer).unwrap();
        }
    });
    Proxy::start_with(&config, &["--workers", workers])
}

fn answers_from_three_addresses(wildcard: &str, addresses: &[&str], clients: &[&str], workers: &str) {
    let (Some(inside), Some(outside)) = (Namespace::new(), Namespace::new()) else { return };
    inside.ip("link set lo up
        link add gateway type veth peer name client");
    inside.ip(&format!("link set client netns {}", outside.path()));
    for (namespace, device, addresses) in [(&inside, "gateway", addresses), (&outside, "client", clients)] {
        for address in addresses {
            let (prefix, nodad) = if address.contains(':') { (64, " nodad") } else { (24, "") };
            namespace.ip(&format!("address add {address}/{prefix} dev {device}{nodad}"));
        }
        namespace.ip(&format!("link set {device} up"));
    }
    let proxy = inside.run(|| gateway(wildcard, workers));
    let port = proxy.address("in").port();
    let gateways: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
    let clients: Vec<_> = clients.iter().flat_map(|client| [outside.udp(client), outside.udp(client)]).collect();
    each_is_answered_from_where_it_asked(&proxy, &clients, &gateways);
}

#[test]
fn a_gateway_with_three_addresses_answers_from_each() {
    answers_from_three_addresses(
        "::",
        &["10.77.0.1", "10.77.0.2", "10.77.0.3", "fd77::1", "fd77::2", "fd77::3"],
        &["10.77.0.100", "fd77::100"],
        "1",
    );
}

#[test]
fn a_gateway_with_three_addresses_and_two_workers_answers_from_each() {
    answers_from_three_addresses(
        "::",
        &["10.77.0.1", "10.77.0.2", "10.77.0.3", "fd77::1", "fd77::2", "fd77::3"],
        &["10.77.0.100", "10.77.0.101", "10.77.0.102", "fd77::100", "fd77::101", "fd77::102"],
        "2",
    );
}

#[test]
fn an_ipv4_wildcard_answers_from_each_address() {
    answers_from_three_addresses("0.0.0.0", &["10.77.0.1", "10.77.0.2", "10.77.0.3"], &["10.77.0.100"], "1");
}

#[test]
fn a_link_local_address_is_answered_on_its_link() {
    let (Some(inside), Some(outside)) = (Namespace::new(), Namespace::new()) else { return };
    // Two links, and the same addresses on both: only the interface tells them apart.
    inside.ip("link set lo up");
    for link in ["one", "two"] {
        inside.ip(&format!("link add {link} type veth peer name peer-{link}"));
        inside.ip(&format!("link set peer-{link} netns {}", outside.path()));
        inside.ip(&format!("address add fe80::1/64 dev {link} nodad\nlink set {link} up"));
        outside.ip(&format!("address add fe80::2/64 dev peer-{link} nodad\nlink set peer-{link} up"));
    }
    let proxy = inside.run(|| gateway("::", "1"));
    let port = proxy.address("in").port();
    let on = |link: &str, ip: &str, port: u16| {
        let index = outside.run(|| nix::net::if_::if_nametoindex(link)).unwrap();
        SocketAddr::V6(SocketAddrV6::new(ip.parse::<Ipv6Addr>().unwrap(), port, 0, index))
    };
    for link in ["peer-one", "peer-two"] {
        let own = on(link, "fe80::2", 5000);
        let deadline = Instant::now() + PATIENCE;
        let client = loop {
            match outside.run(|| UdpSocket::bind(own)) {
                Ok(client) => break client,
                Err(error) => assert!(Instant::now() < deadline, "{own}: {error}"),
            }
        };
        client.set_read_timeout(Some(ASK_AGAIN)).unwrap();
        let gateway = on(link, "fe80::1", port);
        assert_eq!(ask(&client, gateway, link), gateway);
    }
    assert_eq!(session_names(&proxy).len(), 2, "one session on each link");
}

#[test]
fn every_loopback_address_is_answered_from() {
    let proxy = gateway("::", "1");
    let port = proxy.address("in").port();
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
    let client = |ip: &str| {
        let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.set_read_timeout(Some(ASK_AGAIN)).unwrap();
        socket
    };
    let clients = [client("127.0.0.1"), client("127.0.0.2"), client("::1")];
    each_is_answered_from_where_it_asked(&proxy, &clients, &[at("127.0.0.1"), at("127.0.0.2"), at("::1")]);
}

// ---------------------------------------------------------------------------------------------------------- trains

/// A UDP socket that takes trains.
fn train_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    setsockopt(&socket, sockopt::UdpGroSegment, &true).unwrap();
    socket
}

/// One train; its bytes and the size of its datagrams.
fn receive_train(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, usize) {
    let mut control = nix::cmsg_space!(i32);
    let mut pieces = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut pieces, Some(&mut control), MsgFlags::empty()).expect("a train arrives");
    let segment = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
        _ => None,
    });
    (message.bytes, segment.unwrap_or(message.bytes))
}

fn send_train(socket: &UdpSocket, bytes: &[u8], segment: u16) {
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), None)
        .expect("it is sent");
    assert_eq!(sent, bytes.len());
}

#[test]
fn a_train_in_is_a_train_out() {
    const ROUNDS: usize = 100;
    let worker = train_socket();
    let proxy = Proxy::start(&format!(
        "
listeners: [{{name: in, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: w}}}}}}]}}]
clusters: [{{name: w, spec: {{UDP: {{port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
",
        worker.local_addr().unwrap().port()
    ));
    let client = train_socket();
    client.connect(proxy.address("in")).unwrap();
    let mut buffer = vec![0; 65_536];
    // What waits for its session to open is sent one by one: trains are for open sessions.
    client.send(b"open").unwrap();
    let (_, peer) = worker.recv_from(&mut buffer).unwrap();
    worker.connect(peer).unwrap();
    worker.send(b"opened").unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 6);

    let enters = proxy.metric("l7mp_worker_enters_total", "");
    for round in 0..ROUNDS {
        // Ten whole datagrams, and every other time a shorter one at the end.
        let bytes: Vec<u8> = (0..10_000 + 500 * (round % 2)).map(|n| (n * 7 + round) as u8).collect();
        for (from, to) in [(&client, &worker), (&worker, &client)] {
            send_train(from, &bytes, 1000);
            let (len, segment) = receive_train(to, &mut buffer);
            assert_eq!((len, segment), (bytes.len(), 1000), "round {round}: the train arrived in pieces");
            assert!(buffer[..len] == bytes);
        }
    }
    let enters = proxy.metric("l7mp_worker_enters_total", "") - enters;
    let messages = 2 * (ROUNDS as u64 * 10 + ROUNDS as u64 / 2);
    assert_eq!(proxy.metric("l7mp_messages_out_total", ""), messages + 2);
    assert_eq!(proxy.metric("l7mp_messages_dropped_total", ""), 0);
    println!("trains: {} of 10 or 11 datagrams, each out as one; {enters} io_uring_enter calls", 2 * ROUNDS);
}

#[test]
fn a_train_reaches_a_peer_that_takes_none() {
    let worker = UdpSocket::bind("127.0.0.1:0").unwrap();
    worker.set_read_timeout(Some(PATIENCE)).unwrap();
    let proxy = Proxy::start(&format!(
        "
listeners: [{{name: in, spec: {{UDP: {{port: 0}}}}, rules: [{{action: {{route: {{destination: w}}}}}}]}}]
clusters: [{{name: w, spec: {{UDP: {{port: {}}}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}]
",
        worker.local_addr().unwrap().port()
    ));
    let client = train_socket();
    client.connect(proxy.address("in")).unwrap();
    let bytes: Vec<u8> = (0..40_u8).flat_map(|n| [n; 1200]).collect();
    let mut buffer = [0; 2000];
    // The first train opens the session.
    for _ in 0..3 {
        send_train(&client, &bytes, 1200);
        for n in 0..40 {
            let count = worker.recv(&mut buffer).unwrap();
            assert!(buffer[..count] == [n; 1200], "datagram {n} is {count} bytes of {}", buffer[0]);
        }
    }
    drop(proxy);
}

// --------------------------------------------------------------------------------------------------------- workers

#[test]
fn flows_stay_on_their_workers() {
    const FLOWS: usize = 64;
    const ROUNDS: usize = 20;
    let proxy = gateway("127.0.0.1", "2");
    let clients: Vec<UdpSocket> = (0..FLOWS).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let entry = proxy.address("in");
    let mut buffer = [0; 100];
    for client in &clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(entry).unwrap();
    }
    for round in 0..ROUNDS {
        for client in &clients {
            client.send(format!("{round}").as_bytes()).unwrap();
        }
        for client in &clients {
            let count = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], format!("{round}").as_bytes());
        }
    }
    let on = |worker: &str| proxy.metric("l7mp_worker_sessions_active", &format!("worker=\"{worker}\""));
    assert!(on("0") > 0 && on("1") > 0, "{} sessions on one worker, {} on the other", on("0"), on("1"));
    assert_eq!(on("0") + on("1"), FLOWS as u64);
    assert_eq!(
        proxy.metric("l7mp_sessions_opened_total", ""),
        FLOWS as u64,
        "a flow that moves opens a second session"
    );
    assert_eq!(session_names(&proxy).len(), FLOWS);
    println!("{FLOWS} flows on two workers: {} and {}", on("0"), on("1"));
}
