//! Random worlds and random changes: nothing panics, documents are ones that proxies take, and what a change is said
//! not to touch it does not touch. A failure names its seed, which is all that its world is made of.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use l7mp_api::Config;
use l7mp_compiler::compile::{Compiled, HeldBack, Port, Serving, View, compile};
use l7mp_compiler::dependencies::Change;
use l7mp_compiler::dependents::Dependents;
use l7mp_compiler::manifest;
use l7mp_compiler::object::{Kind, Object, ObjectId, PodName};
use l7mp_compiler::references::references;
use l7mp_compiler::selected::selected_pods;
use l7mp_compiler::world::World;
use l7mp_crds::{Container, PodIp};

const WORLDS: u64 = 100;
const CHANGES_PER_WORLD: usize = 12;
/// What is drawn stands here as often as it is to be drawn: most of a world hangs together.
const NAMESPACES: [&str; 4] = ["a", "a", "a", "b"];
const NAMES: [&str; 2] = ["n0", "n1"];

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }

    fn one_in(&mut self, limit: usize) -> bool {
        self.below(limit) == 0
    }

    fn of<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }

    fn some(&mut self, chance: usize, text: impl FnOnce(&mut Random) -> String) -> String {
        if self.one_in(chance) { text(self) } else { String::new() }
    }

    fn meta(&mut self, namespace: &str, name: &str, labels: &str) -> String {
        let annotations = self.some(2, |random| {
            let accepted = random.of(&["a", "b", "'a, b'", "'*'", "'*'", "''"]);
            format!(", annotations: {{l7mp.io/accept-from: {accepted}}}")
        });
        let created =
            self.some(2, |random| format!(", creationTimestamp: '2026-01-0{}T00:00:00Z'", random.below(2) + 1));
        let deleted = self.some(6, |_| ", deletionTimestamp: '2026-02-01T00:00:00Z'".to_owned());
        let version = self.below(2);
        format!(
            "{{name: {name}, namespace: {namespace}, labels: {{{labels}}}{annotations}{created}{deleted}, \
             resourceVersion: '{version}'}}"
        )
    }

    fn selector(&mut self) -> String {
        let mut terms = Vec::new();
        if self.one_in(3) {
            terms.push(format!("matchLabels: {{app: {}}}", self.of(&["x", "y"])));
        }
        if self.one_in(8) {
            let term = self.of(&[
                "{key: app, operator: In, values: [x, y]}",
                "{key: app, operator: NotIn, values: [x]}",
                "{key: tier, operator: Exists}",
                "{key: tier, operator: DoesNotExist}",
            ]);
            terms.push(format!("matchExpressions: [{term}]"));
        }
        if self.one_in(10) {
            let term = self.of(&[
                "{key: metadata.name, operator: In, values: [p0, p1, p9]}",
                "{key: status.phase, operator: In, values: [Running]}",
                "{key: spec.nodeName, operator: NotIn, values: [n0]}",
            ]);
            terms.push(format!("matchFields: [{term}]"));
        }
        if self.one_in(4) {
            terms.push(format!("matchNamespace: {}", self.of(&NAMESPACES)));
        }
        if self.one_in(5) {
            terms.push(format!("matchService: {}", self.of(&NAMES)));
        }
        format!("{{{}}}", terms.join(", "))
    }

    fn listener(&mut self) -> String {
        let port = self.below(3);
        match self.below(6) {
            0 => format!("{{TCP: {{port: {port}}}}}"),
            1 => format!("{{WebSocket: {{port: {port}}}}}"),
            2 => format!("{{UnixDomainSocket: {{filename: /run/{port}}}}}"),
            _ => format!("{{UDP: {{port: {port}}}}}"),
        }
    }

    fn cluster(&mut self) -> String {
        let port = self.below(2) + 1;
        let mut endpoints = Vec::new();
        for _ in 0..=self.below(2) {
            endpoints.push(match self.one_in(4) {
                true => format!("{{spec: {{address: 10.0.0.{}}}}}", self.below(8)),
                false => format!("{{selector: {}}}", self.selector()),
            });
        }
        let endpoints = format!("endpoints: [{}]", endpoints.join(", "));
        match self.below(9) {
            0 => "{spec: {Echo: {}}}".to_owned(),
            1 => format!("{{spec: {{UnixDomainSocket: {{}}}}, endpoints: [{{spec: {{filename: /run/{port}}}}}]}}"),
            2 => format!("{{spec: {{WebSocket: {{port: {port}}}}}, {endpoints}}}"),
            _ => format!("{{spec: {{UDP: {{port: {port}}}}}, {endpoints}}}"),
        }
    }

    fn reference(&mut self, plural: &str) -> String {
        let (namespace, name) = (self.of(&NAMESPACES), self.of(&NAMES));
        match self.below(8) {
            0 => format!("{namespace}/{name}"),
            1 => format!("/apis/l7mp.io/v1/namespaces/{namespace}/{plural}/{name}"),
            2 => format!("/apis/l7mp.io/v1/namespaces/{namespace}/virtualservices/{name}"),
            3 => format!("'{name}:{}'", self.of(&["1", "2", "one", "none"])),
            4 => format!("/api/v1/namespaces/{namespace}/services/{name}"),
            5 if self.one_in(4) => "a/b/c".to_owned(),
            _ => name.to_owned(),
        }
    }

    fn stage(&mut self, reference: &str, inline: &str) -> String {
        match self.one_in(4) {
            true => format!("{inline}: {}", self.cluster()),
            false => format!("{reference}: {}", self.reference("targets")),
        }
    }

    fn route(&mut self) -> String {
        let ingress = self.some(3, |random| format!(", ingress: [{{{}}}]", random.stage("clusterRef", "cluster")));
        format!("{{{}{ingress}}}", self.stage("destinationRef", "destination"))
    }

    fn rule(&mut self) -> String {
        let action = match self.below(6) {
            0 => format!("apply: {}", self.of(&["l0", "l1", "l2"])),
            1 => "refuse: no".to_owned(),
            2 => format!("routeRef: {}", self.reference("routes")),
            _ => format!("route: {}", self.route()),
        };
        format!("{{action: {{{action}}}}}")
    }

    fn pod(&mut self, namespace: &str, name: &str) -> String {
        let labels = self.of(&["", "app: x", "app: y", "app: x, tier: '1'", "tier: '2'"]);
        let meta = self.meta(namespace, name, labels);
        let containers = self.of(&["[{name: app}]", "[{name: l7mp}]", "[{name: l7mp}]"]);
        let ready = self.of(&["'True'", "'True'", "'False'"]);
        let phase = self.of(&["Running", "Running", "Running", "Pending", "Failed"]);
        let own = format!("10.0.1.{}", name.bytes().last().unwrap_or_default());
        let address = self.of(&[&own, &own, &own, "10.0.0.1", "fd00::1", "nonsense", ""]);
        let node = self.of(&["n0", "n1"]);
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {meta}, spec: {{nodeName: {node}, containers: {containers}}}, \
             status: {{phase: {phase}, podIP: '{address}', conditions: [{{type: Ready, status: {ready}}}]}}}}"
        )
    }

    fn service(&mut self, meta: &str) -> String {
        let selector = self.of(&["", "selector: {app: x}, ", "selector: {app: y}, "]);
        let kind = self.of(&["ClusterIP", "ClusterIP", "ClusterIP", "ExternalName"]);
        let ports = self.of(&[
            "[{port: 1, protocol: UDP, targetPort: 1}]",
            "[{port: 1, protocol: UDP, targetPort: 1}]",
            "[{name: one, port: 1, targetPort: web}, {name: two, port: 2, protocol: UDP}]",
            "[{port: 1, protocol: SCTP}]",
            "[]",
        ]);
        format!("{{apiVersion: v1, kind: Service, metadata: {meta}, spec: {{{selector}type: {kind}, ports: {ports}}}}}")
    }

    fn slice(&mut self, namespace: &str, name: &str) -> String {
        let service = self.of(&NAMES);
        let meta = self.meta(namespace, name, &format!("kubernetes.io/service-name: {service}"));
        let family = self.of(&["IPv4", "IPv4", "IPv6"]);
        let port = self.of(&[
            "{port: 1}",
            "{port: 1}",
            "{port: 2}",
            "{name: one, port: 3}",
            "{name: two, port: 2, protocol: UDP}",
        ]);
        let ready = self.of(&["true", "true", "false"]);
        let (address, pod) = (self.below(4), self.below(4));
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {meta}, addressType: {family}, \
             ports: [{port}], endpoints: [{{addresses: [10.0.0.{address}], conditions: {{ready: {ready}}}, \
             targetRef: {{kind: Pod, name: p{pod}}}}}]}}"
        )
    }

    /// A random object of a random name.
    fn object(&mut self) -> Object {
        loop {
            let namespace = self.of(&NAMESPACES);
            let name = self.of(&NAMES);
            let meta = self.meta(namespace, name, "");
            let text = match self.below(15) {
                0 | 1 => {
                    let list = self.some(3, |random| format!(", rulesRef: l{}", random.below(3)));
                    let (selector, spec, rule) = (self.selector(), self.listener(), self.rule());
                    let spec = format!("{{selector: {selector}, listener: {{spec: {spec}, rules: [{rule}]{list}}}}}");
                    format!("{{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {meta}, spec: {spec}}}")
                }
                2 | 3 => {
                    let selector = self.some(2, |random| format!("selector: {}, ", random.selector()));
                    let what = match self.one_in(3) {
                        true => format!("linkedVirtualService: {}", self.of(&["n0", "n1", "b/n0", "a/n1"])),
                        false => format!("cluster: {}", self.cluster()),
                    };
                    format!("{{apiVersion: l7mp.io/v1, kind: Target, metadata: {meta}, spec: {{{selector}{what}}}}}")
                }
                4 => format!("{{apiVersion: l7mp.io/v1, kind: Route, metadata: {meta}, spec: {}}}", self.route()),
                5 => {
                    let selector = self.some(3, |random| format!(", selector: {}", random.selector()));
                    let (list, rule) = (self.below(3), self.rule());
                    let spec = format!("{{rulelist: l{list}, rule: {rule}{selector}}}");
                    format!("{{apiVersion: l7mp.io/v1, kind: Rule, metadata: {meta}, spec: {spec}}}")
                }
                6 => self.service(&meta),
                7 | 8 => self.slice(namespace, name),
                _ => {
                    let name = format!("p{}", self.below(6));
                    self.pod(namespace, &name)
                }
            };
            // Some are wrong by themselves, and never come so far.
            if let Some(object) = manifest::read(&text).objects.pop() {
                return object;
            }
        }
    }

    /// Another object, one object less, or one that differs in one thing; gives its name and what it was.
    fn change(&mut self, world: &mut World) -> (ObjectId, Option<Arc<Object>>) {
        let known: Vec<ObjectId> = world.held_by("test").cloned().collect();
        let id = &known[self.below(known.len())];
        let object = match self.below(3) {
            0 => return (id.clone(), world.delete("test", id)),
            1 => self.object(),
            _ => self.tweaked(world.get(id).unwrap()),
        };
        (object.id(), world.apply("test", object))
    }

    fn tweaked(&mut self, object: &Object) -> Object {
        let mut object = object.clone();
        let what = self.below(4);
        let meta = match &mut object {
            Object::VirtualService(object) => &mut object.metadata,
            Object::Target(object) => &mut object.metadata,
            Object::Route(object) => &mut object.metadata,
            Object::Rule(object) => &mut object.metadata,
            Object::Service(object) => &mut object.metadata,
            Object::EndpointSlice(object) => &mut object.metadata,
            Object::Pod(pod) => {
                match self.below(6) {
                    0 => pod.status.conditions.clear(),
                    1 => pod.spec.containers.clear(),
                    2 => pod.spec.containers = vec![Container { name: "l7mp".to_owned(), ..Container::default() }],
                    3 => pod.status.pod_ip = Some("10.0.9.9".to_owned()),
                    4 => pod.status.phase = Some("Succeeded".to_owned()),
                    _ => pod.status.pod_ips = vec![PodIp { ip: "10.0.8.8".to_owned() }],
                }
                &mut pod.metadata
            }
        };
        match what {
            0 => meta.annotations.clear(),
            1 => drop(meta.annotations.insert("l7mp.io/accept-from".to_owned(), "*".to_owned())),
            2 => meta.creation_timestamp = Some("2026-01-01T00:00:00Z".to_owned()),
            _ => meta.resource_version = Some("3".to_owned()),
        }
        object
    }

    fn world(&mut self) -> World {
        let mut world = World::default();
        for _ in 0..60 {
            world.apply("test", self.object());
        }
        world
    }
}

