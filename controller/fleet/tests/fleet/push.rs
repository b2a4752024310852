//! Who is told what, and when.

use std::time::Duration;

use crate::support::*;
use l7mp_compiler::object::Kind;
use l7mp_fleet::{Fleet, Rejected};

fn two_gateways() -> String {
    [pod("g1", "gw", "10.0.0.1"), pod("g2", "gw", "10.0.0.2"), service("v", "gw", 9001, ECHO)].concat()
}

#[test]
fn nothing_is_compiled_before_every_kind_was_listed() {
    let now = std::time::Instant::now();
    let mut fleet = Fleet::new(TIMING);
    for object in objects(&two_gateways()) {
        fleet.apply(Ok(object), now);
    }
    fleet.connect(&proxy("g1"), None, now);
    for kind in KINDS {
        assert!(fleet.turn(now).is_empty() && fleet.deadline().is_none() && fleet.counts().compiled == 0);
        let all = objects(&two_gateways()).into_iter().filter(|object| object.kind() == kind).map(Ok).collect();
        fleet.reset(kind, all, now);
    }
    assert_eq!(fleet.deadline(), Some(now));
    assert_eq!(fleet.turn(now).len(), 1);
    assert_eq!(fleet.counts().compiled, 2, "the other one too, though its agent has not come");
}

#[test]
fn an_agent_is_told_once_and_again_only_when_it_holds_something_else() {
    let mut bench = Bench::new(&two_gateways());
    assert!(bench.told.is_empty(), "nobody is connected");
    bench.connect("g1");
    assert_eq!(bench.turn(), ["g1"]);
    bench.acknowledge("g1");
    assert!(bench.wait(Duration::from_secs(100)).is_empty());
    bench.disconnect("g1");
    bench.connect("g1");
    assert!(bench.turn().is_empty(), "it has that already");
    bench.disconnect("g1");
    bench.has.clear();
    bench.connect("g1");
    assert_eq!(bench.turn(), ["g1"], "it says that it has nothing");
    bench.acknowledge("g1");
    // Changes while it is away are told when it comes back.
    bench.disconnect("g1");
    bench.apply(&service("w", "gw", 9002, ECHO));
    assert!(bench.soon().is_empty());
    bench.connect("g1");
    assert_eq!(bench.turn(), ["g1"]);
    assert_eq!(listeners(bench.config("g1")), ["default/v", "default/w"]);
}

#[test]
fn changes_are_collected_and_told_to_those_that_they_touch() {
    let yaml = two_gateways() + &pod("x", "other", "10.0.0.3");
    let mut bench = Bench::settled(&yaml, &["g1", "g2", "x"]);
    assert!(bench.config("x").listeners.is_empty(), "an empty document is one");
    let compiled = bench.fleet.counts().compiled;
    bench.apply(&service("v", "gw", 9002, ECHO));
    bench.apply(&service("v", "gw", 9003, ECHO));
    assert!(bench.turn().is_empty());
    assert!(bench.wait(Duration::from_millis(49)).is_empty());
    assert_eq!(bench.wait(Duration::from_millis(1)), ["g1", "g2"]);
    assert_eq!(bench.fleet.counts().compiled - compiled, 2);
    // What changes no document is told nobody.
    bench.settle();
    bench.apply(&service("v", "gw", 9003, ECHO).replace("generation: 1", "generation: 2"));
    assert!(bench.soon().is_empty());
}

#[test]
fn a_pod_is_compiled_for_from_its_creation_and_another_of_its_name_is_another_proxy() {
    let mut bench = Bench::settled(&service("v", "gw", 9001, ECHO), &[]);
    let bare = "{apiVersion: v1, kind: Pod, metadata: {name: g, uid: uid-g, labels: {app: gw}},
        spec: {initContainers: [{name: l7mp}]}, status: {phase: Pending}}";
    // The agent may come before the watch says that its pod is there.
    bench.connect("g");
    assert!(bench.turn().is_empty());
    bench.apply(bare);
    assert_eq!(bench.soon(), ["g"]);
    assert_eq!(listeners(bench.config("g")), ["default/v"]);
    bench.acknowledge("g");
    bench.apply(&bare.replace("uid: uid-g", "uid: other"));
    assert!(bench.soon().is_empty(), "the agent of the old pod is told nothing");
    assert_eq!(bench.fleet.counts().connected, 0);
    let other = l7mp_fleet::Proxy { uid: "other".to_owned(), ..proxy("g") };
    bench.fleet.connect(&other, None, bench.now);
    assert_eq!(bench.turn(), ["g"]);
    // Answers of the old one are for nobody.
    bench.fleet.acknowledge(&proxy("g"), bench.told[&other].sequence, Vec::new(), bench.now);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.status(&vsvc("v")).programmed, 0);
    // A pod that has ended has no proxy any more.
    bench.apply(&bare.replace("uid: uid-g", "uid: other").replace("Pending", "Failed"));
    bench.soon();
    assert_eq!(bench.fleet.counts().proxies, 0);
    assert_eq!(verdict(bench.status(&vsvc("v")), "Programmed"), "False NoPods");
}

