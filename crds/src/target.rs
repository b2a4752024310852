//! Target: where messages can be sent.

use std::net::IpAddr;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::duration::Millis;
use crate::meta::Resource;
use crate::rules;
use crate::selector::Selector;
use crate::status::Status;
use crate::stream::{Framing, Payload, UnixType};

/// A cluster of endpoints, known to the pods that its selector picks.
pub type Target = Resource<TargetSpec>;

/// The desired state of a Target: a `cluster`, or a `linkedVirtualService`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::target()))]
#[kube(
    group = "l7mp.io",
    version = "v1",
    kind = "Target",
    root = "TargetKind",
    plural = "targets",
    shortname = "tr",
    namespaced,
    category = "l7mp",
    status = "Status",
    derive = "PartialEq",
    doc = "A cluster of endpoints that sessions may be sent to: its protocol, who serves it, and how sessions are spread. \
           Routes name it as destinationRef or clusterRef.",
    printcolumn(name = "Protocol", type_ = "string", json_path = ".status.protocol"),
    printcolumn(name = "Port", type_ = "integer", json_path = ".status.port"),
    printcolumn(
        name = "Endpoints",
        type_ = "integer",
        json_path = ".status.endpoints",
        description = "Pods and fixed endpoints that take sessions"
    ),
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
pub struct TargetSpec {
    /// The pods whose proxies may use it. `{}`: every pod of the namespace with a proxy. Default: wherever it is
    /// referenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The cluster: protocol, endpoints, balancing. This or `linkedVirtualService`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// A VirtualService, by reference: its protocol and port are dialled on the pods that it selects. `NAME`,
    /// `NAMESPACE/NAME`, `/l7mp.io/v1/VirtualService/NAMESPACE/NAME` or
    /// `/apis/l7mp.io/v1/namespaces/NAMESPACE/virtualservices/NAME`. This or `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384), extend("x-kubernetes-validations" = rules::virtual_service_ref()))]
    pub linked_virtual_service: Option<String>,
    /// Accepted as the original had it; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_owners: Option<bool>,
}

/// Protocol, endpoints and balancing; also the shape of an inline destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::cluster()))]
pub struct Cluster {
    /// For people; proxies know the cluster by the namespace and name of its object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// The protocol: exactly one of `UDP`, `TCP`, `WebSocket`, `UnixDomainSocket`, `Echo` (sends each message back)
    /// and `Discard` (swallows each message), such as `{UDP: {port: 9001}}`.
    pub spec: ClusterSpec,
    /// Who serves it: fixed endpoints, and pods by selector. Empty: sessions are refused. `Echo` and `Discard` have
    /// none. At most 1024 in a Target, 256 in the destination of a Route, 16 elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub endpoints: Vec<ClusterEndpoint>,
    /// How a session gets its endpoint. Default: the first one that takes sessions.
    #[serde(default)]
    pub loadbalancer: LoadBalancer,
    /// How long sessions may stay on an endpoint that is going away: milliseconds, or a text with its unit (`30s`,
    /// `5m`); at most `24h`. Default: until they end by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::duration("24h")))]
    pub drain_timeout: Option<Millis>,
}

/// Protocol of a cluster: exactly one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules::cluster_spec()))]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// `UDP: {port, bind, gro}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UdpCluster {
    /// The port of endpoints that name none, 1 to 65535. Endpoints by selector need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The local side of its sockets: source addresses, taken in turn, and source port. Default: the kernel's
    /// choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// Whether trains of datagrams are received in one buffer, which is faster. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gro: Option<bool>,
}

/// `TCP: {port, bind, framing}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpCluster {
    /// The port of endpoints that name none, 1 to 65535. Endpoints by selector need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The local side of its sockets: source addresses, taken in turn, and source port. Default: the kernel's
    /// choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// How messages lie in the byte stream: `raw` (each read is a message, the default), `line` (a newline ends
    /// each), `u16be` or `u32be` (a length of 2 or 4 bytes, big-endian, stands before each).
    #[serde(default)]
    pub framing: Framing,
}

