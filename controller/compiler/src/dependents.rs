//! The proxies by what their documents depend on: the index that says whom a change touches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::dependencies::{Change, Dependencies, Key, own_selector};
use crate::object::{Kind, Object, PodName};
use crate::selector::Selection;
use crate::world::World;
use crate::world::postings::Postings;

/// The proxies by what their documents depend on.
#[derive(Clone, Debug, Default)]
pub struct Dependents {
    keys: BTreeMap<Arc<PodName>, Vec<Arc<Key>>>,
    proxies: HashMap<Arc<Key>, BTreeSet<Arc<PodName>>>,
    /// The selections among the keys, by the namespace of the pods.
    selections: HashMap<String, Postings<Arc<Selection>>>,
}

impl Dependents {
    /// What a proxy's document was made of by now.
    pub fn set(&mut self, proxy: &PodName, dependencies: Dependencies) {
        let known = self.keys.get_key_value(proxy).map(|(proxy, _)| Arc::clone(proxy));
        let proxy = known.unwrap_or_else(|| Arc::new(proxy.clone()));
        let mut keys = Vec::new();
        for key in dependencies.into_keys() {
            let key = self.proxies.get_key_value(&key).map_or_else(|| Arc::new(key), |(key, _)| Arc::clone(key));
            if let (Key::Pods(selection), false) = (&*key, self.proxies.contains_key(&key)) {
                let postings = self.selections.entry(selection.namespace.clone()).or_default();
                postings.insert(&selection.anchors(), selection);
            }
            self.proxies.entry(Arc::clone(&key)).or_default().insert(Arc::clone(&proxy));
            keys.push(key);
        }
        let before = self.keys.insert(Arc::clone(&proxy), keys).unwrap_or_default();
        // Both are sorted, as keys of a set are.
        let gone: Vec<_> = before.into_iter().filter(|key| self.keys[&proxy].binary_search(key).is_err()).collect();
        self.forget(&proxy, gone);
    }

    /// Forgets a proxy.
    pub fn remove(&mut self, proxy: &PodName) {
        if let Some((proxy, keys)) = self.keys.remove_entry(proxy) {
            self.forget(&proxy, keys);
        }
    }

    fn forget(&mut self, proxy: &Arc<PodName>, keys: Vec<Arc<Key>>) {
        for key in keys {
            let Some(proxies) = self.proxies.get_mut(&key) else { continue };
            proxies.remove(proxy);
            if !proxies.is_empty() {
                continue;
            }
            self.proxies.remove(&key);
            if let Key::Pods(selection) = &*key
                && let Some(postings) = self.selections.get_mut(&selection.namespace)
            {
                postings.remove(&selection.anchors(), selection);
                if postings.is_empty() {
                    self.selections.remove(&selection.namespace);
                }
            }
        }
    }

    /// The known proxies whose document may be another one after a change; `world` is the one after it.
    pub fn touched(&self, world: &World, change: &Change<'_>) -> BTreeSet<PodName> {
        if change.is_idle() {
            return BTreeSet::new();
        }
        let mut touched: BTreeSet<&PodName> = BTreeSet::new();
        for key in change.keys() {
            touched.extend(self.proxies.get(&key).into_iter().flatten().map(|proxy| &**proxy));
        }
        for object in change.states() {
            if let Some(selector) = own_selector(object) {
                let selection = Selection::new(selector, object.meta().namespace(), None);
                let pods = world.picked(&selection).into_iter().map(|pod| PodName::of(&pod.metadata));
                touched.extend(pods.filter_map(|pod| self.keys.get_key_value(&pod)).map(|(proxy, _)| &**proxy));
            }
            if change.id.kind == Kind::Pod {
                touched.extend(self.using(object));
            }
        }
        touched.into_iter().cloned().collect()
    }

    /// The proxies that have a selection which picks a pod.
    fn using<'a>(&'a self, object: &'a Object) -> impl Iterator<Item = &'a PodName> {
        let pod = object.as_pod();
        let selections = pod.and_then(|pod| self.selections.get(pod.metadata.namespace())).zip(pod);
        let candidates = selections.into_iter().flat_map(|(postings, pod)| {
            let labels = pod.metadata.labels.iter().flat_map(|(key, value)| postings.label(key, value));
            let candidates = postings.any().iter().chain(postings.name(&pod.metadata.name)).chain(labels);
            candidates.filter(|selection| selection.matches(pod))
        });
        candidates.flat_map(|selection| {
            let key = Key::Pods(Arc::clone(selection));
            self.proxies.get(&key).into_iter().flatten().map(|proxy| &**proxy)
        })
    }
}
