//! Random clusters, seeded: objects and pods that come and go, agents that are slow, refuse, leave and come back,
//! and new leaders. What must hold at every step is checked at every step; at rest, everything is as if it had
//! been made in one go. A failing seed is printed, and `L7MP_SEED=N` runs that one alone.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use l7mp_api::Config;
use l7mp_api::config::ListenerSpec;
use l7mp_compiler::object::{Kind, Object, ObjectId, PodName};
use l7mp_crds::Status;
use l7mp_fleet::{Fleet, Proxy, Push, Rejected};
use support::*;

const SEEDS: u64 = 60;
const STEPS: usize = 400;
const APPS: [&str; 3] = ["gw", "mid", "back"];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }
}

/// An agent and its proxy.
#[derive(Default)]
struct Agent {
    connected: bool,
    told: Option<Push>,
    /// Ports that this sends to and that no VirtualService had then.
    told_plain: BTreeSet<(String, u16)>,
    /// What the proxy runs, and its sequence in the present term.
    runs: Arc<Config>,
    /// What it was told last and did not refuse: a listener that is not in it has gone already.
    last: Arc<Config>,
    sequence: Option<u64>,
}

struct Simulation {
    random: Random,
    fleet: Fleet,
    now: Instant,
    objects: BTreeMap<ObjectId, Object>,
    agents: BTreeMap<Proxy, Agent>,
    written: BTreeMap<ObjectId, Status>,
    /// Pods and generations that the present leader found.
    found: BTreeSet<(ObjectId, Option<String>, Option<i64>)>,
    first_agent: Option<Instant>,
    /// Listeners that are in force somewhere, and since when nothing wants them.
    unwanted: BTreeMap<(PodName, String, u16), Instant>,
    /// Proxies that go on sending to a port though no VirtualService has it any more: an app may be there. What
    /// they run does not mean a listener.
    plain: BTreeSet<(PodName, (String, u16))>,
    /// VirtualServices that a pod's proxy has refused.
    refused: BTreeSet<(PodName, String)>,
    uids: u64,
    /// One seed alone is told step by step.
    talks: bool,
}

fn port(spec: &ListenerSpec) -> u16 {
    match spec {
        ListenerSpec::Udp(udp) => udp.port,
        ListenerSpec::Tcp(_) | ListenerSpec::WebSocket(_) | ListenerSpec::UnixDomainSocket(_) => 0,
    }
}

/// The VirtualService of a listener, be it one that lingers under another name.
fn service_of(listener: &str) -> String {
    listener.split('~').next().unwrap_or_default().to_owned()
}

