//! The first task on this machine: one gateway, transcoder pods, workers, one controller.
//!
//! ```text
//! client --UDP 9001--> gateway --WebSocket 8888--> sidecar --Unix--> transcoder     (and back)
//!                      gateway --UDP 9999--------> worker                           (and back)
//! ```
//!
//! Every pod has an address of its own in a 127.x.y.0/24 that no other testbed has, and a directory of its own as the
//! root of its Unix paths. The controller reads the manifests of the task, byte for byte, and generated Pod objects.
//! Each part can be stopped, killed and started again by itself, and the manifests may be changed while all runs.

pub mod admin;
mod binaries;
pub mod client;
mod manifests;
pub(crate) mod network;
mod pods;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

pub use self::binaries::{Binaries, Profile};
pub use self::pods::{Pod, Role, Servers};
use crate::process::{POLL, Process, Program};
use network::Subnet;

/// How long a program may take to end when it is asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(40);
/// How long a server may take to listen.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);

/// What a testbed is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address that the gateway's proxy binds; `None`: the address of its pod, which is the testbed's own.
    pub gateway_address: Option<IpAddr>,
    /// Port of the gateway's listener; another one than 9001 is put into the copy of the manifest.
    pub gateway_port: u16,
    /// Transcoder pods.
    pub transcoders: usize,
    /// Worker pods.
    pub workers: usize,
    /// Who answers in them.
    pub servers: Servers,
    /// The directory whose manifests are copied.
    pub manifests: PathBuf,
    /// Arguments for the gateway's proxy, as `["--workers", "2"]`.
    pub gateway_arguments: Vec<String>,
    /// Arguments for the proxies of the transcoders.
    pub sidecar_arguments: Vec<String>,
    /// `RUST_LOG` of proxies and controller; `None`: theirs.
    pub log: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            gateway_address: None,
            gateway_port: 9001,
            transcoders: 2,
            workers: 2,
            servers: Servers::Ours,
            manifests: crate::workspace().join("deploy/examples/first-task"),
            gateway_arguments: Vec::new(),
            sidecar_arguments: Vec::new(),
            log: None,
        }
    }
}

