//! Compiles for the proxies that need it, and tells their agents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use l7mp_compiler::compile::{Compiled, HeldBack, Port, Use, View, compile};
use l7mp_compiler::object::{Object, ObjectId, PodName};

use crate::document::{Document, Told, listens};
use crate::fleet::{Fleet, Term, push};
use crate::order::Door;
use crate::proxy::{HOLD, Refusal, SENT_MAX, Shown, State};
use crate::{Proxy, Push};

/// How long a document waits for listeners that take the place of those that the proxy uses now.
const PATIENCE: Duration = Duration::from_secs(2);

/// What comes of what is compiled in one turn is compiled in the same one, so often.
const ROUNDS_MAX: usize = 4;

impl Fleet {
    /// Compiles for the proxies that need it; what their agents are to be told. Only proxies whose agent is
    /// connected are told anything. To be called after everything that happens, and at [`Fleet::deadline`].
    pub fn turn(&mut self, now: Instant) -> Vec<Push> {
        if !self.is_synced() {
            return Vec::new();
        }
        if self.term.is_none() {
            self.begin(now);
        }
        self.fire(now);
        let mut pushes: BTreeMap<Proxy, Push> = BTreeMap::new();
        for _ in 0..ROUNDS_MAX {
            if self.due.is_none_or(|due| due > now) {
                break;
            }
            self.due = None;
            for pod in std::mem::take(&mut self.dirty) {
                pushes.extend(self.bring_up(&pod, now).map(|push| (push.proxy.clone(), push)));
            }
        }
        if self.dirty.is_empty() {
            for id in std::mem::take(&mut self.uncompiled) {
                self.book.mark(&id);
            }
        }
        for pod in std::mem::take(&mut self.greet) {
            // Who comes in the middle of a change is told how it ends.
            if self.dirty.remove(&pod) {
                self.bring_up(&pod, now);
            }
            pushes.extend(self.greet(&pod, now).map(|push| (push.proxy.clone(), push)));
        }
        pushes.into_values().collect()
    }

