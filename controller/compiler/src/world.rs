//! The index of all objects: told what changed, asked by the compiler. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use l7mp_crds::{Pod, Route, Rule, Target, VirtualService};

use crate::object::{Kind, Object, ObjectId, PodName};

/// Every object that is known, by name and by where it was read.
///
/// A source is whatever hands in objects together: a file, or a watch. Where two sources hold one object,
/// the first in the order of their names counts.
#[derive(Clone, Debug, Default)]
pub struct World {
    objects: BTreeMap<ObjectId, BTreeMap<Arc<str>, Arc<Object>>>,
    sources: BTreeMap<Arc<str>, BTreeSet<ObjectId>>,
    given: BTreeSet<PodName>,
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
        self.objects.entry(id).or_default().insert(source, Arc::new(object));
        before
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

    /// The objects of one kind and namespace, by name.
    fn of_namespace<'a>(&'a self, kind: Kind, namespace: &'a str) -> impl Iterator<Item = &'a Object> {
        let from = ObjectId::new(kind, namespace, "");
        self.objects
            .range(from..)
            .take_while(move |(id, _)| id.kind == kind && id.namespace == namespace)
            .filter_map(|(_, holders)| holders.values().next().map(|object| &**object))
    }

    /// Every VirtualService.
    pub fn virtual_services(&self) -> impl Iterator<Item = &VirtualService> {
        self.of_kind(Kind::VirtualService).filter_map(|object| match object {
            Object::VirtualService(object) => Some(object),
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

    /// Every Rule.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.of_kind(Kind::Rule).filter_map(|object| match object {
            Object::Rule(object) => Some(object),
            _ => None,
        })
    }

    /// The Pods of a namespace.
    pub fn pods<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.of_namespace(Kind::Pod, namespace).filter_map(|object| match object {
            Object::Pod(object) => Some(object),
            _ => None,
        })
    }

    /// Every Pod.
    pub fn all_pods(&self) -> impl Iterator<Item = &Pod> {
        self.of_kind(Kind::Pod).filter_map(|object| match object {
            Object::Pod(object) => Some(object),
            _ => None,
        })
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
        match self.get(id)?.as_ref() {
            Object::Pod(object) => Some(object),
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
