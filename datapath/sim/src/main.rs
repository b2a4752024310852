//! A seeded world around the l7mp forwarder, and a reference model.

fn main() {}
