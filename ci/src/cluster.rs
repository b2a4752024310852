//! A real Kubernetes with one node on this machine, for the tests, the demo and people: `cargo cluster`.
//!
//! It lives in namespaces of its own (processes, mounts, network) with one link out, and touches nothing else of the
//! machine's: its processes, mounts and addresses cannot outlive their first process. Its programs are built from
//! their Go modules once. Needs root, Go, and a few Debian packages.
//!
//! A test takes [`Cluster::shared`], which is the cluster of `L7MP_KUBECONFIG` if that is set, else one that ends with
//! the test's process.

pub mod archive;
mod certificates;
mod clean;
mod command;
mod control;
mod images;
pub mod machine;
mod needs;
mod network;
pub mod node;
mod part;
mod place;
mod programs;
mod settings;
mod start;

use std::ffi::OsString;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub use self::command::{Options, run};
pub use self::images::{FIRST_TASK_IMAGE, IMAGE};
pub use self::network::Network;
pub use self::part::Part;

use self::place::{Lock, Place, Record};
use self::programs::Programs;
use self::start::Hold;
use crate::testbed::Profile;

/// The cluster of whoever names none.
const DEFAULT_NAME: &str = "default";
/// The cluster of tests: they take turns.
const TEST_NAME: &str = "test";
/// Between two looks at something of the API server's.
const POLL: Duration = Duration::from_millis(100);

/// A cluster that runs, ours or another.
///
/// One of ours that was started here ends when this value is dropped, or the process ends.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Where kubectl and helm are looked for first.
    bin: Option<PathBuf>,
    own: Option<Own>,
}

/// What is known of a cluster of ours.
#[derive(Debug)]
struct Own {
    place: Place,
    record: Record,
    /// Absent in one that was found running, and is left so.
    hold: Option<Hold>,
    _use: Option<Lock>,
}

