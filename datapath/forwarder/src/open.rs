//! Opening a session: rules, stages, connections, handshakes, retries. The slow path.

use std::sync::Arc;

use smallvec::SmallVec;

use l7mp_api::config::{Framing, Retry, UnixKind, WebSocketPayload};

use crate::address::{ClientAddr, LocalAddr, UnixName};
use crate::codec::Codec;
use crate::codec::Width;
use crate::codec::websocket::{PayloadType, Role};
use crate::counters::{DropReason, EndReason, ScopeCounters};
use crate::flows::FlowKey;
use crate::forwarder::Forwarder;
use crate::ids::{LinkId, ListenerId, SessionIndex, SessionNumber};
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::links::{Link, LinkKind, NOWHERE, Paused, Phase};
use crate::rules::{self, Matched};
use crate::session::{Session, SessionState, Source};
use crate::snapshot::{Listener, ListenerProtocol};
use crate::time::Time;
use crate::verdict::{Command, Downstream};

impl Forwarder {
    /// The link of a UDP peer; its first datagram opens a session.
    ///
    /// # Errors
    ///
    /// Why there is none; the caller counts its datagrams by [`Forwarder::refuse`].
    pub fn source(
        &mut self,
        listener: ListenerId,
        local: LocalAddr,
        peer: ClientAddr,
        now: Time,
    ) -> Result<LinkId, DropReason> {
        if let Some(link) = self.flows.udp(listener, local, peer) {
            return Ok(link);
        }
        self.open_flow(listener, Source::Udp(Downstream { peer, local }), now)
    }

    /// The link of a Unix dgram peer; its first datagram opens a session.
    ///
    /// # Errors
    ///
    /// As [`Forwarder::source`].
    pub fn unix_source(&mut self, listener: ListenerId, peer: UnixName, now: Time) -> Result<LinkId, DropReason> {
        let key = FlowKey::Unix(listener, peer);
        if let Some(link) = self.flows.get(&key) {
            return Ok(link);
        }
        self.open_flow(listener, Source::UnixDgram(Box::new(peer)), now)
    }

    /// A new peer of a socket that all peers share.
    fn open_flow(&mut self, listener: ListenerId, source: Source, now: Time) -> Result<LinkId, DropReason> {
        let listener = self.admit(listener, &source)?;
        let decided = match rules::decide(&listener.rules) {
            Matched::Route(rule, route) => (rule, route),
            Matched::Refused(_) => return Err(DropReason::Refused),
            Matched::NoRule => return Err(DropReason::NoRule),
        };
        let id = listener.id;
        let command = |link| match &source {
            Source::Udp(Downstream { peer, local }) => {
                Some(Command::OpenFlow { link, listener: id, peer: *peer, local: *local })
            }
            Source::UnixDgram(peer) => Some(Command::OpenUnixFlow { link, listener: id, peer: **peer }),
            Source::Stream(_) | Source::Unix => None,
        };
        let (index, link) = self
            .new_session(listener, source.clone(), Codec::Datagram, SessionState::Opening, now)
            .ok_or(DropReason::SessionLimit)?;
        self.commands.extend(command(link));
        if let Some(link) = self.links.get_mut(link) {
            link.phase = Phase::Open;
            link.lossy = true;
            link.paused = Paused::default();
        }
        if let Some(key) = self.session(index).and_then(|session| session.flow_key()) {
            self.flows.insert(key, link);
        }
        self.open_stages(index, decided, now);
        // What could not even be tried is the reason for this datagram; those that follow meet the backoff.
        match self.session(index).and_then(|session| session.failure) {
            Some(reason) => Err(reason),
            None => Ok(link),
        }
    }

    /// A connection was accepted; `None`: refuse it.
    pub fn accepted(&mut self, listener: ListenerId, from: Option<Downstream>, now: Time) -> Option<LinkId> {
        let source = from.map_or(Source::Unix, Source::Stream);
        let listener = self.admit(listener, &source).ok()?;
        let codec = match &listener.protocol {
            ListenerProtocol::Tcp(framing) => stream_codec(*framing),
            ListenerProtocol::WebSocket { payload, .. } => Codec::websocket(Role::Server, payload_type(*payload)),
            ListenerProtocol::Unix(UnixKind::Stream, framing) => stream_codec(*framing),
            ListenerProtocol::Unix(UnixKind::Seqpacket, _) => Codec::Seqpacket,
            ListenerProtocol::Unix(UnixKind::Dgram, _) | ListenerProtocol::Udp { .. } => return None,
        };
        if let ListenerProtocol::WebSocket { .. } = &listener.protocol {
            let (index, link) = self.new_session(listener, source, codec, SessionState::Handshake, now)?;
            if let Some(session) = self.session_mut(index) {
                session.deadline = Some(now + HANDSHAKE_TIMEOUT);
            }
            if let Some(link) = self.links.get_mut(link) {
                link.phase = Phase::Handshake;
                link.paused = Paused::default();
            }
            self.commands.push_back(Command::Resume(link));
            self.schedule(index);
            return Some(link);
        }
        let Matched::Route(rule, route) = rules::decide(&listener.rules) else {
            self.counters.sessions_closed.of_end(EndReason::Refused).add(1);
            return None;
        };
        let (index, link) = self.new_session(listener, source, codec, SessionState::Opening, now)?;
        self.open_stages(index, (rule, route), now);
        Some(link)
    }

