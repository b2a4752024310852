//! The l7mp datapath: one worker thread per core and one admin thread.

fn main() {}