    /// When `turn` is to be called again though nothing happens, and then `statuses`.
    pub fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let greet = self.term.filter(|_| self.greet.iter().any(|pod| self.is_compiled(pod))).map(|term| term.started);
        let trust = self.term.filter(|term| term.trusted).and_then(|term| term.trust_end);
        let grace = self.term.filter(|_| !self.book.grace_over).map(|term| term.started + self.timing.grace);
        let due = self.due.filter(|_| self.is_synced());
        [due, timer, greet, trust, grace, self.book.settled_at].into_iter().flatten().min()
    }

    fn is_compiled(&self, pod: &PodName) -> bool {
        self.proxies.get(pod).is_some_and(|state| state.desired.is_some())
    }

    fn begin(&mut self, now: Instant) {
        let connected = self.proxies.values().any(|state| state.connected) || !self.early.is_empty();
        let trust_end = connected.then_some(now + self.timing.grace);
        self.term = Some(Term { started: now, found: self.revision, trust_end, trusted: true });
        self.dirty.extend(self.proxies.keys().cloned());
        self.due = Some(now);
        self.book.grace_over = false;
        for id in self.facts.keys() {
            self.book.mark(id);
        }
    }

    /// What has become due.
    fn fire(&mut self, now: Instant) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
            && let Some((_, pod)) = self.timers.pop_first()
        {
            self.soil_at(&pod, now);
        }
        let Some(term) = self.term.as_mut().filter(|term| term.trusted && term.trust_end.is_some_and(|end| end <= now))
        else {
            return;
        };
        term.trusted = false;
        let silent = self.proxies.iter().filter(|(_, state)| state.acknowledged.is_none());
        let used = silent.flat_map(|(pod, _)| self.usage.of_pod(pod));
        let users: BTreeSet<Arc<PodName>> = used.flat_map(|(_, users)| users.cloned()).collect();
        // What nobody was told yet is counted by no use.
        let untold = self.proxies.iter().filter(|(_, state)| state.untold().is_some()).map(|(pod, _)| Arc::clone(pod));
        let users: Vec<Arc<PodName>> = users.into_iter().chain(untold).collect();
        for pod in users {
            self.soil_at(&pod, now);
        }
    }

    /// Compiles for one proxy.
    fn bring_up(&mut self, pod: &Arc<PodName>, now: Instant) -> Option<Push> {
        let state = self.proxies.get_mut(pod)?;
        state.quarantine.refresh(&self.world);
        let all = state.quarantine.all();
        let mut held = Arc::new(all);
        let (mut compiled, document) = self.compile(pod, &held, now)?;
        let mut document = self.library.share(document);
        let mut shown = Shown {
            document: Arc::clone(&document),
            held: Arc::clone(&held),
            reports: std::mem::take(&mut compiled.reports),
        };
        // What is known to be good goes first; objects that are to be tried again wait for it.
        let state = self.proxies.get(pod)?;
        let tried = state.quarantine.held(now);
        let has = |told: &Told| told.document.config == document.config;
        if tried.len() != held.len() && state.sent.is_empty() && state.acknowledged.as_ref().is_some_and(has) {
            held = Arc::new(tried);
            let tried = self.compile(pod, &held, now)?;
            (compiled, document) = (tried.0, self.library.share(tried.1));
            if document.config == shown.document.config {
                // It would have nothing new, so nothing is tried.
                let reports = std::mem::take(&mut compiled.reports);
                shown = Shown { document: Arc::clone(&document), held: Arc::clone(&held), reports };
            }
        }
        self.dependents.set(pod, std::mem::take(&mut compiled.dependencies));
        let waits = std::mem::take(&mut compiled.waits);
        let patient = self.is_patient(pod, &waits, now);
        let state = self.proxies.get_mut(pod)?;
        state.waits = waits.into_iter().collect();
        if patient {
            return None;
        }
        self.install(pod, document, held, shown, now)
    }

    /// Compiles for one proxy with these objects held back, and with the listeners that may not go yet.
    fn compile(&mut self, pod: &Arc<PodName>, held: &HeldBack, now: Instant) -> Option<(Compiled, Document)> {
        let (compiled, document) = self.compile_with(pod, held, &[])?;
        let lingering = self.lingering(pod, &document, held, now);
        if lingering.is_empty() {
            return Some((compiled, document));
        }
        self.compile_with(pod, held, &lingering)
    }

    fn compile_with(
        &mut self,
        pod: &PodName,
        held: &HeldBack,
        lingering: &[Arc<Object>],
    ) -> Option<(Compiled, Document)> {
        self.compiled += 1;
        let serving = self.serving();
        let view = View { held, serving: Some(&serving), lingering };
        let mut compiled = compile(&self.world, pod, &view).ok()?;
        let object = |service: &ObjectId, port: Port| {
            let present = self.world.get(service).filter(|object| port_of(object) == Some(port));
            let old = || lingering.iter().find(|old| old.id() == *service && port_of(old) == Some(port));
            present.or_else(old).cloned()
        };
        let doors: BTreeSet<Door> = std::mem::take(&mut compiled.uses).into_iter().map(Door::from).collect();
        let document = Document {
            listens: listens(&compiled, object),
            uses: doors.into_iter().map(|door| self.usage.intern(door)).collect(),
            selected: std::mem::take(&mut compiled.selected).into_iter().collect(),
            origins: std::mem::take(&mut compiled.origins),
            config: Arc::new(std::mem::take(&mut compiled.config)),
        };
        Some((compiled, document))
    }

    /// The VirtualServices, as they were, whose listeners this proxy keeps though nothing wants them any more:
    /// others use them still.
    fn lingering(&mut self, pod: &Arc<PodName>, wanted: &Document, held: &HeldBack, now: Instant) -> Vec<Arc<Object>> {
        let Some(state) = self.proxies.get_mut(pod) else { return Vec::new() };
        let mut unwanted: BTreeMap<Port, (ObjectId, Arc<Object>)> = BTreeMap::new();
        for listen in state.acknowledged.iter().chain(&state.sent).flat_map(|told| &told.document.listens) {
            // Of several that had a port one after the other, the last stays.
            if !wanted.listens_at(listen.port) && !held.contains_key(&listen.service) {
                unwanted.insert(listen.port, (listen.service.clone(), Arc::clone(&listen.object)));
            }
        }
        state.lingering.retain(|(_, port), _| unwanted.contains_key(port));
        let mut stay = Vec::new();
        for (port, (service, object)) in unwanted {
            let door = Door { pod: (**pod).clone(), port };
            if self.usage.users(&door).all(|user| user == pod) {
                continue;
            }
            let end = *state.lingering.entry((service, port)).or_insert_with(|| {
                let end = now + self.timing.linger;
                self.timers.insert((end, Arc::clone(pod)));
                end
            });
            if end > now {
                stay.push(object);
            }
        }
        stay
    }

    /// Whether a document waits a little: it would take endpoints away whose listener is only being moved or
    /// renamed, and which would be back as soon as their proxy has acknowledged that.
    fn is_patient(&mut self, pod: &Arc<PodName>, waits: &BTreeSet<Use>, now: Instant) -> bool {
        let Some(state) = self.proxies.get(pod) else { return false };
        let moved = |wait: &Use, used: &Door| {
            let listens =
                |owner: &State| owner.in_force().any(|told| told.document.listens_on(&wait.service, used.port));
            used.port == wait.port || self.proxies.get(&wait.pod).is_some_and(listens)
        };
        let comes = |wait: &Use| {
            let owner = self.proxies.get(&wait.pod);
            owner.is_some_and(|owner| owner.connected && owner.refusal.is_none() && !owner.holds_back(&wait.service))
        };
        let uses = |pod| state.in_force().flat_map(move |told| told.document.uses_of(pod));
        let moving = waits.iter().any(|wait| comes(wait) && uses(&wait.pod).any(|used| moved(wait, used)));
        let Some(state) = self.proxies.get_mut(pod) else { return false };
        // Only for what it has: whoever has lost that is told what is right now.
        let lost = |holds: Option<u64>| holds.is_none() || holds != state.last().map(|told| told.sequence);
        if !moving || state.greeting.is_some_and(lost) {
            state.patience = None;
            return false;
        }
        let end = *state.patience.get_or_insert_with(|| {
            let end = now + PATIENCE;
            self.timers.insert((end, Arc::clone(pod)));
            end
        });
        end > now
    }

    /// Makes a document what the proxy should have, and tells it when it has another one.
    fn install(
        &mut self,
        pod: &Arc<PodName>,
        document: Arc<Document>,
        held: Arc<HeldBack>,
        shown: Shown,
        now: Instant,
    ) -> Option<Push> {
        let state = self.proxies.get_mut(pod)?;
        for id in concern(&mut self.concerned, pod, state, shown) {
            self.book.mark(&id);
        }
        let (drain, revision) = (state.pod.terminating, self.revision);
        let same = |told: &Told| told.drain == drain && told.document.config == document.config;
        let replace = |told: &mut Told| {
            (told.document, told.revision, told.held) = (Arc::clone(&document), revision, Arc::clone(&held));
        };
        let mut released = Vec::new();
        let last = state.sent.back_mut().or(state.acknowledged.as_mut());
        if let Some(last) = last.filter(|last| same(last)) {
            // It has that already, or was told; what it is made of may have changed.
            if !Arc::ptr_eq(&last.document, &document) {
                self.usage.add(pod, &document);
                released = self.usage.remove(pod, &last.document);
            }
            replace(last);
            state.desired = Some(last.clone());
            state.refusal = None;
            self.released(&released, now);
            return None;
        }
        if let Some(desired) = state.desired.as_mut().filter(|desired| same(desired)) {
            replace(desired);
            if !state.connected || state.greeting.is_some() {
                return None;
            }
            // It was told and refuses it, whatever is held back.
            let refusal = state.refusal.get_or_insert_with(|| {
                let said = held.values().next().cloned().unwrap_or_else(|| "refused".to_owned());
                let until = now + HOLD.after(1);
                self.timers.insert((until, Arc::clone(pod)));
                Refusal { said, count: 1, until }
            });
            if refusal.until > now {
                return None;
            }
            self.sequence += 1;
            desired.sequence = self.sequence;
            return self.send(pod, now);
        }
        self.sequence += 1;
        state.desired = Some(Told { sequence: self.sequence, document, revision, held, drain });
        state.refusal = None;
        if !state.connected || state.greeting.is_some() {
            return None;
        }
        self.send(pod, now)
    }

    /// Tells an agent that has just come, unless its proxy has what it should.
    fn greet(&mut self, pod: &Arc<PodName>, now: Instant) -> Option<Push> {
        let state = self.proxies.get_mut(pod)?;
        let Some(desired) = &state.desired else {
            self.greet.insert(Arc::clone(pod));
            return None;
        };
        let holds = state.greeting.take()?;
        if state.patience.is_some_and(|end| end > now) {
            return None;
        }
        let has = state.acknowledged.as_ref().is_some_and(|told| told.sequence == desired.sequence);
        if has && holds == Some(desired.sequence) {
            return None;
        }
        self.send(pod, now)
    }

    fn send(&mut self, pod: &Arc<PodName>, now: Instant) -> Option<Push> {
        let state = self.proxies.get_mut(pod)?;
        let desired = state.desired.clone()?;
        let pushed = push(pod, state, &desired);
        if state.sent.back().is_some_and(|told| told.sequence == desired.sequence) {
            return Some(pushed);
        }
        self.usage.add(pod, &desired.document);
        state.sent.push_back(desired);
        if state.sent.len() > SENT_MAX
            && let Some(oldest) = state.sent.pop_front()
        {
            let released = self.usage.remove(pod, &oldest.document);
            self.released(&released, now);
        }
        Some(pushed)
    }
}

