//! The configuration document: the whole desired state of one proxy, as typed values.
//!
//! A document is read by `Config::read`, which reports every error at once, and written by serde
//! in one canonical spelling (`spec: {UDP: {...}}`, durations as strings).

use std::net::IpAddr;
use std::time::Duration;

/// The whole desired state of one proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Where sessions enter.
    pub listeners: Vec<Listener>,
    /// Where messages can be sent.
    pub clusters: Vec<Cluster>,
    /// Named chains of clusters.
    pub routes: Vec<Route>,
    /// Named rules, usable in any rule list.
    pub rules: Vec<Rule>,
    /// Named, ordered lists of rules.
    pub rulelists: Vec<RuleList>,
    /// Settings of the proxy itself.
    pub admin: Admin,
}

/// Settings of the proxy itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admin {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Option<String>,
}

/// A named object where it is used: by its name, or written inline.
#[derive(Clone, Debug, PartialEq)]
pub enum Ref<T> {
    /// The name of an object of the document.
    Name(String),
    /// The object itself.
    Inline(Box<T>),
}

/// Where sessions enter.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique among listeners.
    pub name: String,
    /// Protocol and address.
    pub spec: ListenerSpec,
    /// What decides the route of a session.
    pub rules: Rules,
    /// Limits and modes.
    pub options: ListenerOptions,
}

/// The rules of a listener, or those that an action jumps to.
#[derive(Clone, Debug, PartialEq)]
pub enum Rules {
    /// The name of a rule list.
    List(String),
    /// The rules themselves, first match wins.
    Inline(Vec<Ref<Rule>>),
}

/// Limits and modes of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerOptions {
    /// UDP only: `None` is singleton when `connect` names address and port, else server.
    pub mode: Option<ListenerMode>,
    /// A session without a message for this long ends. `None`: 60 s for UDP and Unix dgram, never for the others.
    pub idle_timeout: Option<Duration>,
    /// At most this many sessions at once, divided among the workers.
    pub max_sessions: Option<u32>,
    /// Whether the sessions end when the listener leaves the document (default true).
    pub remove_orphan_sessions: bool,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        ListenerOptions { mode: None, idle_timeout: None, max_sessions: None, remove_orphan_sessions: true }
    }
}

/// How a UDP listener takes peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerMode {
    /// One session per peer.
    Server,
    /// One session, with the peer that `connect` names.
    Singleton,
}

/// Protocol and address of a listener.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerSpec {
    /// Datagrams, one session per peer.
    Udp(UdpListener),
    /// Byte streams.
    Tcp(TcpListener),
    /// RFC 6455 server.
    WebSocket(WebSocketListener),
    /// Local sockets.
    UnixDomainSocket(UnixListener),
}

/// `UDP: {port, address, connect, gro}`
#[derive(Clone, Debug, PartialEq)]
pub struct UdpListener {
    /// 1..=65535; 0 lets the kernel choose (shown by the admin API).
    pub port: u16,
    /// `None`: the proxy's `--bind`, by default every address.
    pub address: Option<IpAddr>,
    /// Only datagrams from this address and/or port are taken.
    pub connect: Option<Connect>,
    /// Receive trains of datagrams in one buffer (default true).
    pub gro: bool,
}

/// The one peer of a UDP listener.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connect {
    /// `None`: any.
    pub address: Option<IpAddr>,
    /// `None`: any.
    pub port: Option<u16>,
}

/// `TCP: {port, address, framing}`
#[derive(Clone, Debug, PartialEq)]
pub struct TcpListener {
    /// See [`UdpListener::port`].
    pub port: u16,
    /// See [`UdpListener::address`].
    pub address: Option<IpAddr>,
    /// How messages lie in the byte stream.
    pub framing: Framing,
}

/// `WebSocket: {port, address, path, subprotocols, payload}`
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocketListener {
    /// See [`UdpListener::port`].
    pub port: u16,
    /// See [`UdpListener::address`].
    pub address: Option<IpAddr>,
    /// The only path that is upgraded (others get 404); `None`: any.
    pub path: Option<String>,
    /// Those that are spoken here: the first that the client offers is taken. Empty: the client's first.
    pub subprotocols: Vec<String>,
    /// The type of messages whose source knows none.
    pub payload: WebSocketPayload,
}

/// The type of a WebSocket message that comes from a protocol without types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebSocketPayload {
    /// Opcode 2 (the default).
    #[default]
    Binary,
    /// Opcode 1; a message that is not UTF-8 is dropped as `not_utf8`.
    Text,
}

