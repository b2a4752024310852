//! One proxy: what it was told, what it has, and what it said.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use l7mp_compiler::compile::{HeldBack, Port, Report, Use};
use l7mp_compiler::held::{Pauses, Quarantine};
use l7mp_compiler::object::ObjectId;
use l7mp_crds::Pod;

use crate::document::{Document, Told};

/// Before a refused object is tried again.
pub(crate) const HOLD: Pauses = Pauses { first: Duration::from_secs(1), max: Duration::from_secs(60) };

/// The most documents that a proxy was told and has not answered to; older ones are forgotten.
pub(crate) const SENT_MAX: usize = 8;

/// One proxy.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) uid: String,
    /// The state of the world in which its pod came.
    pub(crate) since: u64,
    pub(crate) connected: bool,
    /// Its agent has come and was told nothing yet; what it has.
    pub(crate) greeting: Option<Option<u64>>,
    /// What it should have.
    pub(crate) desired: Option<Told>,
    /// What it was told after that which it acknowledged, the oldest first: it may have any of them.
    pub(crate) sent: VecDeque<Told>,
    pub(crate) acknowledged: Option<Told>,
    /// What the status of objects says of it.
    pub(crate) shown: Option<Shown>,
    /// Listeners of others that it will use once they are there.
    pub(crate) waits: Vec<Use>,
    pub(crate) quarantine: Quarantine,
    /// It refuses what it should have, and no object can be blamed.
    pub(crate) refusal: Option<Refusal>,
    /// Listeners that nothing wants any more, and how long they may stay.
    pub(crate) lingering: BTreeMap<(ObjectId, Port), Instant>,
    /// How long a document may wait for the listeners that take the place of those that it uses.
    pub(crate) patience: Option<Instant>,
    /// What it said of the document that it acknowledged.
    pub(crate) warnings: Vec<(ObjectId, String)>,
    /// What its agent says.
    pub(crate) trouble: Option<String>,
    /// What its pod says.
    pub(crate) pod: PodFacts,
}

/// What the status of objects says of a proxy: what it should have; while objects are tried again that it had refused,
/// what it should have without them, so that nobody's status shows a trial before it has succeeded.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) document: Arc<Document>,
    /// What is held back.
    pub(crate) held: Arc<HeldBack>,
    /// What could not be used as written.
    pub(crate) reports: Vec<Report>,
}

impl Shown {
    /// Every object that it says something of; some twice.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &ObjectId> {
        self.document.selected.iter().chain(self.reports.iter().map(|report| &report.object))
    }
}

/// A refusal that no object can be blamed for.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) said: String,
    pub(crate) count: u32,
    /// When it is told the same once more.
    pub(crate) until: Instant,
}

/// What matters of a pod to its proxy's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodFacts {
    pub(crate) terminating: bool,
    /// What the kubelet says of a proxy that does not run.
    pub(crate) trouble: Option<String>,
}

impl PodFacts {
    pub(crate) fn of(pod: &Pod) -> PodFacts {
        // Every container waits for these at first.
        let starting = |said: &String| matches!(said.as_str(), "ContainerCreating" | "PodInitializing");
        let trouble = pod.proxy_trouble().filter(|said| !starting(said));
        PodFacts { terminating: pod.is_terminating(), trouble }
    }
}

impl State {
    pub(crate) fn new(uid: String, since: u64, pod: PodFacts) -> State {
        State {
            uid,
            since,
            connected: false,
            greeting: None,
            desired: None,
            sent: VecDeque::new(),
            acknowledged: None,
            shown: None,
            waits: Vec::new(),
            quarantine: Quarantine::new(HOLD),
            refusal: None,
            lingering: BTreeMap::new(),
            patience: None,
            warnings: Vec::new(),
            trouble: None,
            pod,
        }
    }

    /// What it was told last and did not refuse.
    pub(crate) fn last(&self) -> Option<&Told> {
        self.sent.back().or(self.acknowledged.as_ref())
    }

    /// What it should have, if it was not told that yet.
    pub(crate) fn untold(&self) -> Option<&Told> {
        let last = self.last().map(|told| told.sequence);
        self.desired.as_ref().filter(|desired| last != Some(desired.sequence))
    }

    /// Whether it holds an object back, as far as status says.
    pub(crate) fn holds_back(&self, id: &ObjectId) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.held.contains_key(id))
    }

    /// Every document that it may have.
    pub(crate) fn in_force(&self) -> impl Iterator<Item = &Told> {
        self.acknowledged.iter().chain(&self.sent)
    }

    /// Why it does not run, as far as its agent or the kubelet has said.
    pub(crate) fn why_not(&self) -> Option<&str> {
        self.trouble.as_deref().or(self.pod.trouble.as_deref())
    }
}
