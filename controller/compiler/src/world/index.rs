//! What is looked up by something else than its name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use l7mp_crds::{EndpointSlice, Pod, Selector};

use super::postings::{Anchors, Postings, insert, remove};
use crate::compile::Port;
use crate::dependencies::ListId;
use crate::object::{Kind, Object, ObjectId};
use crate::selector::{self, Selection};

/// Indexes over the objects that count. Every list is sorted by namespace and name.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Pods by their namespace and labels.
    pods: HashMap<String, Postings<Arc<Object>>>,
    /// VirtualServices and Targets with a selector, by the namespace of the pods and what the selector asks for.
    selectors: HashMap<String, Postings<Arc<Object>>>,
    /// VirtualServices by the namespace of the pods and their port.
    listeners: BTreeMap<(String, Port), Vec<Arc<Object>>>,
    /// Rules by their list.
    lists: BTreeMap<ListId, Vec<Arc<Object>>>,
    /// EndpointSlices by their Service.
    slices: BTreeMap<ObjectId, Vec<Arc<Object>>>,
}

impl Index {
    pub(super) fn add(&mut self, object: &Arc<Object>) {
        let namespace = object.meta().namespace();
        match &**object {
            Object::Pod(pod) => {
                let postings = entry(&mut self.pods, namespace);
                postings.insert(&Anchors::Any, object);
                postings.insert(&labels(pod), object);
            }
            Object::VirtualService(service) => {
                self.select(service.spec.selector.as_ref(), object);
                if let Some((selector, port)) =
                    service.spec.selector.as_ref().zip(Port::of(&service.spec.listener.spec))
                {
                    let key = (selector::namespace(selector, namespace).to_owned(), port);
                    insert(self.listeners.entry(key).or_default(), object);
                }
            }
            Object::Target(target) => self.select(target.spec.selector.as_ref(), object),
            Object::Rule(rule) => insert(self.lists.entry(ListId::of(rule)).or_default(), object),
            Object::EndpointSlice(slice) => {
                if let Some(service) = service_of(slice) {
                    insert(self.slices.entry(service).or_default(), object);
                }
            }
            Object::Route(_) | Object::Service(_) => {}
        }
    }

    pub(super) fn remove(&mut self, object: &Arc<Object>) {
        let namespace = object.meta().namespace();
        match &**object {
            Object::Pod(pod) => {
                if let Some(postings) = self.pods.get_mut(namespace) {
                    postings.remove(&Anchors::Any, object);
                    postings.remove(&labels(pod), object);
                    if postings.is_empty() {
                        self.pods.remove(namespace);
                    }
                }
            }
            Object::VirtualService(service) => {
                self.unselect(service.spec.selector.as_ref(), object);
                if let Some((selector, port)) =
                    service.spec.selector.as_ref().zip(Port::of(&service.spec.listener.spec))
                {
                    drop_from(
                        &mut self.listeners,
                        &(selector::namespace(selector, namespace).to_owned(), port),
                        object,
                    );
                }
            }
            Object::Target(target) => self.unselect(target.spec.selector.as_ref(), object),
            Object::Rule(rule) => drop_from(&mut self.lists, &ListId::of(rule), object),
            Object::EndpointSlice(slice) => {
                if let Some(service) = service_of(slice) {
                    drop_from(&mut self.slices, &service, object);
                }
            }
            Object::Route(_) | Object::Service(_) => {}
        }
    }

    fn select(&mut self, selector: Option<&Selector>, object: &Arc<Object>) {
        if let Some(selector) = selector {
            let namespace = selector::namespace(selector, object.meta().namespace());
            entry(&mut self.selectors, namespace).insert(&selector::anchors(selector), object);
        }
    }

    fn unselect(&mut self, selector: Option<&Selector>, object: &Arc<Object>) {
        let Some(selector) = selector else { return };
        let namespace = selector::namespace(selector, object.meta().namespace());
        if let Some(postings) = self.selectors.get_mut(namespace) {
            postings.remove(&selector::anchors(selector), object);
            if postings.is_empty() {
                self.selectors.remove(namespace);
            }
        }
    }

    /// The pods that a selection may pick, by name: a superset, out of the shortest list that there is.
    pub(super) fn candidates<'a>(&'a self, selection: &Selection) -> Vec<&'a Arc<Object>> {
        let Some(postings) = self.pods.get(&selection.namespace) else { return Vec::new() };
        let lists = selection.labels().map(|(key, values)| {
            values.iter().map(|value| postings.label(key, value)).filter(|list| !list.is_empty()).collect::<Vec<_>>()
        });
        let shortest = lists.min_by_key(|lists| lists.iter().map(|list| list.len()).sum::<usize>());
        let Some(lists) = shortest else { return postings.any().iter().collect() };
        let mut pods: Vec<&Arc<Object>> = lists.iter().copied().flatten().collect();
        if lists.len() > 1 {
            pods.sort_by_key(|pod| pod.meta().name.as_str());
            pods.dedup_by_key(|pod| pod.meta().name.as_str());
        }
        pods
    }

    /// The VirtualServices and Targets whose selector may pick a pod.
    pub(super) fn selecting<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a Arc<Object>> {
        let postings = self.selectors.get(pod.metadata.namespace());
        postings.into_iter().flat_map(move |postings| {
            let labels = pod.metadata.labels.iter().flat_map(|(key, value)| postings.label(key, value));
            postings.any().iter().chain(postings.name(&pod.metadata.name)).chain(labels)
        })
    }

    pub(super) fn listeners(&self, namespace: &str, port: Port) -> &[Arc<Object>] {
        if self.listeners.is_empty() {
            return &[];
        }
        self.listeners.get(&(namespace.to_owned(), port)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn list(&self, list: &ListId) -> &[Arc<Object>] {
        self.lists.get(list).map_or(&[], Vec::as_slice)
    }

    pub(super) fn slices(&self, service: &ObjectId) -> &[Arc<Object>] {
        self.slices.get(service).map_or(&[], Vec::as_slice)
    }

    pub(super) fn pods(&self, namespace: &str) -> &[Arc<Object>] {
        self.pods.get(namespace).map_or(&[], Postings::any)
    }
}

fn labels(pod: &Pod) -> Anchors<'_> {
    Anchors::Labels(pod.metadata.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect())
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectId> {
    Some(ObjectId::new(Kind::Service, slice.metadata.namespace(), slice.service()?))
}

fn entry<'a, T>(map: &'a mut HashMap<String, T>, key: &str) -> &'a mut T
where
    T: Default,
{
    if !map.contains_key(key) {
        map.insert(key.to_owned(), T::default());
    }
    map.get_mut(key).expect("it was put there")
}

fn drop_from<K: Ord>(map: &mut BTreeMap<K, Vec<Arc<Object>>>, key: &K, object: &Arc<Object>) {
    if let Some(list) = map.get_mut(key) {
        remove(list, object);
        if list.is_empty() {
            map.remove(key);
        }
    }
}
