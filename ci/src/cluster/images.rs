//! The project's images: made of static programs, and for the examples of a few of the machine's.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::archive::{Image, Tree};
use super::place::Place;
use super::programs::{Programs, wait};
use super::start::Steps;
use super::{machine, needs};
use crate::testbed::Profile;

/// All of the project's programs for pods.
pub const IMAGE: &str = "docker.io/l7mp/l7mp:0.1.0";
/// What the examples and the tests run beside them.
pub const FIRST_TASK_IMAGE: &str = "docker.io/l7mp/first-task:0.1.0";
/// Who runs the project's programs.
const USER: &str = "65532:65532";
/// As `deploy/Dockerfile` has it: l7mpctl looks for the admin socket in `$XDG_RUNTIME_DIR/l7mp`.
const ENVIRONMENT: [&str; 1] = ["XDG_RUNTIME_DIR=/run"];
/// The packages of the programs in [`IMAGE`]; each has one program of the same name.
const PACKAGES: [&str; 4] = ["l7mp-proxy", "l7mp-controller", "l7mp-agent", "l7mpctl"];
/// The package with the line servers.
const TOOL: &str = "l7mp-ci";

/// Builds the project's images and gives them to the node. The caller has the cluster's lock.
pub fn load(place: &Place, programs: &Programs, profile: Profile) -> Result<()> {
    let mut steps = Steps::begin();
    let built = build(profile)?;
    steps.done("static programs");
    for (name, archive) in pack(&built)? {
        let file = place.file("image.tar");
        fs::write(&file, &archive).with_context(|| format!("cannot write {}", file.display()))?;
        import(place, programs, &file)?;
        fs::remove_file(&file)?;
        steps.done(&format!("{name}, {:.1} MB", archive.len() as f64 / 1e6));
    }
    Ok(())
}

/// Whether the images can be built here, or an error of one line that says what is missing.
pub fn check() -> Result<()> {
    check_target(&target())?;
    machine::check()
}

/// Gives an archive to the node: of an image, or of several.
pub fn import(place: &Place, programs: &Programs, archive: &Path) -> Result<()> {
    let mut ctr = Command::new(programs.path("ctr"));
    ctr.arg("--address").arg(place.file("containerd.sock")).args(["--namespace", "k8s.io", "images", "import"]);
    // Unpacked by the node, as its own configuration has it, when the first container wants it.
    let output = ctr.arg("--no-unpack").arg(archive).stdin(Stdio::null()).output().context("cannot run ctr")?;
    ensure!(
        output.status.success(),
        "the node does not take {}: {}",
        archive.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Both images, by name.
fn pack(built: &BTreeMap<String, PathBuf>) -> Result<[(&'static str, Vec<u8>); 2]> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut tree = Tree::default();
    tree.directory("tmp", 0o1777)?;
    for (name, path) in built.iter().filter(|(name, _)| *name != TOOL) {
        tree.file(&format!("usr/bin/{name}"), read(path)?, 0o755)?;
    }
    let ours = Image { name: IMAGE, entrypoint: &[], user: USER, environment: &ENVIRONMENT }.pack(&tree)?;
    let mut tree = machine::tree()?;
    tree.file(&format!("usr/bin/{TOOL}"), read(built.get(TOOL).context("no l7mp-ci")?)?, 0o755)?;
    let examples = Image { name: FIRST_TASK_IMAGE, entrypoint: &[], user: "0:0", environment: &[] }.pack(&tree)?;
    Ok([(IMAGE, ours), (FIRST_TASK_IMAGE, examples)])
}

/// Builds the programs so that they need nothing of the image that they are in.
fn build(profile: Profile) -> Result<BTreeMap<String, PathBuf>> {
    let target = target();
    check_target(&target)?;
    let members = members()?;
    let packages: Vec<_> = PACKAGES.into_iter().filter(|name| members.iter().any(|member| member == name)).collect();
    let mut cargo = cargo();
    cargo.args(["build", "--locked", "--message-format=json-render-diagnostics", "--target", &target, "--bins"]);
    for package in packages.iter().chain([&TOOL]) {
        cargo.args(["-p", package]);
    }
    let variable = match profile {
        Profile::Debug => "CARGO_PROFILE_DEV_STRIP",
        Profile::Release => {
            cargo.arg("--release");
            "CARGO_PROFILE_RELEASE_STRIP"
        }
    };
    // Names of functions stay; line tables would make most of an image.
    cargo.env(variable, "debuginfo");
    let compiler = format!("CC_{}", target.replace('-', "_"));
    if std::env::var_os(&compiler).is_none() && needs::find("musl-gcc").is_some() {
        cargo.env(compiler, "musl-gcc");
    }
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let messages = BufReader::new(child.stdout.take().context("cargo has no stdout")?);
    let (built, status) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| executables(messages));
        let status = wait(&mut child);
        (reader.join(), status)
    });
    let built = built.map_err(|_| anyhow!("the reader of cargo's messages has failed"))??;
    if !status?.success() {
        let hint = if needs::find("musl-gcc").is_some() { "" } else { " (C code needs `apt-get install musl-tools`)" };
        bail!("the build of the static programs failed{hint}");
    }
    for name in packages.iter().chain([&TOOL]) {
        ensure!(built.contains_key(*name), "the build made no {name}");
    }
    Ok(built)
}

/// The executables that cargo says it has built, by name.
fn executables(messages: impl BufRead) -> Result<BTreeMap<String, PathBuf>> {
    let mut built = BTreeMap::new();
    for line in messages.lines() {
        // Lines that are no messages come from build scripts.
        let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        let Some(path) = message["executable"].as_str().map(PathBuf::from) else { continue };
        let name = path.file_name().context("no file name")?.to_string_lossy().into_owned();
        built.insert(name, path);
    }
    Ok(built)
}

fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::workspace());
    cargo
}

/// Whether Rust's library for the target is installed.
fn check_target(target: &str) -> Result<()> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let output = rustc.args(["--print", "target-libdir", "--target", target]).current_dir(crate::workspace()).output();
    let output = output.context("cannot run rustc")?;
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    ensure!(directory.is_dir(), "images need static programs: `rustup target add {target}`");
    Ok(())
}

/// The names of the workspace's packages.
fn members() -> Result<Vec<String>> {
    let output = cargo().args(["metadata", "--locked", "--no-deps", "--format-version", "1"]).output();
    let output = output.context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    Ok(packages.iter().filter_map(|package| package["name"].as_str()).map(str::to_owned).collect())
}
