//! A seeded world around the l7mp forwarder, and a reference model.
//!
//! [`world::World`] drives the forwarder as a worker does: events in, verdicts and commands out, commands executed
//! after every event, `expire` at the end of every turn. Around it are clients, servers and a network that delays,
//! loses, doubles and reorders; a [`model::Model`] says what may leave, and [`run`] what must be left in the end.

#![forbid(unsafe_code)]

pub mod world;
pub mod client;
pub mod endpoint;
pub mod network;
pub mod model;
pub mod invariants;
pub mod scenario;
pub mod event;
pub mod message;
pub mod wire;
pub mod random;
mod engine;
mod peers;

use world::World;

/// What a run was made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Messages that left the forwarder, answers included.
    pub messages: u64,
    /// Messages that were dropped, and counted.
    pub dropped: u64,
    /// Sessions.
    pub sessions: u64,
    /// Milliseconds of the world's time.
    pub millis: u64,
}

/// Runs one world to its end.
///
/// # Errors
///
/// The first thing that was not as it must be, with the time at which it happened.
pub fn run(seed: u64, verbose: bool) -> Result<Summary, String> {
    let mut world = World::new(seed, verbose);
    world.run().map_err(|fault| format!("at {} ms: {fault}\n{}", world.millis(), world.document()))
}

/// How to see a failing run again.
pub fn replay(seed: u64) -> String {
    format!("cargo run -p l7mp-sim -- --seed {seed} --verbose")
}
