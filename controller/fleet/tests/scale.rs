//! 10,000 pods, 1,000 of them with a proxy: time and memory. Goals, for an optimized build: one pod's change 5 ms,
//! everything in 150 MB. The bounds here are those of an unoptimized one on a busy machine.
//!
//! `cargo test --release -p l7mp-fleet --test scale -- --nocapture` prints the figures.

mod support;

use std::time::{Duration, Instant};

use l7mp_compiler::object::{Kind, Object, PodName};
use l7mp_fleet::{Fleet, Proxy};
use support::*;

const NAMESPACES: usize = 100;
const PROXIES: usize = 10;
const APPS: usize = 9;
const PODS_PER_APP: usize = 10;

/// One namespace: gateways that send to five apps, and to each other.
fn namespace(number: usize) -> Vec<Object> {
    let mut yaml = String::new();
    for i in 0..PROXIES {
        yaml += &pod(&format!("gateway-6bfdf5584c-{i:05}"), "gw", &format!("10.{number}.0.{i}"));
    }
    for app in 0..APPS {
        for i in 0..PODS_PER_APP {
            let name = format!("app-{app}-77c5d9f6b8-{i:05}");
            yaml += &pod(&name, &format!("app-{app}"), &format!("10.{number}.{}.{i}", app + 1))
                .replace(", {name: l7mp}", "");
        }
    }
    for i in 0..5 {
        yaml += &target(&format!("app-{i}"), &format!("app-{i}"), 5000);
        yaml += &service(&format!("front-{i}"), "gw", 9001 + i, &format!("{{destinationRef: app-{i}}}"));
    }
    yaml += &service("side", "gw", 9000, ECHO);
    yaml += &service("ring", "gw", 9010, "{destinationRef: side}");
    yaml += "---\n{apiVersion: l7mp.io/v1, kind: Target, metadata: {name: side, generation: 1},
spec: {linkedVirtualService: side}}\n";
    let namespace = format!("team-{number}");
    let mut objects = objects(&yaml);
    for object in &mut objects {
        move_to(object, &namespace);
    }
    objects
}

fn move_to(object: &mut Object, namespace: &str) {
    let meta = match object {
        Object::VirtualService(object) => &mut object.metadata,
        Object::Target(object) => &mut object.metadata,
        Object::Route(object) => &mut object.metadata,
        Object::Rule(object) => &mut object.metadata,
        Object::Pod(object) => &mut object.metadata,
        Object::Service(object) => &mut object.metadata,
        Object::EndpointSlice(object) => &mut object.metadata,
    };
    meta.namespace = Some(namespace.to_owned());
    meta.uid = Some(format!("uid-{namespace}-{}", meta.name));
}

/// Resident memory, in MB.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// The time that this thread has computed: on a busy machine it waits as long again for its turn.
fn computed() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

/// Acknowledges everything until nobody is told anything. How many documents were told.
fn settle(fleet: &mut Fleet, now: &mut Instant) -> usize {
    let mut told = 0;
    loop {
        *now += TIMING.debounce;
        let pushes = fleet.turn(*now);
        if pushes.is_empty() && fleet.counts().queued == 0 {
            return told;
        }
        told += pushes.len();
        for push in pushes {
            fleet.acknowledge(&push.proxy, push.sequence, Vec::new(), *now);
        }
    }
}

#[test]
fn ten_thousand_pods_and_a_thousand_proxies() {
    let empty = memory();
    let mut now = Instant::now();
    let mut fleet = Fleet::new(TIMING);
    let mut agents = Vec::new();
    let mut worker = None;
    let mut lists: Vec<(Kind, Vec<_>)> = KINDS.map(|kind| (kind, Vec::new())).into();
    for number in 0..NAMESPACES {
        for object in namespace(number) {
            if let Object::Pod(pod) = &object {
                if pod.has_proxy() {
                    agents.push(Proxy { pod: PodName::of(&pod.metadata), uid: pod.metadata.uid.clone().unwrap() });
                } else {
                    worker = Some(pod.clone());
                }
            }
            let (_, list) = lists.iter_mut().find(|(kind, _)| *kind == object.kind()).unwrap();
            list.push(Ok(object));
        }
    }
    for (kind, list) in lists {
        fleet.reset(kind, list, now);
    }
    let world = memory();
    let start = Instant::now();
    assert!(fleet.turn(now).is_empty());
    let first = start.elapsed();
    assert_eq!((fleet.counts().proxies, fleet.counts().objects[&Kind::Pod]), (1000, 10_000));

    let start = Instant::now();
    for agent in &agents {
        fleet.connect(agent, None, now);
    }
    let told = settle(&mut fleet, &mut now);
    let all = start.elapsed();
    let start = Instant::now();
    let statuses = fleet.statuses(now).len();
    let said = start.elapsed();
    assert_eq!(statuses, NAMESPACES * 13);
    let after = memory();

    // A worker of an app that five... ten gateways send to becomes unready, and ready again.
    let mut worker = worker.unwrap();
    let namespace = worker.metadata.namespace().to_owned();
    worker.metadata.name = "app-0-77c5d9f6b8-00000".to_owned();
    worker.metadata.uid = Some(format!("uid-{namespace}-{}", worker.metadata.name));
    worker.metadata.labels.insert("app".to_owned(), "app-0".to_owned());
    worker.status.pod_ip = Some(format!("10.{}.1.0", NAMESPACES - 1));
    let mut changes = Vec::new();
    for turn in 0..50 {
        worker.status.conditions[0].status = if turn % 2 == 0 { "False" } else { "True" }.to_owned();
        let object = Object::Pod(worker.clone());
        now += Duration::from_secs(1);
        let compiled = fleet.counts().compiled;
        let start = computed();
        fleet.apply(Ok(object), now);
        now += TIMING.debounce;
        let pushes = fleet.turn(now);
        changes.push(computed() - start);
        assert_eq!((pushes.len(), fleet.counts().compiled - compiled), (PROXIES, PROXIES as u64));
        for push in pushes {
            fleet.acknowledge(&push.proxy, push.sequence, Vec::new(), now);
        }
        fleet.turn(now);
        fleet.statuses(now);
    }
    changes.sort();
    let (median, worst) = (changes[changes.len() / 2], changes[changes.len() - 1]);
    println!("objects: {world:.0} MB, of which {empty:.0} MB were there before; all: {after:.0} MB");
    println!("first compilation of 1000: {first:?}; {told} documents told and acknowledged in {all:?}");
    println!(
        "{statuses} statuses in {said:?}; one pod's change, {PROXIES} proxies told: median {median:?}, worst {worst:?} \
         of computing"
    );
    let slow = if cfg!(debug_assertions) { 20 } else { 1 };
    assert!(first < slow * Duration::from_secs(5), "{first:?}");
    assert!(median < slow * Duration::from_millis(5), "{median:?}");
    assert!(after < 300.0, "{after} MB");
}
