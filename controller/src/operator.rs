//! Keeps the proxies of a cluster at its custom resources.

pub mod trust;
