//! What this kernel and this process may do, and what to change when it is not enough.

use std::fs;
use std::io;

use io_uring::opcode;

use crate::ring;

/// Oldest kernel that has everything we need.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// A flag of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Only one thread submits (6.0).
    SingleIssuer,
    /// Work is done when we enter, never in between (6.1).
    DeferTaskrun,
    /// Pending work is announced in the submission queue's flags (5.19).
    TaskrunFlag,
    /// No interruption when work arrives (5.19); used where `DeferTaskrun` is missing.
    CoopTaskrun,
    /// Entries are submitted in order, without an index array (6.6).
    NoSqArray,
    /// One bad entry does not keep the others from being submitted (5.18).
    SubmitAll,
}

impl Feature {
    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Feature::SingleIssuer => "SINGLE_ISSUER",
            Feature::DeferTaskrun => "DEFER_TASKRUN",
            Feature::TaskrunFlag => "TASKRUN_FLAG",
            Feature::CoopTaskrun => "COOP_TASKRUN",
            Feature::NoSqArray => "NO_SQARRAY",
            Feature::SubmitAll => "SUBMIT_ALL",
        }
    }
}

/// What was found at start.
#[derive(Clone, Debug)]
pub struct Features {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Flags that the ring has.
    pub ring: Vec<Feature>,
    /// Slots for registered files; 0 when plain descriptors are used.
    pub registered_files: u32,
}

impl Features {
    /// Flags that the ring would have on a newer kernel.
    pub fn missing(&self) -> impl Iterator<Item = Feature> + '_ {
        WANTED.iter().copied().filter(|feature| !self.ring.contains(feature))
    }
}

/// Why no ring could be made, and what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A seccomp profile forbids the calls.
    #[error(
        "io_uring is forbidden (EPERM): the container runtime's default seccomp profile blocks it. Run with \
         seccompProfile Localhost and the profile of deploy/ that allows io_uring_setup, io_uring_enter and \
         io_uring_register (Docker: --security-opt seccomp=...)"
    )]
    Seccomp,
    /// The sysctl forbids it.
    #[error(
        "io_uring is switched off on this host: kernel.io_uring_disabled is {0}. Set it to 0 (sysctl -w \
         kernel.io_uring_disabled=0); 1 allows it to CAP_SYS_ADMIN and to members of kernel.io_uring_group only"
    )]
    Sysctl(u32),
    /// The kernel is too old or was built without io_uring.
    #[error(
        "io_uring on this kernel ({kernel}) lacks {missing}: Linux 6.1 or newer is needed, built with CONFIG_IO_URING"
    )]
    Version {
        /// As `uname -r` prints it.
        kernel: String,
        /// What it does not have.
        missing: String,
    },
    /// No descriptor left.
    #[error(
        "no file descriptor is left for the ring (limit of open files: {limit}). Raise it: ulimit -n, LimitNOFILE="
    )]
    OpenFiles {
        /// The soft limit.
        limit: u64,
    },
    /// No memory, or not enough that may be locked.
    #[error(
        "not enough memory for the ring and its buffers (ENOMEM): raise the memory limit of the container, and on \
         kernels that account rings to it the locked memory (ulimit -l, LimitMEMLOCK=)"
    )]
    Memory,
    /// Settings that make no sense.
    #[error("{0}")]
    Settings(&'static str),
    /// Anything else.
    #[error("{what}: {source}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl StartError {
    /// Names the likely cause of a failed `io_uring_setup`.
    pub(crate) fn from_setup(error: io::Error) -> StartError {
        StartError::explain("io_uring_setup", error, sysctl())
    }

    /// Names the likely cause of a failed step.
    pub(crate) fn from_step(what: &'static str, error: io::Error) -> StartError {
        StartError::explain(what, error, sysctl())
    }

    fn explain(what: &'static str, error: io::Error, sysctl: Option<u32>) -> StartError {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => match sysctl {
                Some(value @ 1..) => StartError::Sysctl(value),
                _ => StartError::Seccomp,
            },
            Some(libc::ENOSYS) => StartError::Version { kernel: kernel(), missing: what.to_owned() },
            Some(libc::EINVAL) => StartError::Version { kernel: kernel(), missing: format!("a feature of {what}") },
            Some(libc::EMFILE | libc::ENFILE) => StartError::OpenFiles { limit: open_files() },
            Some(libc::ENOMEM) => StartError::Memory,
            _ => StartError::Other { what, source: error },
        }
    }
}

