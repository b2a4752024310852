//! What a document was made of, so that an index can say which proxies a change touches.

use std::collections::BTreeSet;
use std::sync::Arc;

use l7mp_crds::{ObjectMeta, Pod, Rule, Selector};

use crate::compile::Port;
use crate::consent::ACCEPT_FROM;
use crate::object::{Kind, Object, ObjectId, created};
use crate::selector::{self, Selection};

/// An object before and after; one that was not there or is gone has no state.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Its name.
    pub id: &'a ObjectId,
    /// As it was.
    pub before: Option<&'a Object>,
    /// As it is.
    pub after: Option<&'a Object>,
}

/// One thing that a document depends on, besides what selects the proxy's own pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An object by its name, be it there or not: a dangling reference is repaired when its object appears.
    Object(ObjectId),
    /// The Rules of a list.
    List(ListId),
    /// The pods that a selector picks.
    Pods(Arc<Selection>),
    /// The VirtualServices on a port of the pods of a namespace.
    Listeners {
        /// The namespace of the pods.
        namespace: String,
        /// The port.
        port: Port,
    },
    /// The EndpointSlices of a Service.
    Slices {
        /// The Service.
        service: ObjectId,
    },
}

/// What names a rule list: they are per namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListId {
    /// The namespace of its Rules.
    pub namespace: String,
    /// The `rulelist` of its Rules.
    pub name: String,
}

impl ListId {
    /// The list that a Rule is part of.
    pub fn of(rule: &Rule) -> ListId {
        ListId { namespace: rule.metadata.namespace().to_owned(), name: rule.spec.rulelist.clone() }
    }

    /// Its name in the document.
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Change<'_> {
    /// Whether nobody can tell the two states apart: statuses, labels and notes have changed, if anything. Another
    /// generation of one of our kinds can be told apart, since its status is to name it.
    pub fn is_idle(&self) -> bool {
        match (self.before, self.after) {
            (Some(before), Some(after)) => same(before, after),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// The two states, as far as there are any.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Object> {
        self.before.into_iter().chain(self.after)
    }

    /// The keys of the documents that read the object, apart from [`Key::Pods`] and what selects pods.
    pub(crate) fn keys(&self) -> BTreeSet<Key> {
        let mut keys = BTreeSet::from([Key::Object(self.id.clone())]);
        for object in self.states() {
            match object {
                Object::Rule(rule) => {
                    keys.insert(Key::List(ListId::of(rule)));
                }
                Object::VirtualService(service) => {
                    let place = service.spec.selector.as_ref().zip(Port::of(&service.spec.listener.spec));
                    keys.extend(place.map(|(selector, port)| {
                        let namespace = selector::namespace(selector, self.id.namespace.as_str()).to_owned();
                        Key::Listeners { namespace, port }
                    }));
                }
                Object::EndpointSlice(slice) => {
                    let service = slice.service().map(|name| ObjectId::new(Kind::Service, &self.id.namespace, name));
                    keys.extend(service.map(|service| Key::Slices { service }));
                }
                Object::Target(_) | Object::Route(_) | Object::Pod(_) | Object::Service(_) => {}
            }
        }
        keys
    }
}

/// The selector by which an object goes to pods on its own account.
pub(crate) fn own_selector(object: &Object) -> Option<&Selector> {
    match object {
        Object::VirtualService(service) => service.spec.selector.as_ref(),
        Object::Target(target) => target.spec.selector.as_ref(),
        Object::Route(_) | Object::Rule(_) | Object::Pod(_) | Object::Service(_) | Object::EndpointSlice(_) => None,
    }
}

/// Whether two states of an object are one to every document.
fn same(a: &Object, b: &Object) -> bool {
    fn meta(meta: &ObjectMeta) -> (&str, Option<&str>, Option<&String>) {
        (meta.namespace(), created(meta), meta.annotations.get(ACCEPT_FROM))
    }
    fn age(object: &Object) -> (Option<&String>, Option<i64>) {
        (object.meta().uid.as_ref(), object.meta().generation)
    }
    if meta(a.meta()) != meta(b.meta()) || (a.kind().is_ours() && age(a) != age(b)) {
        return false;
    }
    match (a, b) {
        (Object::VirtualService(a), Object::VirtualService(b)) => a.spec == b.spec,
        (Object::Target(a), Object::Target(b)) => a.spec == b.spec,
        (Object::Route(a), Object::Route(b)) => a.spec == b.spec,
        (Object::Rule(a), Object::Rule(b)) => a.spec == b.spec,
        (Object::Pod(a), Object::Pod(b)) => same_pod(a, b),
        (Object::Service(a), Object::Service(b)) => a.spec == b.spec,
        (Object::EndpointSlice(a), Object::EndpointSlice(b)) => {
            a.service() == b.service()
                && a.address_type == b.address_type
                && a.ports == b.ports
                && a.endpoints == b.endpoints
        }
        _ => false,
    }
}

fn same_pod(a: &Pod, b: &Pod) -> bool {
    let state = |pod: &Pod| (pod.is_ready(), pod.is_terminating(), pod.has_proxy());
    state(a) == state(b)
        && a.metadata.labels == b.metadata.labels
        && a.spec.node_name == b.spec.node_name
        && a.spec.service_account_name == b.spec.service_account_name
        && a.status.phase == b.status.phase
        && a.status.pod_ip == b.status.pod_ip
        && a.addresses().eq(b.addresses())
}

/// All that was read for one proxy's document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dependencies {
    /// The proxy's own pod, which selectors pick.
    pod: Option<Arc<Object>>,
    keys: BTreeSet<Key>,
}

impl Dependencies {
    pub(crate) fn new(pod: Arc<Object>, keys: BTreeSet<Key>) -> Dependencies {
        Dependencies { pod: Some(pod), keys }
    }

    /// Whether the document may be another one after a change. Never `false` wrongly.
    pub fn touches(&self, change: &Change<'_>) -> bool {
        !change.is_idle()
            && (change.keys().iter().any(|key| self.keys.contains(key))
                || change.states().any(|object| self.selects_own_pod(object) || self.picks(object)))
    }

    /// Whether an object's selector picks the proxy's own pod, its Service left aside.
    fn selects_own_pod(&self, object: &Object) -> bool {
        let pod = self.pod.as_ref().and_then(|pod| pod.as_pod());
        let selects = |(selector, pod): (&Selector, &Pod)| selector::matches(selector, object.meta().namespace(), pod);
        own_selector(object).zip(pod).is_some_and(selects)
    }

    fn picks(&self, object: &Object) -> bool {
        let Object::Pod(pod) = object else { return false };
        self.keys.iter().any(|key| match key {
            Key::Pods(selection) => selection.matches(pod),
            Key::Object(_) | Key::List(_) | Key::Listeners { .. } | Key::Slices { .. } => false,
        })
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    pub(crate) fn into_keys(self) -> BTreeSet<Key> {
        self.keys
    }
}
