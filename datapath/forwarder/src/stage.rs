//! The stages of a session: endpoints picked, sockets connected, failures tried again, the ring closed. The slow path.

use std::net::SocketAddr;
use std::sync::Arc;

use l7mp_api::config::{Bind, RetryOn, UnixKind};
use smallvec::SmallVec;

use crate::address::EndpointAddr;
use crate::codec::Codec;
use crate::codec::websocket::Role;
use crate::codec::websocket::handshake::Refusal;
use crate::counters::{DropReason, EndReason, OpenTime};
use crate::forwarder::Forwarder;
use crate::ids::{LinkId, SessionIndex};
use crate::links::{LinkKind, NOWHERE, Phase};
use crate::metadata;
use crate::open::{payload_type, stream_codec};
use crate::session::{Session, SessionState, Stage, StageWait};
use crate::snapshot::{Cluster, ClusterProtocol, Endpoint, Route, Rule};
use crate::time::Time;
use crate::verdict::{CloseHow, Command, SocketError, Transport, unspecified};

impl Forwarder {
    /// Makes the stages of a route and opens all of them in parallel.
    pub(crate) fn open_stages(&mut self, index: SessionIndex, decided: (Arc<Rule>, Arc<Route>), now: Time) {
        let route = Arc::clone(&decided.1);
        if let Some(session) = self.session_mut(index) {
            session.state = SessionState::Opening;
            session.decided = Some(decided);
            session.asked = now;
            session.deadline = None;
        }
        for cluster in &route.stages {
            let Some(link) = self.new_stage_link(index, cluster, now) else {
                return self.open_failed(index, DropReason::SessionLimit, now);
            };
            let waits = if cluster.in_process() { StageWait::Nothing } else { StageWait::Retry(now) };
            let counters = &cluster.counters[self.identity.worker];
            counters.sessions_active.add(1);
            counters.sessions_opened.add(1);
            if let Some(session) = self.session_mut(index) {
                session.stages.push(Stage {
                    cluster: Arc::clone(cluster),
                    counters: Arc::clone(counters),
                    endpoint: None,
                    link,
                    successor: None,
                    former: None,
                    attempts: 0,
                    waits,
                    move_at: None,
                    ends_at: None,
                    lost_at: None,
                });
            }
        }
        self.wire(index);
        for stage in 0..route.stages.len() {
            self.attempt(index, stage, now);
        }
        self.close_ring(index, now);
        self.schedule(index);
    }

    /// A link for a stage, or for its next endpoint beside the present one.
    pub(crate) fn new_stage_link(&mut self, index: SessionIndex, cluster: &Cluster, now: Time) -> Option<LinkId> {
        let (kind, codec, lossy) = match &cluster.protocol {
            ClusterProtocol::Udp { .. } => (LinkKind::Socket, Codec::Datagram, true),
            ClusterProtocol::Tcp { framing, .. } => (LinkKind::Socket, stream_codec(*framing), false),
            ClusterProtocol::WebSocket { payload, .. } => {
                (LinkKind::Socket, Codec::websocket(Role::Client, payload_type(*payload)), false)
            }
            ClusterProtocol::Unix(UnixKind::Stream, framing) => (LinkKind::Socket, stream_codec(*framing), false),
            ClusterProtocol::Unix(UnixKind::Seqpacket, _) => (LinkKind::Socket, Codec::Seqpacket, false),
            ClusterProtocol::Unix(UnixKind::Dgram, _) => (LinkKind::Socket, Codec::Datagram, true),
            ClusterProtocol::Echo => (LinkKind::Echo, Codec::Datagram, false),
            ClusterProtocol::Discard => (LinkKind::Discard, Codec::Datagram, false),
        };
        let counters = Arc::clone(&cluster.counters[self.identity.worker]);
        // A connection is no message: a session whose stage comes and goes is as idle as before.
        let last_seen = if self.session(index).is_some() { self.last_seen(index) } else { now };
        let link = self.new_link(index, kind, codec, counters, last_seen)?;
        if let Some(link) = self.links.get_mut(link) {
            link.lossy = lossy;
            if cluster.in_process() {
                link.phase = Phase::Open;
            }
        }
        Some(link)
    }