/// Some listeners are acknowledged and some are not: which, is as random as the world.
struct Acknowledged(usize);

impl Serving for Acknowledged {
    fn serves(&self, pod: &PodName, service: &ObjectId, port: Port) -> bool {
        let letters = pod.name.bytes().chain(service.name.bytes()).map(usize::from).sum::<usize>();
        !(letters + usize::from(port.number) + self.0).is_multiple_of(3)
    }
}

fn proxies(world: &World) -> Vec<PodName> {
    world.all_pods().map(|pod| PodName::of(&pod.metadata)).collect()
}

/// All of a compilation that anybody sees.
fn seen(compiled: &Compiled) -> impl PartialEq + std::fmt::Debug + use<'_> {
    let Compiled { config, reports, origins, sources, waits, uses, selected, .. } = compiled;
    (config, reports, origins, sources, waits, uses, selected)
}

#[test]
fn what_is_not_touched_stays_as_it_is() {
    let (mut untouched, mut changed, mut waits, mut uses) = (0, 0, 0, 0);
    for seed in 0..WORLDS {
        let mut random = Random(seed);
        let mut world = random.world();
        let held = HeldBack::from([(ObjectId::new(Kind::Target, "a", "n1"), "no".to_owned())]);
        let lingering: Vec<Arc<Object>> = (0..4).map(|_| Arc::new(random.object())).collect();
        let serving = Acknowledged(random.below(3));
        let view = View { held: &held, serving: Some(&serving), lingering: &lingering };
        for step in 0..CHANGES_PER_WORLD {
            let before: Vec<(PodName, Compiled)> =
                proxies(&world).into_iter().map(|pod| (pod.clone(), compile(&world, &pod, &view).unwrap())).collect();
            let mut dependents = Dependents::default();
            for (pod, compiled) in &before {
                dependents.set(pod, Compiled::default().dependencies);
                dependents.set(pod, compiled.dependencies.clone());
            }
            let (id, old) = random.change(&mut world);
            let new = world.get(&id).cloned();
            let change = Change { id: &id, before: old.as_deref(), after: new.as_deref() };
            let touched = dependents.touched(&world, &change);
            for (pod, compiled) in &before {
                let at = format!("seed {seed}, change {step}, {change:?}, {pod}");
                let touches = compiled.dependencies.touches(&change);
                assert!(touches || !touched.contains(pod), "the index says more: {at}");
                waits += compiled.waits.len();
                uses += compiled.uses.len();
                if touched.contains(pod) {
                    changed += 1;
                    continue;
                }
                untouched += 1;
                let Ok(again) = compile(&world, pod, &view) else { panic!("the pod is gone: {at}") };
                assert_eq!(seen(compiled), seen(&again), "{at}");
                assert!(compiled.dependencies.keys().eq(again.dependencies.keys()), "{at}");
            }
        }
    }
    println!("{untouched} untouched, {changed} touched, {waits} waits, {uses} uses");
    assert!(untouched > 1_000 && changed > 1_000 && waits > 200 && uses > 200, "all of it is tried");
}

