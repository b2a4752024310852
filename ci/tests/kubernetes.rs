//! The first task with kubectl, on a real Kubernetes with real pods: `cargo ci kubernetes`.
//!
//! All tests share one cluster, one after the other; each begins with the state that it needs and says so
//! ([`installed`]). What is measured is printed (`--nocapture` shows it).

#[path = "load/clients.rs"]
mod clients;
#[path = "kubernetes/installed.rs"]
mod installed;
#[path = "kubernetes/page.rs"]
mod page;
#[path = "kubernetes/wrong.rs"]
mod wrong;
#[path = "kubernetes/tokens.rs"]
mod tokens;
#[path = "kubernetes/rights.rs"]
mod rights;
#[path = "kubernetes/lifecycle.rs"]
mod lifecycle;
