//! Notices that files of a directory changed.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::Notify;

/// Wakes when something in the added directories has changed. It does not say what: a reader looks at all
/// of it, which is cheap for manifests, and cannot miss what an overflow of the kernel's queue swallows.
///
/// A thread of its own sleeps in the kernel's queue; it ends with this value.
#[derive(Debug)]
pub struct DirWatch {
    queue: Arc<OwnedFd>,
    wake: Arc<Notify>,
    watches: Mutex<BTreeSet<i32>>,
}

impl DirWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the user has no inotify instance left (`fs.inotify.max_user_instances`), or there is no thread.
    pub fn new() -> io::Result<DirWatch> {
        let queue = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
        let wake = Arc::new(Notify::new());
        let (fd, sleeper) = (Arc::clone(&queue), Arc::downgrade(&wake));
        std::thread::Builder::new().name("manifests".to_owned()).spawn(move || forward(&fd, &sleeper))?;
        Ok(DirWatch { queue, wake, watches: Mutex::default() })
    }

    /// Watches one directory, not those below it. Adding it again changes nothing.
    ///
    /// A file that is being written wakes when its writer closes it, so that no half of it is read.
    ///
    /// # Errors
    /// When the directory cannot be read, or the user has no watch left (`fs.inotify.max_user_watches`).
    pub fn add(&self, directory: &Path) -> io::Result<()> {
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&self.queue, directory, what)?;
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).insert(watch);
        Ok(())
    }

    /// Waits until something has changed since the last call.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for DirWatch {
    fn drop(&mut self) {
        // A watch that is taken away says so in the queue: the thread wakes, and finds nobody to tell.
        self.wake = Arc::default();
        for watch in self.watches.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = inotify::remove_watch(&self.queue, *watch);
        }
    }
}

/// Sleeps in the kernel's queue and wakes the reader, until there is none.
fn forward(queue: &OwnedFd, sleeper: &Weak<Notify>) {
    let mut events = [0; 4096];
    loop {
        match rustix::io::read(queue, &mut events) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::warn!("cannot watch the manifests any more: {error}; they are looked at every 2 s");
                return;
            }
        }
        match sleeper.upgrade() {
            Some(wake) => wake.notify_one(),
            None => return,
        }
    }
}
