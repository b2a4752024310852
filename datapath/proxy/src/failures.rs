//! Why connections to a cluster fail, in words: for the log, the status of clusters, and whoever looks after the proxy.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use l7mp_api::Problem;
use l7mp_api::config::Config;
use l7mp_forwarder::address::EndpointAddr;
use l7mp_forwarder::counters::{Failure, ScopeCounters};
use l7mp_forwarder::snapshot::compile::Scopes;
use l7mp_forwarder::time::Time;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How long a cluster counts as failing after its last failure.
const RECENT: Duration = Duration::from_secs(60);
/// Failing clusters that are told of at the most.
const FAILING_MAX: usize = 32;

/// The last failure of a cluster, over all workers.
pub fn last(workers: &[Arc<ScopeCounters>]) -> Option<Failure> {
    workers.iter().filter_map(|counters| counters.last_failure.get()).max_by_key(|failure| failure.at)
}

/// Puts failures into words.
#[derive(Clone, Default)]
pub struct Words {
    /// Unix paths of the document are counted from here.
    root: Option<Arc<OwnedFd>>,
}

impl Words {
    /// With the directory under which Unix paths live.
    pub fn new(root: Option<Arc<OwnedFd>>) -> Words {
        Words { root }
    }

    /// What the kernel said, of what, and what to do where that is known. Looks at the file of a Unix socket.
    pub fn of(&self, failure: &Failure) -> String {
        let said = match Errno::from_raw_os_error(failure.errno) {
            Errno::ACCESS => "permission denied".to_owned(),
            errno => match errno.to_string().split_once(" (os error") {
                Some((said, _)) => said.to_owned(),
                None => errno.to_string(),
            },
        };
        let endpoint = &failure.endpoint;
        match endpoint {
            EndpointAddr::Unix(path) if failure.errno == Errno::ACCESS.raw_os_error() => {
                format!("{said} for {endpoint} {}", self.access(path))
            }
            EndpointAddr::Unix(_) | EndpointAddr::Inet(_) => format!("{said}: {endpoint}"),
        }
    }

    /// Clusters whose connections failed within the last minute, as problems with their paths in the document.
    pub fn failing(&self, config: &Config, scopes: &Scopes, now: Time) -> Vec<Problem> {
        let clusters = config.clusters.iter().enumerate();
        let failing = clusters.filter_map(|(n, cluster)| {
            let failure = last(scopes.clusters.get(&cluster.name)?)?;
            let message = || format!("connections fail: {}", self.of(&failure));
            (now.since(failure.at) < RECENT).then(|| Problem::new(format!("clusters[{n}]"), message()))
        });
        failing.take(FAILING_MAX).collect()
    }

