//! The parts of a Pod that the controller reads, out of what `kubectl get pod -o yaml` prints.

use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, null_is_empty};

/// A Pod; unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Name, namespace, labels, deletion.
    pub metadata: ObjectMeta,
    /// Where it runs and as whom.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub spec: PodSpec,
    /// Its address and state.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub status: PodStatus,
}

/// The parts of `spec` that field selectors may name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The account that it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
}

/// The parts of `status` that decide whether the pod is an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The pod's address; absent until it has one.
    #[serde(default, rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// `Ready` among them.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
}

/// One condition of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodCondition {
    /// Its name, e.g. `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

impl Pod {
    /// Whether its `Ready` condition is true. A pod without conditions is not ready.
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }

    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether its containers have ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}