/// Every pod and port that a document sends to.
fn sends_to(config: &Config) -> BTreeSet<(String, u16)> {
    let clusters = config.clusters.iter();
    let all = clusters.flat_map(|cluster| {
        let port = cluster.spec.port().unwrap_or(0);
        cluster.endpoints.iter().filter_map(move |endpoint| Some((endpoint.name.clone()?, port)))
    });
    all.collect()
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let now = Instant::now();
        let mut simulation = Simulation {
            random: Random(seed),
            fleet: Fleet::new(TIMING),
            now,
            objects: BTreeMap::new(),
            agents: BTreeMap::new(),
            written: BTreeMap::new(),
            found: BTreeSet::new(),
            first_agent: None,
            unwanted: BTreeMap::new(),
            plain: BTreeSet::new(),
            refused: BTreeSet::new(),
            uids: 0,
            talks: std::env::var_os("L7MP_SEED").is_some(),
        };
        for _ in 0..20 {
            simulation.change();
        }
        simulation.lead();
        simulation
    }

    /// Another leader starts, with the objects as they are; every stream has ended.
    fn lead(&mut self) {
        self.fleet = Fleet::new(TIMING);
        for kind in KINDS {
            let all = self.objects.values().filter(|object| object.kind() == kind).cloned().map(Ok).collect();
            self.fleet.reset(kind, all, self.now);
        }
        for (id, status) in &self.written {
            self.fleet.seed_status(id, status.clone());
        }
        let known =
            |(id, object): (&ObjectId, &Object)| (id.clone(), object.meta().uid.clone(), object.meta().generation);
        self.found = self.objects.iter().map(known).collect();
        self.first_agent = None;
        self.unwanted.clear();
        self.plain.clear();
        self.refused.clear();
        for agent in self.agents.values_mut() {
            (agent.connected, agent.told, agent.sequence) = (false, None, None);
        }
        self.turn();
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..5 => self.change(),
            5..9 => self.answer(),
            9..11 => self.come_and_go(),
            11 if self.random.one_in(10) => self.lead(),
            12 => self.relist(),
            13 => self.reject(),
            _ => {
                let time = *self.random.pick(&[1, 20, 60, 500, 3000]);
                self.pass(Duration::from_millis(time));
            }
        }
        self.turn();
    }

    fn apply(&mut self, yaml: &str) {
        if self.talks {
            eprintln!("{:?} apply {}", self.now, yaml.replace('\n', " "));
        }
        for object in objects(yaml) {
            self.objects.insert(object.id(), object.clone());
            self.fleet.apply(Ok(object), self.now);
        }
    }

    fn remove(&mut self, id: &ObjectId) {
        if self.talks {
            eprintln!("{:?} delete {id}", self.now);
        }
        self.objects.remove(id);
        self.written.remove(id);
        self.fleet.delete(id, self.now);
    }

    fn fresh(&mut self) -> u64 {
        self.uids += 1;
        self.uids
    }

    /// One object comes, changes or goes.
    fn change(&mut self) {
        let kind =
            *self.random.pick(&[Kind::Pod, Kind::Pod, Kind::VirtualService, Kind::Target, Kind::Target, Kind::Rule]);
        let name = match kind {
            Kind::Pod => format!("p{}", self.random.below(7)),
            Kind::VirtualService => format!("v{}", self.random.below(4)),
            Kind::Target => format!("t{}", self.random.below(4)),
            _ => format!("r{}", self.random.below(2)),
        };
        if self.random.one_in(4) {
            return self.remove(&id(kind, &name));
        }
        let yaml = match kind {
            Kind::Pod => self.some_pod(&name),
            Kind::VirtualService => self.some_service(&name),
            Kind::Target => self.some_target(&name),
            _ => self.some_rule(&name),
        };
        self.apply(&yaml);
    }

    fn uid(&mut self, id: &ObjectId) -> String {
        let known = self.objects.get(id).and_then(|object| object.meta().uid.clone());
        known.unwrap_or_else(|| format!("u{}", self.fresh()))
    }

    fn some_pod(&mut self, name: &str) -> String {
        let app = *self.random.pick(&APPS);
        let uid = self.uid(&id(Kind::Pod, name));
        let mut yaml = pod(name, app, &format!("10.0.0.{}", &name[1..]))
            .replace(&format!("uid: uid-{name}"), &format!("uid: {uid}"));
        if self.random.one_in(5) {
            yaml = yaml.replace("status: 'True'", "status: 'False'");
        }
        if self.random.one_in(8) {
            yaml = yaml.replace("labels:", "deletionTimestamp: '2026-01-01T00:00:00Z', labels:");
        }
        if name == "p6" {
            yaml = yaml.replace(", {name: l7mp}", "");
        }
        yaml
    }

    /// With a generation that no object had before.
    fn mark(&mut self, id: &ObjectId, yaml: &str) -> String {
        let (uid, generation) = (self.uid(id), self.fresh());
        let name = &id.name;
        yaml.replace(&format!("uid: uid-{name}, generation: 1"), &format!("uid: {uid}, generation: {generation}"))
    }

    fn some_service(&mut self, name: &str) -> String {
        let (app, target, list) = (*self.random.pick(&APPS), self.random.below(5), self.random.one_in(3));
        let port = 9000 + u16::try_from(self.random.below(3)).unwrap();
        let to = if target == 4 { ECHO.to_owned() } else { format!("{{destinationRef: t{target}}}") };
        let mut yaml = service(name, app, port, &to);
        if list {
            yaml = yaml.replace("rules: [", "rulesRef: list, rules: [");
        }
        self.mark(&vsvc(name), &yaml)
    }

    fn some_target(&mut self, name: &str) -> String {
        let (app, on) = (*self.random.pick(&APPS), *self.random.pick(&APPS));
        let port = 9000 + u16::try_from(self.random.below(4)).unwrap();
        let mut yaml = target(name, app, port);
        if self.random.one_in(2) {
            let linked = format!("linkedVirtualService: v{}", self.random.below(4));
            let cluster = yaml.find("cluster:").unwrap();
            yaml = format!("{}{linked}}}}}\n", &yaml[..cluster]);
        }
        if self.random.one_in(4) {
            yaml = yaml.replace("spec: {", &format!("spec: {{selector: {{matchLabels: {{app: {on}}}}}, "));
            yaml = yaml.replacen(
                &format!("cluster: {{spec: {{selector: {{matchLabels: {{app: {on}}}}}, "),
                "cluster: {spec: {",
                1,
            );
        }
        self.mark(&id(Kind::Target, name), &yaml)
    }

    fn some_rule(&mut self, name: &str) -> String {
        let yaml = format!(
            "{{apiVersion: l7mp.io/v1, kind: Rule, metadata: {{name: {name}, uid: uid-{name}, generation: 1}},
spec: {{rulelist: list, rule: {{action: {{route: {{destinationRef: t{}}}}}}}}}}}",
            self.random.below(4)
        );
        self.mark(&id(Kind::Rule, name), &yaml)
    }

    /// A change that the API server took and that cannot be used.
    fn reject(&mut self) {
        let name = format!("v{}", self.random.below(4));
        if self.objects.contains_key(&vsvc(&name)) {
            let generation = i64::try_from(self.fresh()).unwrap();
            let problems = vec![problem("spec", "bad")];
            let rejected = Rejected { id: vsvc(&name), generation: Some(generation), problems };
            self.fleet.apply(Err(rejected), self.now);
        }
    }

    fn relist(&mut self) {
        let kind = *self.random.pick(&KINDS);
        let all = self.objects.values().filter(|object| object.kind() == kind).cloned().map(Ok).collect();
        self.fleet.reset(kind, all, self.now);
    }

    /// The pods with a proxy, as their agents know them.
    fn proxies(&self) -> Vec<Proxy> {
        let pods = self.objects.values().filter_map(|object| match object {
            Object::Pod(pod) if pod.has_proxy() => {
                Some(Proxy { pod: PodName::of(&pod.metadata), uid: pod.metadata.uid.clone().unwrap() })
            }
            _ => None,
        });
        pods.collect()
    }

    fn come_and_go(&mut self) {
        let proxies = self.proxies();
        if proxies.is_empty() {
            return;
        }
        let proxy = self.random.pick(&proxies).clone();
        self.connect_or_leave(&proxy);
    }

    fn connect_or_leave(&mut self, proxy: &Proxy) {
        let agent = self.agents.entry(proxy.clone()).or_default();
        if self.talks {
            eprintln!("{:?} {} was connected: {}", self.now, proxy.pod, agent.connected);
        }
        if agent.connected {
            (agent.connected, agent.told) = (false, None);
            self.fleet.disconnect(proxy, self.now);
        } else {
            agent.connected = true;
            self.fleet.connect(proxy, agent.sequence, self.now);
            self.first_agent.get_or_insert(self.now);
        }
    }

    /// Some agent answers what it was told.
    fn answer(&mut self) {
        let told: Vec<Proxy> =
            self.agents.iter().filter(|(_, agent)| agent.told.is_some()).map(|(proxy, _)| proxy.clone()).collect();
        if told.is_empty() {
            return;
        }
        let proxy = self.random.pick(&told).clone();
        let refuses = self.random.one_in(6);
        self.answer_of(&proxy, refuses);
    }

    fn answer_of(&mut self, proxy: &Proxy, refuses: bool) {
        if self.talks {
            eprintln!("{:?} {} refuses: {refuses}", self.now, proxy.pod);
        }
        let agent = self.agents.get_mut(proxy).unwrap();
        let Some(push) = agent.told.take() else { return };
        if !refuses {
            self.plain.retain(|(pod, _)| *pod != proxy.pod || agent.runs == push.config);
            self.plain.extend(agent.told_plain.iter().map(|to| (proxy.pod.clone(), to.clone())));
            (agent.runs, agent.sequence) = (Arc::clone(&push.config), Some(push.sequence));
            self.fleet.acknowledge(proxy, push.sequence, Vec::new(), self.now);
            return;
        }
        agent.last = Arc::clone(&agent.runs);
        if push.config.listeners.is_empty() {
            self.fleet.refuse(proxy, push.sequence, vec![problem("", "no memory")], self.now);
        } else {
            let index = self.random.below(push.config.listeners.len() as u64);
            let path = format!("listeners[{index}]");
            for (at, object, _) in &push.origins {
                if *at == path {
                    self.refused.insert((proxy.pod.clone(), object.path()));
                }
            }
            self.fleet.refuse(proxy, push.sequence, vec![problem(&path, "permission denied")], self.now);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.fleet.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.turn();
        }
        self.now = end;
    }

    fn turn(&mut self) {
        self.note_unwanted();
        let pushes = self.fleet.turn(self.now);
        self.note_plain();
        let pods: BTreeSet<PodName> = pushes.iter().map(|push| push.proxy.pod.clone()).collect();
        assert_eq!(pods.len(), pushes.len(), "one push for each");
        for push in &pushes {
            self.check_endpoints(push);
            self.check_listeners(push);
        }
        for push in pushes {
            if self.talks {
                eprintln!(
                    "{:?} push {} to {}: {:?} {:?}",
                    self.now,
                    push.sequence,
                    push.proxy.pod,
                    listeners(&push.config),
                    sends_to(&push.config)
                );
            }
            let mut plain = sends_to(&push.config);
            let before = |to: &(String, u16)| self.plain.contains(&(push.proxy.pod.clone(), to.clone()));
            plain.retain(|to| before(to) || self.wanted(&to.0.parse().unwrap(), to.1).is_empty());
            let agent = self.agents.get_mut(&push.proxy).expect("of a known agent");
            agent.told_plain = plain;
            assert!(agent.connected, "{} is away", push.proxy.pod);
            agent.last = Arc::clone(&push.config);
            agent.told = Some(push);
        }
        for update in self.fleet.statuses(self.now) {
            assert!(self.objects.contains_key(&update.id), "{} is gone", update.id);
            assert_ne!(self.written.get(&update.id), Some(&update.status), "said twice");
            self.written.insert(update.id, update.status);
        }
        assert!(self.fleet.deadline().is_none_or(|next| next > self.now), "a deadline that stays: {:?}", self.fleet);
    }

    /// The VirtualServices that want a port of a pod.
    fn wanted(&self, pod: &PodName, port: u16) -> Vec<String> {
        let Some(Object::Pod(pod)) = self.objects.get(&pod.id()) else { return Vec::new() };
        let selected = self.objects.values().filter_map(|object| match object {
            Object::VirtualService(service) => {
                let labels = &service.spec.selector.as_ref()?.match_labels;
                let picks = labels.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value));
                let listens =
                    matches!(&service.spec.listener.spec, l7mp_crds::ListenerSpec::Udp(udp) if udp.port == port);
                (picks && listens).then(|| object.id().path())
            }
            _ => None,
        });
        selected.collect()
    }

    fn note_unwanted(&mut self) {
        let mut now_unwanted = BTreeSet::new();
        for (proxy, agent) in &self.agents {
            for listener in agent.runs.listeners.iter().chain(&agent.last.listeners) {
                let port = port(&listener.spec);
                let name = service_of(&listener.name);
                if !self.wanted(&proxy.pod, port).contains(&name) {
                    now_unwanted.insert((proxy.pod.clone(), name, port));
                }
            }
        }
        self.unwanted.retain(|key, _| now_unwanted.contains(key));
        for key in now_unwanted {
            self.unwanted.entry(key).or_insert(self.now);
        }
    }

    /// Once everything is compiled, who still sends to a port that no VirtualService has does not mean a listener.
    fn note_plain(&mut self) {
        if self.fleet.counts().queued > 0 {
            return;
        }
        let wants = self.proxies().into_iter().filter_map(|proxy| self.fleet.configuration(&proxy.pod));
        for push in wants.collect::<Vec<_>>() {
            for (pod, port) in sends_to(&push.config) {
                if self.wanted(&pod.parse().unwrap(), port).is_empty() {
                    self.plain.insert((push.proxy.pod.clone(), (pod, port)));
                }
            }
        }
    }

    /// No endpoint of a pod with a proxy before that has the listener, unless a new leader trusts that it has.
    fn check_endpoints(&self, push: &Push) {
        for (pod, port) in sends_to(&push.config) {
            let pod: PodName = pod.parse().unwrap();
            let wanted = self.wanted(&pod, port);
            let Some(proxy) = self.proxies().into_iter().find(|proxy| proxy.pod == pod) else { continue };
            // What it sent to before anybody wanted a listener there, it may go on sending to.
            let was_plain = self.plain.contains(&(push.proxy.pod.clone(), (pod.to_string(), port)));
            if wanted.is_empty() || was_plain || pod == push.proxy.pod {
                continue;
            }
            let agent = self.agents.get(&proxy);
            if let Some(agent) = agent.filter(|agent| agent.sequence.is_some()) {
                let there = agent.runs.listeners.iter().any(|listener| self::port(&listener.spec) == port);
                assert!(there, "{} is told to send to {pod} port {port}, which is not there", push.proxy.pod);
                continue;
            }
            let trusted = self.first_agent.is_none_or(|first| self.now < first + TIMING.grace);
            let found = self.found.iter().any(|(id, uid, _)| *id == pod.id() && *uid == Some(proxy.uid.clone()));
            assert!(trusted && found, "{} is told to send to {pod} port {port}, which said nothing", push.proxy.pod);
        }
    }

    /// No listener goes while another proxy that is to stop sending there has not said that it has.
    fn check_listeners(&self, push: &Push) {
        let Some(agent) = self.agents.get(&push.proxy).filter(|agent| agent.sequence.is_some()) else { return };
        let pod = &push.proxy.pod;
        let stays: BTreeSet<u16> = push.config.listeners.iter().map(|listener| port(&listener.spec)).collect();
        for listener in &agent.runs.listeners {
            let port = port(&listener.spec);
            let key = (pod.clone(), service_of(&listener.name), port);
            let over = self.unwanted.get(&key).is_some_and(|since| self.now >= *since + TIMING.linger);
            let was_refused = self.refused.iter().any(|(of, name)| of == pod && listener.name.starts_with(name));
            let gone = agent.last.listeners.iter().all(|last| last.name != listener.name);
            if gone || stays.contains(&port) || over || was_refused {
                continue;
            }
            for (other, agent) in
                self.agents.iter().filter(|(other, agent)| other.pod != *pod && agent.sequence.is_some())
            {
                if self.plain.contains(&(other.pod.clone(), (pod.to_string(), port))) {
                    continue;
                }
                let used = |config: &Config| sends_to(config).contains(&(pod.to_string(), port));
                let Some(wants) = self.fleet.configuration(&other.pod).filter(|wants| wants.proxy == *other) else {
                    continue;
                };
                assert!(
                    !used(&agent.runs) || used(&wants.config),
                    "{pod} loses {} on port {port}, which {} uses until it answers",
                    listener.name,
                    other.pod
                );
            }
        }
    }

    /// Everybody is there and takes everything: at rest, all is as if it had been made in one go.
    fn rest(&mut self) {
        for name in ["v0", "v1", "v2", "v3"] {
            // What was rejected is mended.
            if let Some(object) = self.objects.get(&vsvc(name)).cloned() {
                self.fleet.apply(Ok(object), self.now);
            }
        }
        self.all_come();
        self.refused.clear();
        let mut scratch = Simulation { random: Random(0), ..Simulation::new(0) };
        scratch.now = self.now;
        scratch.objects = self.objects.clone();
        (scratch.written, scratch.agents) = (BTreeMap::new(), BTreeMap::new());
        scratch.lead();
        scratch.all_come();
        for proxy in self.proxies() {
            assert_eq!(self.agents[&proxy].runs, scratch.agents[&proxy].runs, "{}", proxy.pod);
        }
        for id in self.objects.keys().filter(|id| id.kind.is_ours()) {
            assert_eq!(self.written.get(id), scratch.written.get(id), "{id}");
        }
    }

    fn all_come(&mut self) {
        for proxy in self.proxies() {
            if !self.agents.entry(proxy.clone()).or_default().connected {
                self.connect_or_leave(&proxy);
            }
        }
        for _ in 0..200 {
            self.turn();
            let told: Vec<Proxy> =
                self.agents.iter().filter(|(_, agent)| agent.told.is_some()).map(|(proxy, _)| proxy.clone()).collect();
            for proxy in &told {
                self.answer_of(proxy, false);
            }
            self.pass(Duration::from_secs(if told.is_empty() { 61 } else { 1 }));
        }
        assert!(self.agents.values().all(|agent| agent.told.is_none()), "it does not come to rest");
    }
}

#[test]
fn what_must_hold_holds_at_every_step() {
    let only: Option<u64> = std::env::var("L7MP_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let result = std::panic::catch_unwind(|| {
            let mut simulation = Simulation::new(seed);
            for step in 1..=STEPS {
                simulation.step();
                if step % 200 == 0 {
                    simulation.rest();
                }
            }
        });
        assert!(result.is_ok(), "seed {seed}: run it alone with L7MP_SEED={seed}");
    }
}
