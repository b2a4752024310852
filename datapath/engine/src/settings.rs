//! How an engine is set up, and what it says of itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::buffers::PoolStats;

/// Whether to look for work before sleeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusyPoll {
    /// Sleep at once.
    #[default]
    Off,
    /// Look for so long, then sleep.
    For(Duration),
    /// Never sleep.
    Always,
}

/// How an engine is set up. `Settings::default()` is right for a sidecar.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether to look for work before sleeping.
    pub busy_poll: BusyPoll,
    /// 64 KiB receive buffers: GRO trains, seqpacket, Unix dgram. A power of two.
    pub large_buffers: u16,
    /// 16 KiB receive buffers: byte streams. A power of two.
    pub stream_buffers: u16,
    /// 2 KiB receive buffers: datagrams without GRO. A power of two.
    pub small_buffers: u16,
    /// Entries of the submission queue. A power of two.
    pub submissions: u32,
    /// Entries of the completion queue. A power of two.
    pub completions: u32,
    /// Which of the engine's sets of ring flags is tried first: 0 has all of them, 3 the fewest. Anything but 0 stands
    /// for an older kernel, in tests.
    pub ring_flags_first: usize,
    /// Most sockets that are registered with the ring; the others are used by their descriptors.
    pub registered_files: u32,
    /// SO_RCVBUF and SO_SNDBUF of UDP sockets, in bytes.
    pub udp_socket_bytes: usize,
    /// Unix paths of endpoints live under this directory and cannot leave it.
    pub unix_root: Option<Arc<OwnedFd>>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            busy_poll: BusyPoll::Off,
            large_buffers: 256,
            stream_buffers: 256,
            small_buffers: 1024,
            submissions: 1024,
            completions: 4096,
            ring_flags_first: 0,
            registered_files: 16_384,
            udp_socket_bytes: 4 * 1024 * 1024,
            unix_root: None,
        }
    }
}

/// Counters since the engine's start, and levels of now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Calls of `wait`.
    pub turns: u64,
    /// Completions read.
    pub completions: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Payloads copied in user space: a backlog that would have pinned the pool.
    pub payload_copies: u64,
    /// Receives that ended because their pool was empty.
    pub enobufs: u64,
    /// Times that completions did not fit into their queue.
    pub cq_overflows: u64,
    /// Datagrams dropped because they were longer than a receive buffer.
    pub oversized: u64,
    /// Datagram sends submitted; with trains, fewer than datagrams.
    pub datagram_sends: u64,
    /// Datagrams sent once more: after an old refusal, or one by one because their train was refused.
    pub resent: u64,
    /// Accepts that failed for want of descriptors.
    pub accept_exhausted: u64,
    /// Completions for a socket that was closed meanwhile.
    pub stale: u64,
    /// The 64 KiB pool.
    pub large: PoolStats,
    /// The 16 KiB pool.
    pub stream: PoolStats,
    /// The 2 KiB pool.
    pub small: PoolStats,
}
