//! A fleet, told what happens step by step.

#[path = "../support/mod.rs"]
mod support;

mod order;
mod push;
mod refusals;
mod size;
mod status;
