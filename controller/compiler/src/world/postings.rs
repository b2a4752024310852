//! Lists by what a pod carries: from labels to the pods that have them, or to the selectors that ask for them.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use crate::object::Object;
use crate::selector::Selection;

/// What stands in a posting, in an order of its own.
pub(crate) trait Posted: Clone {
    fn order(&self, other: &Self) -> Ordering;
}

impl Posted for Arc<Object> {
    fn order(&self, other: &Self) -> Ordering {
        let key = |object: &Object| object.kind();
        let (a, b) = (self.meta(), other.meta());
        a.namespace().cmp(b.namespace()).then_with(|| a.name.cmp(&b.name)).then_with(|| key(self).cmp(&key(other)))
    }
}

impl Posted for Arc<Selection> {
    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }
}

/// Where a selector is looked for: a pod that it picks carries one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Anchors<'a> {
    /// Every pod of the namespace may be picked.
    Any,
    /// One of these labels with these values.
    Labels(Vec<(&'a str, &'a str)>),
    /// One of these names.
    Names(Vec<&'a str>),
}

/// The postings of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Postings<T> {
    any: Vec<T>,
    labels: HashMap<String, HashMap<String, Vec<T>>>,
    names: HashMap<String, Vec<T>>,
}

impl<T> Default for Postings<T> {
    fn default() -> Self {
        Postings { any: Vec::new(), labels: HashMap::new(), names: HashMap::new() }
    }
}

impl<T: Posted> Postings<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.any.is_empty() && self.labels.is_empty() && self.names.is_empty()
    }

    pub(crate) fn any(&self) -> &[T] {
        &self.any
    }

    pub(crate) fn label(&self, key: &str, value: &str) -> &[T] {
        self.labels.get(key).and_then(|values| values.get(value)).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn name(&self, name: &str) -> &[T] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn insert(&mut self, anchors: &Anchors<'_>, item: &T) {
        match anchors {
            Anchors::Any => insert(&mut self.any, item),
            Anchors::Labels(labels) => {
                for (key, value) in labels {
                    // Most labels are there already: a text is made for a new one only.
                    match self.labels.get_mut(*key).and_then(|values| values.get_mut(*value)) {
                        Some(list) => insert(list, item),
                        None => {
                            let values = self.labels.entry((*key).to_owned()).or_default();
                            insert(values.entry((*value).to_owned()).or_default(), item);
                        }
                    }
                }
            }
            Anchors::Names(names) => {
                for name in names {
                    insert(self.names.entry((*name).to_owned()).or_default(), item);
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, anchors: &Anchors<'_>, item: &T) {
        match anchors {
            Anchors::Any => remove(&mut self.any, item),
            Anchors::Labels(labels) => {
                for (key, value) in labels {
                    let Some(values) = self.labels.get_mut(*key) else { continue };
                    if let Some(list) = values.get_mut(*value) {
                        remove(list, item);
                        if list.is_empty() {
                            values.remove(*value);
                        }
                    }
                    if values.is_empty() {
                        self.labels.remove(*key);
                    }
                }
            }
            Anchors::Names(names) => {
                for name in names {
                    if let Some(list) = self.names.get_mut(*name) {
                        remove(list, item);
                        if list.is_empty() {
                            self.names.remove(*name);
                        }
                    }
                }
            }
        }
    }
}

/// Puts an item into its place; one of the same name is replaced.
pub(crate) fn insert<T: Posted>(list: &mut Vec<T>, item: &T) {
    match list.binary_search_by(|known| known.order(item)) {
        Ok(at) => list[at] = item.clone(),
        Err(at) => list.insert(at, item.clone()),
    }
}

pub(crate) fn remove<T: Posted>(list: &mut Vec<T>, item: &T) {
    if let Ok(at) = list.binary_search_by(|known| known.order(item)) {
        list.remove(at);
    }
}
