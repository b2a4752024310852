//! The fleet's objects and proxies, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use l7mp_compiler::dependencies::Change;
use l7mp_compiler::dependents::Dependents;
use l7mp_compiler::object::{Kind, Object, ObjectId, PodName};
use l7mp_compiler::world::World;
use l7mp_crds::Status;

use crate::document::{Library, Told};
use crate::facts::{Facts, same_spec, selects_elsewhere};
use crate::order::{Acknowledged, Door, Usage};
use crate::proxy::{PodFacts, Shown, State};
use crate::status::Book;
use crate::{Counts, Proxy, Push, Rejected, Timing};

/// Everything comes from the API server.
const SOURCE: &str = "cluster";

/// Every kind must have been listed before anything is compiled.
const KINDS: [Kind; 7] =
    [Kind::VirtualService, Kind::Target, Kind::Route, Kind::Rule, Kind::Pod, Kind::Service, Kind::EndpointSlice];

/// All proxies of a cluster: told what happens, asked what is to be done; see the crate's documentation.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) timing: Timing,
    pub(crate) world: World,
    listed: BTreeSet<Kind>,
    /// Counts the changes of the world.
    pub(crate) revision: u64,
    pub(crate) facts: BTreeMap<ObjectId, Facts>,
    /// Objects with a selector of pods of another namespace.
    foreign: BTreeSet<ObjectId>,
    pub(crate) proxies: BTreeMap<Arc<PodName>, State>,
    /// Agents that came before their pod.
    pub(crate) early: BTreeMap<Proxy, Early>,
    pub(crate) dependents: Dependents,
    pub(crate) usage: Usage,
    pub(crate) library: Library,
    /// The proxies that an object is for, or that have something to say about it.
    pub(crate) concerned: BTreeMap<ObjectId, BTreeSet<Arc<PodName>>>,
    pub(crate) dirty: BTreeSet<Arc<PodName>>,
    /// When the dirty ones are compiled for.
    pub(crate) due: Option<Instant>,
    /// When a proxy is to be looked at again.
    pub(crate) timers: BTreeSet<(Instant, Arc<PodName>)>,
    /// Proxies whose agent has come and was told nothing yet.
    pub(crate) greet: BTreeSet<Arc<PodName>>,
    pub(crate) term: Option<Term>,
    pub(crate) sequence: u64,
    pub(crate) compiled: u64,
    /// Changed objects that the documents do not show yet.
    pub(crate) uncompiled: BTreeSet<ObjectId>,
    pub(crate) book: Book,
}

/// An agent that came before its pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Early {
    connected: bool,
    holds: Option<u64>,
    trouble: Option<String>,
}

/// The time since the fleet began to speak to agents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub(crate) started: Instant,
    /// The state of the world that it found.
    pub(crate) found: u64,
    /// Until when listeners that were found are taken to be there: from the first agent on.
    pub(crate) trust_end: Option<Instant>,
    pub(crate) trusted: bool,
}

impl Fleet {
    /// Knows nothing yet.
    pub fn new(timing: Timing) -> Fleet {
        Fleet {
            timing,
            world: World::default(),
            listed: BTreeSet::new(),
            revision: 0,
            facts: BTreeMap::new(),
            foreign: BTreeSet::new(),
            proxies: BTreeMap::new(),
            early: BTreeMap::new(),
            dependents: Dependents::default(),
            usage: Usage::default(),
            library: Library::default(),
            concerned: BTreeMap::new(),
            dirty: BTreeSet::new(),
            due: None,
            timers: BTreeSet::new(),
            greet: BTreeSet::new(),
            term: None,
            sequence: 0,
            compiled: 0,
            uncompiled: BTreeSet::new(),
            book: Book::default(),
        }
    }