    /// Whether a listener takes one more session from this source.
    fn admit(&self, listener: ListenerId, source: &Source) -> Result<Arc<Listener>, DropReason> {
        let listener = self.snapshot.listeners.get(&listener).ok_or(DropReason::Draining)?;
        if self.draining {
            return Err(DropReason::Draining);
        }
        if let (ListenerProtocol::Udp { address, port }, Source::Udp(Downstream { peer, .. })) =
            (&listener.protocol, source)
        {
            let peer = peer.socket_addr();
            if address.is_some_and(|only| only != peer.ip()) || port.is_some_and(|only| only != peer.port()) {
                return Err(DropReason::Filtered);
            }
        }
        let active = listener.counters[self.identity.worker].sessions_active.get();
        if active >= u64::from(listener.sessions_max) {
            return Err(DropReason::SessionLimit);
        }
        Ok(Arc::clone(listener))
    }

    /// A session with its source link and nothing else.
    fn new_session(
        &mut self,
        listener: Arc<Listener>,
        source: Source,
        codec: Codec,
        state: SessionState,
        now: Time,
    ) -> Option<(SessionIndex, LinkId)> {
        let index = SessionIndex(u32::try_from(self.sessions.vacant_key()).ok()?);
        let counters = Arc::clone(&listener.counters[self.identity.worker]);
        let link = self.new_link(index, LinkKind::Socket, codec, counters, now)?;
        if let Some(link) = self.links.get_mut(link) {
            link.in_engine = true;
            link.phase = Phase::Ready;
        }
        let number = self.sequence * self.identity.workers as u64 + self.identity.worker as u64;
        self.sequence += 1;
        listener.counters[self.identity.worker].sessions_opened.add(1);
        listener.counters[self.identity.worker].sessions_active.add(1);
        self.counters.sessions_opened.add(1);
        self.counters.sessions_active.add(1);
        self.sessions.insert(Session {
            number: SessionNumber(number),
            listener,
            source,
            source_link: link,
            state,
            decided: None,
            stages: SmallVec::new(),
            request: None,
            subprotocol: None,
            held: None,
            born: now,
            asked: now,
            deadline: None,
            failure: None,
            close_reply: None,
            half_closed: false,
            left_flow: false,
            judged: self.snapshot.version,
        });
        Some((index, link))
    }

    /// A link outside of any ring.
    pub(crate) fn new_link(
        &mut self,
        session: SessionIndex,
        kind: LinkKind,
        codec: Codec,
        counters: Arc<ScopeCounters>,
        now: Time,
    ) -> Option<LinkId> {
        self.links.insert(|id| Link {
            id,
            next: NOWHERE,
            prev: NOWHERE,
            kind,
            phase: Phase::Opening,
            paused: Paused::until_ring(),
            lossy: false,
            read_ended: false,
            write_ended: false,
            blocked: false,
            in_engine: false,
            session,
            last_seen: now,
            codec,
            counters,
            stash: Vec::new(),
        })
    }

    /// The stage of a link that is being opened, or is open.
    pub(crate) fn stage_of(&self, link: LinkId) -> Option<(SessionIndex, usize)> {
        let index = self.links.get(link).filter(|link| link.phase != Phase::Closing)?.session;
        let stage = self.session(index)?.stage_of(link)?;
        Some((index, stage))
    }

    pub(crate) fn session(&self, index: SessionIndex) -> Option<&Session> {
        self.sessions.get(index.0 as usize)
    }

    pub(crate) fn session_mut(&mut self, index: SessionIndex) -> Option<&mut Session> {
        self.sessions.get_mut(index.0 as usize)
    }

    /// A session and what its route says of failures.
    pub(crate) fn session_and_retry(&self, index: SessionIndex) -> Option<(&Session, Retry)> {
        let session = self.session(index)?;
        let retry = session.decided.as_ref().map(|(_, route)| route.retry.clone()).unwrap_or_default();
        Some((session, retry))
    }
}

/// The codec of a byte stream.
pub(crate) fn stream_codec(framing: Framing) -> Codec {
    match framing {
        Framing::Raw => Codec::Raw,
        Framing::Line => Codec::line(),
        Framing::U16be => Codec::length(Width::U16),
        Framing::U32be => Codec::length(Width::U32),
    }
}

/// What a message without a type is sent as.
pub(crate) fn payload_type(payload: WebSocketPayload) -> PayloadType {
    match payload {
        WebSocketPayload::Binary => PayloadType::Binary,
        WebSocketPayload::Text => PayloadType::Text,
    }
}