/// `UnixDomainSocket: {filename, type, mode, framing}`
#[derive(Clone, Debug, PartialEq)]
pub struct UnixListener {
    /// Path of the socket file.
    pub filename: String,
    /// Kind of socket.
    pub kind: UnixKind,
    /// Permission bits of the socket file, e.g. `0o660`. Written as an octal string in documents.
    pub mode: Option<u32>,
    /// How messages lie in the byte stream (stream sockets).
    pub framing: Framing,
}

/// Kind of a Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UnixKind {
    /// Byte stream (the default, as in the original).
    #[default]
    Stream,
    /// Connected, keeps message boundaries.
    Seqpacket,
    /// Datagrams.
    Dgram,
}

/// How messages lie in a byte stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Each read is a message; boundaries may be lost.
    #[default]
    Raw,
    /// A message ends with a newline, which is not part of it.
    Line,
    /// A 16-bit big-endian length stands before each message.
    U16be,
    /// A 32-bit big-endian length stands before each message.
    U32be,
}

/// Where messages can be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Unique among clusters.
    pub name: String,
    /// Protocol.
    pub spec: ClusterSpec,
    /// Who serves it. Empty is legal: opening fails as `no_endpoint`.
    pub endpoints: Vec<Endpoint>,
    /// How a session gets its endpoint.
    pub loadbalancer: LoadBalancer,
    /// How long sessions may stay on a draining endpoint; `None`: until they end.
    pub drain_timeout: Option<Duration>,
}

/// Protocol of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterSpec {
    /// One connected socket per session.
    Udp(UdpCluster),
    /// One connection per session.
    Tcp(TcpCluster),
    /// RFC 6455 client, one connection per session.
    WebSocket(WebSocketCluster),
    /// Local sockets.
    UnixDomainSocket(UnixCluster),
    /// Sends each message back.
    Echo,
    /// Swallows each message.
    Discard,
}

/// `UDP: {port, bind, gro}`
#[derive(Clone, Debug, PartialEq)]
pub struct UdpCluster {
    /// Used for endpoints that name none.
    pub port: Option<u16>,
    /// Source addresses, taken in turn, and source port.
    pub bind: Option<Bind>,
    /// Receive trains of datagrams in one buffer (default true).
    pub gro: bool,
}

/// The local side of a cluster's sockets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bind {
    /// Source addresses, taken in turn; empty: the kernel's choice.
    pub addresses: Vec<IpAddr>,
    /// Source port; 0: the kernel's choice. A fixed one serves one UDP session at a time and source address.
    pub port: u16,
}

/// `TCP: {port, bind, framing}`
#[derive(Clone, Debug, PartialEq)]
pub struct TcpCluster {
    /// Used for endpoints that name none.
    pub port: Option<u16>,
    /// Source addresses, taken in turn, and source port.
    pub bind: Option<Bind>,
    /// How messages lie in the byte stream.
    pub framing: Framing,
}

/// `WebSocket: {port, path, host, subprotocol, payload}`
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocketCluster {
    /// Used for endpoints that name none.
    pub port: Option<u16>,
    /// Request path; `None`: the client's own, else `/`.
    pub path: Option<String>,
    /// `Host` header; `None`: the endpoint's address and port.
    pub host: Option<String>,
    /// `Sec-WebSocket-Protocol`; `None`: the client's own, if any.
    pub subprotocol: Option<String>,
    /// The type of messages whose source knows none.
    pub payload: WebSocketPayload,
}

/// `UnixDomainSocket: {filename, type, framing}`
#[derive(Clone, Debug, PartialEq)]
pub struct UnixCluster {
    /// Used for endpoints that name none.
    pub filename: Option<String>,
    /// Kind of socket.
    pub kind: UnixKind,
    /// How messages lie in the byte stream (stream sockets).
    pub framing: Framing,
}

/// One server of a cluster: `{name, spec: {address | filename, port, weight}, ready, draining}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// For status and messages; not part of its identity.
    pub name: Option<String>,
    /// Where it listens.
    pub at: EndpointAt,
    /// Relative share of the sessions, 1..=1000 (default 1).
    pub weight: u32,
    /// Takes new sessions (default); if not, it keeps its own, for as long as they like.
    pub ready: bool,
    /// Is going away: takes no new sessions, keeps its own for the cluster's `drain_timeout`.
    pub draining: bool,
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointAt {
    /// An IP address or DNS name, and a port that beats the cluster's.
    Address {
        /// IP address or DNS name.
        address: String,
        /// `None`: the cluster's port.
        port: Option<u16>,
    },
    /// The path of a Unix socket.
    Filename(String),
}

