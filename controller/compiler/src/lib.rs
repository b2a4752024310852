//! Objects in, one proxy's whole configuration out. Pure: no I/O, no clock, no Kubernetes client.
//!
//! ```text
//! manifest.rs, object.rs  ->  world.rs  ->  compile.rs  ->  Config, reports, origins, dependencies
//! text or JSON, checked       the index     for one pod
//!
//! Change  ->  dependents.rs  ->  the pods to compile for
//! ```
//!
//! [`world::World`] is an index of objects that is told what changed, and [`compile::compile`] turns it into
//! one proxy's whole configuration, what there is to say about every object that could not be used as
//! written, and a map from the document's paths back to the objects they came from. With that map an error
//! that the proxy reports is laid to an object, and that object alone is held back ([`held`]).

#![forbid(unsafe_code)]

pub mod check;
pub mod compile;
pub mod consent;
pub mod dependencies;
pub mod dependents;
pub mod held;
pub mod manifest;
mod nearest;
pub mod object;
pub mod reference;
pub mod references;
mod resolve;
pub mod selected;
pub mod selector;
pub mod world;