    /// An object is there, or has changed. One that is not usable leaves its last good state in force, if it had
    /// one here; its status says so.
    pub fn apply(&mut self, object: Result<Object, Rejected>, now: Instant) {
        match object {
            Ok(object) => self.put(object, now),
            Err(rejected) => self.reject(rejected),
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, id: &ObjectId, now: Instant) {
        self.facts.remove(id);
        self.foreign.remove(id);
        self.book.forget(id);
        self.uncompiled.remove(id);
        let Some(before) = self.world.get(id).cloned() else { return };
        self.world.delete(SOURCE, id);
        self.revision += 1;
        self.changed(id, Some(&before), None, now);
    }

    /// All objects of a kind: what is not among them is gone. A kind that was never listed keeps the fleet waiting.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Result<Object, Rejected>>, now: Instant) {
        let listed: BTreeSet<ObjectId> = objects
            .iter()
            .map(|object| match object {
                Ok(object) => object.id(),
                Err(rejected) => rejected.id.clone(),
            })
            .collect();
        let known = self.world.held_by(SOURCE).chain(self.facts.keys());
        let gone: BTreeSet<ObjectId> = known.filter(|id| id.kind == kind && !listed.contains(*id)).cloned().collect();
        for id in &gone {
            self.delete(id, now);
        }
        for object in objects {
            self.apply(object, now);
        }
        if self.listed.insert(kind) && self.is_synced() {
            self.due = Some(now);
        }
    }

    /// Whether every kind was listed once: before, nothing is compiled.
    pub fn is_synced(&self) -> bool {
        KINDS.iter().all(|kind| self.listed.contains(kind))
    }

    /// An agent's stream has begun; it says what its proxy acknowledged last from this fleet (`None`: nothing of it).
    pub fn connect(&mut self, proxy: &Proxy, holds: Option<u64>, now: Instant) {
        if let Some(term) = &mut self.term
            && term.trust_end.is_none()
        {
            term.trust_end = Some(now + self.timing.grace);
        }
        let Some((pod, state)) = find(&mut self.proxies, proxy) else {
            let early = self.early.entry(proxy.clone()).or_default();
            (early.connected, early.holds) = (true, holds);
            return;
        };
        state.connected = true;
        state.greeting = Some(holds);
        state.trouble = None;
        self.greet.insert(pod);
        if let Some(sequence) = holds {
            self.adopt(&proxy.pod, sequence, now);
        }
        self.mark_selected(&proxy.pod);
    }

    /// An agent's stream has ended.
    pub fn disconnect(&mut self, proxy: &Proxy, _now: Instant) {
        self.early.remove(proxy);
        if let Some((pod, state)) = find(&mut self.proxies, proxy) {
            state.connected = false;
            state.greeting = None;
            self.greet.remove(&pod);
            self.mark_selected(&pod);
        }
    }

    /// An agent says why its proxy cannot be reached; `None`: it is well again.
    pub fn trouble(&mut self, proxy: &Proxy, message: Option<String>, _now: Instant) {
        if let Some((pod, state)) = find(&mut self.proxies, proxy) {
            state.trouble = message;
            self.mark_selected(&pod);
        } else if let Some(early) = self.early.get_mut(proxy) {
            early.trouble = message;
        }
    }

    /// Another term begins, with this fleet's world: nothing that agents acknowledged before counts any more, and
    /// the waits after a start begin anew. Without it the term begins with the first `turn` after every kind was
    /// listed, so a replica that only keeps its world ready does not call `turn`.
    pub fn restart(&mut self, now: Instant) {
        self.term = None;
        self.usage = Usage::default();
        self.concerned.clear();
        for state in self.proxies.values_mut() {
            let (uid, pod) = (std::mem::take(&mut state.uid), state.pod.clone());
            *state = State::new(uid, state.since, pod);
        }
        self.early.clear();
        self.greet.clear();
        self.timers.clear();
        self.book.restart();
        self.due = Some(now);
    }

    /// The status of an object as the API server has it: for some time after a start its counts are not lowered, and
    /// nothing is said anew that it says already. What this fleet gave out since its start counts for more.
    pub fn seed_status(&mut self, id: &ObjectId, status: Status) {
        self.book.seed(id, status);
    }

    /// What a pod's proxy should have by now, be it told already or not; `None` when the pod is not known, has no
    /// proxy, or was not compiled for yet.
    pub fn configuration(&self, pod: &PodName) -> Option<Push> {
        let (name, state) = self.proxies.get_key_value(pod)?;
        Some(push(name, state, state.desired.as_ref()?))
    }

