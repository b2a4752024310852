//! Documents that are too long for an agent, and the objects that make them so.

use std::collections::BTreeMap;
use std::io;

use l7mp_api::Config;
use l7mp_api::config::{Ref, Rule};
use l7mp_compiler::object::{ObjectId, age};
use l7mp_compiler::world::World;
use serde::Serialize;

use crate::document::Document;

/// Bytes of a document, as JSON, that an agent takes.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;

impl Document {
    /// The objects without which it is short enough: of those that have grown since `before`, the newest that is
    /// enough alone, else the one that has grown most and so on. None when it is not too long.
    pub(crate) fn too_much(&self, before: Option<&Document>, world: &World) -> Vec<ObjectId> {
        let mut excess = bytes(&*self.config).saturating_sub(DOCUMENT_BYTES_MAX);
        if excess == 0 {
            return Vec::new();
        }
        let (mut grown, old) = (self.weigh(), before.map(Document::weigh).unwrap_or_default());
        grown.retain(|id, bytes| {
            *bytes = bytes.saturating_sub(old.get(id).copied().unwrap_or_default());
            *bytes > 0
        });
        let mut chosen = Vec::new();
        while excess > 0 {
            let enough = grown.iter().filter(|(_, bytes)| **bytes >= excess);
            let newest = enough.max_by_key(|(id, _)| world.get(id).map(|object| age(object.meta())));
            let Some((id, bytes)) = newest.or_else(|| grown.iter().max_by_key(|(_, bytes)| **bytes)) else { break };
            let (id, bytes) = (id.clone(), *bytes);
            grown.remove(&id);
            excess = excess.saturating_sub(bytes);
            chosen.push(id);
        }
        chosen
    }

    /// The bytes that come from each object.
    fn weigh(&self) -> BTreeMap<ObjectId, usize> {
        let Config { listeners, clusters, routes, rules, rulelists, .. } = &*self.config;
        let mut parts = Vec::new();
        let mut add = |list: &str, lengths: Vec<usize>| {
            parts.extend(lengths.into_iter().enumerate().map(|(index, length)| (format!("{list}[{index}]"), length)));
        };
        add("listeners", listeners.iter().map(bytes).collect());
        add("clusters", clusters.iter().map(bytes).collect());
        add("routes", routes.iter().map(bytes).collect());
        add("rules", rules.iter().map(bytes).collect());
        for (index, list) in rulelists.iter().enumerate() {
            add(&format!("rulelists[{index}].rules"), list.rules.iter().map(member).collect());
        }
        let mut weights = BTreeMap::new();
        for (path, length) in parts {
            if let Some(origin) = self.origins.find(&path) {
                *weights.entry(origin.object).or_default() += length;
            }
        }
        weights
    }
}

/// How long something is as JSON; 0 for what is no JSON.
fn bytes(value: &impl Serialize) -> usize {
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        Err(_) => 0,
    }
}

/// How long a member of a rule list is as JSON.
fn member(rule: &Ref<Rule>) -> usize {
    match rule {
        Ref::Name(name) => bytes(name),
        Ref::Inline(rule) => bytes(&**rule),
    }
}

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
