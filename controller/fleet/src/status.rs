//! The status of objects: what is worth being written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use l7mp_compiler::compile::Report;
use l7mp_compiler::object::{Kind, Object, ObjectId};
use l7mp_compiler::reference;
use l7mp_compiler::references::references;
use l7mp_crds::{ClusterSpec, Condition, ConditionStatus, FAILING_MAX, FailingPod, ListenerSpec, Status};

use crate::StatusUpdate;
use crate::condition::{self, PENDING, PROGRAMMED, Placement, READY, UNREACHABLE, shorten};
use crate::facts::Facts;
use crate::fleet::Fleet;
use crate::tally::Tally;

/// That agents have not answered yet is said after so long: mostly they have by then.
const SETTLE: Duration = Duration::from_millis(500);

/// The longest message of a failing pod, in characters.
const FAILING_CHARACTERS_MAX: usize = 1000;

/// Protocol and port.
type Address = (Option<String>, Option<i32>);

/// What was said about every object, and what may have to be said.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Objects whose status may be another one by now.
    stale: BTreeSet<ObjectId>,
    /// What was given out last.
    given: BTreeMap<ObjectId, Status>,
    /// What the API server has.
    seeds: BTreeMap<ObjectId, Status>,
    /// Objects that wait for answers, since when.
    unsettled: BTreeMap<ObjectId, Instant>,
    /// When the first of these is to be looked at again.
    pub(crate) settled_at: Option<Instant>,
    /// An object has changed that others may refer to.
    pub(crate) references_changed: bool,
    /// What follows from the objects that an object refers to: faults, protocol, port.
    referred: BTreeMap<ObjectId, (Vec<Report>, Address)>,
    /// The time after a start is over, and everything was looked at once more.
    pub(crate) grace_over: bool,
}

impl Book {
    /// The status of an object may be another one.
    pub(crate) fn mark(&mut self, id: &ObjectId) {
        if id.kind.is_ours() && !self.stale.contains(id) {
            self.stale.insert(id.clone());
        }
    }

    /// Others may have written since: what counts is what the API server has.
    pub(crate) fn restart(&mut self) {
        self.given.clear();
        self.unsettled.clear();
        self.settled_at = None;
    }

    pub(crate) fn forget(&mut self, id: &ObjectId) {
        self.stale.remove(id);
        self.given.remove(id);
        self.seeds.remove(id);
        self.unsettled.remove(id);
        self.referred.remove(id);
    }

    pub(crate) fn seed(&mut self, id: &ObjectId, mut status: Status) {
        for condition in &mut status.conditions {
            condition.last_transition_time.clear();
        }
        if id.kind.is_ours() {
            self.seeds.insert(id.clone(), status);
        }
    }

    /// How many objects of each kind have a status that says that something is wrong.
    pub(crate) fn troubled(&self) -> BTreeMap<Kind, usize> {
        let mut troubled = BTreeMap::new();
        for (id, status) in &self.given {
            let is_ready = find(status, READY).is_some_and(|ready| ready.status == ConditionStatus::True);
            *troubled.entry(id.kind).or_default() += usize::from(!is_ready);
        }
        troubled
    }
}

impl Fleet {
    /// Statuses that differ from what was last taken from here (or from what the API server had, see
    /// [`Fleet::seed_status`]). `last_transition_time` is empty: whoever writes it knows the time.
    pub fn statuses(&mut self, now: Instant) -> Vec<StatusUpdate> {
        let Some(term) = self.term else { return Vec::new() };
        let grace = now < term.started + self.timing.grace;
        if !grace && !self.book.grace_over {
            self.book.grace_over = true;
            self.book.stale.extend(self.facts.keys().cloned());
        }
        if std::mem::take(&mut self.book.references_changed) {
            self.compare_references();
        }
        let mut updates = Vec::new();
        let mut later = BTreeSet::new();
        for id in std::mem::take(&mut self.book.stale) {
            if self.uncompiled.contains(&id) {
                self.book.unsettled.remove(&id);
                later.insert(id);
                continue;
            }
            let Some(mut status) = self.status(&id) else { continue };
            let seed = self.book.seeds.get(&id);
            if grace && let Some(seed) = seed {
                keep(&mut status, seed);
            }
            if self.book.given.get(&id).or(seed) == Some(&status) {
                self.book.unsettled.remove(&id);
                continue;
            }
            if is_unanswered(&status) {
                let since = *self.book.unsettled.entry(id.clone()).or_insert(now);
                if since + SETTLE > now {
                    later.insert(id);
                    continue;
                }
            }
            self.book.unsettled.remove(&id);
            self.book.given.insert(id.clone(), status.clone());
            let uid = self.world.get(&id).and_then(|object| object.meta().uid.clone());
            updates.push(StatusUpdate { id, uid, status });
        }
        self.book.stale = later;
        self.book.settled_at = self.book.unsettled.values().min().map(|since| *since + SETTLE);
        updates
    }

    /// An object came, went or changed: those that refer to it may have another status.
    fn compare_references(&mut self) {
        for id in self.facts.keys() {
            let Some(object) = self.world.get(id) else { continue };
            let now = (references(&self.world, object), self.address(object));
            if self.book.referred.get(id) != Some(&now) {
                self.book.stale.insert(id.clone());
                self.book.referred.insert(id.clone(), now);
            }
        }
    }