/// The local side of a cluster's sockets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::bind()))]
pub struct Bind {
    /// The source address. Default: the kernel's choice. This or `addresses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = rules::ip()))]
    pub address: Option<IpAddr>,
    /// Several source addresses, taken in turn; at most 64. This or `address`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "addresses")]
    pub addresses: Vec<IpAddr>,
    /// The source port, 1 to 65535. Default: 0, the kernel's choice.
    #[serde(default)]
    #[schemars(range(max = 65535))]
    pub port: u16,
}

/// `WebSocket: {port, path, host, subprotocol, payload}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebSocketCluster {
    /// The port of endpoints that name none, 1 to 65535. Endpoints by selector need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The path that is requested, from `/` on. Default: that of the client's own WebSocket request, else `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::url_path()))]
    pub path: Option<String>,
    /// The `Host` header of the request. Default: the endpoint's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 261), pattern(r"^[-A-Za-z0-9._~:%!$&'()*+,;=\[\]]+$"))]
    pub host: Option<String>,
    /// The `Sec-WebSocket-Protocol` of the request. Default: those of the client's own WebSocket request, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[-A-Za-z0-9!#$%&'*+.^_`|~]+$"))]
    pub subprotocol: Option<String>,
    /// The type of messages that come from a protocol without types: `binary` (the default) or `text` (a message
    /// that is not UTF-8 is dropped).
    #[serde(default)]
    pub payload: Payload,
}

/// `UnixDomainSocket: {filename, type, framing}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::unix_socket()))]
pub struct UnixCluster {
    /// The path of the socket of endpoints that name none, from `/` on; at most 107 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 107), extend("x-kubernetes-validations" = rules::filename()))]
    pub filename: Option<String>,
    /// Kind of socket: `stream` (the default), `seqpacket` (connected, keeps the boundaries of messages) or `dgram`
    /// (datagrams).
    #[serde(default, rename = "type")]
    pub kind: UnixType,
    /// How messages lie in the byte stream: `raw` (each read is a message, the default), `line` (a newline ends
    /// each), `u16be` or `u32be` (a length of 2 or 4 bytes, big-endian, stands before each). For sockets of type
    /// `stream` only.
    #[serde(default)]
    pub framing: Framing,
}

/// Who serves a cluster: one fixed endpoint (`spec`) or the pods of a `selector`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::endpoint()))]
pub struct ClusterEndpoint {
    /// For status and messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// A fixed endpoint. This or `selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<EndpointSpec>,
    /// Pods: each one that the selector picks is an endpoint, at its own address and the port of the cluster. Ready
    /// ones take sessions, terminating ones are drained. This or `spec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// A fixed endpoint: an `address`, or the `filename` of a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// An IP address or a DNS name. Not for Unix sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), pattern(rules::ENDPOINT_ADDRESS))]
    #[schemars(extend("x-kubernetes-validations" = rules::endpoint_address()))]
    pub address: Option<String>,
    /// The path of a Unix socket, from `/` on; at most 107 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 107), extend("x-kubernetes-validations" = rules::filename()))]
    pub filename: Option<String>,
    /// The port, 1 to 65535. Default: that of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Its share of the sessions relative to the others, 1 to 1000. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: Option<u32>,
}

/// How a session gets its endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// `Trivial` (the first endpoint, the default), `RoundRobin` (each new session gets the next one),
    /// `ConsistentHash` (the same key goes to the same endpoint) or `HashRing` (the same as `ConsistentHash`).
    #[serde(default)]
    pub policy: Policy,
    /// What is hashed: a path into the session's metadata, such as `/labels/session_id`. Default: source address
    /// and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = rules::metadata_path()))]
    pub key: Option<String>,
    /// Slots of the table of consistent hashing, a prime of at most 5000011. Default: 65537.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 5_000_011))]
    pub table_size: Option<u32>,
}

/// A load-balancing policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

fn addresses(_: &mut SchemaGenerator) -> Schema {
    let item = json_schema!({"type": "string", "maxLength": 45, "x-kubernetes-validations": rules::ip()});
    json_schema!({"type": "array", "maxItems": 64, "items": item})
}