/// A part that can be stopped and started by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The controller.
    Controller,
    /// The proxy of a pod.
    Proxy(&'a str),
    /// The transcoder or worker of a pod.
    Server(&'a str),
}

/// All of it, running. Killed and removed when dropped.
pub struct Testbed {
    options: Options,
    controller: Process,
    pods: Vec<Pod>,
    manifests: PathBuf,
    // Last: the processes above end before their addresses and files go.
    _subnet: Subnet,
    _directory: tempfile::TempDir,
}

impl Testbed {
    /// Starts everything, and waits until the servers listen. The configuration may arrive later: see
    /// [`Testbed::wait_ready`].
    pub fn start(binaries: &Binaries, options: Options) -> Result<Testbed> {
        let mut testbed = Testbed::prepare(binaries, options)?;
        for pod in &mut testbed.pods {
            [&mut pod.server, &mut pod.proxy].into_iter().flatten().try_for_each(Process::start)?;
        }
        testbed.controller.start()?;
        testbed.wait_for_servers()?;
        Ok(testbed)
    }

    /// A testbed of which nothing runs yet, so that the parts can be started one by one.
    pub fn prepare(binaries: &Binaries, options: Options) -> Result<Testbed> {
        let directory = tempfile::Builder::new().prefix("l7mp-").tempdir()?;
        let subnet = Subnet::take()?;
        let manifests = directory.path().join("manifests");
        manifests::copy(&options.manifests, &manifests, options.gateway_port)?;
        let pods = pods::plan(&options, &subnet, directory.path(), binaries)?;
        for pod in &pods {
            let file = manifests.join(manifests::pod_file(&pod.name));
            manifests::write(&file, &manifests::pod(pod))?;
        }
        let controller = controller(binaries, &options, directory.path(), &manifests, &pods);
        Ok(Testbed { options, controller, pods, manifests, _subnet: subnet, _directory: directory })
    }

    /// Where clients send to: address and port of the gateway's listener.
    pub fn gateway(&self) -> SocketAddr {
        let pod = self.pods.iter().find(|pod| pod.role == Role::Gateway);
        let address = pod.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |pod| pod.bind);
        SocketAddr::new(address, self.options.gateway_port)
    }

    /// All pods.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pods of one kind.
    pub fn pods_of(&self, role: Role) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.role == role)
    }

    /// The pod `name`.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
    }

    /// The process of a part; for its id, its output, its log.
    pub fn process(&mut self, part: Part<'_>) -> Result<&mut Process> {
        let (name, pick): (_, fn(&mut Pod) -> Option<&mut Process>) = match part {
            Part::Controller => return Ok(&mut self.controller),
            Part::Proxy(name) => (name, |pod| pod.proxy.as_mut()),
            Part::Server(name) => (name, |pod| pod.server.as_mut()),
        };
        let pod = self.pods.iter_mut().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))?;
        pick(pod).with_context(|| format!("no {part:?}"))
    }

    /// Starts a part that does not run; does not wait until it is ready.
    pub fn start_part(&mut self, part: Part<'_>) -> Result<()> {
        self.process(part)?.start()
    }

    /// Asks a part to end (SIGTERM), and waits until it has.
    pub fn stop(&mut self, part: Part<'_>) -> Result<Option<ExitStatus>> {
        self.process(part)?.stop(STOP_PATIENCE)
    }

    /// Kills a part (SIGKILL), and waits until it is gone.
    pub fn kill(&mut self, part: Part<'_>) -> Result<Option<ExitStatus>> {
        self.process(part)?.kill()
    }

    /// Kills a part and starts it again.
    pub fn restart(&mut self, part: Part<'_>) -> Result<()> {
        self.kill(part)?;
        self.start_part(part)
    }

    /// Sends a signal to a part, SIGHUP or SIGSTOP for example.
    pub fn signal(&mut self, part: Part<'_>, signal: Signal) -> Result<()> {
        self.process(part)?.signal(signal)
    }

    /// An error with the log of the first part that does not run.
    pub fn check(&mut self) -> Result<()> {
        self.processes().try_for_each(Process::check)
    }

    /// Starts every part that has ended again, with a line of `news` for each death and each start.
    ///
    /// # Errors
    ///
    /// When a program cannot be started any more.
    pub fn revive(&mut self, mut news: impl FnMut(&str)) -> Result<()> {
        for process in self.processes() {
            let Some(status) = process.exited()? else { continue };
            let (name, id) = (process.program().name.clone(), process.id().unwrap_or_default());
            let log = process.program().log.display().to_string();
            news(&format!("{name} (pid {id}) ended: {status}; its log: {log}"));
            process.start()?;
            news(&format!("{name} is started again (pid {})", process.id().unwrap_or_default()));
        }
        Ok(())
    }

    /// Waits until every proxy has adopted a configuration with a listener in it; gives up early when `interrupted`
    /// says so.
    pub fn wait_ready(&mut self, patience: Duration, interrupted: impl Fn(&Testbed) -> bool) -> Result<()> {
        self.wait_until(patience, "every proxy has a configuration", |testbed| {
            if interrupted(testbed) {
                return true;
            }
            testbed.pods.iter().filter(|pod| pod.proxy.is_some()).all(|pod| {
                let ready = admin::get(&pod.admin_socket, "/readyz").is_ok_and(|answer| answer.status == 200);
                ready && admin::get(&pod.admin_socket, "/api/v1/config").is_ok_and(|answer| has_listeners(&answer))
            })
        })
    }

    /// Waits until `done` says so; an error when it takes longer than `patience`, or a part ends meanwhile.
    pub fn wait_until(&mut self, patience: Duration, what: &str, mut done: impl FnMut(&Testbed) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !done(self) {
            self.check()?;
            ensure!(Instant::now() < deadline, "waited {patience:?}, but not yet: {what}");
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// `GET path` on the admin socket of the proxy of pod `name`.
    pub fn get(&self, name: &str, path: &str) -> Result<admin::Answer> {
        admin::get(&self.pod(name)?.admin_socket, path)
    }

    /// The directory that the controller reads. Files may be changed; [`Testbed::write_manifest`] does it at once.
    pub fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// Writes a manifest, so that the controller sees the old or the new one, never a half.
    pub fn write_manifest(&self, file: &str, text: &str) -> Result<()> {
        manifests::write(&self.manifests.join(file), text)
    }

    /// Changes a manifest.
    pub fn edit_manifest(&self, file: &str, edit: impl FnOnce(&str) -> String) -> Result<()> {
        let path = self.manifests.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("no manifest {file}"))?;
        manifests::write(&path, &edit(&text))
    }

    /// Takes a manifest away.
    pub fn remove_manifest(&self, file: &str) -> Result<()> {
        std::fs::remove_file(self.manifests.join(file)).with_context(|| format!("no manifest {file}"))
    }

    /// The name of the manifest file of pod `name`.
    pub fn pod_manifest(name: &str) -> String {
        manifests::pod_file(name)
    }

    /// The last `lines` lines of every log, each under its part's name.
    pub fn logs(&self, lines: usize) -> String {
        let of_pods = self.pods.iter().flat_map(|pod| [&pod.proxy, &pod.server].into_iter().flatten());
        let all = of_pods.chain([&self.controller]);
        all.map(|process| format!("--- {} ---\n{}\n", process.program().name, process.log_tail(lines))).collect()
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let of_pods = self.pods.iter_mut().flat_map(|pod| [&mut pod.proxy, &mut pod.server].into_iter().flatten());
        of_pods.chain([&mut self.controller])
    }

    fn wait_for_servers(&mut self) -> Result<()> {
        let mut servers = self.pods.iter_mut().filter_map(|pod| pod.server.as_mut());
        servers.try_for_each(|server| server.wait_for_output("listening on", LISTEN_PATIENCE))
    }
}

fn controller(binaries: &Binaries, options: &Options, directory: &Path, manifests: &Path, pods: &[Pod]) -> Process {
    let mut arguments: Vec<OsString> = vec!["local".into(), "--manifests".into(), manifests.into()];
    for pod in pods.iter().filter(|pod| pod.proxy.is_some()) {
        let mut target = OsString::from(format!("{}/{}=", manifests::NAMESPACE, pod.name));
        target.push(&pod.admin_socket);
        arguments.extend(["--proxy".into(), target]);
    }
    let program = Program {
        name: "controller".to_owned(),
        path: binaries.controller.clone(),
        arguments,
        directory: directory.to_owned(),
        environment: log_environment(options),
        log: directory.join("controller.log"),
    };
    Process::new(program, binaries.tool.clone())
}

fn log_environment(options: &Options) -> Vec<(String, OsString)> {
    options.log.iter().map(|log| ("RUST_LOG".to_owned(), OsString::from(log))).collect()
}

/// Whether `GET /api/v1/config` answered with a document that has listeners.
fn has_listeners(answer: &admin::Answer) -> bool {
    answer.json()["config"]["listeners"].as_array().is_some_and(|listeners| !listeners.is_empty())
}