    /// Who may use a socket, and who we are.
    fn access(&self, path: &Path) -> String {
        let us = Us::now();
        match self.stat(path) {
            Ok(stat) => us.against(stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
            Err(Errno::ACCESS) => {
                format!("(this proxy is {}:{}): it may not search a directory of that path", us.uid, us.gids[0])
            }
            Err(error) => format!("(this proxy is {}:{}; the mode cannot be read: {error})", us.uid, us.gids[0]),
        }
    }

    fn stat(&self, path: &Path) -> rustix::io::Result<rustix::fs::Stat> {
        let Some(root) = &self.root else { return rustix::fs::stat(path) };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let within: PathBuf = path.components().filter(|part| !matches!(part, Component::RootDir)).collect();
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::fstat(rustix::fs::openat2(root, within, flags, Mode::empty(), resolve)?)
    }
}

/// As whom this process asks.
struct Us {
    uid: u32,
    /// Its own first.
    gids: Vec<u32>,
}

impl Us {
    fn now() -> Us {
        let mut gids = vec![rustix::process::getegid().as_raw()];
        gids.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()));
        Us { uid: rustix::process::geteuid().as_raw(), gids }
    }

    /// Connecting wants the right to write.
    fn against(&self, mode: u32, uid: u32, gid: u32) -> String {
        let write = if uid == self.uid {
            0o200
        } else if self.gids.contains(&gid) {
            0o020
        } else {
            0o002
        };
        let facts = format!("(mode {mode:04o}, owner {uid}:{gid}; this proxy is {}:{})", self.uid, self.gids[0]);
        if mode & write == 0 {
            format!("{facts}: give the socket mode 0666, or run its owner and the proxy as one user")
        } else {
            format!("{facts}: its mode allows that now; if it goes on, a security module of the system forbids it")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn failure(errno: Errno, endpoint: EndpointAddr, seconds: u64) -> Failure {
        let at = Time::ZERO + Duration::from_secs(seconds);
        Failure { errno: errno.raw_os_error(), endpoint, at }
    }

    fn unix(path: &Path) -> EndpointAddr {
        EndpointAddr::Unix(path.into())
    }

    #[test]
    fn who_may_write_to_a_socket() {
        let us = Us { uid: 7, gids: vec![8, 9] };
        let advice = "give the socket mode 0666, or run its owner and the proxy as one user";
        let facts = "(mode 0600, owner 0:0; this proxy is 7:8)";
        assert_eq!(us.against(0o600, 0, 0), format!("{facts}: {advice}"));
        for (mode, uid, gid) in [(0o755, 0, 0), (0o066, 7, 0), (0o606, 0, 9), (0o640, 0, 8)] {
            assert!(us.against(mode, uid, gid).ends_with(advice), "{mode:o} {uid}:{gid}");
        }
        for (mode, uid, gid) in [(0o666, 0, 0), (0o200, 7, 0), (0o020, 0, 9), (0o002, 0, 0)] {
            assert!(us.against(mode, uid, gid).contains("allows that now"), "{mode:o} {uid}:{gid}");
        }
    }

    #[test]
    fn what_the_kernel_said_and_of_what() {
        let words = Words::default();
        let address = EndpointAddr::inet("127.0.0.1:9".parse().unwrap());
        assert_eq!(words.of(&failure(Errno::CONNREFUSED, address, 0)), "Connection refused: 127.0.0.1:9");
        let missing = unix(Path::new("/x/y"));
        assert_eq!(words.of(&failure(Errno::NOENT, missing.clone(), 0)), "No such file or directory: /x/y");
        let gone = words.of(&failure(Errno::ACCESS, missing, 0));
        assert!(gone.starts_with("permission denied for /x/y (this proxy is ") && gone.contains("No such"), "{gone}");
    }

    #[test]
    fn the_mode_is_that_of_the_file_under_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/etc/passwd", directory.path().join("out")).unwrap();
        let root = rustix::fs::open(directory.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let rooted = Words::new(Some(Arc::new(root)));
        assert!(rooted.of(&failure(Errno::ACCESS, unix(Path::new("/s")), 0)).contains("mode 0640"));
        assert!(Words::default().of(&failure(Errno::ACCESS, unix(&path), 0)).contains("mode 0640"));
        let out = rooted.of(&failure(Errno::ACCESS, unix(Path::new("/out")), 0));
        assert!(out.contains("cannot be read"), "nothing outside the root is looked at: {out}");
    }

    #[test]
    fn the_newest_failure_counts_for_a_minute() {
        let text = "clusters: [{name: a, spec: {Echo: }}, {name: b, spec: {Echo: }}]";
        let config = Config::read(text).unwrap();
        let mut scopes = Scopes::default();
        scopes.clusters.insert("b".to_owned(), vec![Arc::default(), Arc::default()]);
        let words = Words::default();
        let failing =
            |scopes: &Scopes, seconds| words.failing(&config, scopes, Time::ZERO + Duration::from_secs(seconds));
        assert_eq!(failing(&scopes, 0), []);
        scopes.clusters["b"][0].last_failure.set(failure(Errno::CONNREFUSED, unix(Path::new("/new")), 20));
        scopes.clusters["b"][1].last_failure.set(failure(Errno::CONNREFUSED, unix(Path::new("/old")), 10));
        let expected = [Problem::new("clusters[1]", "connections fail: Connection refused: /new")];
        assert_eq!(failing(&scopes, 79), expected);
        assert_eq!(failing(&scopes, 80), []);
    }
}
