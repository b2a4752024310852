//! Sockets that the engine owns, and how operations name them.
//!
//! A registered file saves the kernel the look-up and the reference count of a descriptor with every operation. The
//! table is as large as the limit of open files allows; a socket that finds no slot is used by its descriptor.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;

use crate::ring::Ring;

/// How an operation names a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The descriptor, for plain system calls.
    pub fd: RawFd,
    slot: Option<u32>,
}

impl Target {
    /// Names nothing.
    pub const NONE: Target = Target { fd: -1, slot: None };

    /// The value for the operation's descriptor field.
    pub fn field(self) -> Fd {
        Fd(self.slot.map_or(self.fd, |slot| slot as i32))
    }

    /// The operation, told that its descriptor field is a slot if it is one.
    pub fn mark(self, entry: Entry) -> Entry {
        if self.slot.is_some() { entry.flags(Flags::FIXED_FILE) } else { entry }
    }
}

/// An open socket, closed when it is dropped. Its slot is given back by [`Files::close`].
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    slot: Option<u32>,
}

impl Socket {
    /// How operations name it.
    pub fn target(&self) -> Target {
        Target { fd: self.fd.as_raw_fd(), slot: self.slot }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The table of registered files.
#[derive(Debug, Default)]
pub(crate) struct Files {
    free: Vec<u32>,
    slots: u32,
}

impl Files {
    /// A table of at most `wanted` slots. None when the kernel refuses: descriptors work as well.
    pub fn new(ring: &Ring, wanted: u32) -> Files {
        let slots = wanted.min(u32::try_from(crate::probe::open_files()).unwrap_or(u32::MAX));
        if slots == 0 || ring.register_files(slots).is_err() {
            return Files::default();
        }
        Files { free: (0..slots).rev().collect(), slots }
    }

    /// Slots of the table.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Takes a socket over.
    pub fn adopt(&mut self, ring: &Ring, fd: OwnedFd) -> Socket {
        let slot = self.free.pop().filter(|&slot| match ring.update_file(slot, fd.as_raw_fd()) {
            Ok(()) => true,
            Err(_) => {
                self.free.push(slot);
                false
            }
        });
        Socket { fd, slot }
    }

    /// Closes a socket that no operation in flight names.
    pub fn close(&mut self, ring: &Ring, socket: Socket) {
        if let Some(slot) = socket.slot
            && ring.update_file(slot, -1).is_ok()
        {
            self.free.push(slot);
        }
    }
}
