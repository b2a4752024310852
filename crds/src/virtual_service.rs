//! VirtualService: where sessions enter, and on which pods.

use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Millis;
use crate::meta::Resource;
use crate::rule::InlineRule;
use crate::rules;
use crate::selector::Selector;
use crate::status::Status;
use crate::stream::{Framing, Payload, UnixType};

/// A listener on the pods that its selector picks.
pub type VirtualService = Resource<VirtualServiceSpec>;

/// The desired state of a VirtualService.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::virtual_service()))]
#[kube(
    group = "l7mp.io",
    version = "v1",
    kind = "VirtualService",
    root = "VirtualServiceKind",
    plural = "virtualservices",
    shortname = "vsvc",
    namespaced,
    category = "l7mp",
    status = "Status",
    derive = "PartialEq",
    doc = "A listener on the pods that its selector picks: where sessions enter, and what becomes of them.",
    printcolumn(name = "Protocol", type_ = "string", json_path = ".status.protocol"),
    printcolumn(name = "Port", type_ = "integer", json_path = ".status.port"),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        json_path = ".status.pods",
        description = "Pods with a proxy that it is for"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "integer",
        json_path = ".status.programmed",
        description = "Those that run this generation"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct VirtualServiceSpec {
    /// The pods whose proxies get the listener. Needed; `{}` is every pod of the namespace with a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The listener: its protocol and port, and the rules for its sessions.
    pub listener: Listener,
    /// Accepted as the original had it; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_owners: Option<bool>,
}

/// Where sessions enter, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::listener()))]
pub struct Listener {
    /// For people; proxies know the listener by the namespace and name of its object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Protocol and address: exactly one of `UDP`, `TCP`, `WebSocket` and `UnixDomainSocket`, such as `{UDP: {port:
    /// 9001}}`.
    pub spec: ListenerSpec,
    /// What becomes of a session: the first rule that matches decides; at most 64, longer lists are Rules
    /// (`rulesRef`). A session that none matches is refused. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<InlineRule>,
    /// The name of a rule list (`spec.rulelist` of the Rules of the namespace), asked after `rules`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::list_name()))]
    pub rules_ref: Option<String>,
    /// Limits and modes; each has a default.
    #[serde(default)]
    pub options: ListenerOptions,
}

/// Limits and modes of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListenerOptions {
    /// How a UDP listener takes peers: `server` (one session per peer) or `singleton` (one session, with the peer
    /// that `connect` names). Default: `singleton` when `connect` names address and port, else `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ListenerMode>,
    /// A session without a message for this long ends: milliseconds, or a text with its unit (`500ms`, `60s`,
    /// `5m`); at most `24h`. Default: 60s for UDP and for Unix sockets of type `dgram`, never for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::duration("24h")))]
    pub idle_timeout: Option<Millis>,
    /// At most this many sessions at once on each pod; more are refused. Default: only the proxy's own limits hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_sessions: Option<u32>,
    /// Whether live sessions end when the listener goes away. Default: true; with false they finish first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_orphan_sessions: Option<bool>,
}

/// How a UDP listener takes peers: `server` (one session per peer; the default) or `singleton` (one session, with the
/// peer that `connect` names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerMode {
    /// One session per peer.
    Server,
    /// One session, with the peer that `connect` names.
    Singleton,
}

/// Protocol and address of a listener: exactly one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules::listener_spec()))]
pub enum ListenerSpec {
    /// Datagrams, one session per peer.
    #[serde(rename = "UDP")]
    Udp(UdpListener),
    /// Byte streams.
    #[serde(rename = "TCP")]
    Tcp(TcpListener),
    /// WebSocket server.
    WebSocket(WebSocketListener),
    /// Local sockets.
    UnixDomainSocket(UnixListener),
}

/// `UDP: {port, address, connect, gro}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UdpListener {
    /// The port, 1 to 65535; 0 lets the kernel choose.
    #[schemars(range(max = 65535))]
    pub port: u16,
    /// The address to listen on. Default: that of the proxy, usually every address of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = rules::ip()))]
    pub address: Option<IpAddr>,
    /// Only datagrams from this address, port, or both are taken. Default: from anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
    /// Whether trains of datagrams are received in one buffer, which is faster. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gro: Option<bool>,
}

/// The one peer of a UDP listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::connect()))]
pub struct Connect {
    /// The peer's IP address. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = rules::ip()))]
    pub address: Option<IpAddr>,
    /// The peer's port, 1 to 65535. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// `TCP: {port, address, framing}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpListener {
    /// The port, 1 to 65535; 0 lets the kernel choose.
    #[schemars(range(max = 65535))]
    pub port: u16,
    /// The address to listen on. Default: that of the proxy, usually every address of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = rules::ip()))]
    pub address: Option<IpAddr>,
    /// How messages lie in the byte stream: `raw` (each read is a message, the default), `line` (a newline ends
    /// each), `u16be` or `u32be` (a length of 2 or 4 bytes, big-endian, stands before each).
    #[serde(default)]
    pub framing: Framing,
}

/// `WebSocket: {port, address, path, subprotocols, payload}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebSocketListener {
    /// The port, 1 to 65535; 0 lets the kernel choose.
    #[schemars(range(max = 65535))]
    pub port: u16,
    /// The address to listen on. Default: that of the proxy, usually every address of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = rules::ip()))]
    pub address: Option<IpAddr>,
    /// The only path that is served, from `/` on; requests of others get a 404. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::url_path()))]
    pub path: Option<String>,
    /// The subprotocols that are agreed to, in order of preference; at most 32. Default: the client's first is
    /// taken over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128), pattern(r"^[-A-Za-z0-9!#$%&'*+.^_`|~]+$")))]
    pub subprotocols: Vec<String>,
    /// The type of messages that come from a protocol without types: `binary` (the default) or `text` (a message
    /// that is not UTF-8 is dropped).
    #[serde(default)]
    pub payload: Payload,
}

/// `UnixDomainSocket: {filename, type, mode, framing}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::unix_socket()))]
pub struct UnixListener {
    /// The path of the socket file, which is created; from `/` on, at most 107 bytes.
    #[schemars(length(max = 107), extend("x-kubernetes-validations" = rules::filename()))]
    pub filename: String,
    /// Kind of socket: `stream` (the default), `seqpacket` (connected, keeps the boundaries of messages) or `dgram`
    /// (datagrams).
    #[serde(default, rename = "type")]
    pub kind: UnixType,
    /// Permissions of the socket file, an octal text in quotes such as `"0660"`. Default: what the proxy's umask
    /// leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), extend("x-kubernetes-validations" = rules::mode()))]
    pub mode: Option<String>,
    /// How messages lie in the byte stream: `raw` (each read is a message, the default), `line` (a newline ends
    /// each), `u16be` or `u32be` (a length of 2 or 4 bytes, big-endian, stands before each). For sockets of type
    /// `stream` only.
    #[serde(default)]
    pub framing: Framing,
}
