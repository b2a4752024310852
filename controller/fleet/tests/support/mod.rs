//! A fleet with agents that answer when they are told to, and a clock that stands still.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use l7mp_api::{Config, Problem};
use l7mp_compiler::manifest;
use l7mp_compiler::object::{Kind, Object, ObjectId, PodName};
use l7mp_crds::{Condition, Status};
use l7mp_fleet::{Fleet, Proxy, Push, Timing};

/// Every kind that is listed at a start.
pub const KINDS: [Kind; 7] =
    [Kind::VirtualService, Kind::Target, Kind::Route, Kind::Rule, Kind::Pod, Kind::Service, Kind::EndpointSlice];

pub const TIMING: Timing =
    Timing { debounce: Duration::from_millis(50), linger: Duration::from_secs(10), grace: Duration::from_secs(30) };

/// A fleet under test.
pub struct Bench {
    pub fleet: Fleet,
    pub now: Instant,
    /// What every proxy has adopted.
    pub has: BTreeMap<Proxy, (u64, Arc<Config>)>,
    /// Pushes that were not answered yet, the last of each proxy.
    pub told: BTreeMap<Proxy, Push>,
    /// The last status of every object.
    pub written: BTreeMap<ObjectId, Status>,
    /// How many statuses were given out.
    pub writes: usize,
}

/// The objects of a text; all of them must be good.
pub fn objects(yaml: &str) -> Vec<Object> {
    let manifest = manifest::read(yaml);
    let faults: Vec<String> = manifest.faults.iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{faults:?}\n{yaml}");
    manifest.objects
}

/// A ready pod, with a proxy, of the namespace `default`.
pub fn pod(name: &str, app: &str, address: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, uid: uid-{name}, labels: {{app: {app}}}}},
spec: {{containers: [{{name: app}}, {{name: l7mp}}]}}, status: {{phase: Running, podIP: {address},
conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
    )
}

/// A VirtualService with a UDP listener that sends everything where `to` says.
pub fn service(name: &str, app: &str, port: u16, to: &str) -> String {
    format!(
        "---\n{{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {{name: {name}, uid: uid-{name}, generation: 1}},
spec: {{selector: {{matchLabels: {{app: {app}}}}}, listener: {{spec: {{UDP: {{port: {port}}}}},
rules: [{{action: {{route: {to}}}}}]}}}}}}\n"
    )
}

/// A Target: pods of an app on a UDP port.
pub fn target(name: &str, app: &str, port: u16) -> String {
    format!(
        "---\n{{apiVersion: l7mp.io/v1, kind: Target, metadata: {{name: {name}, uid: uid-{name}, generation: 1}},
spec: {{cluster: {{spec: {{UDP: {{port: {port}}}}}, endpoints: [{{selector: {{matchLabels: {{app: {app}}}}}}}]}}}}}}\n"
    )
}

/// Everything comes back.
pub const ECHO: &str = "{destination: {spec: {Echo: {}}}}";

pub fn id(kind: Kind, name: &str) -> ObjectId {
    ObjectId::new(kind, "default", name)
}

pub fn vsvc(name: &str) -> ObjectId {
    id(Kind::VirtualService, name)
}

pub fn proxy(name: &str) -> Proxy {
    Proxy { pod: PodName { namespace: "default".to_owned(), name: name.to_owned() }, uid: format!("uid-{name}") }
}

pub fn problem(path: &str, message: &str) -> Problem {
    Problem { path: path.to_owned(), message: message.to_owned() }
}

pub fn condition<'a>(status: &'a Status, kind: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.kind == kind).unwrap_or_else(|| panic!("no {kind}: {status:?}"))
}

/// `False NoPods`
pub fn verdict(status: &Status, kind: &str) -> String {
    let condition = condition(status, kind);
    format!("{:?} {}", condition.status, condition.reason)
}

/// Names of the listeners of a document.
pub fn listeners(config: &Config) -> Vec<&str> {
    config.listeners.iter().map(|listener| listener.name.as_str()).collect()
}

/// Names of the endpoints of a cluster of a document.
pub fn endpoints<'a>(config: &'a Config, cluster: &str) -> Vec<&'a str> {
    let cluster = config.clusters.iter().find(|found| found.name == cluster);
    let endpoints = cluster.into_iter().flat_map(|cluster| &cluster.endpoints);
    endpoints.filter_map(|endpoint| endpoint.name.as_deref()).collect()
}

