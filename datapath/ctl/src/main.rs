//! The human's tool on the admin socket of an l7mp proxy.

fn main() {}
