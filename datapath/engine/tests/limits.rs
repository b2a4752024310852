//! Many sockets, none left, no memory for more: what happens at the edges.

mod common;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command as Process;
use std::time::Duration;

use common::*;
use l7mp_engine::{ListenerKind, Settings, sockets};
use l7mp_forwarder::address::EndpointAddr;
use l7mp_forwarder::verdict::{CloseHow, Command, SocketError, Transport};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[test]
fn ten_thousand_sockets() {
    let limit = raise_open_files();
    let count = 10_000.min(limit.saturating_sub(500)) as usize;
    for registered_files in [0, 16_384] {
        let mut world = World::with(Settings { registered_files, ..Settings::default() });
        world.keep = false;
        let (_, at) = world.udp("127.0.0.1:0", true);
        let links: Vec<_> = (0..count)
            .map(|_| {
                let link = world.open(Transport::Udp { bind: None, gro: true }, EndpointAddr::inet(at));
                world.engine.execute(Command::Resume(link));
                link
            })
            .collect();
        world.until("opened", |w| links.iter().all(|link| w.diary(*link).opened));
        for round in 1..=2 {
            // As many at once as the receiving socket's buffer holds for certain.
            for some in links.chunks(500) {
                for link in some {
                    world.send(*link, pattern(100, round));
                }
                world.until("answered", |w| some.iter().all(|link| w.diary(*link).trains.len() == round));
            }
        }
        for link in &links {
            world.close(*link, CloseHow::Flush);
        }
        world.until("closed", |w| links.iter().all(|link| w.diary(*link).closed == 1));
        world.assert_buffers_back();
    }
}

#[test]
fn more_sends_in_a_turn_than_there_are_slots() {
    let mut world = World::new();
    world.keep = false;
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&server).set_recv_buffer_size(4 << 20).unwrap();
    let at = server.local_addr().unwrap();
    let links: Vec<_> = (0..2).map(|_| world.udp_link(at, true)).collect();
    // Two links in turn: no two datagrams join.
    let count = 5000;
    for at in 0..count {
        world.send(links[at % 2], pattern(10, at));
    }
    world.until("sent", |w| links.iter().all(|link| w.diary(*link).sent == count as u32 / 2));
    assert_eq!(world.engine.stats().datagram_sends, count as u64);
}

#[test]
fn more_completions_than_the_queue_holds() {
    let settings = Settings { submissions: 64, completions: 64, ..Settings::default() };
    let mut world = World::with(settings);
    world.keep = false;
    let (_, at) = world.udp("127.0.0.1:0", true);
    let links: Vec<_> = (0..400).map(|_| world.udp_link(at, true)).collect();
    for round in 1..=3 {
        for link in &links {
            world.send(*link, pattern(100, round));
        }
        world.until("answered", |w| links.iter().all(|link| w.diary(*link).trains.len() == round));
    }
    world.assert_buffers_back();
}

#[test]
fn sockets_that_do_not_fit_the_table_are_used_by_their_descriptors() {
    let mut world = World::with(Settings { registered_files: 4, ..Settings::default() });
    assert_eq!(world.engine.features().registered_files, 4);
    let (_, at) = world.udp("127.0.0.1:0", true);
    for _ in 0..3 {
        let links: Vec<_> = (0..10).map(|_| world.udp_link(at, true)).collect();
        for link in &links {
            world.send(*link, b"x");
        }
        world.until("answered", |w| links.iter().all(|link| w.diary(*link).received.len() == 1));
        for link in &links {
            world.close(*link, CloseHow::Flush);
        }
        world.until("closed", |w| links.iter().all(|link| w.diary(*link).closed == 1));
    }
}

/// Runs a test of this program in a process of its own, started by `with` if that names a program.
fn alone(test: &str, with: &[&str]) {
    let program = std::env::current_exe().unwrap();
    let mut process = match with {
        [] => Process::new(program),
        [wrapper, args @ ..] => {
            let mut process = Process::new(wrapper);
            process.args(args).arg(program);
            process
        }
    };
    let output = process.args(["--exact", test, "--nocapture"]).env("L7MP_ALONE", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn is_alone() -> bool {
    std::env::var_os("L7MP_ALONE").is_some()
}

/// Leaves room for `more` descriptors. What is returned fills the holes below the limit.
fn limit_open_files(more: u64) -> Vec<std::fs::File> {
    let names = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    let highest = names.filter_map(|name| name.to_str()?.parse::<u64>().ok()).max().unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(highest + 1), maximum }).unwrap();
    let fill = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    setrlimit(Resource::Nofile, Rlimit { current: Some(highest + 1 + more), maximum }).unwrap();
    fill
}

