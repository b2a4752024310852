//! Every bound of a stream, so that neither end can be made to pay more than it is worth.

use std::time::Duration;

/// Bytes of a document on the wire.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// Bytes of what the operator says at once: a document and its origins.
pub const FROM_OPERATOR_BYTES_MAX: usize = 3 * DOCUMENT_BYTES_MAX;
/// Bytes of what an agent says at once: 200 problems of 1 KiB, twice over.
pub const FROM_AGENT_BYTES_MAX: usize = 512 << 10;
/// Bytes of a token; Kubernetes' own are 1 to 2 KiB.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Bytes of a request's head: a token and a little more.
pub const HEAD_BYTES_MAX: usize = TOKEN_BYTES_MAX + (8 << 10);
/// Problems in one report; the others are counted.
pub const PROBLEMS_MAX: usize = 200;
/// Bytes of a problem's path, and of any other name.
pub const NAME_BYTES_MAX: usize = 1 << 10;
/// Bytes of a problem's message, and of any other.
pub const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// Between two HTTP/2 pings, both ways.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a ping may stay unanswered.
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);

const _: () = assert!(PROBLEMS_MAX * (NAME_BYTES_MAX + MESSAGE_BYTES_MAX + 16) <= FROM_AGENT_BYTES_MAX);
const _: () = assert!(DOCUMENT_BYTES_MAX <= l7mp_api::limits::DOCUMENT_BYTES_MAX);