    /// Lays the ring through the source and the present link of every stage. What a stage's former link still says goes
    /// where the stage's messages go; nothing is sent to it.
    pub(crate) fn wire(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get(index.0 as usize) else { return };
        let mut ring: SmallVec<[LinkId; 4]> = SmallVec::new();
        ring.push(session.source_link);
        ring.extend(session.stages.iter().map(|stage| stage.link));
        for (position, &link) in ring.iter().enumerate() {
            let next = ring[(position + 1) % ring.len()];
            let prev = ring[(position + ring.len() - 1) % ring.len()];
            if let Some(link) = self.links.get_mut(link) {
                link.next = next.index() as u32;
                link.prev = prev.index() as u32;
            }
        }
        let formers = session.stages.iter().enumerate().filter_map(|(at, stage)| Some((at, stage.former?.0)));
        for (at, former) in formers {
            let next = ring[(at + 2) % ring.len()];
            if let Some(link) = self.links.get_mut(former) {
                link.next = next.index() as u32;
                link.prev = NOWHERE;
            }
        }
    }

    /// Tries a stage that waits for its next attempt.
    pub(crate) fn attempt(&mut self, index: SessionIndex, stage: usize, now: Time) {
        let Some((session, retry)) = self.session_and_retry(index) else { return };
        let Some(entry) = session.stages.get(stage) else { return };
        if !matches!(entry.waits, StageWait::Retry(_)) {
            return;
        }
        let Some((cluster, endpoint)) = self.choose(index, stage) else {
            return self.stage_failed(index, stage, DropReason::NoEndpoint, now);
        };
        let Some(link) = self.fresh_link(index, stage, &cluster, now) else {
            return self.stage_failed(index, stage, DropReason::SessionLimit, now);
        };
        if let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) {
            entry.cluster = Arc::clone(&cluster);
            entry.endpoint = Some(Arc::clone(&endpoint));
            entry.waits = StageWait::Connect(now + retry.timeout);
            entry.move_at = None;
        }
        self.connect(link, &cluster, &endpoint);
    }

    /// Tells the engine to connect a link.
    pub(crate) fn connect(&mut self, link: LinkId, cluster: &Cluster, endpoint: &Endpoint) {
        if let Some(link) = self.links.get_mut(link) {
            link.in_engine = true;
        }
        let transport = transport(&cluster.protocol, &endpoint.address, self.sequence);
        self.commands.push_back(Command::Open { link, transport, remote: endpoint.address.clone() });
    }

    /// The cluster of a stage as it is now, and the endpoint that its balancer picks for the session.
    pub(crate) fn choose(&self, index: SessionIndex, stage: usize) -> Option<(Arc<Cluster>, Arc<Endpoint>)> {
        let session = self.session(index)?;
        let opened_with = &session.stages.get(stage)?.cluster;
        let cluster = self.snapshot.clusters.get(&opened_with.name)?;
        let key = metadata::key(session, cluster.key.as_deref());
        let turns = &cluster.turns[self.identity.worker];
        let mut turn = turns.get();
        let picked = cluster.balancer.pick(&key, &mut turn)?;
        turns.set(turn);
        let endpoint = cluster.endpoints.get(picked)?;
        Some((Arc::clone(cluster), Arc::clone(endpoint)))
    }

    /// The stage's link if the engine does not know it yet, else a new one in its place.
    fn fresh_link(&mut self, index: SessionIndex, stage: usize, cluster: &Cluster, now: Time) -> Option<LinkId> {
        let present = self.session(index)?.stages.get(stage)?.link;
        if self.links.get(present).is_some_and(|link| !link.in_engine) {
            return Some(present);
        }
        let link = self.new_stage_link(index, cluster, now)?;
        self.release(present, CloseHow::Abort);
        self.session_mut(index)?.stages.get_mut(stage)?.link = link;
        self.wire(index);
        self.press(index);
        Some(link)
    }

    /// A socket is connected.
    pub fn opened(&mut self, link: LinkId, now: Time) {
        let Some((index, stage)) = self.stage_of(link) else { return };
        let speaks_websocket = self.links.get(link).is_some_and(|link| matches!(link.codec, Codec::WebSocket(_)));
        if speaks_websocket {
            self.upgrade(link, index, stage, now);
        } else {
            self.link_ready(link, index, stage, now);
        }
    }

    /// A socket could not be connected.
    pub fn failed(&mut self, link: LinkId, error: SocketError, now: Time) {
        let Some((index, stage)) = self.stage_of(link) else { return };
        let reason = match error {
            SocketError::Exhausted => DropReason::SessionLimit,
            SocketError::Refused | SocketError::Unreachable | SocketError::Reset | SocketError::Other => {
                DropReason::OpenFailed
            }
        };
        self.link_failed(link, index, stage, reason, now);
    }

    /// A link of a stage, or its successor, did not come to be.
    pub(crate) fn link_failed(
        &mut self,
        link: LinkId,
        index: SessionIndex,
        stage: usize,
        reason: DropReason,
        now: Time,
    ) {
        let Some((session, retry)) = self.session_and_retry(index) else { return };
        let entry = &session.stages[stage];
        entry.counters.connect_failures.add(1);
        if entry.link == link {
            return self.stage_failed(index, stage, reason, now);
        }
        self.release(link, CloseHow::Abort);
        if let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) {
            entry.successor = None;
            entry.move_at = Some(now + retry.timeout);
        }
        self.schedule(index);
    }

    /// A link is connected and past its handshake.
    pub(crate) fn link_ready(&mut self, link: LinkId, index: SessionIndex, stage: usize, now: Time) {
        if let Some(link) = self.links.get_mut(link) {
            link.phase = Phase::Ready;
        }
        let Some(session) = self.session_mut(index) else { return };
        let entry = &mut session.stages[stage];
        if entry.link == link {
            entry.waits = StageWait::Nothing;
            self.press(index);
            self.close_ring(index, now);
        } else {
            self.succeed(index, stage, now);
        }
        self.schedule(index);
    }

    /// A successor takes its place in a ring that flows already, also while another stage is reopened.
    pub(crate) fn join(&mut self, link: LinkId, index: SessionIndex, now: Time) {
        if let Some(link) = self.links.get_mut(link) {
            link.phase = Phase::Open;
        }
        self.press(index);
        if self.session(index).is_some_and(Session::ready) {
            self.flush_held(index);
        }
        self.replay(link, now);
        self.settle_ends(index, now);
    }

    /// Lets messages flow, once every stage is ready: for the first time, or after one was reopened.
    fn close_ring(&mut self, index: SessionIndex, now: Time) {
        let Some(session) = self.session_mut(index).filter(|session| session.ready()) else { return };
        let first = match session.state {
            SessionState::Opening => true,
            SessionState::Open => false,
            SessionState::Handshake | SessionState::Backoff => return,
        };
        session.state = SessionState::Open;
        let (source, asked) = (session.source_link, session.asked);
        let mut links: SmallVec<[LinkId; 4]> = session.stages.iter().map(|stage| stage.link).collect();
        links.push(source);
        if first {
            if let Some(link) = self.links.get_mut(source) {
                link.last_seen = now;
            }
            self.count_opening(now.since(asked));
            self.accept_upgrade(index);
        }
        links.retain(|link| {
            let ready = self.links.get_mut(*link).filter(|entry| entry.phase == Phase::Ready);
            ready.map(|entry| entry.phase = Phase::Open).is_some()
        });
        self.press(index);
        self.flush_held(index);
        for link in links {
            self.replay(link, now);
        }
        self.settle_ends(index, now);
    }

    fn count_opening(&self, took: std::time::Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = match micros {
            0..=1_000 => OpenTime::Ms1,
            1_001..=5_000 => OpenTime::Ms5,
            5_001..=10_000 => OpenTime::Ms10,
            10_001..=50_000 => OpenTime::Ms50,
            50_001..=100_000 => OpenTime::Ms100,
            100_001..=500_000 => OpenTime::Ms500,
            500_001..=1_000_000 => OpenTime::S1,
            1_000_001..=5_000_000 => OpenTime::S5,
            5_000_001.. => OpenTime::More,
        };
        self.counters.open_time.of_time(bucket).add(1);
        self.counters.open_time_us.add(micros);
    }

    /// An attempt of a stage failed: it is tried again, or the session ends.
    pub(crate) fn stage_failed(&mut self, index: SessionIndex, stage: usize, reason: DropReason, now: Time) {
        let Some((session, retry)) = self.session_and_retry(index) else { return };
        let reopening = session.state == SessionState::Open;
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        let tried_again = matches!(retry.retry_on, RetryOn::ConnectFailure | RetryOn::Always)
            || (reopening && retry.retry_on == RetryOn::Disconnect);
        if tried_again && entry.attempts < retry.num_retries {
            entry.attempts += 1;
            entry.waits = StageWait::Retry(now + retry.timeout);
            entry.counters.retries.add(1);
            let cluster = Arc::clone(&entry.cluster);
            let link = entry.link;
            // The failed link leaves the ring now; a fresh one stands in its place, so that messages are held.
            if self.links.get(link).is_some_and(|link| link.in_engine) {
                self.fresh_link(index, stage, &cluster, now);
            }
            return self.schedule(index);
        }
        if reopening {
            self.end_session(index, EndReason::Disconnect, now);
        } else {
            self.open_failed(index, reason, now);
        }
    }

    /// A session could not be opened.
    pub(crate) fn open_failed(&mut self, index: SessionIndex, reason: DropReason, now: Time) {
        self.drop_held(index, reason);
        let Some((session, retry)) = self.session_and_retry(index) else { return };
        if session.flow_key().is_none() {
            self.refuse_upgrade(index, Refusal::UNAVAILABLE);
            return self.end_session(index, EndReason::OpenFailed, now);
        }
        self.release_stages(index, CloseHow::Abort);
        let Some(session) = self.session_mut(index) else { return };
        session.state = SessionState::Backoff;
        session.failure = Some(reason);
        session.deadline = Some(now + retry.timeout);
        let source = session.source_link;
        if let Some(link) = self.links.get_mut(source) {
            link.next = NOWHERE;
            link.prev = NOWHERE;
        }
        self.schedule(index);
    }
}

