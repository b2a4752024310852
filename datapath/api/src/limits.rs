//! Every bound of a document, so that a hostile one cannot cost more than it weighs.
//!
//! The figures are far above what a gateway needs and far below what hurts one.

use std::time::Duration;

/// Bytes of a document's text.
pub const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// Values (objects, lists, scalars) of a document; a tree of that many takes some 100 MB at worst.
pub const DOCUMENT_NODES_MAX: usize = 1_000_000;
/// Nesting of a document. The deepest legal one needs about 15; constants of rewrites may need more.
pub const DOCUMENT_DEPTH_MAX: usize = 64;
/// YAML: events that aliases (`*name`) may add to a document.
pub const ALIAS_EVENTS_MAX: usize = 100_000;

/// Listeners of a document.
pub const LISTENERS_MAX: usize = 4_096;
/// Clusters of a document, inline ones not counted.
pub const CLUSTERS_MAX: usize = 16_384;
/// Routes of a document, inline ones not counted.
pub const ROUTES_MAX: usize = 16_384;
/// Named rules of a document.
pub const RULES_MAX: usize = 65_536;
/// Rule lists of a document.
pub const RULELISTS_MAX: usize = 16_384;
/// Rules of one list.
pub const RULES_PER_LIST_MAX: usize = 4_096;
/// Endpoints of one cluster.
pub const ENDPOINTS_MAX: usize = 10_000;
/// Clusters in `ingress`, and in `egress`, of one route.
pub const STAGES_MAX: usize = 16;
/// Rewrites of one rule.
pub const REWRITES_MAX: usize = 64;
/// Source addresses of one cluster.
pub const BIND_ADDRESSES_MAX: usize = 1_024;
/// Subprotocols of one WebSocket listener.
pub const SUBPROTOCOLS_MAX: usize = 32;

/// Bytes of a name: room for `/apis/l7mp.io/v1/namespaces/<63>/targets/<253>` and a suffix.
pub const NAME_BYTES_MAX: usize = 1_024;
/// Bytes of any other string: URL paths, hosts, metadata paths, reasons.
pub const STRING_BYTES_MAX: usize = 4_096;

/// Weight of an endpoint.
pub const WEIGHT_MAX: u32 = 1_000;
/// Slots of a Maglev table; a prime, and the bound that Envoy has.
pub const TABLE_SIZE_MAX: u32 = 5_000_011;
/// Slots of a Maglev table that names no size.
pub const TABLE_SIZE_DEFAULT: u32 = 65_537;
/// Retries of one stage.
pub const NUM_RETRIES_MAX: u32 = 100;
/// Sessions of one listener.
pub const SESSIONS_MAX: u32 = 100_000_000;

/// The shortest time that can be told: timers count milliseconds.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The longest connect timeout and wait between attempts.
pub const RETRY_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// The longest idle or drain timeout.
pub const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

/// Problems reported at once; the others are counted.
pub const PROBLEMS_MAX: usize = 1_000;
/// After so many problems no more "did you mean" are looked for: each may look at every name.
pub const SUGGESTIONS_MAX: usize = 100;
/// Characters of the document's own text in a message.
pub const QUOTED_CHARS_MAX: usize = 100;

const _: () = assert!(ENDPOINTS_MAX < TABLE_SIZE_DEFAULT as usize, "a default table has a slot for every endpoint");
const _: () = assert!(SUGGESTIONS_MAX <= PROBLEMS_MAX);
