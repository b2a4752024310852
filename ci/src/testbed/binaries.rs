//! The programs under test.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// How programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// With debug assertions.
    Debug,
    /// As users run them.
    Release,
}

/// Executables of the workspace.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `l7mp-proxy`.
    pub proxy: PathBuf,
    /// `l7mpctl`.
    pub ctl: PathBuf,
    /// `l7mp-controller`.
    pub controller: PathBuf,
    /// `l7mp-ci`, which is transcoder and worker too.
    pub tool: PathBuf,
}

impl Binaries {
    /// Those of the directory `L7MP_BIN_DIR`, if it is set: to test what is installed. Else they are built.
    pub fn find_or_build(profile: Profile, tool: PathBuf) -> Result<Binaries> {
        let Some(directory) = std::env::var_os("L7MP_BIN_DIR").map(PathBuf::from) else {
            return Binaries::build(profile, tool);
        };
        let find = |name| directory.join(name);
        Ok(Binaries { proxy: find("l7mp-proxy"), ctl: find("l7mpctl"), controller: find("l7mp-controller"), tool })
    }

    /// Builds them. `tool` is the `l7mp-ci` executable: `current_exe` in itself, `CARGO_BIN_EXE_l7mp-ci` in its tests.
    pub fn build(profile: Profile, tool: PathBuf) -> Result<Binaries> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(crate::workspace()).args(["build", "--locked", "--message-format=json-render-diagnostics"]);
        cargo.args(["-p", "l7mp-proxy", "-p", "l7mpctl", "-p", "l7mp-controller", "--bins"]);
        if profile == Profile::Release {
            cargo.arg("--release");
        }
        let mut build = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
        let messages = BufReader::new(build.stdout.take().context("cargo has no stdout")?);
        let mut executables = Vec::new();
        for line in messages.lines() {
            // Lines that are no messages come from build scripts.
            let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
            executables.extend(message["executable"].as_str().map(PathBuf::from));
        }
        ensure!(build.wait()?.success(), "the build failed");
        let find = |name: &str| {
            let found = executables.iter().find(|path| path.file_name().is_some_and(|file| file == name));
            found.cloned().with_context(|| format!("the build made no {name}"))
        };
        Ok(Binaries { proxy: find("l7mp-proxy")?, ctl: find("l7mpctl")?, controller: find("l7mp-controller")?, tool })
    }
}