    /// The sequence of the newest configuration that was made, ever.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Numbers for metrics.
    pub fn counts(&self) -> Counts {
        let mut objects = BTreeMap::new();
        for id in self.world.held_by(SOURCE) {
            *objects.entry(id.kind).or_default() += 1;
        }
        Counts {
            proxies: self.proxies.len(),
            connected: self.proxies.values().filter(|state| state.connected).count(),
            queued: self.dirty.len(),
            compiled: self.compiled,
            pushed: self.sequence,
            objects,
            troubled: self.book.troubled(),
        }
    }

    fn put(&mut self, mut object: Object, now: Instant) {
        forget_version(&mut object);
        let id = object.id();
        let before = self.world.get(&id).cloned();
        let facts = if id.kind.is_ours() { Some(self.facts.entry(id.clone()).or_default()) } else { None };
        let mended = facts.is_some_and(|facts| facts.rejected.take().is_some());
        if before.as_deref() == Some(&object) {
            if mended {
                self.book.mark(&id);
            }
            return;
        }
        let old_uid = before.as_ref().and_then(|before| before.meta().uid.as_ref());
        if old_uid.is_some_and(|uid| object.meta().uid.as_ref() != Some(uid)) {
            self.book.forget(&id);
        }
        self.world.apply(SOURCE, object);
        self.revision += 1;
        let Some(after) = self.world.get(&id).cloned() else { return };
        if !before.as_ref().is_some_and(|before| same_spec(before, &after))
            && let Some(facts) = self.facts.get_mut(&id)
        {
            facts.since = self.revision;
        }
        self.changed(&id, before.as_deref(), Some(&after), now);
    }

    fn reject(&mut self, rejected: Rejected) {
        let id = rejected.id.clone();
        if id.kind.is_ours() {
            self.facts.entry(id.clone()).or_default().rejected = Some(rejected);
            self.book.mark(&id);
        }
    }

    /// The world has changed: finds the proxies that it matters to.
    fn changed(&mut self, id: &ObjectId, before: Option<&Object>, after: Option<&Object>, now: Instant) {
        if self.term.is_some() {
            let touched = self.dependents.touched(&self.world, &Change { id, before, after });
            for pod in touched {
                self.soil(&pod, now);
            }
        }
        match id.kind {
            Kind::Pod => {
                let after = match after {
                    Some(Object::Pod(pod)) => Some(pod),
                    _ => None,
                };
                for object in &self.foreign {
                    self.book.mark(object);
                }
                self.pod_changed(&PodName { namespace: id.namespace.clone(), name: id.name.clone() }, after, now);
            }
            Kind::EndpointSlice => {}
            Kind::VirtualService | Kind::Target | Kind::Route | Kind::Rule | Kind::Service => {
                self.book.references_changed = true;
                if id.kind.is_ours() && after.is_some() {
                    self.uncompiled.insert(id.clone());
                }
                if after.is_some_and(selects_elsewhere) {
                    self.foreign.insert(id.clone());
                } else {
                    self.foreign.remove(id);
                }
                self.due.get_or_insert(now + self.timing.debounce);
            }
        }
    }

    fn pod_changed(&mut self, name: &PodName, pod: Option<&l7mp_crds::Pod>, now: Instant) {
        let pod = pod.filter(|pod| self.world.has_proxy(pod) && !pod.is_finished());
        let uid = pod.map(|pod| pod.metadata.uid.clone().unwrap_or_default());
        let known = self.proxies.get(name).map(|state| &state.uid);
        if known.is_some() && known != uid.as_ref() {
            self.remove_proxy(name, now);
        }
        let (Some(pod), Some(uid)) = (pod, uid) else { return };
        let facts = PodFacts::of(pod);
        match self.proxies.get_mut(name) {
            Some(state) => {
                if state.pod != facts {
                    state.pod = facts;
                    self.mark_selected(name);
                }
            }
            None => {
                let mut state = State::new(uid, self.revision, facts);
                let proxy = Proxy { pod: name.clone(), uid: state.uid.clone() };
                let name = Arc::new(name.clone());
                if let Some(early) = self.early.remove(&proxy) {
                    state.trouble = early.trouble;
                    state.connected = early.connected;
                    state.greeting = Some(early.holds);
                    self.greet.insert(Arc::clone(&name));
                }
                self.proxies.insert(name, state);
            }
        }
        self.soil(name, now);
    }

