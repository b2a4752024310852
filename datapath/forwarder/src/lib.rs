//! What happens to a message in l7mp: sessions as rings of links. No I/O, no clock, no unsafe, no threads.
//!
//! The modules stand in the order in which a message meets them.

#![forbid(unsafe_code)]

// A message: in, through its session's ring, out.
pub mod forwarder;
pub mod verdict;
pub mod flows;
pub mod codec;
pub mod links;

// A session: opened, described, ended.
pub mod session;
pub mod rules;
pub mod metadata;
mod open;
mod stage;
mod moving;
mod upgrade;
pub mod balance;
pub mod held;
mod close;
mod pressure;
pub mod timers;
mod turn;
pub mod report;
pub mod audit;

// What the others are made of.
pub mod snapshot;
pub mod counters;
pub mod limits;
pub mod address;
pub mod ids;
pub mod time;

pub use forwarder::{Forwarder, Identity};
