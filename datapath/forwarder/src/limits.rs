//! Every bound of the datapath, and how they relate.
//!
//! A message is at most 64 KiB: the largest datagram that UDP carries is 65,507 bytes, a WebSocket
//! message is reassembled up to 64 KiB, and a receive buffer takes the largest datagram whole. A
//! session that is being opened holds a few dozen messages; a link that cannot keep up queues a few
//! hundred KiB and then drops or pauses. A receive buffer is never pinned by a slow link for long: after
//! 32 of them the backlog is copied.

use std::time::Duration;

/// Longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Longest UDP payload, in bytes (IPv4).
pub const UDP_PAYLOAD_BYTES_MAX: usize = 65_507;
/// Request line and headers of a WebSocket handshake, either direction, in bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 8 * 1024;
/// Headers of a WebSocket handshake.
pub const HANDSHAKE_HEADERS_MAX: usize = 100;
/// How long a client may take to send its WebSocket request.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Payload of a WebSocket control frame, in bytes (RFC 6455, section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Messages that a session holds while its ring is open.
pub const HELD_MESSAGES_MAX: usize = 64;
/// Bytes that a session holds while its ring is open.
pub const HELD_BYTES_MAX: usize = 256 * 1024;
/// Messages that a session holds of a source that loses none. It is paused with the first of them: these are what was
/// read by then, a few turns' reads of small messages at the worst.
pub const HELD_LOSSLESS_MESSAGES_MAX: usize = 64 * 1024;
/// Their bytes.
pub const HELD_LOSSLESS_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that all sessions of a worker hold together.
pub const HELD_BYTES_TOTAL_MAX: usize = 64 * 1024 * 1024;

/// A link with this many bytes queued is blocked ...
pub const OUTBOX_HIGH_BYTES: usize = 256 * 1024;
/// ... until it is drained to this many.
pub const OUTBOX_LOW_BYTES: usize = 64 * 1024;
/// Messages queued on one link, whatever their size.
pub const OUTBOX_MESSAGES_MAX: usize = 4096;
/// Receive buffers that one link's queue may pin; the rest of it is copied.
pub const OUTBOX_PINNED_MAX: usize = 32;

/// Stages of a route: ingress, destination, egress.
pub const STAGES_MAX: usize = 16;
/// Jumps from rule list to rule list.
pub const APPLY_DEPTH_MAX: usize = 32;
/// Sessions of a listener that names no limit, over all workers.
pub const SESSIONS_DEFAULT: u32 = 100_000;
/// Sessions that one turn lists, re-judges or expires.
pub const SESSIONS_PER_TURN: usize = 1024;
/// Links of one worker.
pub const LINKS_MAX: u32 = 1 << 22;

/// A UDP or Unix dgram session without a message for this long ends, unless its listener says otherwise.
pub const IDLE_TIMEOUT_DATAGRAM: Duration = Duration::from_secs(60);
/// How long the end of a stream waits at a datagram link for late answers.
pub const END_LINGER: Duration = Duration::from_secs(1);
/// How long an endpoint that a stage has moved away from is still heard: its answers may be on their way.
pub const MOVE_LINGER: Duration = Duration::from_secs(1);
/// A client that was told the end of its stream and says nothing for this long is not waited for: an endpoint that is
/// gone altogether looks like one that only has nothing more to say.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a closing link may take to send what is queued.
pub const CLOSE_LINGER: Duration = Duration::from_secs(5);
/// Two refusals of a connected UDP socket within this time are a disconnect.
pub const REFUSED_WINDOW: Duration = Duration::from_secs(1);

/// Slots of a Maglev table, unless the cluster says otherwise. A prime.
pub const MAGLEV_SLOTS_DEFAULT: u32 = 65_537;

const _: () = assert!(MESSAGE_BYTES_MAX > UDP_PAYLOAD_BYTES_MAX);
const _: () = assert!(HELD_BYTES_MAX >= 2 * MESSAGE_BYTES_MAX);
const _: () = assert!(HELD_LOSSLESS_BYTES_MAX >= 2 * HELD_BYTES_MAX);
const _: () = assert!(HELD_BYTES_TOTAL_MAX >= 16 * HELD_LOSSLESS_BYTES_MAX);
const _: () = assert!(OUTBOX_LOW_BYTES < OUTBOX_HIGH_BYTES);
const _: () = assert!(OUTBOX_HIGH_BYTES >= 2 * MESSAGE_BYTES_MAX);
const _: () = assert!(STAGES_MAX >= 3);
