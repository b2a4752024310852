//! A forwarder on a bench: documents and events in, frames and commands out. Everything happens when the test says so.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use l7mp_api::Config;
use l7mp_forwarder::address::{ClientAddr, LocalAddr};
use l7mp_forwarder::codec::websocket::{Opcode, Role};
use l7mp_forwarder::counters::{DropReason, EndReason, WorkerCounters};
use l7mp_forwarder::ids::{LinkId, ListenerId};
use l7mp_forwarder::snapshot::Snapshot;
use l7mp_forwarder::snapshot::compile::{Inputs, Scopes, compile};
use l7mp_forwarder::time::Time;
use l7mp_forwarder::verdict::{CloseHow, Command, Downstream, Frame, Payload, SocketError, Transport, Verdict};
use l7mp_forwarder::{Forwarder, Identity};

/// An upstream connection that was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub link: LinkId,
    pub transport: Transport,
    pub remote: String,
}

/// What the engine was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Sent(LinkId, Vec<u8>),
    Resume(LinkId),
    Pause(LinkId),
    Shutdown(LinkId),
    Close(LinkId, CloseHow),
}

pub struct Bench {
    pub forwarder: Forwarder,
    pub now: Time,
    pub scopes: Scopes,
    pub snapshot: Arc<Snapshot>,
    pub asked: VecDeque<Asked>,
    pub told: Vec<Told>,
    /// Links that the engine reads.
    pub read: BTreeSet<LinkId>,
    /// Links that the engine knows.
    pub known: BTreeSet<LinkId>,
    ids: BTreeMap<String, ListenerId>,
    version: u64,
}

impl Bench {
    pub fn new(document: &str) -> Bench {
        let counters = Arc::new(WorkerCounters::default());
        let identity = Identity { worker: 0, workers: 1, seed: 7 };
        let mut bench = Bench {
            forwarder: Forwarder::new(identity, counters),
            now: Time::ZERO + Duration::from_secs(100),
            scopes: Scopes::default(),
            snapshot: Arc::default(),
            asked: VecDeque::new(),
            told: Vec::new(),
            read: BTreeSet::new(),
            known: BTreeSet::new(),
            ids: BTreeMap::new(),
            version: 0,
        };
        bench.configure(document);
        bench
    }

    /// Adopts a document. A listener that keeps its name keeps its sockets.
    pub fn configure(&mut self, document: &str) {
        let config = Config::read(document).unwrap_or_else(|problems| panic!("{problems:?}"));
        let fresh = self.ids.len() as u32;
        let listeners: Vec<ListenerId> = (fresh..)
            .zip(&config.listeners)
            .map(|(id, listener)| *self.ids.entry(listener.name.clone()).or_insert(ListenerId(id)))
            .collect();
        self.version += 1;
        let inputs = Inputs {
            config: &config,
            version: self.version,
            workers: 1,
            previous: &self.snapshot,
            listeners: &listeners,
            resolve: &|_| Vec::new(),
        };
        self.snapshot = Arc::new(compile(&inputs, &mut self.scopes).unwrap());
        self.forwarder.adopt(Arc::clone(&self.snapshot));
        self.turn();
    }

    pub fn listener(&self, name: &str) -> ListenerId {
        self.ids[name]
    }

    /// A datagram of a client; why it got no session.
    pub fn udp(&mut self, port: u16, bytes: &[u8]) -> Option<DropReason> {
        self.udp_on("udp", port, bytes)
    }

    pub fn udp_on(&mut self, listener: &str, port: u16, bytes: &[u8]) -> Option<DropReason> {
        let listener = self.listener(listener);
        let (peer, local) = addresses(port);
        match self.forwarder.source(listener, LocalAddr::new(local), ClientAddr::new(peer), self.now) {
            Ok(link) => {
                self.drain();
                self.bytes(link, bytes)
            }
            Err(reason) => {
                self.forwarder.refuse(listener, 1, bytes.len() as u64, reason);
                self.drain();
                Some(reason)
            }
        }
    }

    pub fn accept(&mut self, listener: &str) -> Option<LinkId> {
        let (peer, local) = addresses(50_000 + self.known.len() as u16);
        let from = Downstream { peer: ClientAddr::new(peer), local: LocalAddr::new(local) };
        let link = self.forwarder.accepted(self.ids[listener], Some(from), self.now);
        self.known.extend(link);
        self.drain();
        link
    }

