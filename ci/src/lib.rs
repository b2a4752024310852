//! The tool behind `cargo ci`, `cargo demo` and `cargo cluster`, and the testbed of the end-to-end tests.
//!
//! [`testbed::Testbed`] runs the whole first task on this machine: proxies, controller, transcoders and workers as
//! processes of their own, on loopback addresses that no other testbed has. The demo shows it to a person, the
//! end-to-end tests put it under load and kill parts of it.

#![forbid(unsafe_code)]

pub mod checks;
pub mod cluster;
pub mod demo;
pub mod process;
pub mod servers;
pub mod testbed;

use std::path::{Path, PathBuf};

/// The root of the checkout that this tool was built in.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
