//! VirtualService: where sessions enter, and on which pods.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::duration::Millis;
use crate::meta::Resource;
use crate::rule::InlineRule;
use crate::selector::Selector;
use crate::stream::{Framing, Payload, UnixType};

/// A listener on the pods that its selector picks.
pub type VirtualService = Resource<VirtualServiceSpec>;

/// The desired state of a [`VirtualService`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// The pods whose proxies get the listener. Needed; `{}` is every pod of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The listener.
    pub listener: Listener,
    /// Accepted as the original had it; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_owners: Option<bool>,
}

/// Where sessions enter, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Listener {
    /// For people; proxies know the listener by the object's namespace and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Protocol and address.
    pub spec: ListenerSpec,
    /// Rules, first match wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<InlineRule>,
    /// The name of a rule list (the `spec.rulelist` of the namespace's Rules); asked after `rules`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules_ref: Option<String>,
    /// Limits and modes.
    #[serde(default)]
    pub options: ListenerOptions,
}

/// Limits and modes of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListenerOptions {
    /// UDP only. Absent: `singleton` when `connect` names address and port, else `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ListenerMode>,
    /// A session without a message for this long ends. Absent: 60 s for UDP and Unix dgram, never for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Millis>,
    /// At most this many sessions at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// Whether live sessions end when the listener goes away (default true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_orphan_sessions: Option<bool>,
}

/// How a UDP listener takes peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerMode {
    /// One session per peer.
    Server,
    /// One session, with the peer that `connect` names.
    Singleton,
}

/// Protocol and address of a listener: exactly one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpListener {
    /// 1 to 65535; 0 lets the kernel choose.
    pub port: u16,
    /// Absent: the proxy's default, usually every address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Only datagrams from this address and/or port are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
    /// Receive trains of datagrams in one buffer (default true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gro: Option<bool>,
}

/// The one peer of a UDP listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// `TCP: {port, address, framing}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpListener {
    /// 1 to 65535; 0 lets the kernel choose.
    pub port: u16,
    /// Absent: the proxy's default, usually every address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// How messages lie in the byte stream.
    #[serde(default)]
    pub framing: Framing,
}

/// `WebSocket: {port, address, path, subprotocols, payload}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebSocketListener {
    /// 1 to 65535; 0 lets the kernel choose.
    pub port: u16,
    /// Absent: the proxy's default, usually every address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The only path that is served (others get 404); absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// In order of preference; empty: the client's first is taken over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subprotocols: Vec<String>,
    /// The type of messages whose source knows none.
    #[serde(default)]
    pub payload: Payload,
}

/// `UnixDomainSocket: {filename, type, mode, framing}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnixListener {
    /// Path of the socket file.
    pub filename: String,
    /// Kind of socket.
    #[serde(default, rename = "type")]
    pub kind: UnixType,
    /// Permissions of the socket file, an octal string such as `"0660"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// How messages lie in the byte stream (stream sockets).
    #[serde(default)]
    pub framing: Framing,
}
