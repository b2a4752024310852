//! What is said to the first process of a cluster's namespaces: one request and one answer on a connection, as JSON.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

/// The socket's name in the cluster's directory.
pub const SOCKET: &str = "control";
/// How long an answer may take: nothing that is asked for takes long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start a part that does not run.
    Start(Start),
    /// Send a signal to a part that runs; none to one that does not.
    Signal {
        /// The part.
        part: String,
        /// The signal's number.
        signal: i32,
    },
    /// Nothing; for the answer.
    Status,
    /// Kill everything, remove it, and end.
    End,
}

/// A program to start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// The part that it is.
    pub part: String,
    /// The program, and its arguments.
    pub command: Vec<String>,
    /// Variables that are added to those of the first process.
    pub environment: Vec<(String, String)>,
    /// Takes what it says, is appended to.
    pub log: PathBuf,
}

/// An answer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Why the request could not be done.
    pub error: Option<String>,
    /// Every part that was started, and how it ended if it did.
    pub parts: BTreeMap<String, Option<String>>,
}

/// Asks the first process of the cluster in `directory`; answers the process's id as well.
pub fn ask(directory: &Path, request: &Request) -> Result<(Answer, i32)> {
    let path = directory.join(SOCKET);
    let mut stream = UnixStream::connect(&path).with_context(|| format!("cannot connect to {}", path.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).with_context(|| format!("no answer from {}", path.display()))?;
    let answer: Answer = serde_json::from_str(&answer).with_context(|| format!("the answer of {}", path.display()))?;
    match answer.error {
        Some(error) => Err(anyhow!(error)),
        None => Ok((answer, peer.pid.as_raw_nonzero().get())),
    }
}