    /// The status of an object as everything is now.
    pub(crate) fn status(&self, id: &ObjectId) -> Option<Status> {
        let Facts { rejected, .. } = self.facts.get(id)?;
        let object = self.world.get(id);
        let generation = match (rejected, object) {
            (Some(rejected), _) => rejected.generation,
            (None, Some(object)) => object.meta().generation,
            (None, None) => return None,
        };
        let tally = self.tally(id);
        let in_force = object.map(|object| object.meta().generation);
        let placement = object.map_or(Placement::Referenced, |object| placement(object));
        let mut conditions = vec![
            condition::accepted(rejected.as_ref(), in_force),
            condition::resolved(&tally),
            condition::programmed(id, &tally, placement, rejected.is_some(), object.is_some()),
        ];
        conditions.extend(condition::degraded(&tally));
        conditions.push(condition::ready(&conditions));
        for condition in &mut conditions {
            condition.observed_generation = generation;
        }
        let (protocol, port) = object.map_or((None, None), |object| self.address(object));
        let endpoints = match object.map(|object| &**object) {
            Some(Object::Target(target)) => self.endpoints(id, target),
            _ => None,
        };
        Some(Status {
            observed_generation: generation,
            protocol,
            port,
            pods: tally.pods,
            programmed: tally.programmed,
            unreachable: tally.unreachable,
            endpoints,
            conditions,
            failing: failing(tally),
        })
    }

    /// The protocol and port that `kubectl get` shows.
    fn address(&self, object: &Object) -> Address {
        let (protocol, port) = match object {
            Object::VirtualService(object) => listener(&object.spec.listener.spec),
            Object::Target(target) => {
                let linked = target.spec.linked_virtual_service.as_deref().and_then(|text| {
                    let id = reference::parse(text, Kind::VirtualService, target.metadata.namespace()).ok()?;
                    self.world.virtual_service(&id)
                });
                match (&target.spec.cluster, linked) {
                    (Some(spec), _) => cluster(&spec.spec),
                    (None, Some(linked)) => listener(&linked.spec.listener.spec),
                    (None, None) => return (None, None),
                }
            }
            Object::Route(_) | Object::Rule(_) | Object::Pod(_) | Object::Service(_) | Object::EndpointSlice(_) => {
                return (None, None);
            }
        };
        (Some(protocol.to_owned()), port.map(i32::from))
    }
}

fn placement(object: &Object) -> Placement {
    let selects = match object {
        Object::VirtualService(_) => true,
        Object::Target(target) => target.spec.selector.is_some(),
        Object::Route(_) | Object::Rule(_) | Object::Pod(_) | Object::Service(_) | Object::EndpointSlice(_) => false,
    };
    if selects { Placement::Selected } else { Placement::Referenced }
}

fn listener(spec: &ListenerSpec) -> (&'static str, Option<u16>) {
    match spec {
        ListenerSpec::Udp(udp) => ("UDP", Some(udp.port)),
        ListenerSpec::Tcp(tcp) => ("TCP", Some(tcp.port)),
        ListenerSpec::WebSocket(websocket) => ("WebSocket", Some(websocket.port)),
        ListenerSpec::UnixDomainSocket(_) => ("UnixDomainSocket", None),
    }
}

fn cluster(spec: &ClusterSpec) -> (&'static str, Option<u16>) {
    match spec {
        ClusterSpec::Udp(udp) => ("UDP", udp.port),
        ClusterSpec::Tcp(tcp) => ("TCP", tcp.port),
        ClusterSpec::WebSocket(websocket) => ("WebSocket", websocket.port),
        ClusterSpec::UnixDomainSocket(_) => ("UnixDomainSocket", None),
        ClusterSpec::Echo(_) => ("Echo", None),
        ClusterSpec::Discard(_) => ("Discard", None),
    }
}

fn failing(tally: Tally) -> Vec<FailingPod> {
    let failing = tally.failing.into_iter().take(FAILING_MAX);
    failing
        .map(|failing| FailingPod { pod: failing.pod, message: shorten(&failing.message, FAILING_CHARACTERS_MAX) })
        .collect()
}

fn find<'a>(status: &'a Status, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind)
}

/// Whether nothing is wrong but that agents have not answered.
fn is_unanswered(status: &Status) -> bool {
    find(status, PROGRAMMED).is_some_and(|programmed| matches!(programmed.reason.as_str(), PENDING | UNREACHABLE))
}

/// After a start, agents come back one by one: what they had acknowledged to the fleet before still holds, unless
/// they say something else.
fn keep(status: &mut Status, seed: &Status) {
    if seed.observed_generation != status.observed_generation {
        return;
    }
    let failing = u32::try_from(status.failing.len()).unwrap_or(u32::MAX);
    status.programmed = status.programmed.max(seed.programmed.min(status.pods.saturating_sub(failing)));
    status.unreachable = status.unreachable.min(seed.unreachable);
    if !is_unanswered(status) && find(status, PROGRAMMED).is_some_and(|now| now.reason != PROGRAMMED) {
        return;
    }
    let Some(before) = find(seed, PROGRAMMED).cloned() else { return };
    if is_unanswered(status) {
        status.failing.clone_from(&seed.failing);
    }
    if let Some(programmed) = status.conditions.iter_mut().find(|condition| condition.kind == PROGRAMMED) {
        *programmed = before;
    }
    status.conditions.retain(|condition| condition.kind != READY);
    let mut ready = condition::ready(&status.conditions);
    ready.observed_generation = status.observed_generation;
    status.conditions.push(ready);
}
