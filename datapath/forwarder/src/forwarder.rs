//! One worker's sessions: messages in, verdicts out; slow work in a queue of commands.
//!
//! ```text
//! worker                         forwarder                        engine
//!   datagram of a peer  -------->  source: flows, or a new session
//!   bytes of a link     -------->  step: decode, next, encode  -->  Verdict: send now
//!   opened, failed, ended, ... ->  the slow path               -->  Command: once per turn
//! ```

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use slab::Slab;

use crate::codec::{Decoded, MessageType};
use crate::counters::{DropReason, WorkerCounters};
use crate::flows::Flows;
use crate::held::{Held, HeldMessage, HeldTotal};
use crate::ids::{LinkId, ListenerId, SessionIndex};
use crate::limits::STAGES_MAX;
use crate::links::{Link, LinkKind, Links, Phase};
use crate::session::{Session, SessionState};
use crate::snapshot::Snapshot;
use crate::time::Time;
use crate::timers::Wheel;
use crate::upgrade::ClientHandshake;
use crate::verdict::{Command, Frame, Payload, Step, Verdict};

/// Which worker this is, of how many, and the seed of its randomness.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// From 0.
    pub worker: usize,
    /// Workers of the process.
    pub workers: usize,
    /// Unpredictable in production: masking keys come from it. Fixed in tests.
    pub seed: u64,
}

/// The sessions of one worker.
pub struct Forwarder {
    pub(crate) identity: Identity,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) flows: Flows,
    pub(crate) links: Links,
    pub(crate) sessions: Slab<Session>,
    pub(crate) timers: Wheel,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) held_total: HeldTotal,
    pub(crate) handshakes: HashMap<LinkId, ClientHandshake>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) sequence: u64,
    pub(crate) draining: bool,
    /// Where re-judging the sessions after an adoption goes on.
    pub(crate) judging: Option<usize>,
    random: ChaCha8Rng,
}

impl Forwarder {
    /// No sessions, and the empty configuration.
    pub fn new(identity: Identity, counters: Arc<WorkerCounters>) -> Forwarder {
        Forwarder {
            identity,
            snapshot: Arc::default(),
            flows: Flows::new(identity.seed),
            links: Links::default(),
            sessions: Slab::new(),
            timers: Wheel::new(),
            commands: VecDeque::new(),
            held_total: HeldTotal::default(),
            handshakes: HashMap::new(),
            counters,
            sequence: 0,
            draining: false,
            judging: None,
            random: ChaCha8Rng::seed_from_u64(identity.seed),
        }
    }

    /// The next slow work. Drained once per turn.
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// What this worker counts.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// How many sessions there are, those in backoff included.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many links there are, closing ones included.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// Bytes arrived at a link. Called until they are used up: each call consumes one message or less.
    pub fn step(&mut self, from: LinkId, bytes: &mut [u8], now: Time) -> Step {
        let Some(link) = self.links.get_mut(from) else { return self.too_late(bytes) };
        match link.phase {
            Phase::Open => {
                link.last_seen = now;
                let mask = if link.codec.masks() { self.random.next_u32().to_ne_bytes() } else { [0; 4] };
                let (used, decoded) = link.codec.decode(bytes, mask);
                Step { used, verdict: self.decoded(from, bytes, decoded, now) }
            }
            Phase::Handshake => self.handshake_bytes(from, bytes, now),
            Phase::Opening | Phase::Ready => {
                link.stash.extend_from_slice(bytes);
                Step { used: bytes.len(), verdict: Verdict::Kept }
            }
            Phase::Closing => self.too_late(bytes),
        }
    }

    /// Bytes for a session that has just ended.
    fn too_late(&mut self, bytes: &[u8]) -> Step {
        self.counters.messages_in.add(1);
        Step { used: bytes.len(), verdict: self.dropped(DropReason::Closed) }
    }

    /// What to do with what a codec found.
    fn decoded(&mut self, from: LinkId, bytes: &mut [u8], decoded: Decoded, now: Time) -> Verdict {
        match decoded {
            Decoded::Message { range, kind } => {
                self.count_in(from, range.len());
                self.forward_received(from, bytes, range, kind)
            }
            Decoded::Reassembled { bytes, kind } => {
                self.counters.payload_copies.add(1);
                self.count_in(from, bytes.len());
                self.forward_owned(from, bytes, kind)
            }
            Decoded::Kept => Verdict::Kept,
            // Who does not read the answers gets none (RFC 6455, section 5.5.3, allows it): pings cannot fill the queue.
            Decoded::Reply(_) if self.links.get(from).is_some_and(|link| link.blocked) => Verdict::Kept,
            Decoded::Reply(bytes) => Verdict::Reply(control_frame(from, bytes)),
            Decoded::End { reply } => self.peer_closed(from, reply, now),
            Decoded::Violation { reply, reason } => self.violation(from, reply, reason, now),
        }
    }