/// Notes for which objects the proxy matters from now on. Gives every object whose status may be another one.
fn concern(
    concerned: &mut BTreeMap<ObjectId, BTreeSet<Arc<PodName>>>,
    pod: &Arc<PodName>,
    state: &mut State,
    shown: Shown,
) -> BTreeSet<ObjectId> {
    let old = state.shown.take();
    let before: BTreeSet<&ObjectId> = old.iter().flat_map(Shown::objects).collect();
    let after: BTreeSet<&ObjectId> = shown.objects().collect();
    for id in before.difference(&after) {
        if let Some(proxies) = concerned.get_mut(*id) {
            proxies.remove(pod);
            if proxies.is_empty() {
                concerned.remove(*id);
            }
        }
    }
    for id in after.difference(&before) {
        concerned.entry((*id).clone()).or_default().insert(Arc::clone(pod));
    }
    let all = before.union(&after).map(|id| (*id).clone()).collect();
    drop((before, after));
    state.shown = Some(shown);
    all
}

/// The port of a VirtualService's listener.
fn port_of(object: &Object) -> Option<Port> {
    match object {
        Object::VirtualService(object) => Port::of(&object.spec.listener.spec),
        Object::Target(_) | Object::Route(_) | Object::Rule(_) => None,
        Object::Pod(_) | Object::Service(_) | Object::EndpointSlice(_) => None,
    }
}