    /// Bytes that arrived; why the last of their messages was dropped.
    pub fn bytes(&mut self, link: LinkId, bytes: &[u8]) -> Option<DropReason> {
        let mut bytes = bytes.to_vec();
        let (mut at, mut dropped) = (0, None);
        loop {
            let rest = &mut bytes[at..];
            let step = self.forwarder.step(link, rest, self.now);
            assert!(step.used > 0 || rest.is_empty(), "no progress");
            match step.verdict {
                Verdict::Forward(frame) | Verdict::Reply(frame) => self.send(frame, &bytes[at..]),
                Verdict::Kept => {}
                Verdict::Dropped(reason) => dropped = Some(reason),
            }
            at += step.used;
            if at >= bytes.len() {
                break;
            }
        }
        self.drain();
        dropped
    }

    fn send(&mut self, frame: Frame, received: &[u8]) {
        assert!(self.known.contains(&frame.to), "a frame for {:?}, which the engine does not know", frame.to);
        let mut wire = frame.head.to_vec();
        match frame.payload {
            Payload::Received(range) => wire.extend_from_slice(&received[range]),
            Payload::Owned(payload) => wire.extend_from_slice(&payload),
        }
        wire.extend_from_slice(if frame.newline { b"\n" } else { b"" });
        self.forwarder.sent(frame.to, frame.messages, wire.len() as u64);
        self.told.push(Told::Sent(frame.to, wire));
    }

    /// Executes every command, and lets closed links go.
    pub fn drain(&mut self) {
        let mut closing = Vec::new();
        while let Some(command) = self.forwarder.next_command() {
            match command {
                Command::Open { link, transport, remote } => {
                    assert!(self.known.insert(link), "{link:?} opened twice");
                    self.asked.push_back(Asked { link, transport, remote: remote.to_string() });
                }
                Command::OpenFlow { link, .. } | Command::OpenUnixFlow { link, .. } => {
                    assert!(self.known.insert(link), "{link:?} opened twice");
                }
                Command::Send(frame) => {
                    assert!(matches!(frame.payload, Payload::Owned(_)), "a command with a borrowed payload");
                    self.send(frame, &[]);
                }
                Command::Resume(link) => {
                    assert!(self.known.contains(&link) && self.read.insert(link), "{link:?} resumed for nothing");
                    self.told.push(Told::Resume(link));
                }
                Command::Pause(link) => {
                    assert!(self.read.remove(&link), "{link:?} paused for nothing");
                    self.told.push(Told::Pause(link));
                }
                Command::Shutdown(link) => {
                    assert!(self.known.contains(&link), "{link:?} shut down, which the engine does not know");
                    self.told.push(Told::Shutdown(link));
                }
                Command::Close { link, how } => {
                    assert!(self.known.remove(&link), "{link:?} closed twice");
                    self.read.remove(&link);
                    self.asked.retain(|asked| asked.link != link);
                    self.told.push(Told::Close(link, how));
                    closing.push(link);
                }
            }
        }
        for link in closing {
            self.forwarder.closed(link);
        }
        if self.sessions() < 100 {
            self.audit();
        }
    }

    fn audit(&self) {
        self.forwarder.audit().unwrap_or_else(|fault| panic!("{fault}"));
    }

    /// The end of a turn.
    pub fn turn(&mut self) {
        self.forwarder.expire(self.now);
        self.drain();
        self.audit();
    }

