//! What changes and faults cost under load, and what the parts take, on a real Kubernetes: `cargo ci endurance`.

#[path = "kubernetes/changes.rs"]
mod changes;
#[path = "load/clients.rs"]
mod clients;
#[path = "kubernetes/costs.rs"]
mod costs;
#[path = "kubernetes/faults.rs"]
mod faults;
#[path = "kubernetes/installed.rs"]
#[allow(dead_code, reason = "shared with the tests of kubernetes.rs")]
mod installed;
#[path = "kubernetes/processes.rs"]
mod processes;
#[path = "kubernetes/ready.rs"]
mod ready;
#[path = "kubernetes/thousands.rs"]
mod thousands;
