//! The configuration files of a node. Paths in them are those of the node's namespace.

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;

use super::needs;
use super::network::Network;
use super::node::{INSIDE, KUBELET, PROGRAMS};
use super::place::Place;

/// Where the API server listens.
pub const API_PORT: u16 = 6443;
/// The name of the only node.
pub const NODE: &str = "node1";
/// What holds the namespaces of a pod.
pub const PAUSE_IMAGE: &str = "docker.io/l7mp/pause:1";

/// Writes them into the cluster's directory. `snapshotter` is containerd's.
pub fn write(place: &Place, network: Network, snapshotter: &str) -> Result<()> {
    let directory = &place.directory;
    for sub in ["cni", "kubelet/seccomp/profiles", "log"] {
        fs::create_dir_all(directory.join(sub))?;
    }
    let json = |value: serde_json::Value| format!("{value:#}\n");
    for (name, text) in [
        ("audit.yaml", json(audit_policy())),
        ("cni/10-pods.conflist", json(pod_network(network))),
        ("containerd.toml", containerd(snapshotter)),
        ("Corefile", core_dns(network)),
        ("kubelet.yaml", json(kubelet(place, network))),
    ] {
        fs::write(directory.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

/// What service accounts outside of kube-system ask of the API server: tests see what rights are needed.
fn audit_policy() -> serde_json::Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    })
}

fn pod_network(network: Network) -> serde_json::Value {
    let (first, last) = network.pods();
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            // A link for each pod, so that all of its traffic is routed, and the Services' rules see it.
            {"type": "ptp", "ipMasq": false, "ipam": {
                "type": "host-local",
                "dataDir": format!("{INSIDE}/addresses"),
                "ranges": [[{
                    "subnet": network.all(), "rangeStart": first, "rangeEnd": last, "gateway": network.node(),
                }]],
                "routes": [{"dst": "0.0.0.0/0"}],
            }},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd(snapshotter: &str) -> String {
    let runc = needs::path("runc").display().to_string();
    format!(
        r#"version = 3
root = "{INSIDE}/containerd/root"
state = "{INSIDE}/containerd/state"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{INSIDE}/containerd.sock"
[plugins.'io.containerd.internal.v1.opt']
  path = "{INSIDE}/containerd/opt"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "{snapshotter}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{PROGRAMS}/cni"]
  conf_dir = "{INSIDE}/cni"
"#
    )
}

fn core_dns(network: Network) -> String {
    format!(
        "cluster.local:53 {{\n bind {}\n kubernetes cluster.local {{\n  kubeconfig {INSIDE}/dns.kubeconfig\n }}\n errors\n}}\n",
        network.node()
    )
}

fn kubelet(place: &Place, network: Network) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{INSIDE}/containerd.sock"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", place.cgroup()),
        "failCgroupV1": false,
        "enforceNodeAllocatable": ["none"],
        "localStorageCapacityIsolation": false,
        // It may not change the machine's settings, nor give what it starts a better OOM score.
        "featureGates": {"KubeletInUserNamespace": true},
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{INSIDE}/pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "failSwapOn": false,
        // A full disk of the machine's is no reason to remove images that nobody can pull again.
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": false,
        "clusterDNS": [network.node()],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "maxPods": 250,
        "podLogsDir": format!("{INSIDE}/podlogs"),
        "volumePluginDir": format!("{KUBELET}/volume-plugins"),
    })
}
