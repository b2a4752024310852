//! Commands, run as a person would type them.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use super::Interrupt;
use crate::process::POLL;
use crate::testbed::client::Answer;

/// How long a command may take to end when it is asked to.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer is waited for before its line is typed again: UDP promises nothing.
const RETYPE: Duration = Duration::from_secs(5);

/// Runs commands in the root of the checkout, each printed before it runs. Ctrl-C ends the command that runs, and is an
/// error of it.
pub struct Shell<'a> {
    interrupt: &'a Interrupt,
    /// How many interrupts had come when it began: those are an earlier shell's.
    seen: usize,
    environment: Vec<(&'static str, OsString)>,
}

impl<'a> Shell<'a> {
    /// A shell with these variables. An interrupt that has come already does not end its commands.
    pub fn new(interrupt: &'a Interrupt, environment: Vec<(&'static str, OsString)>) -> Shell<'a> {
        Shell { interrupt, seen: interrupt.times(), environment }
    }

    /// Another one, which does not know of the interrupts that have come.
    pub fn anew(&self) -> Shell<'a> {
        Shell::new(self.interrupt, self.environment.clone())
    }

    /// Prints a command and runs it; what it says is seen.
    pub fn run(&self, line: &str) -> Result<()> {
        self.check()?;
        say(&format!("\n$ {line}\n"))?;
        let mut child = self.command(line)?.spawn().with_context(|| format!("cannot run `{line}`"))?;
        let status = self.wait(&mut child)?;
        ensure!(status.success(), "`{line}` failed ({status})");
        Ok(())
    }

    /// What a command says, which is not printed; `None` when it fails.
    pub fn ask(&self, line: &str) -> Result<Option<String>> {
        self.check()?;
        let output = self.command(line)?.stdout(Stdio::piped()).stderr(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run `{line}`"))?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Starts `socat - udp4:GATEWAY`, into which lines can be typed.
    pub fn socat(&self, gateway: SocketAddr) -> Result<Socat<'_>> {
        let line = format!("socat - udp4:{gateway}");
        say(&format!("\n$ {line}\n"))?;
        let mut command = self.command(&line)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run socat")?;
        let (input, output) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Socat { shell: self, child, input, lines })
    }

    /// An error once Ctrl-C came.
    fn check(&self) -> Result<()> {
        ensure!(self.interrupt.times() == self.seen, "interrupted");
        Ok(())
    }

    fn command(&self, line: &str) -> Result<Command> {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().context("an empty command")?);
        command.args(words).envs(self.environment.iter().map(|(name, value)| (name, value)));
        // A group of its own: Ctrl-C is for us, who end what has to be ended.
        command.current_dir(crate::workspace()).stdin(Stdio::null()).process_group(0);
        Ok(command)
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if let Err(error) = self.check() {
                end(child)?;
                return Err(error);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Asks a command and what it has started to end, then kills them.
fn end(child: &mut Child) -> Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
    let deadline = Instant::now() + END_PATIENCE;
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    while child.try_wait()?.is_none() && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    child.wait()?;
    Ok(())
}

/// A running socat; ended when dropped.
pub struct Socat<'a> {
    shell: &'a Shell<'a>,
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Socat<'_> {
    /// Types a line and prints it with its answer. A line that is not answered is typed again.
    pub fn ask(&mut self, line: &str, patience: Duration) -> Result<Answer> {
        let deadline = Instant::now() + patience;
        let mut retype = Instant::now();
        let mut text = String::new();
        loop {
            if text.is_empty() && Instant::now() >= retype {
                retype = Instant::now() + RETYPE;
                say(&format!("{line}\n"))?;
                writeln!(self.input, "{line}").context("socat has ended")?;
            }
            ensure!(Instant::now() < deadline, "no answer to \"{line}\" in {patience:?}, but {text:?}");
            let Some(said) = self.line()? else { continue };
            say(&format!("{said}\n"))?;
            text += &format!("{said}\n");
            if text.lines().count() == 2 {
                let answer =
                    Answer::parse(&text).with_context(|| format!("this is no answer of the page: {text:?}"))?;
                if answer.line == line {
                    return Ok(answer);
                }
                // The second answer to a line that was typed twice.
                text.clear();
            }
        }
    }

    fn line(&mut self) -> Result<Option<String>> {
        self.shell.check()?;
        match self.lines.recv_timeout(POLL) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("socat has ended: {}", self.child.wait()?),
        }
    }
}

impl Drop for Socat<'_> {
    fn drop(&mut self) {
        let _ = end(&mut self.child);
    }
}

/// Prints at once, in the order of what commands print.
pub fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
