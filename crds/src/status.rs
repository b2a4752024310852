//! The status of an object of our kinds, as the operator writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most pods that [`Status::failing`] names.
pub const FAILING_MAX: usize = 10;

/// What became of an object. Written by the operator, never by people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The `metadata.generation` that the counts below are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The protocol of the listener or cluster, e.g. `UDP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub protocol: Option<String>,
    /// The port of the listener or cluster; absent where there is none (Unix sockets, Echo, Discard).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// How many pods with a proxy the object is for.
    #[schemars(range(max = 2_147_483_647))]
    pub pods: u32,
    /// How many of these run this generation.
    #[schemars(range(max = 2_147_483_647))]
    pub programmed: u32,
    /// How many of these have no connected agent.
    #[schemars(range(max = 2_147_483_647))]
    pub unreachable: u32,
    /// Targets only: how many pods and fixed endpoints take sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 2_147_483_647))]
    pub endpoints: Option<u32>,
    /// `Accepted` (this object alone), `ResolvedRefs` (its references), `Programmed` (every selected pod
    /// with a connected agent runs this generation), `Ready` (all three); `Degraded` where it holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Pods whose proxy refused the object or does not run; at most 10 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub failing: Vec<FailingPod>,
}

/// One condition, in the shape that all Kubernetes kinds share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name, e.g. `Ready`.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// The `metadata.generation` that it was judged from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` became what it is (RFC 3339, UTC).
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// One word for programs, e.g. `NoPods`.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// A sentence for people, with object and path at fault.
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell now.
    #[default]
    Unknown,
}

/// A pod whose proxy did not take the object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct FailingPod {
    /// Namespace and name, `NS/NAME`.
    #[schemars(length(max = 320))]
    pub pod: String,
    /// What the proxy, its agent or the kubelet said.
    #[schemars(length(max = 1024))]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_in_camel_case_without_what_is_absent() {
        let status = Status {
            observed_generation: Some(3),
            pods: 2,
            conditions: vec![Condition {
                kind: "Ready".to_owned(),
                status: ConditionStatus::False,
                observed_generation: Some(3),
                last_transition_time: "2026-01-01T00:00:00Z".to_owned(),
                reason: "NoPods".to_owned(),
                message: "no pod is selected".to_owned(),
            }],
            ..Status::default()
        };
        let written = serde_json::to_value(&status).unwrap();
        assert_eq!(
            written,
            serde_json::json!({
                "observedGeneration": 3, "pods": 2, "programmed": 0, "unreachable": 0,
                "conditions": [{"type": "Ready", "status": "False", "observedGeneration": 3,
                    "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "NoPods", "message": "no pod is selected"}]
            })
        );
        assert_eq!(serde_json::from_value::<Status>(written).unwrap(), status);
        assert_eq!(serde_json::from_str::<Status>("{}").unwrap(), Status::default());
    }
}
