//! Where a cluster keeps its things, and who may touch them.
//!
//! ```text
//! ~/.cache/l7mp/cluster/PROGRAMS-KEY/   programs, built once
//!                       run/NAME/       everything of a running cluster: removed when it ends
//!                       run/NAME.lock   held by whoever starts, loads or ends it
//!                       run/NAME.use    held by whoever wants no other beside him: the tests
//! ```

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::interrupted;

/// The name of a cluster's link on the machine begins so; the kernel allows 15 bytes.
const LINK_PREFIX: &str = "l7mp-";
const LINK_BYTES_MAX: usize = 15;
/// A Unix socket's path has at most 107 bytes, and the longest of ours adds this much to its directory.
const DIRECTORY_BYTES_MAX: usize = 107 - "/containerd.sock.ttrpc".len();
/// Between two tries to take a lock.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The directory of everything that is kept between runs, outside of every checkout.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|base| Path::new(base).is_absolute()) {
        Some(base) => PathBuf::from(base),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("l7mp/cluster"))
}

/// The places of one cluster. Says nothing about whether it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of the cluster.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
}

/// What is known of a cluster that was started; a file in its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its pods and its node are in 10.NETWORK.0.0/16.
    pub network: u8,
    /// The first process of its namespaces, as the machine sees it.
    pub pid: i32,
    /// When that process started, in clock ticks since the machine did: a process id may be used again.
    pub started: u64,
    /// The programs that it runs.
    pub programs: PathBuf,
}

impl Place {
    /// The place of the cluster `name`.
    ///
    /// # Errors
    ///
    /// When the name or the path of the cache directory cannot be used.
    pub fn of(name: &str) -> Result<Place> {
        let max = LINK_BYTES_MAX - LINK_PREFIX.len();
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        ensure!(
            plain && !name.is_empty() && name.len() <= max,
            "a cluster's name has 1 to {max} lower-case letters and digits, not \"{name}\""
        );
        let directory = cache()?.join("run").join(name);
        ensure!(
            directory.as_os_str().len() <= DIRECTORY_BYTES_MAX,
            "{} is too long for the sockets in it: set XDG_CACHE_HOME to a shorter path",
            directory.display()
        );
        Ok(Place { name: name.to_owned(), directory })
    }

    /// The machine's end of the cluster's only link.
    pub fn link(&self) -> String {
        format!("{LINK_PREFIX}{}", self.name)
    }

    /// The control group of its pods, below the root of each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("{LINK_PREFIX}{}", self.name)
    }

    /// A file of the cluster.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The log of a part.
    pub fn log(&self, part: &str) -> PathBuf {
        self.directory.join("log").join(format!("{part}.log"))
    }

    /// The last `lines` lines of a part's log.
    pub fn log_tail(&self, part: &str, lines: usize) -> String {
        let bytes = fs::read(self.log(part)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        format!("the end of {}:\n{}", self.log(part).display(), all[all.len().saturating_sub(lines)..].join("\n"))
    }

    /// What was recorded, if the cluster that it speaks of is alive.
    pub fn running(&self) -> Option<Record> {
        self.record().filter(Record::is_alive)
    }

    /// What was recorded, of a dead cluster too.
    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.file("node.json")).ok()?).ok()
    }

    /// Writes the record.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        let new = self.file("node.json.new");
        fs::write(&new, serde_json::to_vec(record)?)?;
        fs::rename(&new, self.file("node.json")).with_context(|| format!("cannot write {}", new.display()))
    }

    /// Waits until nobody else starts, loads or ends it.
    pub fn lock(&self) -> Result<Lock> {
        Lock::take(&self.directory.with_extension("lock"), &format!("cluster {}", self.name))
    }

    /// Waits until nobody else uses it.
    pub fn lock_use(&self) -> Result<Lock> {
        Lock::take(&self.directory.with_extension("use"), &format!("the tests' cluster {}", self.name))
    }
}

impl Record {
    /// Whether its first process lives.
    pub fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// When a process started, in clock ticks since the machine did; `None` when it is gone or a zombie.
pub fn started(pid: i32) -> Option<u64> {
    // proc_pid_stat(5): after the last parenthesis come the fields from the third (state) on; the 22nd is the start.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A file lock; released when dropped, and when the process ends, however it does.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Takes it; says once that it waits for whoever has it.
    pub fn take(path: &Path, what: &str) -> Result<Lock> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open the lock {}", path.display()))?;
        /// As long as a CI run may take: it is another one that is waited for.
        const PATIENCE: Duration = Duration::from_secs(90 * 60);
        let begin = Instant::now();
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
                Err(TryLockError::WouldBlock) => (),
            }
            if !std::mem::replace(&mut said, true) {
                eprintln!("{what} is busy: waiting for another process ({})", path.display());
            }
            interrupted()?;
            if begin.elapsed() > PATIENCE {
                bail!("waited {} minutes for the lock {}", PATIENCE.as_secs() / 60, path.display());
            }
            std::thread::sleep(LOCK_POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_make_no_link_are_refused() {
        for name in ["", "elevenchars", "A", "a/b", "..", "a b", "ä"] {
            assert!(Place::of(name).is_err(), "{name}");
        }
        assert_eq!(Place::of("tenletters").unwrap().link(), "l7mp-tenletters");
    }

    #[test]
    fn a_process_is_alive_until_it_has_ended_even_as_a_zombie() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let record = Record { network: 88, pid, started: started(pid).unwrap(), programs: PathBuf::new() };
        assert!(record.is_alive());
        assert!(!Record { started: record.started + 1, ..record.clone() }.is_alive());
        // Closing its input ends it; nobody has waited for it yet.
        drop(child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(10);
        while record.is_alive() {
            assert!(Instant::now() < deadline, "a zombie passes for alive");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!record.is_alive());
    }
}
