//! `l7mp-agent`: beside each proxy in Kubernetes.

#![forbid(unsafe_code)]

fn main() {}
