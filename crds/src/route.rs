//! Route: a chain of clusters.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Millis;
use crate::meta::Resource;
use crate::rules;
use crate::status::Status;
use crate::target::Cluster;

/// A named route.
pub type Route = Resource<RouteSpec>;

/// The desired state of a Route; also the shape of an inline route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::route()))]
#[kube(
    group = "l7mp.io",
    version = "v1",
    kind = "Route",
    root = "RouteKind",
    plural = "routes",
    namespaced,
    category = "l7mp",
    status = "Status",
    derive = "PartialEq",
    doc = "A named route: the destination of a session, and the clusters that its messages pass on their way there \
           and back. Rules name it as their routeRef.",
    printcolumn(name = "Destination", type_ = "string", json_path = ".spec.destinationRef"),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        json_path = ".status.pods",
        description = "Pods with a proxy that rules bring it to"
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
pub struct RouteSpec {
    /// Where sessions go, by reference: a Target, else a VirtualService (its protocol and port on the pods that it
    /// selects), else a Service. `NAME`, `NAMESPACE/NAME`, `/l7mp.io/v1/Target/NAMESPACE/NAME` or
    /// `/apis/l7mp.io/v1/namespaces/NAMESPACE/targets/NAME`; a Service of several ports as `NAME:PORT`. This or
    /// `destination`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384), extend("x-kubernetes-validations" = rules::destination_ref()))]
    pub destination_ref: Option<String>,
    /// Where sessions go, inline. This or `destinationRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Cluster>,
    /// What a message passes on its way to the destination, in this order; at most 16 hops. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ingress: Vec<ChainItem>,
    /// What an answer passes on its way back, in this order; at most 16 hops. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub egress: Vec<ChainItem>,
    /// What happens when a stage fails. Default: the session ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// One hop of a chain: a `clusterRef` or an inline `cluster`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::chain_item()))]
pub struct ChainItem {
    /// A Target, VirtualService or Service, by reference, in the forms of `destinationRef`. This or `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384), extend("x-kubernetes-validations" = rules::destination_ref()))]
    pub cluster_ref: Option<String>,
    /// A cluster, inline. This or `clusterRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
}

/// What happens when a stage fails. What is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Which failures are tried again: `never` (the default), `connect-failure` (a connection that could not be
    /// made), `disconnect` (one that broke), `always` (both).
    #[serde(default)]
    pub retry_on: RetryOn,
    /// How often, per stage, 0 to 100. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub num_retries: Option<u32>,
    /// Connect timeout, and the wait between attempts: milliseconds, or a text with its unit (`500ms`, `2s`); at
    /// most `1h`. Default: `2s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::duration("1h")))]
    pub timeout: Option<Millis>,
}

/// Which failures are tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
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
