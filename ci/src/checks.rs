//! `cargo ci`: every check that a change must pass, one after the other.
//!
//! A step says its name, what it ran, how long it took and what to do when it failed; the others run all the same.
//! A step that cannot run here is skipped on a person's machine, and fails where `CI=true`.

mod deny;
mod kubernetes;
mod style;
mod suite;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum as _;

use crate::process::{POLL, Process, Program};
use crate::testbed::network::Subnet;
use crate::testbed::{Binaries, Profile, admin};

/// How long a proxy may take to start with an example, and to end.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// Formatting
    Fmt,
    /// Lengths of files, and where `unsafe` may stand
    Style,
    /// Clippy, warnings denied
    Clippy,
    /// Licences, sources and bans of dependencies
    Deny,
    /// Every test of the workspace that needs no cluster: unit, table, seeds, engine, end to end
    Test,
    /// The tests that need a Kubernetes, on one that is started for them
    Kubernetes,
    /// What changes and faults cost under load, on another one
    Endurance,
    /// The proxy accepts every example, and starts with it
    Examples,
}

/// How a step went.
enum Outcome {
    Passed,
    /// With what is missing.
    Skipped(String),
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self, tool: &Path, tally: &mut suite::Tally) -> Result<Outcome> {
        match self {
            Step::Fmt => cargo(&["fmt", "--all", "--check"]),
            Step::Style => style::check(),
            Step::Clippy => {
                cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])
            }
            Step::Deny => deny::check(),
            Step::Test => suite::run(tally),
            Step::Kubernetes => kubernetes::run(tally),
            Step::Endurance => kubernetes::endure(tally),
            Step::Examples => examples(tool),
        }
    }

    /// What to do when it failed.
    fn advice(self) -> &'static str {
        match self {
            Step::Fmt => "run `cargo fmt --all`",
            Step::Style => "split the file, or move the code to where its kind belongs (CONTRIBUTING.md)",
            Step::Clippy => "mend what it says (`cargo check` mends the lock); an `#[allow]` needs a reason beside it",
            Step::Deny => "look at deny.toml: another crate, or a line there with a reason",
            Step::Test => "the failing test's name is above; `cargo test NAME` runs it alone",
            Step::Kubernetes | Step::Endurance => {
                "`cargo test -p l7mp-ci --features kubernetes --test kubernetes NAME -- --nocapture` runs one alone"
            }
            Step::Examples => "`l7mp-proxy --check FILE` shows the errors of one example",
        }
    }
}

/// Runs the steps, all of them if none is named. An error when one fails.
pub fn run(steps: &[Step]) -> Result<()> {
    let steps = if steps.is_empty() { Step::value_variants() } else { steps };
    // Asked now: a step may build this program anew, and then its own name no longer leads to it.
    let tool = std::env::current_exe()?;
    let start = Instant::now();
    let mut tally = suite::Tally::default();
    let mut lines = Vec::new();
    let (mut failed, in_ci) = (0, std::env::var_os("CI").is_some_and(|ci| ci == "true"));
    for step in steps {
        let (name, start) = (step.name(), Instant::now());
        println!("\n==> {name}");
        let result = match step.run(&tool, &mut tally) {
            Ok(Outcome::Passed) => "ok".to_owned(),
            Ok(Outcome::Skipped(reason)) if !in_ci => format!("skipped: {reason}"),
            Ok(Outcome::Skipped(reason)) => {
                failed += 1;
                format!("FAILED: skipped, which CI=true forbids: {reason}")
            }
            Err(error) => {
                failed += 1;
                format!("FAILED: {error:#}; {}", step.advice())
            }
        };
        let line = format!("{name:<10} {:>8}  {result}", seconds(start.elapsed()));
        println!("<== {line}");
        lines.push(line);
    }
    println!(
        "\n{}\n{} in {}",
        lines.join("\n"),
        if failed == 0 { "all ok" } else { "FAILED" },
        seconds(start.elapsed())
    );
    if steps.contains(&Step::Test) || steps.contains(&Step::Kubernetes) {
        println!("{} passed, {} failed", tally.passed, tally.failed);
    }
    ensure!(failed == 0, "{failed} of {} steps failed", steps.len());
    Ok(())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// A command of cargo's, in the workspace, that reads no terminal.
fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(crate::workspace()).stdin(Stdio::null());
    command
}