/// How a session gets its endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadBalancer {
    /// The policy.
    pub policy: Policy,
    /// Path into the session's metadata (`/HTTP/headers/x-user`); `None`: source address and port.
    pub key: Option<String>,
    /// Slots of the Maglev table, a prime; `None`: 65,537.
    pub table_size: Option<u32>,
}

/// A load-balancing policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Maglev; `HashRing` is another name for it, as in the original.
    ConsistentHash,
    /// The same as `ConsistentHash`.
    HashRing,
    /// Each new session gets the next endpoint (per worker).
    RoundRobin,
    /// The first endpoint (the default, as in the original).
    #[default]
    Trivial,
}

/// A chain of clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique among routes; empty for an inline route.
    pub name: String,
    /// Where the chain ends.
    pub destination: Ref<Cluster>,
    /// Clusters that a message passes on its way to the destination.
    pub ingress: Vec<Ref<Cluster>>,
    /// Clusters that an answer passes on its way back.
    pub egress: Vec<Ref<Cluster>>,
    /// What happens when a stage fails.
    pub retry: Retry,
}

/// What happens when a stage fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Which failures are tried again.
    pub retry_on: RetryOn,
    /// How often, per stage.
    pub num_retries: u32,
    /// Connect timeout, and the wait between attempts.
    pub timeout: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { retry_on: RetryOn::Never, num_retries: 1, timeout: Duration::from_millis(2000) }
    }
}

/// Which failures are tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryOn {
    /// None.
    #[default]
    Never,
    /// A connection that could not be made.
    ConnectFailure,
    /// A connection that broke.
    Disconnect,
    /// Both.
    Always,
}

/// An ordered list of rules.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleList {
    /// Unique among rule lists.
    pub name: String,
    /// First match wins.
    pub rules: Vec<Ref<Rule>>,
}

/// A condition and what to do when it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique among rules; empty for an inline rule.
    pub name: String,
    /// Kept as written; only the wildcard (absent, or any string) is supported yet.
    pub matches: Option<serde_json::Value>,
    /// What to do.
    pub action: Action,
}

/// What a rule does with a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Action {
    /// Changes to the metadata, in order, before the route.
    pub rewrite: Vec<Rewrite>,
    /// Exactly one of `route`, `apply` and `refuse`.
    pub target: ActionTarget,
}

/// Where a rule sends a session.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionTarget {
    /// Opens this route.
    Route(Ref<Route>),
    /// Jumps to another rule list, whose result is final.
    Apply(String),
    /// Opens nothing, and counts `refused`; the reason is for status and logs.
    Refuse(String),
}

impl Default for ActionTarget {
    fn default() -> Self {
        ActionTarget::Refuse(String::new())
    }
}

/// A change to a session's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// `/HTTP/headers/x-user`; leading and trailing slash optional.
    pub path: String,
    /// A constant. `valueStr` in documents is a string constant.
    pub value: serde_json::Value,
}

impl ListenerSpec {
    /// The protocol as documents name it.
    pub fn protocol(&self) -> &'static str {
        match self {
            ListenerSpec::Udp(_) => "UDP",
            ListenerSpec::Tcp(_) => "TCP",
            ListenerSpec::WebSocket(_) => "WebSocket",
            ListenerSpec::UnixDomainSocket(_) => "UnixDomainSocket",
        }
    }
}

impl ClusterSpec {
    /// The protocol as documents name it.
    pub fn protocol(&self) -> &'static str {
        match self {
            ClusterSpec::Udp(_) => "UDP",
            ClusterSpec::Tcp(_) => "TCP",
            ClusterSpec::WebSocket(_) => "WebSocket",
            ClusterSpec::UnixDomainSocket(_) => "UnixDomainSocket",
            ClusterSpec::Echo => "Echo",
            ClusterSpec::Discard => "Discard",
        }
    }

    /// The port of endpoints that name none.
    pub fn port(&self) -> Option<u16> {
        match self {
            ClusterSpec::Udp(udp) => udp.port,
            ClusterSpec::Tcp(tcp) => tcp.port,
            ClusterSpec::WebSocket(websocket) => websocket.port,
            ClusterSpec::UnixDomainSocket(_) | ClusterSpec::Echo | ClusterSpec::Discard => None,
        }
    }
}
