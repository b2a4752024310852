//! What proxies answer to what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use l7mp_api::Problem;
use l7mp_compiler::compile::{Port, Serving as _};
use l7mp_compiler::object::{ObjectId, PodName};

use crate::Proxy;
use crate::fleet::{Fleet, find};
use crate::order::Door;
use crate::proxy::{HOLD, Refusal};

impl Fleet {
    /// Whether a proxy may answer to a configuration: it was told that, and not yet another answer ended the matter.
    pub fn expects(&self, proxy: &Proxy, sequence: u64) -> bool {
        let state = self.proxies.get(&proxy.pod).filter(|state| state.uid == proxy.uid);
        state.is_some_and(|state| state.in_force().any(|told| told.sequence == sequence))
    }

    /// A proxy has adopted a configuration. Warnings are the proxy's, with paths in the document.
    pub fn acknowledge(&mut self, proxy: &Proxy, sequence: u64, warnings: Vec<Problem>, now: Instant) {
        if find(&mut self.proxies, proxy).is_none() || !self.adopt(&proxy.pod, sequence, now) {
            return;
        }
        let Some(state) = self.proxies.get_mut(&proxy.pod) else { return };
        state.trouble = None;
        let Some(told) = &state.acknowledged else { return };
        let blamed = |warning: Problem| {
            let origin = told.document.origins.find(&warning.path)?;
            Some((origin.object, format!("{}: {}", origin.path, warning.message)))
        };
        state.warnings = warnings.into_iter().filter_map(blamed).collect();
        self.mark_selected(&proxy.pod);
    }

    /// A proxy refuses a configuration; paths are in the document. The objects that the errors came from are held
    /// back on that proxy, and the rest is pushed with the next `turn`.
    pub fn refuse(&mut self, proxy: &Proxy, sequence: u64, errors: Vec<Problem>, now: Instant) {
        let Some((pod, state)) = find(&mut self.proxies, proxy) else { return };
        let Some(position) = state.sent.iter().rposition(|told| told.sequence == sequence) else { return };
        let mut dropped: Vec<_> = state.sent.drain(..=position).collect();
        let Some(refused) = dropped.last().cloned() else { return };
        if state.acknowledged.as_ref().is_some_and(|told| told.sequence == sequence) {
            // It had that, and will not take it again: it has lost it.
            dropped.extend(state.acknowledged.take());
        }
        // One that was followed by another is answered by the answer to that.
        if state.sent.is_empty() {
            let mut blamed: BTreeMap<ObjectId, Vec<String>> = BTreeMap::new();
            for error in &errors {
                if let Some(origin) = refused.document.origins.find(&error.path) {
                    blamed.entry(origin.object).or_default().push(format!("{}: {}", origin.path, error.message));
                }
            }
            let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let held = state.quarantine.all();
            let tried = held.keys().filter(|id| !refused.held.contains_key(*id));
            if blamed.is_empty() {
                let before = state.acknowledged.as_ref().map(|told| &*told.document);
                let too_much = refused.document.too_much(before, &self.world);
                blamed.extend(too_much.into_iter().map(|id| (id, said.clone())));
            }
            if blamed.is_empty() {
                // It has all but what was tried again.
                blamed.extend(tried.map(|id| (id.clone(), said.clone())));
            }
            if blamed.is_empty() {
                let count = state.refusal.as_ref().map_or(0, |refusal| refusal.count) + 1;
                let until = now + HOLD.after(count);
                state.refusal = Some(Refusal { said: said.join("; "), count, until });
                self.timers.insert((until, Arc::clone(&pod)));
            }
            for (id, said) in blamed {
                let lingers = |(key, end): (&(ObjectId, _), &Instant)| key.0 == id && *end > now;
                if state.lingering.iter().any(lingers) {
                    // Without what only stays for others it may be taken.
                    let old = state.lingering.iter_mut().filter(|(key, _)| key.0 == id);
                    old.for_each(|(_, end)| *end = now);
                    continue;
                }
                let (pause, _) = state.quarantine.hold(&id, said.join("; "), &self.world, now);
                self.timers.insert((now + pause, Arc::clone(&pod)));
                self.book.mark(&id);
            }
            if state.refusal.is_none() {
                self.soil_at(&pod, now);
            }
        }
        let released: Vec<_> = dropped.iter().flat_map(|told| self.usage.remove(&pod, &told.document)).collect();
        self.released(&released, now);
        self.mark_selected(&pod);
    }

    /// What a proxy has from now on. Whether it is something that it was told.
    pub(crate) fn adopt(&mut self, pod: &PodName, sequence: u64, now: Instant) -> bool {
        let Some((pod, _)) = self.proxies.get_key_value(pod) else { return false };
        let pod = Arc::clone(pod);
        let Some(state) = self.proxies.get_mut(&pod) else { return false };
        let Some(position) = state.sent.iter().rposition(|told| told.sequence == sequence) else {
            return state.acknowledged.as_ref().is_some_and(|told| told.sequence == sequence);
        };
        let mut dropped: Vec<_> = state.sent.drain(..=position).collect();
        let Some(told) = dropped.pop() else { return false };
        let before = state.acknowledged.replace(told.clone());
        let is_good_now = !state.quarantine.accepted(&told.held).is_empty();
        if state.desired.as_ref().is_some_and(|desired| desired.sequence == sequence) {
            state.refusal = None;
        }
        // Objects whose time has come were waiting for this.
        let is_due = state.quarantine.all().len() != state.quarantine.held(now).len();
        let listens = |before: &crate::document::Told| Arc::ptr_eq(&before.document, &told.document);
        if !before.as_ref().is_some_and(listens) {
            self.listeners_changed(&pod, now);
        }
        let dropped = dropped.iter().chain(&before);
        let released: Vec<_> = dropped.flat_map(|told| self.usage.remove(&pod, &told.document)).collect();
        self.released(&released, now);
        if is_due || is_good_now {
            self.soil_at(&pod, now);
        }
        self.mark_selected(&pod);
        true
    }

    /// A proxy may have other listeners than before: those that wait for them, or use one that is not there.
    fn listeners_changed(&mut self, pod: &PodName, now: Instant) {
        let Some(told) = self.proxies.get(pod).and_then(|state| state.acknowledged.as_ref()) else { return };
        let has = |service: &ObjectId, port: Port| told.document.listens_on(service, port);
        let serving = self.serving();
        let lost = self.usage.of_pod(pod).filter(|(used, _)| !told.document.listens_at(used.port));
        let mut touched: BTreeSet<Arc<PodName>> = lost.flat_map(|(_, users)| users.cloned()).collect();
        for (waiting, state) in &self.proxies {
            let is_over = |service: &ObjectId, port: Port| has(service, port) || serving.is_taken(pod, service);
            if state.waits.iter().any(|wait| wait.pod == *pod && is_over(&wait.service, wait.port)) {
                touched.insert(Arc::clone(waiting));
            }
            // What nobody was told yet is counted by no use.
            let untold = state.untold();
            let lacks = |used: &Arc<Door>| !told.document.listens_at(used.port);
            if untold.is_some_and(|desired| desired.document.uses_of(pod).iter().any(lacks)) {
                touched.insert(Arc::clone(waiting));
            }
        }
        for pod in touched {
            self.soil(&pod, now);
        }
    }
}