fn cargo(arguments: &[&str]) -> Result<Outcome> {
    println!("cargo {}", arguments.join(" "));
    let status = cargo_command(arguments).status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo {} says no", arguments[0]);
    Ok(Outcome::Passed)
}

/// Shows every proxy document among the examples to the proxy, and starts one with it. Manifests are read by the controller's golden tests.
fn examples(tool: &Path) -> Result<Outcome> {
    let mut documents = Vec::new();
    find_documents(&crate::workspace().join("deploy/examples"), &mut documents)?;
    documents.sort();
    let binaries = Binaries::build(Profile::Debug, tool.to_owned())?;
    for document in &documents {
        println!("l7mp-proxy --check {}", document.display());
        let status = Command::new(&binaries.proxy).arg("--check").arg(document).status();
        ensure!(status.context("cannot run l7mp-proxy")?.success(), "{} is refused", document.display());
        println!("l7mp-proxy --config {}", document.display());
        start(document, &binaries).with_context(|| format!("a proxy cannot start with {}", document.display()))?;
    }
    println!("{} proxy documents", documents.len());
    Ok(Outcome::Passed)
}

/// Starts a proxy with a document, on an address and with a file system of its own; waits until it is ready, ends it.
fn start(document: &Path, binaries: &Binaries) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("l7mp-").tempdir()?;
    let root = directory.path().join("root");
    std::fs::create_dir_all(root.join("tmp"))?;
    let subnet = Subnet::take()?;
    let admin_socket = directory.path().join("admin.sock");
    let bind = subnet.host(1).to_string();
    let arguments: [&OsStr; 8] = [
        "--config".as_ref(),
        document.as_ref(),
        "--admin-socket".as_ref(),
        admin_socket.as_ref(),
        "--unix-root".as_ref(),
        root.as_ref(),
        "--bind".as_ref(),
        bind.as_ref(),
    ];
    let program = Program {
        name: "l7mp-proxy".to_owned(),
        path: binaries.proxy.clone(),
        arguments: arguments.map(OsStr::to_owned).into(),
        directory: directory.path().to_owned(),
        environment: Vec::new(),
        log: directory.path().join("proxy.log"),
    };
    let mut proxy = Process::new(program, binaries.tool.clone());
    proxy.start()?;
    let deadline = Instant::now() + START_PATIENCE;
    while !admin::get(&admin_socket, "/readyz").is_ok_and(|answer| answer.status == 200) {
        proxy.check()?;
        ensure!(Instant::now() < deadline, "not ready after {START_PATIENCE:?}:\n{}", proxy.log_tail(20));
        std::thread::sleep(POLL);
    }
    let status = proxy.stop(START_PATIENCE)?;
    ensure!(status.is_some_and(|status| status.success()), "it did not end well:\n{}", proxy.log_tail(20));
    Ok(())
}

/// Files that are configuration documents: JSON, or YAML that is no Kubernetes manifest and no Helm template.
fn find_documents(directory: &Path, documents: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_documents(&path, documents)?;
            continue;
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => documents.push(path),
            Some("yaml" | "yml") => {
                let text = std::fs::read_to_string(&path)?;
                if !text.lines().any(|line| line.starts_with("apiVersion:")) {
                    documents.push(path);
                }
            }
            Some("md" | "sh") => (),
            _ => bail!("{} is neither YAML nor JSON: how is it to be checked?", path.display()),
        }
    }
    Ok(())
}