    fn remove_proxy(&mut self, name: &PodName, now: Instant) {
        let Some((pod, state)) = self.proxies.remove_entry(name) else { return };
        let mut released = Vec::new();
        for told in state.in_force() {
            released.extend(self.usage.remove(&pod, &told.document));
        }
        self.unconcern(&pod, &state);
        self.released(&released, now);
        self.dependents.remove(&pod);
        self.dirty.remove(&pod);
        self.greet.remove(&pod);
    }

    /// The proxy is no longer among those that objects are for.
    fn unconcern(&mut self, pod: &PodName, state: &State) {
        for id in state.shown.iter().flat_map(Shown::objects) {
            self.book.mark(id);
            if let Some(proxies) = self.concerned.get_mut(id) {
                proxies.remove(pod);
                if proxies.is_empty() {
                    self.concerned.remove(id);
                }
            }
        }
    }

    /// The proxy is to be compiled for, with others that change meanwhile.
    pub(crate) fn soil(&mut self, pod: &PodName, now: Instant) {
        self.soil_at(pod, now + self.timing.debounce);
    }

    /// The proxy is to be compiled for by then.
    pub(crate) fn soil_at(&mut self, pod: &PodName, due: Instant) {
        if let Some((pod, _)) = self.proxies.get_key_value(pod) {
            self.dirty.insert(Arc::clone(pod));
            self.due = Some(self.due.map_or(due, |sooner| sooner.min(due)));
        }
    }

    /// Listeners that a proxy does not use any more: those that stayed for it need not.
    pub(crate) fn released(&mut self, doors: &[Arc<Door>], now: Instant) {
        for used in doors {
            let stays = |state: &State| state.lingering.keys().any(|(_, port)| *port == used.port);
            if self.proxies.get(&used.pod).is_some_and(stays) {
                self.soil_at(&used.pod, now);
            }
        }
    }

    /// The status of the objects of a proxy may be another one.
    pub(crate) fn mark_selected(&mut self, pod: &PodName) {
        let Some(state) = self.proxies.get(pod) else { return };
        for id in state.shown.iter().flat_map(Shown::objects) {
            self.book.mark(id);
        }
    }

    /// What others have acknowledged.
    pub(crate) fn serving(&self) -> Acknowledged<'_> {
        let trusted = self.term.filter(|term| term.trusted).map(|term| term.found);
        Acknowledged { proxies: &self.proxies, facts: &self.facts, trusted }
    }
}

/// The state of a proxy, if its pod is still the one of that UID.
pub(crate) fn find<'a>(
    proxies: &'a mut BTreeMap<Arc<PodName>, State>,
    proxy: &Proxy,
) -> Option<(Arc<PodName>, &'a mut State)> {
    let name = Arc::clone(proxies.get_key_value(&proxy.pod)?.0);
    let state = proxies.get_mut(&proxy.pod).filter(|state| state.uid == proxy.uid)?;
    Some((name, state))
}

/// What an agent is told.
pub(crate) fn push(pod: &PodName, state: &State, told: &Told) -> Push {
    Push {
        proxy: Proxy { pod: pod.clone(), uid: state.uid.clone() },
        sequence: told.sequence,
        config: Arc::clone(&told.document.config),
        origins: told.document.parts(),
        drain: told.drain,
    }
}

/// A resource version changes with every write, those of the status too: nothing depends on it.
fn forget_version(object: &mut Object) {
    let meta = match object {
        Object::VirtualService(object) => &mut object.metadata,
        Object::Target(object) => &mut object.metadata,
        Object::Route(object) => &mut object.metadata,
        Object::Rule(object) => &mut object.metadata,
        Object::Pod(object) => &mut object.metadata,
        Object::Service(object) => &mut object.metadata,
        Object::EndpointSlice(object) => &mut object.metadata,
    };
    meta.resource_version = None;
}
