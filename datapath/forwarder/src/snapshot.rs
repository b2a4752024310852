//! A configuration as the opening path reads it: resolved, balanced, shared by all workers.
//!
//! A snapshot never changes. Parts that a new configuration leaves as they were are the same `Arc`s in
//! the next snapshot, so that "unchanged" is a comparison of pointers.

pub mod compile;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use l7mp_api::config::{Bind, Framing, Retry, Rewrite, UnixKind, WebSocketPayload};

use crate::address::EndpointAddr;
use crate::balance::{Balancer, Standing};
use crate::counters::{Counter, ScopeCounters};
use crate::ids::ListenerId;

/// One adopted configuration.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts configurations, from 1; 0 is the empty one at start.
    pub version: u64,
    /// By the identity of their sockets.
    pub listeners: HashMap<ListenerId, Arc<Listener>>,
    /// By name; inline clusters by the place where they stand, `listeners["in"].rules[0].action.route.destination`.
    pub clusters: HashMap<Arc<str>, Arc<Cluster>>,
}

/// Where sessions enter.
#[derive(Debug)]
pub struct Listener {
    /// The identity of its sockets.
    pub id: ListenerId,
    /// Its name in the document.
    pub name: Arc<str>,
    /// What its peers speak.
    pub protocol: ListenerProtocol,
    /// What decides the route of a session.
    pub rules: Arc<RuleList>,
    /// A session without a message for this long ends.
    pub idle_timeout: Option<Duration>,
    /// At most this many sessions per worker.
    pub sessions_max: u32,
    /// Whether its sessions end when it leaves the document.
    pub remove_orphan_sessions: bool,
    /// One per worker.
    pub counters: Vec<Arc<ScopeCounters>>,
}

/// What the peers of a listener speak.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerProtocol {
    /// Datagrams, one session per peer; only from this address and port, if any.
    Udp {
        /// The only address that is served.
        address: Option<IpAddr>,
        /// The only port that is served.
        port: Option<u16>,
    },
    /// A byte stream.
    Tcp(Framing),
    /// RFC 6455 server.
    WebSocket {
        /// The only path that is upgraded.
        path: Option<String>,
        /// Offered in this order of preference.
        subprotocols: Vec<String>,
        /// The type of messages whose source knows none.
        payload: WebSocketPayload,
    },
    /// A Unix socket.
    Unix(UnixKind, Framing),
}

/// An ordered list of rules.
#[derive(Debug, Default)]
pub struct RuleList {
    /// First match wins.
    pub rules: Vec<Arc<Rule>>,
}

/// A rule: in this version each matches every session.
#[derive(Debug)]
pub struct Rule {
    /// Changes to the metadata, in order.
    pub rewrite: Vec<Rewrite>,
    /// Where the session goes.
    pub target: RuleTarget,
}

/// Where a rule sends a session.
#[derive(Debug)]
pub enum RuleTarget {
    /// Opens this route.
    Route(Arc<Route>),
    /// Goes on with another list, whose result is final.
    Apply(Arc<RuleList>),
    /// Opens nothing.
    Refuse(Arc<str>),
}

/// A chain of clusters.
#[derive(Debug)]
pub struct Route {
    /// In the order of the ring: ingress, destination, egress.
    pub stages: Vec<Arc<Cluster>>,
    /// Which of them is the destination.
    pub destination: usize,
    /// What happens when a stage fails.
    pub retry: Retry,
}

/// Where messages can be sent.
#[derive(Debug)]
pub struct Cluster {
    /// Its name, see [`Snapshot::clusters`].
    pub name: Arc<str>,
    /// What its endpoints speak.
    pub protocol: ClusterProtocol,
    /// Who serves it, with every address of a DNS name.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Chooses among them.
    pub balancer: Balancer,
    /// Path of the balancing key in the metadata; `None`: source address and port.
    pub key: Option<String>,
    /// How long sessions may stay on a draining endpoint.
    pub drain_timeout: Option<Duration>,
    /// One per worker.
    pub counters: Vec<Arc<ScopeCounters>>,
    /// The next turn of a round robin, one per worker.
    pub turns: Vec<Counter>,
}

/// What the endpoints of a cluster speak.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterProtocol {
    /// Datagrams.
    Udp {
        /// Source addresses and port.
        bind: Bind,
        /// Receive trains.
        gro: bool,
    },
    /// A byte stream.
    Tcp {
        /// Source addresses and port.
        bind: Bind,
        /// How messages lie in it.
        framing: Framing,
    },
    /// RFC 6455 client.
    WebSocket {
        /// Request path.
        path: Option<String>,
        /// `Host` header.
        host: Option<String>,
        /// Subprotocol to offer.
        subprotocol: Option<String>,
        /// The type of messages whose source knows none.
        payload: WebSocketPayload,
    },
    /// A Unix socket.
    Unix(UnixKind, Framing),
    /// In process: sends each message back.
    Echo,
    /// In process: swallows each message.
    Discard,
}

impl ClusterProtocol {
    /// The name in documents and status.
    pub fn name(&self) -> &'static str {
        match self {
            ClusterProtocol::Udp { .. } => "UDP",
            ClusterProtocol::Tcp { .. } => "TCP",
            ClusterProtocol::WebSocket { .. } => "WebSocket",
            ClusterProtocol::Unix(..) => "UnixDomainSocket",
            ClusterProtocol::Echo => "Echo",
            ClusterProtocol::Discard => "Discard",
        }
    }
}

impl ListenerProtocol {
    /// The name in documents and status.
    pub fn name(&self) -> &'static str {
        match self {
            ListenerProtocol::Udp { .. } => "UDP",
            ListenerProtocol::Tcp(_) => "TCP",
            ListenerProtocol::WebSocket { .. } => "WebSocket",
            ListenerProtocol::Unix(..) => "UnixDomainSocket",
        }
    }
}

/// One server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity.
    pub address: EndpointAddr,
    /// For status.
    pub name: Option<String>,
    /// Relative share of the sessions.
    pub weight: u32,
    /// Who goes first when a session is balanced.
    pub standing: Standing,
}

impl Cluster {
    /// Whether messages stay in this process.
    pub fn in_process(&self) -> bool {
        matches!(self.protocol, ClusterProtocol::Echo | ClusterProtocol::Discard)
    }

    /// The endpoint of an identity.
    pub fn endpoint(&self, address: &EndpointAddr) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.address == *address)
    }
}