    pub(crate) fn count_in(&mut self, from: LinkId, bytes: usize) {
        self.counters.messages_in.add(1);
        if let Some(link) = self.links.get(from) {
            link.counters.messages_in.add(1);
            link.counters.bytes_in.add(bytes as u64);
        }
    }

    /// Counts a message that does not go out.
    pub(crate) fn dropped(&mut self, reason: DropReason) -> Verdict {
        self.counters.dropped.of(reason).add(1);
        Verdict::Dropped(reason)
    }

    /// Forwards a message that lies in the received bytes.
    fn forward_received(&mut self, from: LinkId, bytes: &mut [u8], range: Range<usize>, kind: MessageType) -> Verdict {
        match self.hop(from, range.len()) {
            Hop::To(to) => match self.frame(from, to, &mut bytes[range.clone()], kind) {
                Ok(frame) => {
                    self.counters.queued.add(1);
                    Verdict::Forward(Frame { payload: Payload::Received(range), ..frame })
                }
                Err(reason) => self.dropped(reason),
            },
            Hop::Wait(session) => {
                self.counters.payload_copies.add(1);
                self.hold(session, HeldMessage { from, payload: bytes[range].to_vec(), kind })
            }
            Hop::Swallowed => {
                self.counters.messages_out.add(1);
                Verdict::Kept
            }
            Hop::Nowhere(reason) => self.dropped(reason),
        }
    }

    /// Forwards a message that is a copy of what was received.
    pub(crate) fn forward_owned(&mut self, from: LinkId, mut payload: Vec<u8>, kind: MessageType) -> Verdict {
        match self.hop(from, payload.len()) {
            Hop::To(to) => match self.frame(from, to, &mut payload, kind) {
                Ok(frame) => {
                    self.counters.queued.add(1);
                    Verdict::Forward(Frame { payload: Payload::Owned(payload), ..frame })
                }
                Err(reason) => self.dropped(reason),
            },
            Hop::Wait(session) => self.hold(session, HeldMessage { from, payload, kind }),
            Hop::Swallowed => {
                self.counters.messages_out.add(1);
                Verdict::Kept
            }
            Hop::Nowhere(reason) => self.dropped(reason),
        }
    }

    /// Follows the ring from a link, through in-process links, to the socket that sends its messages.
    fn hop(&mut self, from: LinkId, bytes: usize) -> Hop {
        let Some(mut at) = self.links.get(from).map(|link| link.next) else {
            return Hop::Nowhere(DropReason::Closed);
        };
        for _ in 0..=STAGES_MAX {
            let Some(link) = self.links.at(at) else { return Hop::Nowhere(self.no_ring(from)) };
            match (link.kind, link.phase) {
                // Its peer was told that nothing more comes (a late datagram behind the linger).
                (LinkKind::Socket, Phase::Open) if link.write_ended => return Hop::Nowhere(DropReason::Closed),
                (LinkKind::Socket, Phase::Open) => return Hop::To(link.id),
                (LinkKind::Socket, Phase::Opening | Phase::Handshake | Phase::Ready) => {
                    return Hop::Wait(link.session);
                }
                (LinkKind::Socket, Phase::Closing) => return Hop::Nowhere(DropReason::Disconnected),
                (LinkKind::Echo, _) => {
                    passed(link, bytes);
                    link.counters.messages_in.add(1);
                    link.counters.bytes_in.add(bytes as u64);
                    at = link.next;
                }
                (LinkKind::Discard, _) => {
                    passed(link, bytes);
                    return Hop::Swallowed;
                }
            }
        }
        Hop::Nowhere(DropReason::Closed)
    }

    /// Why a link has no ring.
    fn no_ring(&self, from: LinkId) -> DropReason {
        let session = self.links.get(from).and_then(|link| self.sessions.get(link.session.0 as usize));
        match session.map(|session| session.state) {
            Some(SessionState::Backoff) => DropReason::OpenBackoff,
            Some(SessionState::Handshake | SessionState::Opening | SessionState::Open) | None => DropReason::Closed,
        }
    }

    /// Frames a payload for a link.
    fn frame(&mut self, from: LinkId, to: LinkId, payload: &mut [u8], kind: MessageType) -> Result<Frame, DropReason> {
        let lossy = self.links.get(from).is_some_and(|link| link.lossy);
        let Some(link) = self.links.get_mut(to) else { return Err(DropReason::Closed) };
        let mask = if link.codec.masks() { self.random.next_u32().to_ne_bytes() } else { [0; 4] };
        let envelope = link.codec.encode(payload, kind, mask)?;
        Ok(Frame {
            to,
            head: envelope.head,
            payload: Payload::Received(0..0),
            newline: envelope.newline,
            lossy,
            messages: 1,
        })
    }

