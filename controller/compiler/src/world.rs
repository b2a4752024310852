//! The index of all objects: told what changed, asked by the compiler. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use l7mp_crds::{EndpointSlice, Pod, Route, Rule, Service, Target, VirtualService};

use crate::compile::Port;
use crate::dependencies::ListId;
use crate::object::{Kind, Object, ObjectId, PodName};
use crate::selector::Selection;

mod index;
pub(crate) mod postings;

use index::Index;

/// Every object that is known, by name and by where it was read.
///
/// A source is whatever hands in objects together: a file, or a watch. Where two sources hold one object,
/// the first in the order of their names counts.
#[derive(Clone, Debug, Default)]
pub struct World {
    objects: BTreeMap<ObjectId, BTreeMap<Arc<str>, Arc<Object>>>,
    sources: BTreeMap<Arc<str>, BTreeSet<ObjectId>>,
    given: BTreeSet<PodName>,
    index: Index,
}

impl World {
    /// These pods have a proxy whatever their containers say: those whose proxies `local` was given.
    pub fn give_proxies(&mut self, pods: impl IntoIterator<Item = PodName>) {
        self.given = pods.into_iter().collect();
    }

    /// Whether a pod has a proxy.
    pub fn has_proxy(&self, pod: &Pod) -> bool {
        pod.has_proxy() || (!self.given.is_empty() && self.given.contains(&PodName::of(&pod.metadata)))
    }

    /// Adds an object of a source, or replaces it. Returns the object of that name that counted before.
    pub fn apply(&mut self, source: &str, object: Object) -> Option<Arc<Object>> {
        let source = self.source_key(source);
        let id = object.id();
        let before = self.get(&id).cloned();
        self.sources.entry(Arc::clone(&source)).or_default().insert(id.clone());
        self.objects.entry(id.clone()).or_default().insert(source, Arc::new(object));
        self.reindex(&id, before.as_ref());
        before
    }

    fn reindex(&mut self, id: &ObjectId, before: Option<&Arc<Object>>) {
        let after = self.objects.get(id).and_then(|holders| holders.values().next());
        match (before, after) {
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => {}
            (before, after) => {
                if let Some(before) = before {
                    self.index.remove(before);
                }
                if let Some(after) = after {
                    self.index.add(after);
                }
            }
        }
    }

    /// Forgets an object of a source. Returns the object of that name that counted before.
    pub fn delete(&mut self, source: &str, id: &ObjectId) -> Option<Arc<Object>> {
        let before = self.get(id).cloned();
        if let Some(ids) = self.sources.get_mut(source) {
            ids.remove(id);
            if ids.is_empty() {
                self.sources.remove(source);
            }
        }
        if let Some(holders) = self.objects.get_mut(id) {
            holders.remove(source);
            if holders.is_empty() {
                self.objects.remove(id);
            }
        }
        self.reindex(id, before.as_ref());
        before
    }

    /// Replaces all objects of a source: what is not among them is forgotten. Of two objects with one
    /// name the last counts.
    pub fn reset(&mut self, source: &str, objects: impl IntoIterator<Item = Object>) {
        for id in self.sources.get(source).cloned().unwrap_or_default() {
            self.delete(source, &id);
        }
        for object in objects {
            self.apply(source, object);
        }
    }

