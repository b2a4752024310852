//! Target: where messages can be sent.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::duration::Millis;
use crate::meta::Resource;
use crate::selector::Selector;
use crate::stream::{Framing, Payload, UnixType};

/// A cluster of endpoints, known to the pods that its selector picks.
pub type Target = Resource<TargetSpec>;

/// The desired state of a [`Target`]: a `cluster`, or a `linkedVirtualService`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetSpec {
    /// The pods whose proxies may use it; absent: wherever it is referenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// A VirtualService whose protocol and port are dialled on the pods that it selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_virtual_service: Option<String>,
    /// Accepted as the original had it; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_owners: Option<bool>,
}

/// Protocol, endpoints and balancing; also the shape of an inline destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cluster {
    /// For people; proxies know the cluster by its object's namespace and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Protocol.
    pub spec: ClusterSpec,
    /// Who serves it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ClusterEndpoint>,
    /// How a session gets its endpoint.
    #[serde(default)]
    pub loadbalancer: LoadBalancer,
    /// How long sessions may stay on an endpoint that is terminating; absent: until they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Millis>,
}

/// Protocol of a cluster: exactly one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClusterSpec {
    /// One connected socket per session.
    #[serde(rename = "UDP")]
    Udp(UdpCluster),
    /// One connection per session.
    #[serde(rename = "TCP")]
    Tcp(TcpCluster),
    /// WebSocket client, one connection per session.
    WebSocket(WebSocketCluster),
    /// Local sockets.
    UnixDomainSocket(UnixCluster),
    /// Sends each message back.
    Echo(Nothing),
    /// Swallows each message.
    Discard(Nothing),
}

/// `{}`: a protocol without settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// `UDP: {port, bind, gro}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpCluster {
    /// For endpoints that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Source addresses, taken in turn, and source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// Receive trains of datagrams in one buffer (default true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gro: Option<bool>,
}

/// `TCP: {port, bind, framing}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpCluster {
    /// For endpoints that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Source addresses, taken in turn, and source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// How messages lie in the byte stream.
    #[serde(default)]
    pub framing: Framing,
}

/// The local side of a cluster's sockets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// One address or several, taken in turn; absent: the kernel's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<OneOrMany>,
    /// Source port; 0: the kernel's choice.
    #[serde(default)]
    pub port: u16,
}

/// One address, or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "an IP address or a list of IP addresses")]
pub enum OneOrMany {
    /// As in the original.
    One(IpAddr),
    /// Several.
    Many(Vec<IpAddr>),
}

/// `WebSocket: {port, path, host, subprotocol, payload}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebSocketCluster {
    /// For endpoints that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Request path; absent: the client's own, else `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Host` header; absent: the endpoint's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `Sec-WebSocket-Protocol`; absent: the client's own, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subprotocol: Option<String>,
    /// The type of messages whose source knows none.
    #[serde(default)]
    pub payload: Payload,
}

/// `UnixDomainSocket: {filename, type, framing}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnixCluster {
    /// For endpoints that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Kind of socket.
    #[serde(default, rename = "type")]
    pub kind: UnixType,
    /// How messages lie in the byte stream (stream sockets).
    #[serde(default)]
    pub framing: Framing,
}

/// Who serves a cluster: one fixed endpoint (`spec`) or the pods of a `selector`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterEndpoint {
    /// For status and messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A fixed endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<EndpointSpec>,
    /// Ready pods with an address; terminating ones are draining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// A fixed endpoint: an `address`, or the `filename` of a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// IP address or DNS name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Path of a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Beats the cluster's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Relative share of the sessions, 1 to 1000 (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// How a session gets its endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// The policy.
    #[serde(default)]
    pub policy: Policy,
    /// Path into the session's metadata; absent: source address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Slots of the consistent-hashing table, a prime (default 65,537).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_size: Option<u32>,
}

/// A load-balancing policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The same key goes to the same endpoint.
    ConsistentHash,
    /// The same as `ConsistentHash`.
    HashRing,
    /// Each new session gets the next endpoint.
    RoundRobin,
    /// The first endpoint (the default, as in the original).
    #[default]
    Trivial,
}
