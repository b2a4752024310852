//! Compiles l7mp resources for each proxy, and pushes the result to its admin socket.
//!
//! ```text
//! directory -> manifest -> World -> compile(world, pod) -> Config -> Unix admin socket
//!   local.rs   manifest.rs world.rs compile.rs                       push.rs
//! ```
//!
//! Everything left of the socket is pure: [`world::World`] is an index of objects that is told what
//! changed, and [`compile::compile`] turns it into one proxy's whole configuration, what there is to say
//! about every object that could not be used as written, and a map from the document's paths back to the
//! objects they came from. With that map an error that the proxy reports is laid to an object, and that
//! object alone is held back.

#![forbid(unsafe_code)]

pub mod admin;
pub mod check;
pub mod compile;
pub mod held;
pub mod local;
pub mod manifest;
mod nearest;
pub mod object;
pub mod push;
pub mod reference;
pub mod selector;
pub mod watch;
pub mod world;
