//! How many workers, and where they run.

use crate::cli::Cores;

/// As many workers as asked for, else one per pinned core, else as many as the affinity mask and the cgroup's CPU
/// quota allow (both are what `available_parallelism` looks at).
pub fn workers(asked: Option<u16>, cores: Option<&Cores>) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.map(usize::from).or(cores.map(|cores| cores.len())).unwrap_or_else(available)
}

/// Pins the calling thread to the core of its worker; more workers than cores share them in turn.
///
/// # Errors
///
/// What the kernel said, for a core that is not there or not ours.
pub fn pin(worker: usize, cores: &Cores) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cores[worker % cores.len()]);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
