//! The ring: submission, completion, waiting. What is submitted must stay valid; that is its callers' proof.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};

use crate::probe::{self, Feature, StartError};

/// An io_uring of this thread.
pub(crate) struct Ring {
    uring: IoUring,
    features: Vec<Feature>,
    /// `io_uring_enter` calls.
    pub enters: u64,
}

/// A completion, copied out of the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub user_data: u64,
    pub result: i32,
    pub flags: u32,
}

impl Completion {
    /// The operation goes on: more completions will come.
    pub fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The buffer that was filled.
    pub fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

impl Ring {
    /// Makes a ring with as many of the wanted flags as the kernel has, from set `first` on.
    pub fn new(submissions: u32, completions: u32, first: usize) -> Result<Ring, StartError> {
        let mut last = None;
        for features in probe::flag_sets().into_iter().skip(first) {
            match build(features, submissions, completions) {
                Ok(uring) => return Ok(Ring { uring, features: features.to_vec(), enters: 0 }),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
                Err(error) => return Err(StartError::from_setup(error)),
            }
        }
        Err(StartError::from_setup(last.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))))
    }

    /// The flags that the kernel accepted.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Offers a ring of buffer descriptors as a group.
    ///
    /// # Safety
    ///
    /// `entries` is the page-aligned address of `count` descriptors that stay mapped longer than the ring.
    pub unsafe fn register_buffers(&self, entries: u64, count: u16, group: u16) -> io::Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.uring.submitter().register_buf_ring_with_flags(entries, count, group, 0) }
    }

    /// Makes a table of `count` empty registered files.
    pub fn register_files(&self, count: u32) -> io::Result<()> {
        self.uring.submitter().register_files_sparse(count)
    }

    /// Puts a file into the table, or `-1` to take it out.
    pub fn update_file(&self, slot: u32, fd: RawFd) -> io::Result<()> {
        self.uring.submitter().register_files_update(slot, &[fd]).map(drop)
    }

    /// Room in the submission queue.
    pub fn room(&mut self) -> usize {
        let queue = self.uring.submission();
        queue.capacity() - queue.len()
    }

    /// Nothing waits to be submitted.
    pub fn is_idle(&mut self) -> bool {
        self.uring.submission().is_empty()
    }

    /// Queues an operation; the next enter submits it. The queue has room: callers look at [`Ring::room`] first, and
    /// when they did not, the queue is submitted to make some.
    ///
    /// # Safety
    ///
    /// What the operation points to stays valid until it is submitted, and what it reads or writes until it completes.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: as the caller promises.
        if unsafe { self.uring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        self.submit()?;
        // SAFETY: as the caller promises.
        unsafe { self.uring.submission().push(entry) }.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Submits everything without waiting.
    pub fn submit(&mut self) -> io::Result<()> {
        for _ in 0..1024 {
            if self.is_idle() && !self.wants_enter() {
                return Ok(());
            }
            self.enters += 1;
            match self.uring.submit() {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The completion queue is full, or memory is short: the caller drains it and comes again.
                    Some(libc::EBUSY | libc::EAGAIN) => return Ok(()),
                    _ => return Err(error),
                },
            }
            if self.is_idle() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Submits everything and waits for a completion, at most `timeout`.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.enters += 1;
        let entered = match timeout {
            None => self.uring.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Completions are there, or the kernel has work that an enter would turn into completions.
    pub fn is_ready(&mut self) -> bool {
        self.wants_enter() || !self.uring.completion().is_empty()
    }

    /// Deferred work or completions that did not fit wait for an enter.
    pub fn wants_enter(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Completions did not fit into their queue, and wait in the kernel.
    pub fn has_overflow(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    /// Takes the next completion.
    pub fn completion(&mut self) -> Option<Completion> {
        let entry = self.uring.completion().next()?;
        Some(Completion { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() })
    }
}

impl Drop for Ring {
    /// The kernel tears a ring down late; nothing in flight may outlive the memory that it points to.
    fn drop(&mut self) {
        let second = Timespec::new().sec(1);
        let _ = self.uring.submitter().register_sync_cancel(Some(second), CancelBuilder::any());
    }
}

/// A ring with exactly these features.
pub(crate) fn build(features: &[Feature], submissions: u32, completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork();
    for feature in features {
        match feature {
            Feature::SingleIssuer => builder.setup_single_issuer(),
            Feature::DeferTaskrun => builder.setup_defer_taskrun(),
            Feature::TaskrunFlag => builder.setup_taskrun_flag(),
            Feature::CoopTaskrun => builder.setup_coop_taskrun(),
            Feature::NoSqArray => builder.setup_no_sqarray(),
            Feature::SubmitAll => builder.setup_submit_all(),
        };
    }
    builder.setup_cqsize(completions);
    builder.build(submissions)
}
