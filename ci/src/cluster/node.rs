//! The first process of a cluster's namespaces (PID, mount, network). It starts the parts, collects what ends, and
//! when it ends the kernel kills everything in them: no process, mount, network or link can outlive it.
//!
//! It ends, and removes the cluster's directory and control groups, when it is asked to, on SIGTERM, and when its
//! standard input is closed before a line came: whoever starts a cluster holds the other end until it is complete.
//!
//! Inside, `/run`, `/tmp`, `/var/lib` and `/var/log` are the cluster's own, and the rest of the machine's files are
//! read-only: what containerd, runc and the kubelet leave at paths that no option changes never reaches them.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use super::clean;
use super::control::{Answer, Request, SOCKET, Start};

/// The cluster's directory, as those inside see it.
pub const INSIDE: &str = "/run/l7mp-cluster";
/// Its programs, as those inside see them.
pub const PROGRAMS: &str = "/run/l7mp-programs";
/// The kubelet's directory, as those inside see it: the usual one, since charts know it.
pub const KUBELET: &str = "/var/lib/kubelet";

/// Where the machine's files are covered, in the order of covering.
const OWN_PLACES: [&str; 4] = ["/run", "/tmp", "/var/lib", "/var/log"];

/// What the kubelet wants to set, and does not start without: whether the machine panics, how it gives out memory. It
/// sets files of its own instead.
const KUBELET_SETTINGS: [&str; 6] = [
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// How it is started.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The cluster's directory
    #[arg(long)]
    directory: PathBuf,
    /// The control group of its pods
    #[arg(long)]
    cgroup: String,
    /// Where its programs are
    #[arg(long)]
    programs: PathBuf,
}

struct Node {
    options: Options,
    parts: Mutex<BTreeMap<String, Part>>,
}

struct Part {
    pid: Pid,
    ended: Option<String>,
}

/// Runs until the end of the cluster.
pub fn run(options: Options) -> Result<()> {
    ensure!(std::process::id() == 1, "this command is for a PID namespace of its own: `cargo cluster up` makes one");
    mounts(&options)?;
    let socket = Path::new(INSIDE).join(SOCKET);
    let listener = UnixListener::bind(&socket).with_context(|| format!("cannot bind {}", socket.display()))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    let node: &'static Node = Box::leak(Box::new(Node { options, parts: Mutex::default() }));
    let mut signals = signal_hook::iterator::Signals::new([SIGCHLD, SIGTERM, SIGINT])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGCHLD { node.collect() } else { node.end() }
        }
    });
    thread::spawn(move || {
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line).is_ok_and(|length| length > 0) {
            return;
        }
        println!("whoever started this cluster is gone: it ends");
        node.end();
    });
    println!("listening on {SOCKET}");
    for connection in listener.incoming() {
        match connection {
            Ok(stream) => drop(thread::spawn(move || node.serve(&stream))),
            Err(error) => bail!("cannot accept on {}: {error}", socket.display()),
        }
    }
    Ok(())
}

