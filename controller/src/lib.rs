//! The controller's programs: `local` keeps the proxies of one machine at a directory of manifests,
//! `operator` keeps the proxies of a cluster at its custom resources.
//!
//! ```text
//! directory  -> manifest -> World -> compile(world, pod) -> Config -> Unix admin socket        local.rs, push.rs
//! Kubernetes -> watches  -> Fleet -> compile(world, pod) -> Config -> stream to each agent     operator.rs
//!                                                       -> status of every object
//! ```
//!
//! What is compiled, and which proxy needs it, is decided in `l7mp-compiler` and `l7mp-fleet`, which know
//! neither sockets nor clocks; here is what reads, watches, serves and writes.

#![forbid(unsafe_code)]

pub mod local;
pub mod operator;
pub mod push;
pub mod watch;
