//! A world around one engine: it forwards what arrives as each link is told, and writes down what happened.

#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use l7mp_engine::{Accepted, Engine, Event, ListenerKind, ListenerSocket, Received, Settings, Source, sockets};
use l7mp_forwarder::address::{ClientAddr, EndpointAddr, LocalAddr, UnixName};
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::{LinkId, ListenerId};
use l7mp_forwarder::verdict::{CloseHow, Command, Frame, Head, Payload, SocketError, Transport};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a link.
#[derive(Default)]
pub struct Diary {
    /// Each datagram or read.
    pub received: Vec<Vec<u8>>,
    /// Sizes of the trains or reads that they came in.
    pub trains: Vec<usize>,
    /// Frames that were given to the engine.
    pub given: u32,
    pub sent: u32,
    pub sent_bytes: u64,
    pub lost: BTreeMap<DropReason, u32>,
    pub opened: bool,
    pub failed: Option<SocketError>,
    pub ended: u32,
    pub broken: Vec<SocketError>,
    pub blocked: u32,
    pub drained: u32,
    pub closed: u32,
    pub oversized: u32,
}

impl std::fmt::Debug for Diary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Diary { received, sent, sent_bytes, lost, opened, failed, ended, broken, blocked, drained, closed, .. } =
            self;
        let bytes: usize = received.iter().map(Vec::len).sum();
        write!(
            f,
            "in {}/{bytes} out {sent}/{sent_bytes} lost {lost:?} opened {opened} {failed:?} ended {ended} ",
            received.len()
        )?;
        writeln!(f, "broken {broken:?} blocked {blocked} drained {drained} closed {closed}")
    }
}

impl Diary {
    pub fn lost_total(&self) -> u32 {
        self.lost.values().sum()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.received.concat()
    }
}

/// One engine and what it did.
pub struct World {
    pub engine: Engine,
    pub diaries: HashMap<LinkId, Diary>,
    /// Where what arrives on a link goes; nowhere if it is not told.
    pub next: HashMap<LinkId, LinkId>,
    /// Links of peers of listeners; made as they appear, and echoing unless told otherwise.
    pub flows: HashMap<(ListenerId, ClientAddr, LocalAddr), LinkId>,
    pub unix_flows: HashMap<(ListenerId, UnixName), LinkId>,
    pub unnamed: u32,
    pub accepted: Vec<(ListenerId, Accepted)>,
    pub woken: u32,
    pub oversized: Vec<Source>,
    /// Frames are lossy.
    pub lossy: bool,
    /// Payloads are kept in the diaries.
    pub keep: bool,
    /// What is released only when the test says so.
    pub hoard: Option<Vec<Received>>,
    next_link: u32,
}

impl World {
    pub fn new() -> World {
        World::with(Settings::default())
    }

    pub fn with(settings: Settings) -> World {
        World {
            engine: Engine::new(settings).expect("an engine"),
            diaries: HashMap::new(),
            next: HashMap::new(),
            flows: HashMap::new(),
            unix_flows: HashMap::new(),
            unnamed: 0,
            accepted: Vec::new(),
            woken: 0,
            oversized: Vec::new(),
            lossy: true,
            keep: true,
            hoard: None,
            next_link: 0,
        }
    }

