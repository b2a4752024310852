//! The fields of one object: taken one by one, and in the end those that nobody took are reported.

use serde_json::{Map, Value};

use super::scalars;
use crate::path::Path;
use crate::problem::Problems;
use crate::suggest::did_you_mean;

/// An object that is being read. `null` is an absent field.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    at: &'a Path<'a>,
    pub(crate) problems: &'a mut Problems,
    known: Vec<&'static str>,
    /// Known, and not worth a suggestion.
    silent: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// `None`, and a problem, when `value` is no object.
    pub(crate) fn open(value: &'a Value, at: &'a Path<'a>, problems: &'a mut Problems) -> Option<Fields<'a>> {
        match value {
            Value::Object(map) => Some(Fields { map, at, problems, known: Vec::new(), silent: Vec::new() }),
            other => {
                problems.push(at, format!("expected an object, not {}", scalars::kind(other)));
                None
            }
        }
    }

    /// As [`Fields::open`]; `null` is an object without fields (`Echo:` in YAML).
    pub(crate) fn open_or_null(value: &'a Value, at: &'a Path<'a>, problems: &'a mut Problems) -> Option<Fields<'a>> {
        static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(Map::new()));
        Fields::open(if value.is_null() { &EMPTY } else { value }, at, problems)
    }

    pub(crate) fn at(&self) -> &'a Path<'a> {
        self.at
    }

    /// Whether a field is there and not `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// A field's value as it stands, `null` too.
    pub(crate) fn raw(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.map.get(name)
    }

    /// Takes a field. `None`: it is not there, or (after its problem) not readable.
    pub(crate) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value, &Path<'_>, &mut Problems) -> Option<T>,
    ) -> Option<T> {
        let value = self.raw(name).filter(|value| !value.is_null())?;
        read(value, &self.at.key(name), self.problems)
    }

    /// Takes a field that must be there; a missing one is a problem.
    pub(crate) fn must<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value, &Path<'_>, &mut Problems) -> Option<T>,
    ) -> Option<T> {
        self.required(name);
        self.optional(name, read)
    }

    /// Reports a field that is not there.
    pub(crate) fn required(&mut self, name: &'static str) {
        if !self.has(name) {
            self.problems.push(&self.at.key(name), "missing");
        }
    }

    /// Takes a list; an absent one is empty. Every item leaves one value, so that indices stay those of the document.
    pub(crate) fn list<T>(
        &mut self,
        name: &'static str,
        items_max: usize,
        mut read: impl FnMut(&Value, &Path<'_>, &mut Problems) -> T,
    ) -> Vec<T> {
        let Some(value) = self.raw(name).filter(|value| !value.is_null()) else {
            return Vec::new();
        };
        let at = self.at.key(name);
        list(value, &at, items_max, self.problems, &mut read)
    }

    /// The object's `name`; empty when it is absent.
    pub(crate) fn name(&mut self, required: bool) -> String {
        if required { self.must("name", scalars::name) } else { self.optional("name", scalars::name) }
            .unwrap_or_default()
    }

    /// A field that the original has, and that a later version will.
    pub(crate) fn not_supported_yet(&mut self, name: &'static str) {
        self.silent.push(name);
        if self.has(name) {
            self.problems.push(&self.at.key(name), "not supported yet");
        }
    }

    /// A field that is read elsewhere.
    pub(crate) fn ignore(&mut self, name: &'static str) {
        self.silent.push(name);
    }

    /// Reports the fields that nobody took.
    pub(crate) fn finish(self) {
        for key in self.map.keys() {
            if self.known.iter().chain(&self.silent).any(|known| known == key) {
                continue;
            }
            let mut hint = did_you_mean(self.problems, key, self.known.iter().copied());
            if hint.is_empty() && !self.known.is_empty() {
                hint = format!("; known are {}", self.known.join(", "));
            }
            self.problems.push(&self.at.key(key), format!("unknown field{hint}"));
        }
    }
}

/// Reads each item of a list of at most `items_max`.
pub(crate) fn list<T>(
    value: &Value,
    at: &Path<'_>,
    items_max: usize,
    problems: &mut Problems,
    read: &mut dyn FnMut(&Value, &Path<'_>, &mut Problems) -> T,
) -> Vec<T> {
    let Value::Array(items) = value else {
        problems.push(at, format!("expected a list, not {}", scalars::kind(value)));
        return Vec::new();
    };
    if items.len() > items_max {
        problems.push(at, format!("{} items; at most {items_max} are allowed", items.len()));
    }
    items.iter().take(items_max).enumerate().map(|(index, item)| read(item, &at.index(index), problems)).collect()
}
