//! Child processes that cannot outlive us, each with a log.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};

/// Between two looks at something that has no event to wait for.
pub const POLL: Duration = Duration::from_millis(10);

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Program {
    /// For messages, and of the log file.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Variables that are added to ours.
    pub environment: Vec<(String, OsString)>,
    /// Takes stdout and stderr, is appended to.
    pub log: PathBuf,
}

/// A program that can be started, stopped and started again. Killed when dropped, with all of its process group.
pub struct Process {
    program: Program,
    /// `l7mp-ci`, for its `exec`.
    tool: PathBuf,
    child: Option<Child>,
    /// Length of the log when the child was started.
    log_start: u64,
}

impl Process {
    /// A process that does not run yet. `tool` is the `l7mp-ci` executable.
    pub fn new(program: Program, tool: PathBuf) -> Process {
        Process { program, tool, child: None, log_start: 0 }
    }

    /// What it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Changes what the next start runs.
    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it; does nothing when it runs.
    pub fn start(&mut self) -> Result<()> {
        if self.exited()?.is_none() && self.child.is_some() {
            return Ok(());
        }
        // What an earlier one has left of its process group.
        self.kill()?;
        let Program { name, path, arguments, directory, environment, log } = &self.program;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        self.log_start = log.metadata()?.len();
        let mut command = Command::new(&self.tool);
        command.arg("exec").arg("--parent").arg(std::process::id().to_string()).arg("--").arg(path).args(arguments);
        // A log is no terminal.
        command.env("NO_COLOR", "1");
        command.current_dir(directory).envs(environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.child = Some(spawn(command).with_context(|| format!("cannot start {name}"))?);
        Ok(())
    }

    /// How it ended, if it did since it was started.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    /// An error with the end of its log, when it does not run.
    pub fn check(&mut self) -> Result<()> {
        let status = self.exited()?;
        ensure!(self.child.is_some(), "{} is not started", self.program.name);
        if let Some(status) = status {
            anyhow::bail!("{} ended with {status}; its last lines:\n{}", self.program.name, self.log_tail(20));
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits; after `patience` it is killed. Answers how it ended.
    pub fn stop(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + patience;
        while self.child.is_some() && self.exited()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        self.kill()
    }

    /// Kills it and its process group (SIGKILL), and waits for its end.
    pub fn kill(&mut self) -> Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        if let Some(group) = pid(child.id()) {
            // Not there any more when all of them have ended: that is what is wanted.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        Ok(Some(child.wait()?))
    }

    /// Sends a signal to the process, not to its group; does nothing when it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // A child that was not waited for keeps its id, so this cannot hit another process.
        if self.exited()?.is_none()
            && let Some(pid) = self.id().and_then(pid)
        {
            rustix::process::kill_process(pid, signal)
                .with_context(|| format!("cannot signal {}", self.program.name))?;
        }
        Ok(())
    }

    /// What it has written since it was last started.
    pub fn output(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.program.log)?;
            file.seek(SeekFrom::Start(self.log_start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// The last `lines` lines of its log, of earlier starts too.
    pub fn log_tail(&self, lines: usize) -> String {
        let bytes = std::fs::read(&self.program.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits until it has written `text`, or ends.
    pub fn wait_for_output(&mut self, text: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !self.output().contains(text) {
            self.check()?;
            ensure!(
                Instant::now() < deadline,
                "{} has not written \"{text}\" for {patience:?}; its last lines:\n{}",
                self.program.name,
                self.log_tail(20)
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// Starts a command from a thread that lives as long as we do: the kernel kills such a child when the *thread* that
/// started it ends, and a test may start one from a thread that does not live long.
fn spawn(command: Command) -> Result<Child> {
    type Request = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Nobody waits for the answer only if the one who asked has panicked.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(requests)
    });
    let (answer, answered) = mpsc::channel();
    spawner.lock().map_err(|_| anyhow::anyhow!("the spawner is gone"))?.send((command, answer))?;
    Ok(answered.recv()??)
}

/// Makes this process `program`, which the kernel kills when the process `parent` ends. Returns only an error.
pub fn become_program(parent: i32, program: &[OsString]) -> anyhow::Error {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return anyhow::Error::new(error).context("cannot tie the process to its parent");
    }
    // The parent may have ended before the line above.
    if rustix::process::getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        return anyhow::anyhow!("process {parent}, which wanted this one, is gone");
    }
    let [path, arguments @ ..] = program else { return anyhow::anyhow!("no program") };
    let error = Command::new(path).args(arguments).exec();
    anyhow::Error::new(error).context(format!("cannot run {}", path.display()))
}
