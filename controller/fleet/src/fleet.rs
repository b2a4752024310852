//! All proxies of a cluster.

use std::collections::BTreeSet;
use std::time::Instant;

use l7mp_api::Problem;
use l7mp_compiler::object::{Kind, Object, ObjectId};
use l7mp_compiler::world::World;

use crate::{Proxy, Push, Rejected, StatusUpdate, Timing};

/// All proxies of a cluster: told what happens, asked what is to be done; see the crate's documentation.
#[derive(Debug)]
pub struct Fleet {
    _timing: Timing,
    world: World,
    listed: BTreeSet<Kind>,
}

impl Fleet {
    /// Knows nothing yet.
    pub fn new(timing: Timing) -> Fleet {
        Fleet { _timing: timing, world: World::default(), listed: BTreeSet::new() }
    }

    /// An object is there, or has changed.
    pub fn apply(&mut self, object: Result<Object, Rejected>, _now: Instant) {
        if let Ok(object) = object {
            self.world.apply("", object);
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, id: &ObjectId, _now: Instant) {
        self.world.delete("", id);
    }

    /// All objects of a kind: what is not among them is gone. A kind that was never listed keeps the fleet waiting.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Result<Object, Rejected>>, now: Instant) {
        self.listed.insert(kind);
        for object in objects {
            self.apply(object, now);
        }
    }

    /// Whether every kind was listed once: before, nothing is compiled.
    pub fn is_synced(&self) -> bool {
        self.listed.len() >= 6
    }

    /// An agent's stream has begun; it says what its proxy acknowledged last from this fleet (`None`: nothing of it).
    pub fn connect(&mut self, _proxy: &Proxy, _holds: Option<u64>, _now: Instant) {}

    /// An agent's stream has ended.
    pub fn disconnect(&mut self, _proxy: &Proxy, _now: Instant) {}

    /// A proxy has adopted a configuration.
    pub fn acknowledge(&mut self, _proxy: &Proxy, _sequence: u64, _warnings: Vec<Problem>, _now: Instant) {}

    /// A proxy refuses a configuration; paths are in the document.
    pub fn refuse(&mut self, _proxy: &Proxy, _sequence: u64, _errors: Vec<Problem>, _now: Instant) {}

    /// An agent says why its proxy cannot be reached; `None`: it is well again.
    pub fn trouble(&mut self, _proxy: &Proxy, _message: Option<String>, _now: Instant) {}

    /// Compiles for the proxies that need it; what their agents are to be told.
    pub fn turn(&mut self, _now: Instant) -> Vec<Push> {
        Vec::new()
    }

    /// When `turn` is to be called again though nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Statuses that differ from what was last taken from here.
    pub fn statuses(&mut self, _now: Instant) -> Vec<StatusUpdate> {
        Vec::new()
    }

    /// The status that an object had before this fleet knew it, as the API server has it: for some time after a
    /// start its counts are not lowered, and nothing is said anew that it says already.
    pub fn seed_status(&mut self, _id: &ObjectId, _status: l7mp_crds::Status) {}
}
