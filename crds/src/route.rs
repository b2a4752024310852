//! Route: a chain of clusters.

use serde::{Deserialize, Serialize};

use crate::duration::Millis;
use crate::meta::Resource;
use crate::target::Cluster;

/// A named route.
pub type Route = Resource<RouteSpec>;

/// The desired state of a [`Route`]; also the shape of an inline route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteSpec {
    /// A Target, by reference. This or `destination`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ref: Option<String>,
    /// A cluster, inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Cluster>,
    /// What a message passes on its way to the destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<ChainItem>,
    /// What an answer passes on its way back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<ChainItem>,
    /// What happens when a stage fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// One hop of a chain: a `clusterRef` or an inline `cluster`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ChainItem {
    /// A Target, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<String>,
    /// A cluster, inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
}

/// What happens when a stage fails. What is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Which failures are tried again (default `never`).
    #[serde(default)]
    pub retry_on: RetryOn,
    /// How often, per stage (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_retries: Option<u32>,
    /// Connect timeout, and the wait between attempts (default 2 s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
}

/// Which failures are tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
