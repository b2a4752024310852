//! Every counter and every drop reason, by name.
//!
//! `messages_in = messages_out + dropped{reason} + held_now`, where `held_now` counts what waits in `held` and
//! in the outboxes of the engine. Each counter has one writer, its worker; readers see it relaxed.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::address::EndpointAddr;
use crate::time::Time;

/// A counter or gauge with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker does.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts, for gauges; only the owning worker does.
    pub fn sub(&self, n: u64) {
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets, for gauges; only the owning worker does.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! reasons {
    ($(#[$enum_doc:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The name in metrics and status.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// Why a message did not go out.
    DropReason {
        /// An empty message to seqpacket, or to raw framing, where an empty write means nothing.
        Empty = "empty",
        /// Longer than the receiver's protocol, buffer or socket takes.
        Oversized = "oversized",
        /// A newline inside a message for a line-framed stream.
        Unframeable = "unframeable",
        /// Not UTF-8, for a WebSocket that is told to send text.
        NotUtf8 = "not_utf8",
        /// Its sender broke its protocol's rules.
        Protocol = "protocol",
        /// No rule matched.
        NoRule = "no_rule",
        /// The rule refuses.
        Refused = "refused",
        /// The cluster has no endpoint.
        NoEndpoint = "no_endpoint",
        /// The session could not be opened.
        OpenFailed = "open_failed",
        /// The session could not be opened a moment ago, and is not tried again yet.
        OpenBackoff = "open_backoff",
        /// Too many messages wait for the session to open.
        HeldFull = "held_full",
        /// Too many sessions.
        SessionLimit = "session_limit",
        /// The listener takes no new sessions: the proxy or the listener is draining.
        Draining = "draining",
        /// Not from the peer that the listener is connected to.
        Filtered = "filtered",
        /// The receiver was too slow: the oldest went (from a lossy source).
        Backlog = "backlog",
        /// The kernel's send buffer was full (datagram sockets).
        SendBufferFull = "send_buffer_full",
        /// The kernel refused to send it.
        SendError = "send_error",
        /// The peer is gone (ECONNREFUSED, EPIPE, ECONNRESET).
        Disconnected = "disconnected",
        /// The session ended before it could go out.
        Closed = "closed",
        /// An unnamed Unix dgram peer has no address to answer to.
        NoPeerAddress = "no_peer_address",
    }
}

reasons! {
    /// Why a session ended.
    EndReason {
        /// The peers closed it in an orderly way.
        Finished = "finished",
        /// No message for the listener's idle timeout.
        Idle = "idle",
        /// It could not be opened.
        OpenFailed = "open_failed",
        /// No rule matched, or the rule refuses.
        Refused = "refused",
        /// The client's connection broke.
        ClientGone = "client_gone",
        /// A stage's connection broke, and the route does not retry.
        Disconnect = "disconnect",
        /// The client broke its protocol's rules.
        Protocol = "protocol",
        /// Its listener or endpoint was removed.
        Removed = "removed",
        /// Deleted through the admin API.
        Deleted = "deleted",
        /// The proxy drained.
        Drained = "drained",
        /// The client's handshake took too long or was refused.
        Handshake = "handshake",
    }
}

reasons! {
    /// A histogram bucket of session opening time, by its upper bound.
    OpenTime {
        /// At most 1 ms.
        Ms1 = "0.001",
        /// At most 5 ms.
        Ms5 = "0.005",
        /// At most 10 ms.
        Ms10 = "0.01",
        /// At most 50 ms.
        Ms50 = "0.05",
        /// At most 100 ms.
        Ms100 = "0.1",
        /// At most 500 ms.
        Ms500 = "0.5",
        /// At most 1 s.
        S1 = "1",
        /// At most 5 s.
        S5 = "5",
        /// More.
        More = "+Inf",
    }
}

/// What is counted per listener or cluster and worker.
#[derive(Debug, Default)]
pub struct ScopeCounters {
    /// Messages that arrived from its peers.
    pub messages_in: Counter,
    /// Their payload bytes.
    pub bytes_in: Counter,
    /// Messages that the kernel took for its peers.
    pub messages_out: Counter,
    /// Their bytes, framing included.
    pub bytes_out: Counter,
    /// Sessions that were opened through it (listener) or that chose it (cluster).
    pub sessions_opened: Counter,
    /// Sessions that use it now.
    pub sessions_active: Counter,
    /// Connections to its endpoints that failed (cluster).
    pub connect_failures: Counter,
    /// Attempts to connect again (cluster).
    pub retries: Counter,
    /// Handshakes that failed.
    pub handshake_failures: Counter,
    /// The last of `connect_failures` of which the kernel said why (cluster).
    pub last_failure: LastFailure,
}

/// A connection that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the kernel said.
    pub errno: i32,
    /// Where it was to go.
    pub endpoint: EndpointAddr,
    /// When that was.
    pub at: Time,
}

/// The last [`Failure`], for who asks for it. Off the path of messages: it is written when a connection has failed.
#[derive(Debug, Default)]
#[expect(clippy::disallowed_types, reason = "the worker only tries the lock, and goes on without it")]
pub struct LastFailure(std::sync::Mutex<Option<Failure>>);

impl LastFailure {
    /// Keeps it. The worker does not wait: while somebody reads, the one before stays.
    pub fn set(&self, failure: Failure) {
        if let Ok(mut last) = self.0.try_lock() {
            *last = Some(failure);
        }
    }

    /// A copy of it.
    pub fn get(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is counted per worker.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Messages that arrived, over all links.
    pub messages_in: Counter,
    /// Messages that the kernel took, or that an in-process cluster consumed.
    pub messages_out: Counter,
    /// Messages that wait in `held` (gauge).
    pub held: Counter,
    /// Messages that wait in the engine's queues (gauge).
    pub queued: Counter,
    /// Payloads that were copied in user space.
    pub payload_copies: Counter,
    /// Messages that did not go out, by [`DropReason`].
    pub dropped: ReasonCounters<{ DropReason::ALL.len() }>,
    /// Sessions that ended, by [`EndReason`].
    pub sessions_closed: ReasonCounters<{ EndReason::ALL.len() }>,
    /// Sessions that are live (gauge).
    pub sessions_active: Counter,
    /// Sessions that were opened.
    pub sessions_opened: Counter,
    /// Time from the first message or request to the closed ring, by [`OpenTime`].
    pub open_time: ReasonCounters<{ OpenTime::ALL.len() }>,
    /// Sum of those times, in microseconds.
    pub open_time_us: Counter,
}

/// One counter per reason.
#[derive(Debug)]
pub struct ReasonCounters<const N: usize>([Counter; N]);

impl<const N: usize> Default for ReasonCounters<N> {
    fn default() -> Self {
        ReasonCounters(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> ReasonCounters<N> {
    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}

impl ReasonCounters<{ DropReason::ALL.len() }> {
    /// The counter of a reason.
    pub fn of(&self, reason: DropReason) -> &Counter {
        &self.0[reason as usize]
    }
}

impl ReasonCounters<{ EndReason::ALL.len() }> {
    /// The counter of a reason.
    pub fn of_end(&self, reason: EndReason) -> &Counter {
        &self.0[reason as usize]
    }
}

impl ReasonCounters<{ OpenTime::ALL.len() }> {
    /// The counter of a bucket.
    pub fn of_time(&self, bucket: OpenTime) -> &Counter {
        &self.0[bucket as usize]
    }
}
