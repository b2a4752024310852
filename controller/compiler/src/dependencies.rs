//! What a document was made of, so that an index can say which proxies a change touches.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile::Port;
use crate::object::{Object, ObjectId};
use crate::selector::Selection;

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
    /// An object by its name, be it there or not.
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
    /// Its name in the document.
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// All that was read for one proxy's document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dependencies {
    keys: BTreeSet<Key>,
}

impl Dependencies {
    /// Whether the document may be another one after a change. Never `false` wrongly.
    pub fn touches(&self, change: &Change<'_>) -> bool {
        let _ = change;
        true
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }
}
