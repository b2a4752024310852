//! The tool behind cargo ci and cargo demo.

fn main() {}
