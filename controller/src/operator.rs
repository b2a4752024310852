//! Keeps the proxies of a cluster at its custom resources.

pub mod pods;
pub mod trust;