#[test]
fn documents_are_ones_that_proxies_take_and_selection_is_one_thing_from_both_sides() {
    let mut selections = 0;
    for seed in 0..WORLDS {
        let world = Random(seed).world();
        let held = HeldBack::new();
        for pod in proxies(&world) {
            let compiled = compile(&world, &pod, &View::alone(&held)).unwrap();
            let text = serde_json::to_string(&compiled.config).unwrap();
            assert_eq!(Config::read(&text).as_ref(), Ok(&compiled.config), "seed {seed}, {pod}");
            let has_proxy = world.pod(&pod.id()).is_some_and(|pod| world.has_proxy(pod));
            for id in world.held_by("test").filter(|id| id.kind == Kind::VirtualService && has_proxy) {
                let here = compiled.selected.contains(id);
                let there = selected_pods(&world, world.get(id).unwrap()).contains(&pod);
                assert_eq!(here, there, "seed {seed}, {id} on {pod}");
                selections += usize::from(here);
            }
            for report in &compiled.reports {
                assert!(!report.message.is_empty() && !report.path.is_empty(), "seed {seed}, {report:?}");
            }
        }
        for id in world.held_by("test") {
            let found = references(&world, world.get(id).unwrap());
            assert!(found.iter().all(|report| report.object == *id), "seed {seed}, {found:?}");
        }
    }
    assert!(selections > 100, "{selections} selections");
}

#[test]
fn a_world_is_the_same_in_whatever_order_it_came() {
    for seed in 0..WORLDS {
        let world = Random(seed).world();
        let mut objects: Vec<Object> = world.held_by("test").map(|id| Object::clone(world.get(id).unwrap())).collect();
        objects.reverse();
        let mut other = World::default();
        let mut random = Random(seed ^ 0xffff);
        for _ in 0..20 {
            other.apply("test", random.object());
        }
        other.reset("test", objects);
        let held = HeldBack::new();
        for pod in proxies(&world) {
            let (one, two) = (compile(&world, &pod, &View::alone(&held)), compile(&other, &pod, &View::alone(&held)));
            assert_eq!(one, two, "seed {seed}, {pod}");
        }
        assert_eq!(proxies(&world).into_iter().collect::<BTreeSet<_>>().len(), proxies(&other).len(), "seed {seed}");
    }
}