    pub fn fresh_link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId::new(self.next_link - 1, 1)
    }

    pub fn diary(&mut self, link: LinkId) -> &mut Diary {
        self.diaries.entry(link).or_default()
    }

    /// One turn that waits at most `patience`.
    pub fn turn(&mut self, patience: Duration) {
        let deadline = self.engine.now() + patience;
        self.engine.wait(Some(deadline)).expect("a turn");
        while let Some(event) = self.engine.next_event() {
            self.handle(event);
        }
    }

    /// Turns until `done`, or fails.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}; {:?} {:?}",
                self.diaries,
                self.engine.stats()
            );
            self.turn(Duration::from_millis(20));
        }
    }

    /// Turns until nothing happens for a while.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let before = self.engine.stats().completions;
            self.turn(Duration::from_millis(15));
            quiet = if self.engine.stats().completions == before { quiet + 1 } else { 0 };
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Received { link, bytes } => self.arrived(link, bytes),
            Event::Datagram { listener, peer, local, bytes } => {
                let link = match self.flows.get(&(listener, peer, local)) {
                    Some(link) => *link,
                    None => {
                        let link = self.fresh_link();
                        self.flows.insert((listener, peer, local), link);
                        self.next.entry(link).or_insert(link);
                        self.engine.execute(Command::OpenFlow { link, listener, peer, local });
                        link
                    }
                };
                self.arrived(link, bytes);
            }
            Event::UnixDatagram { listener, peer: Some(peer), bytes } => {
                let link = match self.unix_flows.get(&(listener, peer)) {
                    Some(link) => *link,
                    None => {
                        let link = self.fresh_link();
                        self.unix_flows.insert((listener, peer), link);
                        self.next.entry(link).or_insert(link);
                        self.engine.execute(Command::OpenUnixFlow { link, listener, peer });
                        link
                    }
                };
                self.arrived(link, bytes);
            }
            Event::UnixDatagram { peer: None, bytes, .. } => {
                self.unnamed += 1;
                self.engine.release(bytes);
            }
            Event::Accepted { listener, socket } => self.accepted.push((listener, socket)),
            Event::Opened(link) => self.diary(link).opened = true,
            Event::Failed { link, error, .. } => self.diary(link).failed = Some(error),
            Event::Ended(link) => self.diary(link).ended += 1,
            Event::Broken(link, error) => self.diary(link).broken.push(error),
            Event::Blocked(link) => self.diary(link).blocked += 1,
            Event::Drained(link) => self.diary(link).drained += 1,
            Event::Sent { link, messages, bytes } => {
                let diary = self.diary(link);
                diary.sent += messages;
                diary.sent_bytes += bytes;
            }
            Event::Lost { link, messages, reason } => *self.diary(link).lost.entry(reason).or_default() += messages,
            Event::Oversized(source) => {
                self.oversized.push(source);
                if let Source::Link(link) = source {
                    self.diary(link).oversized += 1;
                }
            }
            Event::Closed(link) => self.diary(link).closed += 1,
            Event::Woken => self.woken += 1,
        }
    }

    fn arrived(&mut self, link: LinkId, bytes: Received) {
        let count = bytes.datagrams().count();
        let keep = self.keep;
        let payload = self.engine.bytes(&bytes);
        let messages: Vec<Vec<u8>> =
            if keep { bytes.datagrams().map(|at| payload[at].to_vec()).collect() } else { Vec::new() };
        let diary = self.diaries.entry(link).or_default();
        diary.received.extend(messages);
        diary.trains.push(count);
        if let Some(&to) = self.next.get(&link) {
            for at in bytes.datagrams() {
                let frame = frame(to, Payload::Received(at), self.lossy);
                self.engine.send(frame, Some((&bytes, 0)));
                self.diaries.entry(to).or_default().given += 1;
            }
        }
        match &mut self.hoard {
            Some(hoard) => hoard.push(bytes),
            None => self.engine.release(bytes),
        }
    }

    pub fn send(&mut self, to: LinkId, bytes: impl Into<Vec<u8>>) {
        let lossy = self.lossy;
        self.diary(to).given += 1;
        self.engine.send(frame(to, Payload::Owned(bytes.into()), lossy), None);
    }

    pub fn listen(&mut self, id: u32, fd: OwnedFd, kind: ListenerKind) -> ListenerId {
        let local = sockets::local_addr(&fd).ok();
        self.engine.listen(ListenerId(id), ListenerSocket { fd, kind, local });
        ListenerId(id)
    }

    /// A UDP listener on an address of its own.
    pub fn udp(&mut self, address: &str, gro: bool) -> (ListenerId, SocketAddr) {
        let mut fds = sockets::bind_udp(address.parse().unwrap(), 1, Default::default()).expect("a socket");
        let fd = fds.remove(0);
        let at = sockets::local_addr(&fd).unwrap();
        self.next_link += 1;
        let id = self.listen(self.next_link, fd, ListenerKind::Udp { gro });
        (id, at)
    }

    pub fn open(&mut self, transport: Transport, remote: EndpointAddr) -> LinkId {
        let link = self.fresh_link();
        self.engine.execute(Command::Open { link, transport, remote });
        link
    }

    /// An open UDP link that reads.
    pub fn udp_link(&mut self, remote: SocketAddr, gro: bool) -> LinkId {
        let link = self.open(Transport::Udp { bind: None, gro }, EndpointAddr::inet(remote));
        self.until("udp opened", |w| w.diary(link).opened);
        self.engine.execute(Command::Resume(link));
        link
    }

    /// The first connection that comes in, attached and read.
    pub fn attach_next(&mut self) -> LinkId {
        self.until("accepted", |w| !w.accepted.is_empty());
        let (_, accepted) = self.accepted.remove(0);
        let link = self.fresh_link();
        self.engine.attach(accepted, link);
        self.engine.execute(Command::Resume(link));
        link
    }

    pub fn close(&mut self, link: LinkId, how: CloseHow) {
        self.engine.execute(Command::Close { link, how });
    }

    /// Every buffer is back with the kernel.
    pub fn assert_buffers_back(&mut self) {
        self.turn(Duration::ZERO);
        self.turn(Duration::ZERO);
        let stats = self.engine.stats();
        for pool in [stats.large, stats.stream, stats.small] {
            assert_eq!(pool.free, pool.buffers, "{stats:?}");
        }
    }
}

pub fn frame(to: LinkId, payload: Payload, lossy: bool) -> Frame {
    Frame { to, head: Head::EMPTY, payload, newline: false, lossy, messages: 1 }
}

/// A client that gives up in time.
pub fn udp_client(to: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if to.is_ipv4() { "127.0.0.1:0".parse().unwrap() } else { "[::1]:0".parse().unwrap() };
    let client = UdpSocket::bind(any).unwrap();
    client.connect(to).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

pub fn recv(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    loop {
        match client.recv(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return buffer;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

/// Sends bytes as a train of datagrams of `segment` bytes.
pub fn send_train(client: &UdpSocket, bytes: &[u8], segment: u16) {
    set_segment(client, segment.into());
    client.send(bytes).unwrap();
    set_segment(client, 0);
}

fn set_segment(client: &UdpSocket, segment: i32) {
    use std::os::fd::AsRawFd;
    let (value, len) = ((&raw const segment).cast(), size_of::<i32>() as libc::socklen_t);
    // SAFETY: `value` points to `len` bytes that outlive the call.
    let done = unsafe { libc::setsockopt(client.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, len) };
    assert_eq!(done, 0);
}

/// Bytes that tell one place from another.
pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31 + seed * 7 + at / 251) % 251) as u8).collect()
}
