//! A session: its source, its stages, and the deadlines that one timer stands for.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::address::UnixName;
use crate::codec::websocket::handshake::Request;
use crate::counters::{DropReason, ScopeCounters};
use crate::flows::FlowKey;
use crate::held::Held;
use crate::ids::{LinkId, SessionNumber};
use crate::limits::HALF_CLOSED_TIMEOUT;
use crate::snapshot::{Cluster, Endpoint, Listener, Route, Rule};
use crate::time::Time;
use crate::verdict::Downstream;

/// Who opened a session.
#[derive(Clone, Debug)]
pub enum Source {
    /// A UDP peer.
    Udp(Downstream),
    /// An accepted TCP or WebSocket connection.
    Stream(Downstream),
    /// An accepted Unix connection.
    Unix,
    /// A Unix dgram peer.
    UnixDgram(Box<UnixName>),
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// A WebSocket client sends its upgrade request.
    Handshake,
    /// The stages are being opened.
    Opening,
    /// The ring is closed.
    Open,
    /// It could not be opened; its peer's datagrams are dropped until the route's timeout has passed.
    Backoff,
}

impl SessionState {
    /// The name in status, as the original has it.
    pub fn name(self) -> &'static str {
        match self {
            SessionState::Handshake | SessionState::Opening => "INIT",
            SessionState::Open => "CONNECTED",
            SessionState::Backoff => "FINALIZING",
        }
    }
}

/// One hop of a session.
#[derive(Debug)]
pub struct Stage {
    /// As of the snapshot that last judged it.
    pub cluster: Arc<Cluster>,
    /// What its cluster counts, as of its opening.
    pub counters: Arc<ScopeCounters>,
    /// Whom it is connected to; `None` in process, or before an endpoint was found.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Its present link.
    pub link: LinkId,
    /// A link that is being opened to take over, while `link` still serves (draining).
    pub successor: Option<(LinkId, Arc<Endpoint>)>,
    /// The link to the endpoint that it has moved away from, and until when its late answers are heard.
    pub former: Option<(LinkId, Time)>,
    /// How often it was tried again.
    pub attempts: u32,
    /// What it waits for.
    pub waits: StageWait,
    /// When it has to leave its draining endpoint.
    pub move_at: Option<Time>,
    /// When the end of a stream, which its datagram link cannot tell its peer, is passed on.
    pub ends_at: Option<Time>,
    /// When it last lost its endpoint.
    pub lost_at: Option<Time>,
}

/// What a stage waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageWait {
    /// Nothing: it is ready.
    Nothing,
    /// The connection and handshake, until this time.
    Connect(Time),
    /// The next attempt, at this time.
    Retry(Time),
}

/// A session: a ring of links, and what is needed to open and to end it.
#[derive(Debug)]
pub struct Session {
    /// The number at the end of its name.
    pub number: SessionNumber,
    /// As of its opening.
    pub listener: Arc<Listener>,
    /// Who opened it.
    pub source: Source,
    /// The link to the source.
    pub source_link: LinkId,
    /// How far it is.
    pub state: SessionState,
    /// The rule that decided, and its route.
    pub decided: Option<(Arc<Rule>, Arc<Route>)>,
    /// Ingress, destination, egress, in the order of the ring.
    pub stages: SmallVec<[Stage; 1]>,
    /// The client's upgrade request.
    pub request: Option<Box<Request>>,
    /// The subprotocol that was agreed with the client.
    pub subprotocol: Option<Box<str>>,
    /// Messages that wait.
    pub held: Option<Box<Held>>,
    /// When it was made.
    pub born: Time,
    /// When the first message or the whole request was there.
    pub asked: Time,
    /// The handshake's deadline, or the end of the backoff.
    pub deadline: Option<Time>,
    /// Why it could not be opened.
    pub failure: Option<DropReason>,
    /// A client's Close that is answered when the end has come around.
    pub close_reply: Option<Vec<u8>>,
    /// The source was told that nothing more comes, and may still speak.
    pub half_closed: bool,
    /// A stage has ended the ring: the next datagram of its peer opens another session.
    pub left_flow: bool,
    /// Which snapshot it was last judged by.
    pub judged: u64,
}

impl Session {
    /// The name, as the original has it: `UDP:peer-local-number`, `UNIX:listener-number`.
    pub fn name(&self) -> String {
        let protocol = self.listener.protocol.name();
        match &self.source {
            Source::Udp(downstream) | Source::Stream(downstream) => format!(
                "{protocol}:{}-{}-{}",
                downstream.peer.socket_addr(),
                downstream.local.socket_addr(),
                self.number.0
            ),
            Source::Unix | Source::UnixDgram(_) => format!("UNIX:{}-{}", self.listener.name, self.number.0),
        }
    }

    /// Its entry among the flows, if it has one.
    pub fn flow_key(&self) -> Option<FlowKey> {
        if self.left_flow {
            return None;
        }
        match &self.source {
            Source::Udp(Downstream { peer, local }) => Some(FlowKey::Udp(self.listener.id, *local, *peer)),
            Source::UnixDgram(name) => Some(FlowKey::Unix(self.listener.id, **name)),
            Source::Stream(_) | Source::Unix => None,
        }
    }

    /// Whether every stage is ready.
    pub fn ready(&self) -> bool {
        self.stages.iter().all(|stage| stage.waits == StageWait::Nothing)
    }

    /// Which stage a link belongs to, as its present link or as its successor.
    pub fn stage_of(&self, link: LinkId) -> Option<usize> {
        self.stages.iter().position(|stage| {
            stage.link == link || stage.successor.as_ref().is_some_and(|(successor, _)| *successor == link)
        })
    }

    /// The earliest time at which something is due, given when a message last passed.
    pub fn next_deadline(&self, last_seen: Time) -> Option<Time> {
        let stages = self.stages.iter().flat_map(|stage| {
            let waits = match stage.waits {
                StageWait::Nothing => None,
                StageWait::Connect(at) | StageWait::Retry(at) => Some(at),
            };
            [waits, stage.move_at, stage.ends_at, stage.former.map(|(_, until)| until)]
        });
        let idle = self.idle_timeout().map(|timeout| last_seen + timeout);
        stages.flatten().chain(self.deadline).chain(idle).min()
    }

    /// After how long without a message it ends. Only an open session is idle.
    pub fn idle_timeout(&self) -> Option<Duration> {
        match self.state {
            SessionState::Open if self.half_closed => {
                Some(self.listener.idle_timeout.map_or(HALF_CLOSED_TIMEOUT, |idle| idle.min(HALF_CLOSED_TIMEOUT)))
            }
            SessionState::Open => self.listener.idle_timeout,
            SessionState::Handshake | SessionState::Opening | SessionState::Backoff => None,
        }
    }
}