    /// Keeps a message until its ring is closed.
    fn hold(&mut self, session: SessionIndex, message: HeldMessage) -> Verdict {
        let lossy = self.links.get(message.from).is_none_or(|link| link.lossy);
        let Some(session) = self.sessions.get_mut(session.0 as usize) else { return self.dropped(DropReason::Closed) };
        let held = session.held.get_or_insert_with(|| Box::new(Held::default()));
        match held.push(message, lossy, &mut self.held_total) {
            Ok(()) => {
                self.counters.held.add(1);
                Verdict::Kept
            }
            Err(_) => self.dropped(DropReason::HeldFull),
        }
    }

    /// Sends what a session holds, in order.
    pub(crate) fn flush_held(&mut self, session: SessionIndex) {
        let Some(mut held) = self.sessions.get_mut(session.0 as usize).and_then(|session| session.held.take()) else {
            return;
        };
        while let Some(message) = held.pop(&mut self.held_total) {
            self.counters.held.sub(1);
            let verdict = self.forward_owned(message.from, message.payload, message.kind);
            self.queue(verdict, &[]);
        }
    }

    /// Drops what a session holds.
    pub(crate) fn drop_held(&mut self, session: SessionIndex, reason: DropReason) {
        let Some(mut held) = self.sessions.get_mut(session.0 as usize).and_then(|session| session.held.take()) else {
            return;
        };
        while held.pop(&mut self.held_total).is_some() {
            self.counters.held.sub(1);
            self.dropped(reason);
        }
    }

    /// Bytes that were kept in a link's stash go the way of received ones.
    pub(crate) fn replay(&mut self, link: LinkId, now: Time) {
        let Some(mut bytes) = self.links.get_mut(link).map(|link| std::mem::take(&mut link.stash)) else { return };
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let step = self.step(link, rest, now);
            self.queue(step.verdict, rest);
            rest = &mut rest[step.used..];
        }
    }

    /// A verdict of the slow path becomes a command; a payload that lies in `bytes` is copied.
    pub(crate) fn queue(&mut self, verdict: Verdict, bytes: &[u8]) {
        match verdict {
            Verdict::Forward(frame) | Verdict::Reply(frame) => {
                let payload = match frame.payload {
                    Payload::Received(range) => {
                        self.counters.payload_copies.add(1);
                        Payload::Owned(bytes[range].to_vec())
                    }
                    Payload::Owned(payload) => Payload::Owned(payload),
                };
                self.commands.push_back(Command::Send(Frame { payload, ..frame }));
            }
            Verdict::Kept | Verdict::Dropped(_) => {}
        }
    }

    /// Sends bytes that are no message.
    pub(crate) fn send_control(&mut self, to: LinkId, bytes: Vec<u8>) {
        self.commands.push_back(Command::Send(control_frame(to, bytes)));
    }

    /// A fresh masking key or nonce word.
    pub(crate) fn random_word(&mut self) -> [u8; 4] {
        self.random.next_u32().to_ne_bytes()
    }

    /// Messages that arrived for a listener and never got a session.
    pub fn refuse(&mut self, listener: ListenerId, messages: u64, bytes: u64, reason: DropReason) {
        self.counters.messages_in.add(messages);
        self.counters.dropped.of(reason).add(messages);
        if let Some(listener) = self.snapshot.listeners.get(&listener) {
            let counters = &listener.counters[self.identity.worker];
            counters.messages_in.add(messages);
            counters.bytes_in.add(bytes);
        }
    }

    /// A datagram was longer than its buffer.
    pub fn oversized(&mut self) {
        self.counters.messages_in.add(1);
        self.dropped(DropReason::Oversized);
    }

    /// The kernel took messages of a link, `bytes` with framing.
    pub fn sent(&mut self, link: LinkId, messages: u32, bytes: u64) {
        let messages = u64::from(messages);
        self.counters.queued.sub(messages);
        self.counters.messages_out.add(messages);
        if let Some(link) = self.links.get(link) {
            link.counters.messages_out.add(messages);
            link.counters.bytes_out.add(bytes);
        }
    }

    /// Messages of a link did not go out.
    pub fn lost(&mut self, messages: u32, reason: DropReason) {
        let messages = u64::from(messages);
        self.counters.queued.sub(messages);
        self.counters.dropped.of(reason).add(messages);
    }
}

/// Where a message goes.
enum Hop {
    To(LinkId),
    Wait(SessionIndex),
    Swallowed,
    Nowhere(DropReason),
}

/// Counts a message that went into an in-process cluster.
fn passed(link: &Link, bytes: usize) {
    link.counters.messages_out.add(1);
    link.counters.bytes_out.add(bytes as u64);
}

/// A frame that is no message.
fn control_frame(to: LinkId, bytes: Vec<u8>) -> Frame {
    Frame {
        to,
        head: crate::verdict::Head::EMPTY,
        payload: Payload::Owned(bytes),
        newline: false,
        lossy: false,
        messages: 0,
    }
}
