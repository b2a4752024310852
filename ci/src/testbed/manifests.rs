//! The directory that the controller reads: the task's manifests, and a Pod object for each pod.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::pods::{Pod, Role};

/// The namespace of everything in the task.
pub const NAMESPACE: &str = "default";
/// The port that manifest 5 gives to the gateway's listener.
const GATEWAY_PORT: u16 = 9001;

/// Copies the manifests in `from` to the new directory `to`; as they are, unless the gateway has another port.
pub fn copy(from: &Path, to: &Path, gateway_port: u16) -> Result<()> {
    std::fs::create_dir(to)?;
    let files = std::fs::read_dir(from).with_context(|| format!("no manifests in {}", from.display()))?;
    let mut changed = false;
    for file in files {
        let path = file?.path();
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml");
        let (true, Some(name)) = (is_yaml, path.file_name()) else { continue };
        let mut text = std::fs::read_to_string(&path)?;
        if gateway_port != GATEWAY_PORT {
            let (old, new) = (format!("port: {GATEWAY_PORT}\n"), format!("port: {gateway_port}\n"));
            changed |= text.contains(&old);
            text = text.replace(&old, &new);
        }
        write(&to.join(name), &text)?;
    }
    ensure!(changed || gateway_port == GATEWAY_PORT, "no manifest in {} has port {GATEWAY_PORT}", from.display());
    Ok(())
}

/// Writes a file so that a reader sees the old or the new text, never a half.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().context("no file name")?.to_string_lossy();
    let half = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&half, text).and_then(|()| std::fs::rename(&half, path))?;
    Ok(())
}

/// The file of a pod's object.
pub fn pod_file(name: &str) -> String {
    format!("pod-{name}.yaml")
}

/// A Pod object, as far as `kubectl get -o yaml` prints what matters here.
pub fn pod(pod: &Pod) -> String {
    let Pod { name, address, role, .. } = pod;
    let label = role.label();
    let host_network = *role == Role::Gateway;
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {NAMESPACE}
  uid: {name}
  creationTimestamp: \"2026-11-01T00:00:00Z\"
  labels:
    app: {label}
spec:
  hostNetwork: {host_network}
  containers:
  - name: {label}
    image: {label}
status:
  phase: Running
  conditions:
  - type: Ready
    status: \"True\"
  podIP: {address}
  podIPs:
  - ip: {address}
"
    )
}