/// Flags of a ring on a new kernel.
const WANTED: &[Feature] =
    &[Feature::SingleIssuer, Feature::DeferTaskrun, Feature::TaskrunFlag, Feature::NoSqArray, Feature::SubmitAll];

/// Sets of flags to try, best first.
pub(crate) fn flag_sets() -> [&'static [Feature]; 4] {
    [
        WANTED,
        &[Feature::SingleIssuer, Feature::DeferTaskrun, Feature::TaskrunFlag, Feature::SubmitAll],
        &[Feature::SingleIssuer, Feature::CoopTaskrun, Feature::TaskrunFlag, Feature::SubmitAll],
        &[Feature::CoopTaskrun, Feature::TaskrunFlag],
    ]
}

/// Looks whether an engine could start here, without starting one.
pub fn probe() -> Result<Features, StartError> {
    let ring = ring::Ring::new(8, 16, 0)?;
    let features = ring.features().to_vec();
    check_operations(&features)?;
    Ok(Features { kernel: kernel(), ring: features, registered_files: 0 })
}

/// The operations that the engine uses are there.
pub(crate) fn check_operations(features: &[Feature]) -> Result<(), StartError> {
    let uring = ring::build(features, 8, 16).map_err(StartError::from_setup)?;
    let mut probe = io_uring::Probe::new();
    uring.submitter().register_probe(&mut probe).map_err(|error| StartError::from_step("io_uring_register", error))?;
    let needed = [
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::RecvMsg::CODE, "RECVMSG"),
        (opcode::Recv::CODE, "RECV"),
        (opcode::Accept::CODE, "ACCEPT"),
        (opcode::Connect::CODE, "CONNECT"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
        (opcode::Read::CODE, "READ"),
        // Came with 6.0, as multishot recvmsg did, which cannot be asked for by itself.
        (opcode::SendZc::CODE, "multishot RECVMSG"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        None => Ok(()),
        Some((_, name)) => Err(StartError::Version { kernel: kernel(), missing: (*name).to_owned() }),
    }
}

/// `uname -r`.
pub(crate) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether this kernel is of that release or a newer one.
pub(crate) fn kernel_is_at_least(wanted: (u32, u32)) -> bool {
    let release = kernel();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

fn sysctl() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The soft limit of open files.
pub(crate) fn open_files() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(errno: i32, sysctl: Option<u32>) -> String {
        StartError::explain("io_uring_setup", io::Error::from_raw_os_error(errno), sysctl).to_string()
    }

    #[test]
    fn errors_name_their_likely_cause() {
        let table = [
            (libc::EPERM, Some(0), "seccomp"),
            (libc::EPERM, None, "seccomp"),
            (libc::EPERM, Some(2), "kernel.io_uring_disabled is 2"),
            (libc::EPERM, Some(1), "kernel.io_uring_group"),
            (libc::ENOSYS, Some(0), "Linux 6.1"),
            (libc::EINVAL, Some(0), "Linux 6.1"),
            (libc::EMFILE, Some(0), "ulimit -n"),
            (libc::ENOMEM, Some(0), "ulimit -l"),
            (libc::EIO, Some(0), "io_uring_setup"),
        ];
        for (errno, sysctl, expected) in table {
            let text = explain(errno, sysctl);
            assert!(text.contains(expected), "{errno}: {text}");
        }
    }

    #[test]
    fn this_kernel_is_enough() {
        let features = probe().expect("io_uring works here");
        assert!(!features.kernel.is_empty());
        assert!(features.ring.contains(&Feature::SingleIssuer));
    }
}
