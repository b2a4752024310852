//! Receive buffers: three classes, each a provided-buffer ring that the kernel takes from.
//!
//! ```text
//!   in the ring --kernel fills--> with the worker --frames queued--> being sent --last one left--> in the ring
//! ```
//!
//! A buffer is counted: once for the worker until it releases it, once for every queued send that points into it.
//! When the count falls to zero it is put back; the kernel sees it at the next [`Buffers::publish`], once per turn.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use l7mp_forwarder::limits;

use crate::event::Received;
use crate::ring::Ring;

/// Bytes in front of every payload that nobody else uses.
pub const HEADROOM_BYTES: usize = 16;
/// Room for what multishot recvmsg writes in front of a payload: its header, the peer's name, control messages.
pub(crate) const PREFIX_BYTES: usize = 256;
/// Payload of the small class: datagrams without GRO.
pub(crate) const SMALL_BYTES: usize = 2048;
/// Payload of the stream class.
pub(crate) const STREAM_BYTES: usize = 16 * 1024;
/// Payload of the large class: GRO trains, seqpacket, Unix dgram.
pub(crate) const LARGE_BYTES: usize = limits::MESSAGE_BYTES_MAX;

const _: () = assert!(LARGE_BYTES >= limits::UDP_PAYLOAD_BYTES_MAX);
const _: () = assert!(PREFIX_BYTES >= HEADROOM_BYTES + 16 + 128 + 64);

/// A class of buffers; also its buffer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// 64 KiB.
    Large = 0,
    /// 16 KiB.
    Stream = 1,
    /// 2 KiB.
    Small = 2,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Large, Class::Stream, Class::Small];

    /// The buffer group's number.
    pub fn group(self) -> u16 {
        self as u16
    }

    /// The longest payload.
    pub fn payload_bytes(self) -> usize {
        match self {
            Class::Large => LARGE_BYTES,
            Class::Stream => STREAM_BYTES,
            Class::Small => SMALL_BYTES,
        }
    }

    /// Bytes of a buffer, prefix and payload.
    fn buffer_bytes(self) -> usize {
        PREFIX_BYTES + self.payload_bytes()
    }
}

/// How a pool of buffers fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Buffers in the pool.
    pub buffers: u16,
    /// Of which the kernel may fill this many now.
    pub free: u16,
    /// The fewest that were ever free.
    pub free_min: u16,
}

/// One class: memory, the ring that offers it to the kernel, and a count per buffer.
struct Pool {
    class: Class,
    memory: Mapping,
    ring: Mapping,
    count: u16,
    /// Where the next buffer is put back; published to the kernel once per turn.
    tail: u16,
    free: u16,
    free_min: u16,
    uses: Box<[u16]>,
}

/// All classes.
pub(crate) struct Buffers {
    pools: [Pool; 3],
}

impl Buffers {
    /// Maps the memory of all classes and registers it with the ring. `counts` are per [`Class::ALL`], powers of two.
    pub fn new(ring: &Ring, counts: [u16; 3]) -> io::Result<Buffers> {
        let [large, stream, small] = Class::ALL;
        let pool = |class: Class| Pool::new(ring, class, counts[class as usize]);
        Ok(Buffers { pools: [pool(large)?, pool(stream)?, pool(small)?] })
    }

    /// The kernel filled a buffer: it is the worker's now.
    pub fn take(&mut self, class: Class, buffer: u16) {
        let pool = &mut self.pools[class as usize];
        let uses = &mut pool.uses[usize::from(buffer)];
        debug_assert_eq!(*uses, 0, "the kernel filled a buffer that it does not own");
        *uses = 1;
        pool.free -= 1;
        pool.free_min = pool.free_min.min(pool.free);
    }

    /// One more queued send points into the buffer.
    pub fn hold(&mut self, class: Class, buffer: u16) {
        let uses = &mut self.pools[class as usize].uses[usize::from(buffer)];
        debug_assert!(*uses > 0, "a free buffer cannot be held");
        *uses += 1;
    }

