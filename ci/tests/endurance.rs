//! What changes and faults cost under load, on a real Kubernetes with real pods: `cargo ci endurance`.

#[path = "kubernetes/changes.rs"]
mod changes;
#[path = "load/clients.rs"]
mod clients;
#[path = "kubernetes/faults.rs"]
mod faults;
#[path = "kubernetes/installed.rs"]
#[allow(dead_code, reason = "shared with the tests of kubernetes.rs")]
mod installed;
#[path = "kubernetes/ready.rs"]
mod ready;
