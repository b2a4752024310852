//! All proxies of a cluster: who needs which configuration, in which order, and what becomes of their objects.
//! Pure: objects, acknowledgements and the time in; configurations and status out.
//!
//! ```text
//! apply, delete, reset  ->  World + index -> dirty proxies -> compile -> Push      (turn)
//! connect, acknowledge, refuse  ->  what each proxy has                -> status   (statuses)
//! ```

#![forbid(unsafe_code)]

mod answers;
mod condition;
mod document;
mod facts;
mod fleet;
mod order;
mod proxy;
mod status;
mod tally;
mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use l7mp_api::{Config, Problem};
use l7mp_compiler::object::{Kind, ObjectId, PodName};
use l7mp_crds::Status;

pub use fleet::Fleet;

/// One pod that has a proxy: a name may be used again, a UID never.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proxy {
    /// Its name.
    pub pod: PodName,
    /// Its `metadata.uid`.
    pub uid: String,
}

/// An object that the API server took and that is not usable: not of its shape, or with problems of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// Its name.
    pub id: ObjectId,
    /// Its `metadata.generation`.
    pub generation: Option<i64>,
    /// What is wrong with it, with paths in the object.
    pub problems: Vec<Problem>,
}

/// What one proxy is to have from now on.
#[derive(Clone, Debug)]
pub struct Push {
    /// Whose.
    pub proxy: Proxy,
    /// Counts the configurations of this fleet, all proxies together, from 1.
    pub sequence: u64,
    /// The whole document.
    pub config: Arc<Config>,
    /// Where its parts come from: path in the document, object, path in the object.
    pub origins: Vec<(String, ObjectId, String)>,
    /// The pod is being deleted: no new sessions.
    pub drain: bool,
}

/// Waits of the fleet.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Changes are collected for so long before proxies are compiled for (50 ms).
    pub debounce: Duration,
    /// A listener that nothing wants any more stays at most so long for the proxies that still use it (10 s).
    pub linger: Duration,
    /// After a start no count of programmed proxies is lowered for so long (30 s).
    pub grace: Duration,
}

/// An object's status is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusUpdate {
    /// Whose.
    pub id: ObjectId,
    /// Its UID: a status is not written to another object of the same name.
    pub uid: Option<String>,
    /// The status.
    pub status: Status,
}

/// Numbers for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that have a proxy.
    pub proxies: usize,
    /// Proxies whose agent is connected.
    pub connected: usize,
    /// Proxies that are to be compiled for.
    pub queued: usize,
    /// Compilations, ever.
    pub compiled: u64,
    /// Configurations that were made, ever.
    pub pushed: u64,
    /// Objects that are in force, by kind.
    pub objects: BTreeMap<Kind, usize>,
    /// Objects of each kind whose status says that something is wrong.
    pub troubled: BTreeMap<Kind, usize>,
}
