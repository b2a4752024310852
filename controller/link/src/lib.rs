//! What the operator and its agents say to each other: one gRPC stream per agent, over TLS.
//!
//! ```text
//! agent                                              operator
//!   TLS 1.3, HTTP/2; authorization: Bearer TOKEN  ->   Authority::review: which pod is it?
//!   Hello {pod, holds, instance}                  ->   FromAgent::Connected
//!                                                 <-   Configuration {version, document, origins, drain}
//!   Applied | Refused | Trouble                   ->   FromAgent::Report
//!   Token, before the old one ends                ->   Authority::review
//!                                                 <-   Elsewhere {address}, and the stream ends
//! ```
//!
//! The agent proves which pod it is with its service-account token; the operator answers with that pod's
//! configuration and no other, or with the address of the replica that leads. See `proto/l7mp.proto`.
//! `server` is the operator's half and knows no Kubernetes, `client` the agent's, `certificates` makes what the
//! operator shows.

#![forbid(unsafe_code)]

#[cfg(feature = "certificates")]
pub mod certificates;
#[cfg(feature = "wire")]
pub mod claims;
#[cfg(feature = "client")]
pub mod client;
pub mod limits;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "wire")]
mod wire;

use std::fmt;
use std::sync::Arc;

use l7mp_api::{Config, Problem};
use serde::{Deserialize, Serialize};

/// Orders the configurations of all leaders of one Lease: a new leader's are newer than any of the last one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Which Lease `term` counts in, see [`Version::epoch_of`]. A Lease that was deleted and made again counts from
    /// the beginning: versions of different epochs are not compared.
    pub epoch: u64,
    /// The Lease's `leaseTransitions` when the leader began.
    pub term: u64,
    /// Counts the leader's configurations.
    pub sequence: u64,
}

impl Version {
    /// The epoch of a Lease, from its `metadata.uid` (FNV-1a, 64 bits).
    pub fn epoch_of(uid: &str) -> u64 {
        uid.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// Whether `other` came later from the same Lease.
    pub fn is_older_than(&self, other: &Version) -> bool {
        self.epoch == other.epoch && (self.term, self.sequence) < (other.term, other.sequence)
    }
}

impl fmt::Display for Version {
    /// `7.42`, term and sequence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.sequence)
    }
}

/// What an agent's proxy is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// Agents refuse older ones than they have.
    pub version: Version,
    /// The whole document.
    pub config: Arc<Config>,
    /// Where its parts come from: path in the document, object (`Target default/a`), path in the object.
    pub origins: Vec<Origin>,
    /// The pod is being deleted: no new sessions.
    pub drain: bool,
}

/// Where a part of a document comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Path in the document (`listeners[0]`).
    pub path: String,
    /// `VirtualService default/gateway-vsvc`
    pub object: String,
    /// Path in the object (`spec.listener`).
    pub at: String,
}

/// What an agent says.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The proxy has adopted it.
    Applied {
        /// What it adopted.
        version: Version,
        /// What is legal and perhaps not meant.
        warnings: Vec<Problem>,
    },
    /// The proxy refuses it, and goes on as it was.
    Refused {
        /// What it refused.
        version: Version,
        /// Paths in the document.
        errors: Vec<Problem>,
    },
    /// The proxy cannot be reached, and why; empty: it is well again.
    Trouble(String),
}

/// A number that differs from call to call and from process to process; for spreading, not for secrets.
#[cfg(feature = "client")]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}