    /// One user fewer. The last one puts the buffer back.
    pub fn drop_use(&mut self, class: Class, buffer: u16) {
        let pool = &mut self.pools[class as usize];
        let uses = &mut pool.uses[usize::from(buffer)];
        debug_assert!(*uses > 0, "a buffer was released twice");
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            pool.put_back(buffer);
        }
    }

    /// Lets the kernel see what was put back.
    pub fn publish(&mut self) {
        for pool in &mut self.pools {
            pool.publish();
        }
    }

    /// How many buffers of a class the kernel may fill.
    pub fn free(&self, class: Class) -> u16 {
        self.pools[class as usize].free
    }

    /// Less than a quarter is free.
    pub fn is_scarce(&self, class: Class) -> bool {
        let pool = &self.pools[class as usize];
        pool.free < pool.count.div_ceil(4)
    }

    /// Less than half is free.
    pub fn is_half_used(&self) -> bool {
        self.pools.iter().any(|pool| pool.free < pool.count / 2)
    }

    /// The payload of a received buffer.
    pub fn bytes(&mut self, received: &Received) -> &mut [u8] {
        let start = self.address(received.class, received.buffer, received.start as usize, received.len as usize);
        // SAFETY: `address` checked that the range lies inside the buffer. A `Received` exists only between `take` and
        // `release`, when the kernel does not write there (the ring does not offer it); sends in flight only read. The
        // borrow of `self` keeps other slices of the same memory from being made meanwhile.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), received.len as usize) }
    }

    /// The bytes from which `take`n buffers are parsed: prefix and payload, `len` bytes from `offset`.
    pub fn raw(&self, class: Class, buffer: u16, len: usize) -> &[u8] {
        let start = self.address(class, buffer, HEADROOM_BYTES, len);
        // SAFETY: as in `bytes`; the range was checked, and the memory is mapped zeroed, so that it is initialised.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Where `len` bytes from `start` of a buffer are. Panics when they are not all inside: our own mistake.
    pub fn address(&self, class: Class, buffer: u16, start: usize, len: usize) -> NonNull<u8> {
        let pool = &self.pools[class as usize];
        let size = class.buffer_bytes();
        assert!(buffer < pool.count && start.saturating_add(len) <= size, "bytes outside of a receive buffer");
        // SAFETY: `buffer < count` and `start <= size`, so the offset stays inside the mapping of `count * size` bytes.
        unsafe { pool.memory.base.add(usize::from(buffer) * size + start) }
    }

    /// Figures of all pools: large, stream, small.
    pub fn stats(&self) -> [PoolStats; 3] {
        self.pools.each_ref().map(|pool| PoolStats { buffers: pool.count, free: pool.free, free_min: pool.free_min })
    }
}

impl Pool {
    fn new(ring: &Ring, class: Class, count: u16) -> io::Result<Pool> {
        if !count.is_power_of_two() || count > 1 << 15 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "buffer counts are powers of two, at most 32768"));
        }
        let memory = Mapping::new(usize::from(count) * class.buffer_bytes())?;
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        // SAFETY: `entries` is page-aligned memory for `count` descriptors. The engine drops its ring, and with it the
        // registration, before its buffers.
        unsafe { ring.register_buffers(entries.base.as_ptr() as u64, count, class.group())? };
        let uses = vec![0; usize::from(count)].into_boxed_slice();
        let mut pool = Pool { class, memory, ring: entries, count, tail: 0, free: 0, free_min: count, uses };
        for buffer in 0..count {
            pool.put_back(buffer);
        }
        pool.publish();
        Ok(pool)
    }

    fn put_back(&mut self, buffer: u16) {
        let size = self.class.buffer_bytes();
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: the offset is that of buffer `buffer < count` in a mapping of `count` buffers.
        let start = unsafe { self.memory.base.add(usize::from(buffer) * size + HEADROOM_BYTES) };
        // SAFETY: `slot < count`, so the descriptor lies in its mapping. The kernel reads descriptors only up to the
        // published tail, and this one lies behind it: at most `count` buffers exist, so the ring is never overfull.
        let entry = unsafe { &mut *self.ring.base.cast::<BufRingEntry>().add(slot).as_ptr() };
        entry.set_addr(start.as_ptr() as u64);
        entry.set_len((size - HEADROOM_BYTES) as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
    }

    fn publish(&mut self) {
        // SAFETY: the tail lies in the first descriptor of the ring, which is mapped and zeroed or written by `put_back`.
        let tail = unsafe { BufRingEntry::tail(self.ring.base.cast::<BufRingEntry>().as_ptr()) };
        // SAFETY: the tail is 2-aligned, mapped as long as `self`, and the kernel and we access it atomically only.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }
}

/// Anonymous zeroed memory, touched when it is used.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address that the kernel chooses touches no memory of ours.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `new`; no slice of it outlives the pools that own it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