impl Cluster {
    /// The cluster of this process's tests, started by the first that wants it. Ends with the process.
    ///
    /// # Errors
    ///
    /// As [`Cluster::up_or_given`]; the same to everybody who asks.
    pub fn shared() -> Result<&'static Cluster> {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Cluster::up_or_given().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// As [`Cluster::shared`], but `None` on a person's machine that lacks what a cluster needs, with a line that says
    /// what. With `CI=true` that is an error.
    pub fn for_tests() -> Result<Option<&'static Cluster>> {
        if std::env::var_os("L7MP_KUBECONFIG").is_none() && Cluster::check_needs()?.is_none() {
            return Ok(None);
        }
        Cluster::shared().map(Some)
    }

    /// What a cluster needs and this machine lacks, as an error of one line that says how it is had.
    pub fn needs() -> Result<()> {
        needs::check().and_then(|()| Programs::check_go())
    }

    /// Whether this machine has what a cluster needs; `None`, with a line that says what is missing, if it has not.
    ///
    /// # Errors
    ///
    /// When it has not, and `CI=true`: there nothing is skipped.
    pub fn check_needs() -> Result<Option<()>> {
        match Cluster::needs() {
            Ok(()) => Ok(Some(())),
            Err(error) if std::env::var_os("CI").is_some_and(|ci| ci == "true") => Err(error),
            Err(error) => {
                eprintln!("skipped: {error:#}");
                Ok(None)
            }
        }
    }

    /// What images need and this machine lacks, as an error of one line that says how it is had.
    pub fn needs_of_images() -> Result<()> {
        images::check()
    }

    /// The cluster `L7MP_CLUSTER` of this machine or that of the kubeconfig file `L7MP_KUBECONFIG`, if one is set; else
    /// one for tests.
    pub fn up_or_given() -> Result<Cluster> {
        Cluster::named_or_given()?.map_or_else(Cluster::new_for_tests, Ok)
    }

    /// The cluster that `L7MP_CLUSTER` or `L7MP_KUBECONFIG` says, if one is set.
    pub fn named_or_given() -> Result<Option<Cluster>> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        match (variable("L7MP_CLUSTER"), variable("L7MP_KUBECONFIG")) {
            (Some(name), _) => Cluster::up(&name.to_string_lossy(), false).map(Some),
            (None, Some(kubeconfig)) => Cluster::given(kubeconfig.into()).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// A new one without the project's images, after waiting until no other process on this machine has such a one.
    pub fn new_for_tests() -> Result<Cluster> {
        Cluster::up(TEST_NAME, true)
    }

    /// Its name on this machine; that of a given one is empty.
    pub fn name(&self) -> &str {
        self.own.as_ref().map_or("", |own| &own.place.name)
    }

    /// The private key that signs the tokens of service accounts, for tests that forge some.
    pub fn token_key(&self) -> Result<PathBuf> {
        Ok(self.own()?.place.file("pki/service-accounts.key"))
    }

    /// A cluster that somebody else looks after. Its kubectl and helm are those of PATH, else ours.
    pub fn given(kubeconfig: PathBuf) -> Result<Cluster> {
        ensure!(kubeconfig.is_file(), "no kubeconfig {}", kubeconfig.display());
        let all_there = ["kubectl", "helm"].into_iter().all(|program| needs::find(program).is_some());
        let bin = if all_there { None } else { Some(Programs::find_or_build()?.bin()) };
        Ok(Cluster { kubeconfig, bin, own: None })
    }

    /// The cluster `name` of this machine: found running, else started. `alone`: nobody else may have it meanwhile.
    pub fn up(name: &str, alone: bool) -> Result<Cluster> {
        needs::check()?;
        let place = Place::of(name)?;
        let programs = Programs::find_or_build()?;
        let in_use = if alone { Some(place.lock_use()?) } else { None };
        let _lock = place.lock()?;
        let start::Started { record, hold } = start::up(&place, &programs)?;
        let bin = Programs { directory: record.programs.clone() }.bin();
        let kubeconfig = place.file("admin.kubeconfig");
        Ok(Cluster { kubeconfig, bin: Some(bin), own: Some(Own { place, record, hold, _use: in_use }) })
    }

    /// Takes it down, whoever started it. Does nothing to a given one.
    pub fn down(mut self) -> Result<()> {
        match &self.own.take() {
            Some(own) => own.down(),
            None => Ok(()),
        }
    }

    /// Lets one of ours live on when this process ends.
    pub fn keep(mut self) -> Result<()> {
        self.own.as_mut().and_then(|own| own.hold.take()).map_or(Ok(()), Hold::release)
    }

    /// Whether somebody else looks after it.
    pub fn is_given(&self) -> bool {
        self.own.is_none()
    }

    /// Whether it was started here, and so ends with this value.
    pub fn ends_with_us(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.hold.is_some())
    }

    /// Whether it has not been taken down by somebody else; nothing is asked of a given one.
    pub fn is_alive(&self) -> bool {
        self.own.as_ref().is_none_or(|own| own.place.running().is_some())
    }

    /// The variables for programs that speak to it.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut environment = vec![("KUBECONFIG", self.kubeconfig.clone().into_os_string())];
        environment.extend(self.bin.as_ref().map(|bin| ("PATH", needs::search_path(bin).into())));
        environment
    }

    /// The lines that make a shell speak to it.
    pub fn exports(&self) -> String {
        exports(&self.kubeconfig, self.bin.as_deref())
    }

    /// The file to speak to it with.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The path of `kubectl`, `helm` or `ctr`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.as_ref().map_or_else(|| name.into(), |bin| bin.join(name))
    }

    /// kwok, which plays nodes and pods; built when it is wanted first (at most two minutes).
    pub fn kwok(&self) -> Result<PathBuf> {
        Programs::kwok()
    }

    /// A program that speaks to this cluster, without arguments.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// Runs kubectl, whatever comes of it.
    pub fn kubectl_output(&self, arguments: &[&str]) -> Result<Output> {
        self.command("kubectl").args(arguments).output().context("cannot run kubectl")
    }

    /// What kubectl answers.
    ///
    /// # Errors
    ///
    /// With what it said, when it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        said("kubectl", arguments, self.kubectl_output(arguments)?)
    }

    /// What helm answers.
    ///
    /// # Errors
    ///
    /// With what it said, when it fails.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        said("helm", arguments, self.command("helm").args(arguments).output().context("cannot run helm")?)
    }

    /// Applies documents.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with_input(&["apply", "-f", "-"], yaml)
    }

    /// Deletes the objects of documents, and waits until they are gone; those that are not there are no error.
    pub fn delete(&self, yaml: &str) -> Result<String> {
        self.kubectl_with_input(&["delete", "--ignore-not-found", "-f", "-"], yaml)
    }

    /// What kubectl answers when `input` is given to it.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut kubectl = self.command("kubectl");
        kubectl.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("cannot run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no input")?;
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output()
        })?;
        said("kubectl", arguments, output)
    }

    /// `kubectl wait --for=CONDITION WHAT...`, as `("condition=Ready", &["pod", "-l", "app=worker"])`.
    pub fn wait(&self, condition: &str, what: &[&str], patience: Duration) -> Result<String> {
        let (condition, timeout) = (format!("--for={condition}"), format!("--timeout={}s", patience.as_secs().max(1)));
        self.kubectl(&[&["wait", &condition, &timeout], what].concat())
    }

    /// What a command says that is run in a container.
    pub fn exec(&self, pod: &str, container: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "-c", container, "--"], command].concat())
    }

    /// Waits until `done` says so.
    ///
    /// # Errors
    ///
    /// After `patience`, with the error that `done` had last, if it had one.
    pub fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        mut done: impl FnMut(&Cluster) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let last = done(self);
            match last {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() < deadline => (),
                Err(_) if Instant::now() < deadline => (),
                Ok(false) => bail!("waited {patience:?}, but not yet: {what}"),
                Err(error) => return Err(error).with_context(|| format!("waited {patience:?}, but not yet: {what}")),
            }
            std::thread::sleep(POLL);
        }
    }

    /// The address of the first node, reached from here.
    pub fn node_address(&self) -> Result<Ipv4Addr> {
        if let Some(own) = &self.own {
            return Ok(Network(own.record.network).node());
        }
        let path = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        let text = self.kubectl(&["get", "nodes", "-o", path])?;
        text.trim().parse().with_context(|| format!("the node has no IPv4 address: \"{text}\""))
    }

    /// Builds the project's images and gives them to the node. A given cluster has them already.
    pub fn load(&self, profile: Profile) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        let _lock = own.place.lock()?;
        images::load(&own.place, &own.programs(), profile)
    }

    /// Gives the node the images of an archive.
    pub fn load_archive(&self, archive: &Path) -> Result<()> {
        let own = self.own()?;
        images::import(&own.place, &own.programs(), archive)
    }

    /// Asks a part to end (SIGTERM), and waits until it has.
    pub fn stop_part(&self, part: Part) -> Result<()> {
        start::end_part(&self.own()?.place, part, Signal::TERM)
    }

    /// Kills a part (SIGKILL), and waits until it is gone.
    pub fn kill_part(&self, part: Part) -> Result<()> {
        start::end_part(&self.own()?.place, part, Signal::KILL)
    }

    /// Starts a part that was stopped, and waits until it answers.
    pub fn start_part(&self, part: Part) -> Result<()> {
        let own = self.own()?;
        start::start_part(&own.place, &own.record, part)
    }

    /// The log of a part.
    pub fn part_log(&self, part: Part) -> Result<PathBuf> {
        Ok(self.own()?.place.log(part.name()))
    }

    /// What service accounts have asked of the API server so far: one JSON object of audit.k8s.io/v1 to a line.
    pub fn audit(&self) -> Result<String> {
        let path = self.own()?.place.file("log/audit.log");
        // It is made with the first line.
        Ok(std::fs::read_to_string(path).unwrap_or_default())
    }

    /// For the message of a test that fails: pods, events, and the ends of the logs.
    pub fn diagnosis(&self) -> String {
        let ask = |arguments: &[&str]| self.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}"));
        let mut text = ask(&["get", "pods", "-A", "-o", "wide"]);
        text += &ask(&["get", "events", "-A", "--sort-by=.lastTimestamp"]);
        for part in self.own.iter().flat_map(|own| Part::ALL.map(|part| own.place.log_tail(part.name(), 5))) {
            text += &format!("\n{part}\n");
        }
        text
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().context("this cluster is not ours: its parts are somebody else's")
    }
}

impl Own {
    fn programs(&self) -> Programs {
        Programs { directory: self.record.programs.clone() }
    }

    fn down(&self) -> Result<()> {
        let _lock = self.place.lock()?;
        clean::down(&self.place)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(own) = self.own.take_if(|own| own.hold.is_some())
            && let Err(error) = own.down()
        {
            eprintln!("cannot take cluster {} down: {error:#}", own.place.name);
        }
    }
}

fn exports(kubeconfig: &Path, bin: Option<&Path>) -> String {
    let path = bin.map(|bin| format!("export PATH='{}':\"$PATH\"\n", bin.display())).unwrap_or_default();
    format!("export KUBECONFIG='{}'\n{path}", kubeconfig.display())
}

fn said(program: &str, arguments: &[&str], output: Output) -> Result<String> {
    if !output.status.success() {
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{program} {}: {}{}", arguments.join(" "), out, error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on Ctrl-C, SIGTERM and SIGHUP are seen by [`interrupted`], so that what was started is taken down first.
pub fn end_on_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(())
}

/// An error once we were asked to end.
fn interrupted() -> Result<()> {
    let flag = INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed));
    ensure!(!flag, "interrupted");
    Ok(())
}
