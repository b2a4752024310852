//! The parts of a Pod that the controller reads, out of what `kubectl get pod -o yaml` prints.

use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, null_is_empty};

/// The name of the container, or init container, that is the proxy. A pod with one has a proxy.
pub const PROXY_CONTAINER: &str = "l7mp";

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

/// The parts of `spec` that field selectors may name, and the containers by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The account that it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Whether it has the node's network, and so the node's addresses.
    #[serde(default)]
    pub host_network: bool,
    /// Its containers.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
    /// Its init containers; native sidecars are among them.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
}

/// A container, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Unique in the pod.
    pub name: String,
    /// `Always` makes an init container a native sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<String>,
}

/// The parts of `status` that decide whether the pod is an endpoint, and what its proxy does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The pod's address; absent until it has one.
    #[serde(default, rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// All its addresses, `podIP` first: one per IP family.
    #[serde(default, rename = "podIPs", deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
    /// The address of its node.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    /// `Ready` among them.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
    /// The state of its containers.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub container_statuses: Vec<ContainerStatus>,
    /// The state of its init containers.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// One address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIp {
    /// IPv4 or IPv6.
    pub ip: String,
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

/// What the kubelet says about a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// The container.
    pub name: String,
    /// Whether its readiness probe holds.
    #[serde(default)]
    pub ready: bool,
    /// How often it was started again.
    #[serde(default)]
    pub restart_count: u32,
    /// What it does now.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub state: ContainerState,
    /// How its last run ended.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub last_state: ContainerState,
}

/// What a container does: at most one field is there; none means waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// It is not running yet, or not again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// It runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// It has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated: Option<Terminated>,
}

/// Why a container waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// One word, e.g. `CrashLoopBackOff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A container that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// Its exit status.
    #[serde(default)]
    pub exit_code: i32,
    /// One word, e.g. `Error`, `OOMKilled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its termination message: with `FallbackToLogsOnError`, the end of its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
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

    /// Whether one of its containers or init containers is a proxy.
    pub fn has_proxy(&self) -> bool {
        let mut containers = self.spec.containers.iter().chain(&self.spec.init_containers);
        containers.any(|container| container.name == PROXY_CONTAINER)
    }

    /// All its addresses, as written; the first is the one that others know it by.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let all = self.status.pod_ips.iter().map(|address| address.ip.as_str());
        let single = self.status.pod_ip.as_deref().filter(|_| self.status.pod_ips.is_empty());
        single.into_iter().chain(all)
    }

    /// What the kubelet says about the proxy while it is not running, its last words included.
    /// `None`: it runs, or the kubelet has said nothing yet.
    pub fn proxy_trouble(&self) -> Option<String> {
        let mut statuses = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
        statuses.find(|status| status.name == PROXY_CONTAINER)?.trouble()
    }
}

impl ContainerStatus {
    fn trouble(&self) -> Option<String> {
        if self.state.running.is_some() {
            return None;
        }
        let now = match (&self.state.terminated, &self.state.waiting) {
            (Some(ended), _) => Some(ended.to_text()),
            (None, Some(waiting)) => sentence(waiting.reason.as_deref(), waiting.message.as_deref()),
            (None, None) => None,
        };
        let before = self.last_state.terminated.as_ref().map(Terminated::to_text);
        match (now, before) {
            (Some(now), Some(before)) => Some(format!("{now}; its last run: {before}")),
            (now, before) => now.or(before),
        }
    }
}

impl Terminated {
    fn to_text(&self) -> String {
        let reason = format!("{} (exit code {})", self.reason.as_deref().unwrap_or("ended"), self.exit_code);
        sentence(Some(&reason), self.message.as_deref()).unwrap_or_default()
    }
}

/// `REASON: MESSAGE`, or what there is of it.
fn sentence(reason: Option<&str>, message: Option<&str>) -> Option<String> {
    let some = |text: &Option<&str>| text.is_some_and(|text| !text.is_empty());
    let parts: Vec<&str> = [reason, message].into_iter().filter(some).flatten().map(str::trim).collect();
    (!parts.is_empty()).then(|| parts.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn a_proxy_is_a_container_of_its_name() {
        let app = json!([{"name": "app", "image": "x"}]);
        let proxy = json!([{"name": "l7mp", "image": "x", "restartPolicy": "Always"}]);
        for (spec, has) in [
            (json!({"containers": app}), false),
            (json!({"containers": proxy}), true),
            (json!({"containers": app, "initContainers": proxy}), true),
            (json!({"containers": [{"name": "l7mp-agent"}], "initContainers": null}), false),
        ] {
            assert_eq!(pod(spec.clone(), json!({})).has_proxy(), has, "{spec}");
        }
    }

    #[test]
    fn the_kubelet_is_quoted_while_the_proxy_does_not_run() {
        let last = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "io_uring is forbidden\n"}});
        for (status, expected) in [
            (json!({"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": last}), None),
            (json!({"state": {"waiting": {"reason": "ContainerCreating"}}}), Some("ContainerCreating")),
            (
                json!({"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, "lastState": last}),
                Some("CrashLoopBackOff: back-off 10s; its last run: Error (exit code 1): io_uring is forbidden"),
            ),
            (
                json!({"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "lastState": {}}),
                Some("OOMKilled (exit code 137)"),
            ),
            (json!({"state": {}, "lastState": null}), None),
        ] {
            let mut status = status;
            status["name"] = json!("l7mp");
            for list in ["containerStatuses", "initContainerStatuses"] {
                let pod =
                    pod(json!({}), json!({list: [{"name": "app", "state": {"waiting": {"reason": "x"}}}, status]}));
                assert_eq!(pod.proxy_trouble().as_deref(), expected, "{status}");
            }
        }
    }

    #[test]
    fn addresses_come_from_either_field() {
        let all = |status| pod(json!({}), status).addresses().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(all(json!({"podIP": "10.0.0.1"})), ["10.0.0.1"]);
        assert_eq!(
            all(json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]})),
            ["10.0.0.1", "fd00::1"]
        );
        assert!(all(json!({})).is_empty());
    }
}
