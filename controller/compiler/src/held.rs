//! Objects that a proxy refused: held back, and tried again with growing pauses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::compile::HeldBack;
use crate::object::{Object, ObjectId};
use crate::world::World;

/// How long an object is held back: the first time, and at most.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// After the first refusal; doubles with each.
    pub first: Duration,
    /// The longest.
    pub max: Duration,
}

impl Pauses {
    /// The pause after so many failures in a row (the first is 1).
    pub fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }
}

/// The objects that one proxy refused.
#[derive(Debug)]
pub struct Quarantine {
    pauses: Pauses,
    entries: BTreeMap<ObjectId, Entry>,
}

#[derive(Debug)]
struct Entry {
    said: String,
    /// The object that was refused: one that has changed since gets its chance at once.
    object: Option<Arc<Object>>,
    refusals: u32,
    until: Instant,
}

impl Quarantine {
    /// Nothing is held back.
    pub fn new(pauses: Pauses) -> Quarantine {
        Quarantine { pauses, entries: BTreeMap::new() }
    }

    /// Holds an object back. Returns the pause, and whether the proxy says something new about it.
    pub fn hold(&mut self, id: &ObjectId, said: String, world: &World, now: Instant) -> (Duration, bool) {
        let before = self.entries.remove(id);
        let refusals = before.as_ref().map_or(0, |entry| entry.refusals) + 1;
        let news = before.is_none_or(|entry| entry.said != said);
        let pause = self.pauses.after(refusals);
        let entry = Entry { said, object: world.get(id).cloned(), refusals, until: now + pause };
        self.entries.insert(id.clone(), entry);
        (pause, news)
    }

    /// Forgets the objects that have changed or gone since they were refused.
    pub fn refresh(&mut self, world: &World) {
        self.entries.retain(|id, entry| world.get(id).is_some() && world.get(id) == entry.object.as_ref());
    }

    /// What is held back now.
    pub fn held(&self, now: Instant) -> HeldBack {
        let held = self.entries.iter().filter(|(_, entry)| entry.until > now);
        held.map(|(id, entry)| (id.clone(), entry.said.clone())).collect()
    }

    /// What is held back, and what is to be tried again: everything that has not proved good.
    pub fn all(&self) -> HeldBack {
        self.entries.iter().map(|(id, entry)| (id.clone(), entry.said.clone())).collect()
    }

    /// What the proxy said against an object that it refused.
    pub fn said(&self, id: &ObjectId) -> Option<&str> {
        self.entries.get(id).map(|entry| entry.said.as_str())
    }

    /// When the next object is to be tried again.
    pub fn next_release(&self, now: Instant) -> Option<Instant> {
        self.entries.values().map(|entry| entry.until).filter(|until| *until > now).min()
    }

    /// The proxy took a configuration compiled with these held back: the others have proved good.
    /// Returns them.
    pub fn accepted(&mut self, held: &HeldBack) -> Vec<ObjectId> {
        let good: Vec<ObjectId> = self.entries.keys().filter(|id| !held.contains_key(*id)).cloned().collect();
        for id in &good {
            self.entries.remove(id);
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;
    use crate::object::Kind;

    fn world(address: &str) -> World {
        let mut world = World::default();
        let text = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, status: {{podIP: {address}}}}}");
        world.reset("f", manifest::read(&text).objects);
        world
    }

    #[test]
    fn pauses_double_up_to_their_maximum_and_a_changed_object_is_free_at_once() {
        let pauses = Pauses { first: Duration::from_secs(1), max: Duration::from_secs(5) };
        let mut quarantine = Quarantine::new(pauses);
        let (first, id) = (world("10.0.0.1"), ObjectId::new(Kind::Pod, "default", "p"));
        let mut now = Instant::now();
        for (seconds, news) in [(1, true), (2, false), (4, false), (5, false), (5, false)] {
            let (pause, new) = quarantine.hold(&id, "no".to_owned(), &first, now);
            assert_eq!((pause, new), (Duration::from_secs(seconds), news));
            assert_eq!(quarantine.next_release(now), Some(now + pause));
            assert!(quarantine.held(now).contains_key(&id));
            now += pause;
            assert!(quarantine.held(now).is_empty(), "released");
        }
        quarantine.hold(&id, "no".to_owned(), &first, now);
        quarantine.refresh(&first);
        assert!(quarantine.held(now).contains_key(&id));
        quarantine.refresh(&world("10.0.0.2"));
        assert!(quarantine.held(now).is_empty());
    }

    #[test]
    fn an_accepted_object_starts_over() {
        let pauses = Pauses { first: Duration::from_secs(1), max: Duration::from_secs(5) };
        let mut quarantine = Quarantine::new(pauses);
        let (world, id) = (world("10.0.0.1"), ObjectId::new(Kind::Pod, "default", "p"));
        let now = Instant::now();
        quarantine.hold(&id, "no".to_owned(), &world, now);
        assert_eq!(quarantine.accepted(&quarantine.held(now)), []);
        assert_eq!(quarantine.accepted(&HeldBack::new()), std::slice::from_ref(&id));
        assert_eq!(quarantine.hold(&id, "no".to_owned(), &world, now), (Duration::from_secs(1), true));
    }
}