impl Node {
    fn parts(&self) -> MutexGuard<'_, BTreeMap<String, Part>> {
        // What a thread that panicked has left is still true: each change is one insertion.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &UnixStream) {
        let mut line = String::new();
        if BufReader::new(stream).read_line(&mut line).is_err() {
            return;
        }
        let request = serde_json::from_str(&line).context("not a request");
        let is_end = matches!(request, Ok(Request::End));
        let error = request.and_then(|request| self.answer(&request)).err().map(|error| format!("{error:#}"));
        let parts = self.parts().iter().map(|(name, part)| (name.clone(), part.ended.clone())).collect();
        let answer = serde_json::to_vec(&Answer { error, parts }).unwrap_or_default();
        let mut stream = stream;
        // Whoever asked may be gone.
        let _ = stream.write_all(&answer).and_then(|()| stream.write_all(b"\n"));
        if is_end {
            self.end();
        }
    }

    fn answer(&self, request: &Request) -> Result<()> {
        match request {
            Request::Start(start) => self.start(start),
            Request::Signal { part, signal } => {
                let signal = Signal::from_named_raw(*signal).with_context(|| format!("no signal {signal}"))?;
                match self.parts().get(part) {
                    Some(Part { pid, ended: None }) => Ok(rustix::process::kill_process(*pid, signal)?),
                    Some(_) | None => Ok(()),
                }
            }
            Request::Status | Request::End => Ok(()),
        }
    }

    fn start(&self, start: &Start) -> Result<()> {
        // Held until the child is known, so that it is not collected before.
        let mut parts = self.parts();
        if parts.get(&start.part).is_some_and(|part| part.ended.is_none()) {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&start.log);
        let log = log.with_context(|| format!("cannot write the log {}", start.log.display()))?;
        let [program, arguments @ ..] = &start.command[..] else { bail!("no program") };
        let mut command = Command::new(program);
        command.args(arguments).envs(start.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).current_dir("/");
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        parts.insert(start.part.clone(), Part { pid, ended: None });
        Ok(())
    }

    /// Waits for whatever has ended: parts, and the orphans of containers.
    fn collect(&self) {
        let mut parts = self.parts();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (_, Some(signal)) => format!("signal {signal}"),
                _ => "nobody knows how".to_owned(),
            };
            if let Some(part) = parts.values_mut().find(|part| part.pid == pid && part.ended.is_none()) {
                part.ended = Some(how);
            }
        }
    }

    /// Kills everything, removes what is not removed by that, and ends.
    fn end(&self) -> ! {
        // Nothing is started any more.
        let parts = self.parts();
        let result = kill_all().and_then(|()| {
            clean::unmount(&[INSIDE, KUBELET])?;
            clean::remove_cgroups(&self.options.cgroup)?;
            clean::empty(Path::new(INSIDE))?;
            // As the machine has it again, so that the directory itself can be removed.
            for path in OWN_PLACES.iter().rev() {
                rustix::mount::unmount(*path, UnmountFlags::DETACH)?;
            }
            rustix::mount::mount_remount("/", MountFlags::BIND, c"")?;
            fs::remove_dir(&self.options.directory).context("the cluster's directory")
        });
        if let Err(error) = &result {
            // Into the log, which is still there then; whoever asked for the end removes the rest.
            println!("cannot clean up: {error:#}");
        }
        drop(parts);
        std::process::exit(i32::from(result.is_err()))
    }
}

/// The file systems of the namespace.
fn mounts(options: &Options) -> Result<()> {
    let memory = |to: &Path, mode: &CStr| {
        fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", to, "tmpfs", flags, mode)
            .with_context(|| format!("cannot mount {}", to.display()))
    };
    let bind = |from: &Path, to: &Path| {
        fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
        rustix::mount::mount_bind(from, to).with_context(|| format!("cannot bind {}", from.display()))
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", flags, c"").context("cannot mount /proc")?;
    // These are the machine's. /proc/sys/net is our own.
    for path in ["/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs"] {
        bind(Path::new(path), Path::new(path))?;
        rustix::mount::mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, c"")
            .with_context(|| format!("cannot protect {path}"))?;
    }
    // The directories may themselves be below what is covered, so a new /run takes them along.
    let run = options.directory.join("mount");
    memory(&run, c"mode=755")?;
    let within = |path: &str| run.join(path.trim_start_matches("/run/"));
    bind(&options.directory, &within(INSIDE))?;
    bind(&options.programs, &within(PROGRAMS))?;
    rustix::mount::mount_move(&run, "/run").context("cannot mount /run")?;
    for setting in KUBELET_SETTINGS {
        let (own, shown) = (Path::new("/run/settings").join(setting), Path::new("/proc/sys").join(setting));
        if let (Ok(value), Some(parent)) = (fs::read(&shown), own.parent()) {
            fs::create_dir_all(parent)?;
            fs::write(&own, value)?;
            rustix::mount::mount_bind(&own, &shown).with_context(|| format!("cannot cover {}", shown.display()))?;
        }
    }
    for path in &OWN_PLACES[1..] {
        memory(Path::new(path), if *path == "/tmp" { c"mode=1777" } else { c"mode=755" })?;
    }
    let kubelet = Path::new(INSIDE).join("kubelet");
    fs::create_dir_all(&kubelet)?;
    bind(&kubelet, Path::new(KUBELET))?;
    // Whatever else is written to is the machine's, and must not be.
    rustix::mount::mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"").context("cannot protect /")?;
    // As on a node: volumes that ask for it see what is mounted later. It goes no further than this namespace.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", shared).context("cannot share the mounts with each other")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Kills every other process of the namespace, and waits until they are gone.
fn kill_all() -> Result<()> {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let others: Vec<Pid> = fs::read_dir("/proc")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
            .filter(|pid| !pid.is_init())
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        for pid in &others {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        if Instant::now() >= deadline {
            return Err(anyhow!("waited {KILL_PATIENCE:?}, but {} killed processes are not gone", others.len()));
        }
        thread::sleep(Duration::from_millis(10));
    }
}