#[test]
fn without_descriptors_accepts_wait_and_opens_fail() {
    if !is_alone() {
        return alone("without_descriptors_accepts_wait_and_opens_fail", &[]);
    }
    let mut world = World::new();
    let fd = sockets::bind_tcp("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let at = sockets::local_addr(&fd).unwrap();
    let clients = 12;
    // An accept keeps the limit that it was armed under.
    let _fill = limit_open_files(clients + 4);
    world.listen(1, fd, ListenerKind::Tcp);
    let clients: Vec<_> = (0..clients).map(|_| TcpStream::connect(at).unwrap()).collect();
    world.until("exhausted", |w| w.engine.stats().accept_exhausted > 0);
    assert_eq!(world.accepted.len(), 4);
    let udp = world.open(Transport::Udp { bind: None, gro: true }, EndpointAddr::inet(at));
    world.until("failed", |w| w.diary(udp).failed == Some(SocketError::Exhausted));
    let before = world.engine.stats();
    world.settle();
    world.settle();
    let after = world.engine.stats();
    assert!(after.accept_exhausted - before.accept_exhausted <= 3, "spinning: {before:?} {after:?}");
    // Descriptors come back: so do the others.
    let mut seen = BTreeSet::new();
    while seen.len() < clients.len() {
        world.until("accepted", |w| !w.accepted.is_empty());
        for (_, accepted) in std::mem::take(&mut world.accepted) {
            seen.insert(accepted.peer().unwrap());
            world.engine.refuse(accepted);
        }
    }
}

#[test]
fn a_start_without_descriptors_says_so() {
    if !is_alone() {
        return alone("a_start_without_descriptors_says_so", &[]);
    }
    let _fill = limit_open_files(0);
    let Err(error) = l7mp_engine::Engine::new(Settings::default()) else { panic!("a ring without a descriptor") };
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    assert!(l7mp_engine::probe().is_err());
}

#[test]
fn a_busy_poll_answers_without_sleeping() {
    use l7mp_engine::BusyPoll;
    for busy_poll in [BusyPoll::For(Duration::from_millis(2)), BusyPoll::Always] {
        let mut world = World::with(Settings { busy_poll, ..Settings::default() });
        let (_, at) = world.udp("127.0.0.1:0", true);
        let client = udp_client(at);
        for round in 1..=20 {
            client.send(b"ping").unwrap();
            world.until("echoed", |w| w.diaries.values().any(|diary| diary.sent == round));
            assert_eq!(recv(&client), b"ping");
        }
        // A deadline is kept while polling.
        let start = std::time::Instant::now();
        world.turn(Duration::from_millis(5));
        world.turn(Duration::from_millis(5));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn drops_of_the_kernel_are_told() {
    let fd = sockets::bind_udp("127.0.0.1:0".parse().unwrap(), 1, Default::default()).unwrap().remove(0);
    socket2::SockRef::from(&fd).set_recv_buffer_size(2048).unwrap();
    assert_eq!(sockets::kernel_drops(&fd).unwrap(), 0);
    let client = udp_client(sockets::local_addr(&fd).unwrap());
    for _ in 0..100 {
        client.send(&[0; 1000]).unwrap();
    }
    let drops = sockets::kernel_drops(&fd).unwrap();
    assert!((50..100).contains(&drops), "{drops}");
}

#[test]
fn a_taken_address_is_noticed_before_a_group_is_made() {
    use sockets::{InetKind, probe_free};
    let fds = sockets::bind_udp("127.0.0.1:0".parse().unwrap(), 3, Default::default()).unwrap();
    let at = sockets::local_addr(&fds[0]).unwrap();
    assert!(fds.iter().all(|fd| sockets::local_addr(fd).unwrap() == at), "one group");
    // A second group would be let in.
    sockets::bind_udp(at, 1, Default::default()).unwrap();
    assert_eq!(probe_free(InetKind::Udp, at).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    drop(fds);
    probe_free(InetKind::Udp, at).unwrap();
    let fds = sockets::bind_tcp("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let at = sockets::local_addr(&fds[0]).unwrap();
    assert_eq!(probe_free(InetKind::Tcp, at).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    drop(fds);
    probe_free(InetKind::Tcp, at).unwrap();
    let any = sockets::any_address(0);
    let dual = sockets::bind_udp(any, 1, Default::default()).unwrap().remove(0);
    let port = sockets::local_addr(&dual).unwrap().port();
    udp_client(SocketAddr::from(([127, 0, 0, 1], port))).send(b"x").unwrap();
}

/// Brings loopback up with an MTU.
fn loopback_mtu(mtu: i32) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: ifreq is a C struct of integers, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_mtu = mtu;
    // SAFETY: the kernel reads an ifreq, which outlives the call.
    assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &request) }, 0);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }, 0);
}

#[test]
fn segments_above_the_mtu_are_sent_one_by_one() {
    if !is_alone() {
        return alone("segments_above_the_mtu_are_sent_one_by_one", &["unshare", "--map-root-user", "--net"]);
    }
    loopback_mtu(1500);
    let mut world = World::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let link = world.udp_link(server.local_addr().unwrap(), true);
    for at in 0..10 {
        world.send(link, pattern(if at == 9 { 300 } else { 2000 }, at));
    }
    world.until("sent", |w| w.diary(link).sent == 10);
    for at in 0..10 {
        assert_eq!(recv(&server), pattern(if at == 9 { 300 } else { 2000 }, at));
    }
    assert_eq!(world.engine.stats().resent, 10);
    // It is known now: these do not join, and smaller ones still do.
    let sends = world.engine.stats().datagram_sends;
    for at in 0..6 {
        world.send(link, pattern(if at < 3 { 2000 } else { 1400 }, at));
    }
    world.until("sent", |w| w.diary(link).sent == 16);
    assert_eq!(world.engine.stats().datagram_sends, sends + 4);
    assert_eq!(world.engine.stats().resent, 10);
    assert_eq!(world.diary(link).lost_total(), 0);
    // The answer of a wildcard listener keeps its source through the same detour.
    let (_, bound) = world.udp("[::]:0", true);
    let client = udp_client(SocketAddr::from(([127, 0, 0, 3], bound.port())));
    for at in 0..4 {
        client.send(&pattern(2000, at)).unwrap();
    }
    world.until("answered", |w| w.flows.values().any(|flow| w.diaries[flow].sent == 4));
    for at in 0..4 {
        assert_eq!(recv(&client), pattern(2000, at));
    }
}
