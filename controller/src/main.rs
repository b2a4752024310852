//! Compiles l7mp resources for each proxy and pushes them to its admin socket.

fn main() {}