impl Bench {
    /// A fleet that has listed these objects and was never asked for anything.
    pub fn listed(yaml: &str) -> Bench {
        let mut bench = Bench {
            fleet: Fleet::new(TIMING),
            now: Instant::now(),
            has: BTreeMap::new(),
            told: BTreeMap::new(),
            written: BTreeMap::new(),
            writes: 0,
        };
        let objects = objects(yaml);
        for kind in KINDS {
            assert!(!bench.fleet.is_synced());
            let all = objects.iter().filter(|object| object.kind() == kind).cloned().map(Ok).collect();
            bench.fleet.reset(kind, all, bench.now);
        }
        assert!(bench.fleet.is_synced());
        bench
    }

    /// A fleet that knows these objects; no agent is connected, and the time after the start is over.
    pub fn new(yaml: &str) -> Bench {
        let mut bench = Bench::listed(yaml);
        bench.turn();
        bench.wait(TIMING.grace);
        bench
    }

    /// A fleet that knows these objects, with these agents connected and up to date.
    pub fn settled(yaml: &str, agents: &[&str]) -> Bench {
        let mut bench = Bench::new(yaml);
        for agent in agents {
            bench.connect(agent);
        }
        bench.settle();
        bench
    }

    pub fn apply(&mut self, yaml: &str) {
        for object in objects(yaml) {
            self.fleet.apply(Ok(object), self.now);
        }
    }

    pub fn delete(&mut self, kind: Kind, name: &str) {
        self.written.remove(&id(kind, name));
        self.fleet.delete(&id(kind, name), self.now);
    }

    pub fn connect(&mut self, name: &str) {
        let holds = self.has.get(&proxy(name)).map(|(sequence, _)| *sequence);
        self.fleet.connect(&proxy(name), holds, self.now);
    }

    pub fn disconnect(&mut self, name: &str) {
        self.told.remove(&proxy(name));
        self.fleet.disconnect(&proxy(name), self.now);
    }

    /// What agents are told now, by name.
    pub fn turn(&mut self) -> Vec<String> {
        let pushes = self.fleet.turn(self.now);
        let names = pushes.iter().map(|push| push.proxy.pod.name.clone()).collect();
        for push in pushes {
            self.told.insert(push.proxy.clone(), push);
        }
        for update in self.fleet.statuses(self.now) {
            let same = self.written.get(&update.id) == Some(&update.status);
            assert!(!same, "said twice: {update:?}");
            self.written.insert(update.id, update.status);
            self.writes += 1;
        }
        names
    }

    /// Lets time pass, and has everything done that becomes due meanwhile.
    pub fn wait(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut names = Vec::new();
        for _ in 0..1000 {
            match self.fleet.deadline().filter(|deadline| *deadline <= end) {
                Some(deadline) => self.now = self.now.max(deadline),
                None => break,
            }
            names.extend(self.turn());
            assert!(self.fleet.deadline().is_none_or(|next| next > self.now), "a deadline that stays");
        }
        self.now = end;
        names.extend(self.turn());
        names
    }

    /// The debounce passes.
    pub fn soon(&mut self) -> Vec<String> {
        self.wait(TIMING.debounce)
    }

    /// The proxy adopts what it was told last.
    pub fn acknowledge(&mut self, name: &str) {
        let push = self.told.remove(&proxy(name)).unwrap_or_else(|| panic!("{name} was told nothing"));
        self.has.insert(push.proxy.clone(), (push.sequence, Arc::clone(&push.config)));
        self.fleet.acknowledge(&push.proxy, push.sequence, Vec::new(), self.now);
    }

    /// The proxy refuses what it was told last.
    pub fn refuse(&mut self, name: &str, errors: &[Problem]) {
        let push = self.told.remove(&proxy(name)).unwrap_or_else(|| panic!("{name} was told nothing"));
        self.fleet.refuse(&push.proxy, push.sequence, errors.to_vec(), self.now);
    }

    /// Every agent that is told something acknowledges it, until nobody is.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            self.soon();
            let told: Vec<String> = self.told.keys().map(|proxy| proxy.pod.name.clone()).collect();
            if told.is_empty() {
                self.wait(Duration::from_secs(1));
                if self.told.is_empty() {
                    return;
                }
            }
            for name in told {
                self.acknowledge(&name);
            }
        }
        panic!("it does not come to rest: {:?}", self.told.keys());
    }

    pub fn status(&self, id: &ObjectId) -> &Status {
        self.written.get(id).unwrap_or_else(|| panic!("{id} has no status"))
    }

    /// What a proxy was told last, answered or not.
    pub fn config(&self, name: &str) -> &Config {
        let told = self.told.get(&proxy(name)).map(|push| &push.config);
        told.or_else(|| self.has.get(&proxy(name)).map(|(_, config)| config)).expect("was told something")
    }
}
