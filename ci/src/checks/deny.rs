//! cargo-deny, built once and kept.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Outcome, cargo_command};

/// The version that deny.toml is written for.
const VERSION: &str = "0.20.2";

/// Bans, licences and sources of every dependency. (Advisories would make yesterday's green commit red.)
pub fn check() -> Result<Outcome> {
    let program = match installed() {
        Ok(program) => program,
        Err(error) => return Ok(Outcome::Skipped(format!("cargo-deny {VERSION} cannot be installed: {error:#}"))),
    };
    let arguments = ["--locked", "--workspace", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    println!("cargo deny {}", arguments.join(" "));
    let mut deny = Command::new(program);
    let status = deny.args(arguments).current_dir(crate::workspace()).status().context("cannot run cargo-deny")?;
    ensure!(status.success(), "cargo deny says no");
    Ok(Outcome::Passed)
}

/// The program, built into the cache when it is not there: about a minute and a half on two cores, once.
fn installed() -> Result<PathBuf> {
    let root = cache()?.join(format!("cargo-deny-{VERSION}"));
    let program = root.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    println!("installing cargo-deny {VERSION} into {}", root.display());
    // Without optimisation and without the advisory database's git client: it reads a hundred small files.
    let arguments = ["install", "cargo-deny", "--version", VERSION, "--locked", "--debug", "--no-default-features"];
    let mut install = cargo_command(&arguments);
    // Not from the workspace, whose .cargo/config.toml is none of its business; nor into its target directory.
    install.current_dir("/").arg("--root").arg(&root).env("CARGO_TARGET_DIR", root.join("build"));
    let status = install.status().context("cannot run cargo")?;
    let _ = std::fs::remove_dir_all(root.join("build"));
    ensure!(status.success() && program.exists(), "cargo install fails");
    Ok(program)
}

/// Where tools are kept between runs, outside of every checkout.
fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|base| Path::new(base).is_absolute()) {
        Some(base) => PathBuf::from(base),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("l7mp-ci"))
}