#[test]
fn a_pod_that_is_being_deleted_drains() {
    let mut bench = Bench::settled(&two_gateways(), &["g1", "g2"]);
    let going =
        pod("g1", "gw", "10.0.0.1").replace("uid: uid-g1", "uid: uid-g1, deletionTimestamp: '2026-01-01T00:00:00Z'");
    bench.apply(&going);
    assert_eq!(bench.soon(), ["g1"]);
    assert!(bench.told[&proxy("g1")].drain && !listeners(bench.config("g1")).is_empty());
    bench.settle();
    assert_eq!(bench.status(&vsvc("v")).pods, 1, "it takes nothing any more");
    assert_eq!(verdict(bench.status(&vsvc("v")), "Ready"), "True Ready");
}

#[test]
fn a_relist_forgets_what_vanished_and_nothing_else() {
    let mut bench = Bench::settled(&two_gateways(), &["g1", "g2"]);
    let compiled = bench.fleet.counts().compiled;
    let all = |yaml: &str| objects(yaml).into_iter().map(Ok).collect::<Vec<_>>();
    let pods = [pod("g1", "gw", "10.0.0.1"), pod("g2", "gw", "10.0.0.2")].concat();
    bench.fleet.reset(Kind::Pod, all(&pods), bench.now);
    bench.fleet.reset(Kind::VirtualService, all(&service("v", "gw", 9001, ECHO)), bench.now);
    assert!(bench.soon().is_empty());
    assert_eq!(bench.fleet.counts().compiled, compiled, "nothing has changed");
    bench.fleet.reset(Kind::Pod, all(&pod("g2", "gw", "10.0.0.2")), bench.now);
    assert!(bench.soon().is_empty());
    assert_eq!(bench.fleet.counts().proxies, 1);
    bench.fleet.reset(Kind::VirtualService, Vec::new(), bench.now);
    assert_eq!(bench.soon(), ["g2"]);
    assert!(bench.config("g2").listeners.is_empty());
}

#[test]
fn an_object_that_is_not_usable_keeps_its_last_good_state() {
    let mut bench = Bench::settled(&two_gateways(), &["g1", "g2"]);
    let bad =
        |name| Rejected { id: vsvc(name), generation: Some(2), problems: vec![problem("spec.listener", "is bad")] };
    bench.fleet.apply(Err(bad("v")), bench.now);
    bench.fleet.apply(Err(bad("never-good")), bench.now);
    assert!(bench.soon().is_empty());
    let status = bench.status(&vsvc("v"));
    assert_eq!((status.observed_generation, status.programmed), (Some(2), 2));
    assert_eq!(verdict(status, "Accepted"), "False Invalid");
    let message = &condition(status, "Accepted").message;
    assert!(message.contains("spec.listener: is bad") && message.contains("generation 1"), "{message}");
    assert_eq!(verdict(status, "Ready"), "False Invalid");
    let status = bench.status(&vsvc("never-good"));
    assert_eq!((verdict(status, "Accepted"), status.pods), ("False Invalid".to_owned(), 0));
    // A list that has it in the same shape keeps it too.
    bench.fleet.reset(Kind::VirtualService, vec![Err(bad("v"))], bench.now);
    assert!(bench.soon().is_empty());
    bench.apply(&service("v", "gw", 9001, ECHO).replace("generation: 1", "generation: 3"));
    bench.settle();
    assert_eq!(verdict(bench.status(&vsvc("v")), "Ready"), "True Ready");
    assert_eq!(bench.status(&vsvc("v")).observed_generation, Some(3));
}

#[test]
fn what_a_proxy_should_have_can_be_asked_with_its_origins() {
    let mut bench = Bench::new(&two_gateways());
    let told = bench.fleet.configuration(&proxy("g1").pod).unwrap();
    assert_eq!(listeners(&told.config), ["default/v"]);
    let origins: Vec<String> = told.origins.iter().map(|(at, id, path)| format!("{at} {id} {path}")).collect();
    assert!(origins.contains(&"listeners[0] VirtualService default/v spec.listener".to_owned()), "{origins:?}");
    bench.connect("g1");
    bench.turn();
    assert_eq!(bench.told[&proxy("g1")].sequence, told.sequence);
    assert!(bench.fleet.configuration(&proxy("nobody").pod).is_none());
}