    fn source_key(&self, source: &str) -> Arc<str> {
        match self.sources.get_key_value(source) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(source),
        }
    }

    /// The object of that name.
    pub fn get(&self, id: &ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(id)?.values().next()
    }

    /// Objects that several sources hold, each with its sources; the first one counts.
    pub fn duplicates(&self) -> impl Iterator<Item = (&ObjectId, Vec<&str>)> {
        self.objects
            .iter()
            .filter(|(_, holders)| holders.len() > 1)
            .map(|(id, holders)| (id, holders.keys().map(|source| &**source).collect()))
    }

    /// Objects that were added, changed or removed since `before`, in order.
    pub fn changed_since(&self, before: &World) -> BTreeSet<ObjectId> {
        let differs = |id: &ObjectId| match (self.get(id), before.get(id)) {
            (Some(now), Some(then)) => !Arc::ptr_eq(now, then) && now != then,
            (now, then) => now.is_some() != then.is_some(),
        };
        self.objects.keys().chain(before.objects.keys()).filter(|id| differs(id)).cloned().collect()
    }

    /// The objects of one kind, by namespace and name.
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let from = ObjectId::new(kind, "", "");
        self.objects
            .range(from..)
            .take_while(move |(id, _)| id.kind == kind)
            .filter_map(|(_, holders)| holders.values().next().map(|object| &**object))
    }

    /// The Pods of a namespace, by name.
    pub fn pods<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.index.pods(namespace).iter().filter_map(|object| object.as_pod())
    }

    /// The Pods that a selection picks, by name, with their consent or without.
    pub fn picked<'a>(&'a self, selection: &Selection) -> Vec<&'a Pod> {
        let named = selection.names().map(|names| {
            let names: BTreeSet<&String> = names.iter().collect();
            let pod = |name: &String| self.get(&ObjectId::new(Kind::Pod, &selection.namespace, name));
            names.into_iter().filter_map(pod).collect::<Vec<_>>()
        });
        let candidates = named.unwrap_or_else(|| self.index.candidates(selection));
        candidates.into_iter().filter_map(|object| object.as_pod()).filter(|pod| selection.matches(pod)).collect()
    }

    /// The VirtualServices and Targets whose selector may pick a pod: a superset, in no order.
    pub(crate) fn selecting<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a Arc<Object>> {
        self.index.selecting(pod)
    }

    /// The VirtualServices on a port whose selector is about the pods of a namespace, by namespace and name.
    pub(crate) fn listeners<'a>(
        &'a self,
        namespace: &str,
        port: Port,
    ) -> impl Iterator<Item = &'a VirtualService> + use<'a> {
        self.index.listeners(namespace, port).iter().filter_map(|object| match &**object {
            Object::VirtualService(object) => Some(object),
            _ => None,
        })
    }

    /// The Rules of a list, by name.
    pub(crate) fn list<'a>(&'a self, list: &ListId) -> impl Iterator<Item = &'a Rule> + use<'a> {
        self.index.list(list).iter().filter_map(|object| match &**object {
            Object::Rule(object) => Some(object),
            _ => None,
        })
    }

    /// The EndpointSlices of a Service, by name.
    pub(crate) fn slices<'a>(&'a self, service: &ObjectId) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        self.index.slices(service).iter().filter_map(|object| match &**object {
            Object::EndpointSlice(object) => Some(object),
            _ => None,
        })
    }

    /// Every Target.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.of_kind(Kind::Target).filter_map(|object| match object {
            Object::Target(object) => Some(object),
            _ => None,
        })
    }

    /// Every Pod.
    pub fn all_pods(&self) -> impl Iterator<Item = &Pod> {
        self.of_kind(Kind::Pod).filter_map(Object::as_pod)
    }

    /// The names of the objects that a source holds.
    pub fn held_by(&self, source: &str) -> impl Iterator<Item = &ObjectId> {
        self.sources.get(source).into_iter().flatten()
    }

    /// The VirtualService of that name.
    pub fn virtual_service(&self, id: &ObjectId) -> Option<&VirtualService> {
        match self.get(id)?.as_ref() {
            Object::VirtualService(object) => Some(object),
            _ => None,
        }
    }

    /// The Target of that name.
    pub fn target(&self, id: &ObjectId) -> Option<&Target> {
        match self.get(id)?.as_ref() {
            Object::Target(object) => Some(object),
            _ => None,
        }
    }

    /// The Route of that name.
    pub fn route(&self, id: &ObjectId) -> Option<&Route> {
        match self.get(id)?.as_ref() {
            Object::Route(object) => Some(object),
            _ => None,
        }
    }

    /// The Pod of that name.
    pub fn pod(&self, id: &ObjectId) -> Option<&Pod> {
        self.get(id)?.as_pod()
    }

    /// The Service of that name.
    pub fn service(&self, id: &ObjectId) -> Option<&Service> {
        match self.get(id)?.as_ref() {
            Object::Service(object) => Some(object),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use l7mp_crds::ObjectMeta;

    fn pod(name: &str, ip: &str) -> Object {
        let mut pod = Pod { metadata: ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() }, ..Pod::default() };
        pod.status.pod_ip = Some(ip.to_owned());
        Object::Pod(pod)
    }

    fn ip(world: &World, name: &str) -> Option<String> {
        world.pod(&ObjectId::new(Kind::Pod, "default", name)).and_then(|pod| pod.status.pod_ip.clone())
    }

    #[test]
    fn reset_forgets_what_vanished_from_the_source_and_nothing_else() {
        let mut world = World::default();
        world.reset("a.yaml", [pod("one", "1"), pod("two", "2")]);
        world.reset("b.yaml", [pod("three", "3")]);
        world.reset("a.yaml", [pod("two", "22")]);
        assert_eq!((ip(&world, "one"), ip(&world, "two")), (None, Some("22".to_owned())));
        assert_eq!(ip(&world, "three"), Some("3".to_owned()));
    }

    #[test]
    fn the_first_source_of_a_duplicate_counts_and_the_second_takes_over() {
        let mut world = World::default();
        world.apply("b.yaml", pod("one", "b"));
        world.apply("a.yaml", pod("one", "a"));
        assert_eq!(ip(&world, "one"), Some("a".to_owned()));
        let duplicates: Vec<_> = world.duplicates().map(|(id, sources)| (id.to_string(), sources)).collect();
        assert_eq!(duplicates, [("Pod default/one".to_owned(), vec!["a.yaml", "b.yaml"])]);
        world.delete("a.yaml", &ObjectId::new(Kind::Pod, "default", "one"));
        assert_eq!(ip(&world, "one"), Some("b".to_owned()));
        assert_eq!(world.duplicates().count(), 0);
    }

    #[test]
    fn changed_since_names_added_changed_and_removed_objects_only() {
        let mut before = World::default();
        before.reset("a", [pod("same", "1"), pod("changed", "1"), pod("removed", "1")]);
        let mut now = before.clone();
        now.reset("a", [pod("same", "1"), pod("changed", "2"), pod("added", "1")]);
        let names: Vec<_> = now.changed_since(&before).into_iter().map(|id| id.name).collect();
        assert_eq!(names, ["added", "changed", "removed"]);
    }
}