/// The socket of a cluster's protocol; source addresses are taken in turn.
fn transport(protocol: &ClusterProtocol, remote: &EndpointAddr, turn: u64) -> Transport {
    match protocol {
        ClusterProtocol::Udp { bind, gro } => Transport::Udp { bind: local(bind, remote, turn), gro: *gro },
        ClusterProtocol::Tcp { bind, .. } => Transport::Tcp { bind: local(bind, remote, turn) },
        ClusterProtocol::WebSocket { .. } => Transport::Tcp { bind: None },
        ClusterProtocol::Unix(UnixKind::Stream, _) => Transport::UnixStream,
        ClusterProtocol::Unix(UnixKind::Seqpacket, _) => Transport::UnixSeqpacket,
        ClusterProtocol::Unix(UnixKind::Dgram, _) => Transport::UnixDgram,
        ClusterProtocol::Echo | ClusterProtocol::Discard => Transport::UnixStream,
    }
}

/// The local side of a socket to `remote`: the next source address of its family.
fn local(bind: &Bind, remote: &EndpointAddr, turn: u64) -> Option<SocketAddr> {
    let EndpointAddr::Inet(remote) = remote else { return None };
    let same_family = || bind.addresses.iter().filter(|address| address.is_ipv4() == remote.is_ipv4());
    let count = same_family().count();
    if count == 0 {
        return (bind.port != 0).then(|| SocketAddr::new(unspecified(remote), bind.port));
    }
    let address = same_family().nth(turn as usize % count)?;
    Some(SocketAddr::new(*address, bind.port))
}