    /// Time passes, in turns as short as the forwarder asks for.
    pub fn pass(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(due) = self.forwarder.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.turn();
        }
        self.now = end;
        self.turn();
    }

    /// The oldest connection that was asked for.
    pub fn asked(&mut self) -> Asked {
        self.asked.pop_front().expect("no connection was asked for")
    }

    /// The oldest connection that was asked for is made.
    pub fn open(&mut self) -> LinkId {
        let asked = self.asked();
        self.opened(asked.link);
        asked.link
    }

    pub fn opened(&mut self, link: LinkId) {
        self.forwarder.opened(link, self.now);
        self.drain();
    }

    /// The oldest connection that was asked for is refused.
    pub fn refuse(&mut self) {
        let link = self.asked().link;
        self.forwarder.failed(link, SocketError::Refused, self.now);
        self.drain();
    }

    pub fn ended(&mut self, link: LinkId) {
        assert!(self.read.contains(&link), "the end of {link:?}, which is not read");
        self.forwarder.ended(link, self.now);
        self.drain();
    }

    pub fn broken(&mut self, link: LinkId) {
        self.forwarder.broken(link, SocketError::Reset, self.now);
        self.drain();
    }

    pub fn blocked(&mut self, link: LinkId) {
        self.forwarder.blocked(link);
        self.drain();
    }

    pub fn drained(&mut self, link: LinkId) {
        self.forwarder.drained(link);
        self.drain();
    }

    /// What was sent on a link so far, one after the other; it is forgotten.
    pub fn take(&mut self, link: LinkId) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        self.told.retain(|told| match told {
            Told::Sent(to, bytes) if *to == link => {
                taken.push(bytes.clone());
                false
            }
            Told::Sent(..) | Told::Resume(_) | Told::Pause(_) | Told::Shutdown(_) | Told::Close(..) => true,
        });
        taken
    }

    /// What was sent on a link so far, as text.
    pub fn text(&mut self, link: LinkId) -> String {
        String::from_utf8_lossy(&self.take(link).concat()).into_owned()
    }

    /// How a link was closed.
    pub fn close_of(&self, link: LinkId) -> Option<CloseHow> {
        self.told.iter().find_map(|told| match told {
            Told::Close(closed, how) if *closed == link => Some(*how),
            Told::Close(..) | Told::Sent(..) | Told::Resume(_) | Told::Pause(_) | Told::Shutdown(_) => None,
        })
    }

    pub fn was_shut(&self, link: LinkId) -> bool {
        self.told.contains(&Told::Shutdown(link))
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.forwarder.counters().dropped.of(reason).get()
    }

    pub fn closed(&self, reason: EndReason) -> u64 {
        self.forwarder.counters().sessions_closed.of_end(reason).get()
    }

    pub fn sessions(&self) -> usize {
        self.forwarder.session_count()
    }

    /// The link of a UDP client's session.
    pub fn flow(&mut self, port: u16) -> LinkId {
        let (peer, local) = addresses(port);
        let listener = self.listener("udp");
        let sessions = self.sessions();
        let link = self.forwarder.source(listener, LocalAddr::new(local), ClientAddr::new(peer), self.now).unwrap();
        assert_eq!(self.sessions(), sessions, "the client has no session");
        link
    }

    /// Asserts that nothing is left of anything.
    pub fn is_empty(&self) {
        let audit = self.forwarder.audit().unwrap();
        assert_eq!(audit, l7mp_forwarder::audit::Audit::default());
        assert_eq!(self.forwarder.counters().queued.get(), 0);
        for counters in self.scopes.listeners.values().chain(self.scopes.clusters.values()).flatten() {
            assert_eq!(counters.sessions_active.get(), 0);
        }
    }
}

fn addresses(port: u16) -> (SocketAddr, SocketAddr) {
    (SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([127, 0, 0, 1], 9001)))
}

/// A document with one listener of each kind, all on one route.
pub fn document(clusters: &str, route: &str) -> String {
    document_with("", clusters, route)
}

/// The same, with options for the listeners.
pub fn document_with(options: &str, clusters: &str, route: &str) -> String {
    format!(
        "listeners:
- {{name: udp, spec: {{UDP: {{port: 9001}}}}, options: {{{options}}}, rules: all}}
- {{name: tcp, spec: {{TCP: {{port: 9002}}}}, options: {{{options}}}, rules: all}}
- {{name: lines, spec: {{TCP: {{port: 9003, framing: line}}}}, options: {{{options}}}, rules: all}}
- {{name: ws, spec: {{WebSocket: {{port: 9004, path: /chat}}}}, options: {{{options}}}, rules: all}}
rulelists:
- {{name: all, rules: [{{action: {{route: {{{route}}}}}}}]}}
clusters:
{clusters}
"
    )
}

/// A WebSocket request, ready to be sent.
pub fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A server's answer to a request of ours.
pub fn accept_upgrade(request: &[u8]) -> Vec<u8> {
    use l7mp_forwarder::codec::websocket::handshake;
    let (_, request) = handshake::read_request(request).unwrap().expect("a whole request");
    request.accept(request.protocols.first().map(String::as_str))
}

/// A whole frame as `role` sends it.
pub fn frame(role: Role, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let (first, mask) = (0x80 | opcode as u8, [1, 2, 3, 4]);
    let masked = matches!(role, Role::Client);
    let bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(bit | len as u8),
        len @ 126..=0xffff => {
            bytes.push(bit | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(bit | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    if masked {
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// A close frame as a client sends it.
pub fn client_close(code: u16) -> Vec<u8> {
    frame(Role::Client, Opcode::Close, &code.to_be_bytes())
}
