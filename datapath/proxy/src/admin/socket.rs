//! The admin socket's file: made for its owner alone, never taken from a proxy that lives.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// Bytes of a Unix socket's path; `sun_path` holds one more, for its end.
const PATH_BYTES_MAX: usize = 107;
/// How long another proxy that starts in the same directory is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// The wait between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another proxy answers there.
    #[error(
        "a proxy already listens on the admin socket {}: stop it, or give this one another path (--admin-socket)",
        .0.display()
    )]
    Live(PathBuf),
    /// Something else has that name.
    #[error("{} exists and is not a socket: it is left alone; give another path (--admin-socket)", .0.display())]
    NotASocket(PathBuf),
    /// Clients could not name it.
    #[error("the path of the admin socket has {length} bytes, at most {PATH_BYTES_MAX} fit: {}", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// The path does not end with the name of a file.
    #[error("{} does not name a file for the admin socket", .0.display())]
    NoName(PathBuf),
    /// The directory cannot be made or opened.
    #[error("cannot use {} for the admin socket: {source}; give another path (--admin-socket)", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen on the admin socket {}: {source}", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound admin socket. Dropping it removes its file, unless another proxy has put its own there meanwhile.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

/// Binds the admin socket: a missing directory is made (0700), the socket has mode 0600 before anyone can connect, the
/// file of a proxy that is gone is replaced. To be called inside the runtime that serves it.
///
/// # Errors
///
/// When a live proxy or anything but a socket has the path, or the system refuses.
pub fn bind(path: &Path) -> Result<AdminSocket, BindError> {
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        return Err(BindError::TooLong { path: path.to_owned(), length });
    }
    let name = path.file_name().ok_or_else(|| BindError::NoName(path.to_owned()))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Held until the file is in place: of two proxies that start at once, the second finds the first alive.
    let _lock =
        locked_directory(parent).map_err(|error| BindError::Directory { path: parent.to_owned(), source: error })?;
    refuse_unless_stale(path)?;
    let mut temporary = OsString::from(".");
    temporary.push(std::process::id().to_string());
    let temporary = parent.join(temporary);
    let bound = listen(&temporary).and_then(|listener| {
        let metadata = std::fs::symlink_metadata(&temporary)?;
        std::fs::rename(&temporary, parent.join(name))?;
        let listener = UnixListener::from_std(listener)?;
        Ok(AdminSocket { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    });
    bound.map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        BindError::Listen { path: path.to_owned(), source }
    })
}

/// Makes the directory if it is missing, and keeps every other starting proxy out of it.
fn locked_directory(parent: &Path) -> io::Result<OwnedFd> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let directory = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => return Err(io::Error::other("another process holds a lock on it")),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The path is free, or has the socket of a proxy that is gone.
fn refuse_unless_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Listen { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(_) => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // A full backlog, another type of socket, no permission: somebody's, and alive.
        Err(error) => Err(failed(error)),
    }
}

/// A socket takes connections only after `listen`: until its mode is right it is not there for anyone.
fn listen(path: &Path) -> io::Result<StdListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let _ = std::fs::remove_file(path);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(StdListener::from(socket))
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn is_made_for_its_owner_alone_and_removed_at_the_end() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("l7mp/admin.sock");
        let socket = bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_one_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("admin.sock");
        let _socket = bind(&path).unwrap();
        let message = bind(&path).unwrap_err().to_string();
        assert!(message.contains("already listens") && message.contains("--admin-socket"), "{message}");
        StdStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_stale_one_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("admin.sock");
        drop(StdListener::bind(&path).unwrap());
        let _socket = bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        StdStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_successor_keeps_its_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("admin.sock");
        let first = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = bind(&path).unwrap();
        drop(first);
        StdStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("admin.sock");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        assert!(matches!(bind(&path.join("below")), Err(BindError::Directory { .. })));
        assert!(matches!(bind(&root.path().join("x".repeat(120))), Err(BindError::TooLong { .. })));
        assert!(matches!(bind(Path::new("/")), Err(BindError::NoName(_))));
    }
}
