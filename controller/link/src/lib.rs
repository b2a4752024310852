//! What the operator and its agents say to each other: one gRPC stream per agent, over TLS.
//!
//! The agent proves which pod it is with its service-account token; the operator answers with that pod's
//! configuration and no other, or with the address of the replica that leads. See `proto/`.

#![forbid(unsafe_code)]

use l7mp_api::{Config, Problem};

/// Orders the configurations of all leaders: a new leader's are newer than any of the last one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The Lease's `leaseTransitions` when the leader began.
    pub term: u64,
    /// Counts the leader's configurations.
    pub sequence: u64,
}

/// What an agent's proxy is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// Agents refuse older ones than they have.
    pub version: Version,
    /// The whole document.
    pub config: Config,
    /// Where its parts come from: path in the document, object (`Target default/a`), path in the object.
    pub origins: Vec<Origin>,
    /// The pod is being deleted: no new sessions.
    pub drain: bool,
}

/// Where a part of a document comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
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
