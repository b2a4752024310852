//! The limit of open files: every session takes one or more.

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// What a proxy opens whatever its configuration: admin socket, runtime, signals, standard streams; with room to spare.
const FILES: u64 = 64;
/// What each worker opens beside: its ring and its waker; with room for a socket of some listeners.
const FILES_PER_WORKER: u64 = 16;

/// Raises the soft limit to the hard one: the usual 1,024 are there for programs that use `select`.
///
/// # Errors
///
/// When that is too few to start.
pub fn raise(workers: usize) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let need = FILES + FILES_PER_WORKER * workers as u64;
    ensure!(
        have >= need,
        "the limit of open files is {have}; {workers} workers need {need}, and every session one or more. \
         Raise it: ulimit -n, LimitNOFILE="
    );
    Ok(())
}
