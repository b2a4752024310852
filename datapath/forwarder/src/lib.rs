//! What happens to a message in l7mp: sessions as rings of links. No I/O, no clock, no unsafe, no threads.
//!
//! The modules stand in the order in which a message meets them.

#![forbid(unsafe_code)]

pub mod address;
pub mod balance;
pub mod codec;
pub mod counters;
pub mod ids;
pub mod limits;
pub mod time;
pub mod timers;
pub mod verdict;
