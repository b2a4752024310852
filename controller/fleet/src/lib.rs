//! All proxies of a cluster: who needs which configuration, in which order, and what becomes of their objects.
//! Pure: objects, acknowledgements and the time in; configurations and status out.
//!
//! ```text
//! apply, delete, reset  ->  World + index -> dirty proxies -> compile -> Push      (turn)
//! connect, acknowledge, refuse  ->  what each proxy has                -> status   (statuses)
//! ```
//!
//! A [`Fleet`] is told what happens by its methods, and asked after each of them, and at [`Fleet::deadline`], what is
//! to be done: [`Fleet::turn`] and [`Fleet::statuses`].
//!
//! # Order across proxies
//!
//! * An endpoint whose pod has a proxy with a VirtualService on that port is used once that proxy has acknowledged the
//!   listener. What it has acknowledged stays true when its agent goes away; another answer changes it.
//! * A listener that nothing wants any more stays (`lingering` for the compiler) until no document that some proxy may
//!   have sends to it, at most [`Timing::linger`].
//! * Where a listener only moves to another port, or a port to another VirtualService, documents that would lose the
//!   endpoint for that moment wait for the acknowledgement, at most 2 s.
//! * A new leader knows of no acknowledgement. For [`Timing::grace`] after the first agent has come, pods that it found
//!   are taken to have the listeners that it found, until they answer: agents that come back one by one empty nobody's
//!   Targets. Pods and objects that are newer are not trusted.
//! * A listener whose VirtualService was deleted while nobody led goes at once, since a new leader knows nothing of it:
//!   a proxy that sends to it and whose agent comes later has sessions refused there, as by any endpoint that is gone,
//!   until it is told its own document.
//!
//! # One object never takes another down
//!
//! * An object that is [`Rejected`] stays in force as it last was, if this fleet knew it so; its status has
//!   `Accepted=False, Invalid`. One that never was good does not exist for the others.
//! * What a proxy refuses is held back on that proxy alone, the rest is pushed with the next turn; it is tried again
//!   after 1 s, 2 s, ... 60 s, and at once when it changes. While it is tried every status stays as it is, its own
//!   and those of objects that refer to it, until the proxy has answered. A refusal that no object can be blamed for
//!   is said of what was tried; else of all objects of the pod, and the same document is pushed again with the same
//!   pauses. A document that is too long for an agent ([`DOCUMENT_BYTES_MAX`]) is blamed on the objects that have
//!   grown since the last one that was taken, on as few of them as are enough, rather the newer ones.
//!
//! # Status
//!
//! * `Programmed` is `False, NoPods` where a selector picks no pod with a proxy, and `False, NotReferenced` for Routes,
//!   Rules and Targets without a selector that no rule of any pod leads to: they go where they are referred to.
//! * `programmed` counts pods that acknowledged this generation, be their agent connected or not; `unreachable` counts
//!   those without a connected agent. If none has acknowledged and none is connected it is `False, Unreachable`.
//! * Pods that are being deleted are not counted.
//! * That acknowledgements are missing is said after 0.5 s: mostly they are there by then.
//! * Warnings of proxies, and endpoints left out as duplicates, stand in the message of `Programmed`.

#![forbid(unsafe_code)]

mod answers;
mod condition;
mod document;
mod facts;
mod fleet;
mod order;
mod proxy;
mod size;
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
pub use size::DOCUMENT_BYTES_MAX;

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
    /// After a start no count of programmed proxies is lowered for so long, and after the first agent listeners are
    /// taken to be there for so long (30 s).
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
