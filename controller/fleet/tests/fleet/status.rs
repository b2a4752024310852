//! What is said about objects.

use std::time::Duration;

use l7mp_compiler::object::Kind;
use l7mp_crds::{ConditionStatus, Status};

use crate::support::*;

fn gateway() -> String {
    [pod("g1", "gw", "10.0.0.1"), pod("g2", "gw", "10.0.0.2"), service("v", "gw", 9001, ECHO)].concat()
}

#[test]
fn an_object_becomes_ready_when_every_connected_pod_has_acknowledged_it() {
    let mut bench = Bench::new(&gateway());
    bench.wait(Duration::from_secs(1));
    let status = bench.status(&vsvc("v"));
    assert_eq!((status.pods, status.programmed, status.unreachable), (2, 0, 2));
    assert_eq!(verdict(status, "Programmed"), "False Unreachable");
    bench.connect("g1");
    bench.turn();
    bench.acknowledge("g1");
    bench.turn();
    let status = bench.status(&vsvc("v"));
    assert_eq!((status.pods, status.programmed, status.unreachable), (2, 1, 1));
    assert_eq!(verdict(status, "Ready"), "True Ready");
    assert_eq!((status.protocol.as_deref(), status.port), (Some("UDP"), Some(9001)));
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(1)));
    bench.connect("g2");
    bench.turn();
    bench.wait(Duration::from_secs(1));
    let status = bench.status(&vsvc("v"));
    assert_eq!(verdict(status, "Programmed"), "False Pending");
    assert!(condition(status, "Programmed").message.contains("default/g2"));
    bench.acknowledge("g2");
    bench.turn();
    assert_eq!(bench.status(&vsvc("v")).programmed, 2);
}

#[test]
fn a_new_generation_is_programmed_when_it_is_acknowledged_and_the_wait_is_not_written() {
    let mut bench = Bench::settled(&gateway(), &["g1", "g2"]);
    let writes = bench.writes;
    bench.apply(&service("v", "gw", 9002, ECHO).replace("generation: 1", "generation: 2"));
    bench.soon();
    bench.acknowledge("g1");
    bench.turn();
    bench.acknowledge("g2");
    bench.turn();
    assert_eq!(bench.writes, writes + 1, "once, with the result");
    let status = bench.status(&vsvc("v"));
    assert_eq!((status.observed_generation, status.programmed, status.port), (Some(2), 2, Some(9002)));
    // One that changes no document is acknowledged already.
    bench.apply(&service("v", "gw", 9002, ECHO).replace("generation: 1", "generation: 3"));
    bench.soon();
    let status = bench.status(&vsvc("v"));
    assert_eq!((status.observed_generation, verdict(status, "Ready").as_str()), (Some(3), "True Ready"));
    // A pod that is selected only now runs it only now.
    bench.apply(&pod("g3", "gw", "10.0.0.3"));
    bench.soon();
    assert_eq!((bench.status(&vsvc("v")).pods, bench.status(&vsvc("v")).programmed), (3, 2));
}

#[test]
fn objects_that_are_nowhere_say_why() {
    let alone = |kind: &str, spec: &str| {
        format!("---\n{{apiVersion: l7mp.io/v1, kind: {kind}, metadata: {{name: x, generation: 1}}, spec: {spec}}}\n")
    };
    let echo = "{spec: {Echo: {}}}";
    let none = "selector: {matchLabels: {app: none}}";
    let table = [
        (Kind::VirtualService, service("x", "none", 1, ECHO), "False NoPods"),
        (Kind::Target, alone("Target", &format!("{{{none}, cluster: {echo}}}")), "False NoPods"),
        (Kind::Target, alone("Target", &format!("{{cluster: {echo}}}")), "False NotReferenced"),
        (Kind::Route, alone("Route", &format!("{{destination: {echo}}}")), "False NotReferenced"),
        (Kind::Rule, alone("Rule", "{rulelist: l, rule: {action: {refuse: never}}}"), "False NotReferenced"),
    ];
    for (kind, yaml, expected) in table {
        let bench = Bench::settled(&(gateway() + &yaml), &["g1", "g2"]);
        let status = bench.status(&id(kind, "x"));
        assert_eq!(verdict(status, "Programmed"), expected, "{yaml}");
        assert_eq!(verdict(status, "Accepted"), "True Accepted");
        assert_eq!(verdict(status, "Ready"), expected);
    }
}

#[test]
fn a_reference_that_leads_nowhere_is_said_with_its_path_and_mended() {
    let yaml = gateway() + &service("w", "gw", 9002, "{destinationRef: back}");
    let mut bench = Bench::settled(&yaml, &["g1", "g2"]);
    let status = bench.status(&vsvc("w"));
    assert_eq!(verdict(status, "ResolvedRefs"), "False RefNotFound");
    let message = &condition(status, "ResolvedRefs").message;
    assert!(
        message.contains("spec.listener.rules[0].action.route.destinationRef") && message.contains("back"),
        "{message}"
    );
    assert_eq!(verdict(status, "Programmed"), "True Programmed", "its listener is there");
    assert_eq!(verdict(status, "Ready"), "False RefNotFound");
    assert_eq!(verdict(bench.status(&vsvc("v")), "Ready"), "True Ready");
    bench.apply(&target("back", "worker", 5000));
    bench.settle();
    assert_eq!(verdict(bench.status(&vsvc("w")), "Ready"), "True Ready");
    assert_eq!(verdict(bench.status(&id(Kind::Target, "back")), "Programmed"), "True Programmed");
    bench.delete(Kind::Target, "back");
    bench.settle();
    assert_eq!(verdict(bench.status(&vsvc("w")), "ResolvedRefs"), "False RefNotFound");
}

#[test]
fn the_younger_of_two_that_want_one_port_names_the_pod_and_the_other() {
    let yaml = gateway() + &service("w", "gw", 9001, ECHO);
    let bench = Bench::settled(&yaml, &["g1", "g2"]);
    let status = bench.status(&vsvc("w"));
    assert_eq!(verdict(status, "Programmed"), "False PortConflict");
    assert_eq!((status.pods, status.programmed, status.failing.len()), (2, 0, 2));
    let message = &condition(status, "Programmed").message;
    assert!(message.contains("default/g1") && message.contains("VirtualService default/v"), "{message}");
    assert_eq!(verdict(bench.status(&vsvc("v")), "Ready"), "True Ready");
}

#[test]
fn troubles_of_a_proxy_reach_its_objects() {
    let mut bench = Bench::settled(&gateway(), &["g1", "g2"]);
    bench.fleet.trouble(&proxy("g1"), Some("connection refused".to_owned()), bench.now);
    bench.turn();
    let status = bench.status(&vsvc("v"));
    assert_eq!((verdict(status, "Programmed").as_str(), status.programmed), ("False ProxyNotRunning", 1));
    assert_eq!(
        (status.failing[0].pod.as_str(), status.failing[0].message.as_str()),
        ("default/g1", "connection refused")
    );
    bench.fleet.trouble(&proxy("g1"), None, bench.now);
    bench.turn();
    assert_eq!(verdict(bench.status(&vsvc("v")), "Ready"), "True Ready");
    // The kubelet knows why a proxy does not run, be its agent there or not.
    let says = |state: &str| {
        let statuses = format!("phase: Running, containerStatuses: [{{name: l7mp, state: {{{state}}}}}]");
        pod("g2", "gw", "10.0.0.2").replace("phase: Running", &statuses)
    };
    bench.disconnect("g2");
    bench.apply(&says("waiting: {reason: ContainerCreating}"));
    bench.soon();
    assert_eq!(verdict(bench.status(&vsvc("v")), "Ready"), "True Ready");
    bench.apply(&says("terminated: {exitCode: 1, reason: Error, message: io_uring is forbidden}"));
    bench.soon();
    let status = bench.status(&vsvc("v"));
    assert_eq!(verdict(status, "Programmed"), "False ProxyNotRunning");
    assert!(condition(status, "Programmed").message.contains("io_uring is forbidden"));
    bench.apply(&says("running: {}"));
    bench.soon();
    assert_eq!(verdict(bench.status(&vsvc("v")), "Ready"), "True Ready");
}

#[test]
fn failing_pods_are_named_up_to_ten() {
    let pods: Vec<String> = (0..30).map(|i| pod(&format!("g{i:02}"), "gw", &format!("10.0.0.{i}"))).collect();
    let yaml = pods.concat() + &service("v", "gw", 9001, ECHO) + &service("w", "gw", 9001, ECHO);
    let mut bench = Bench::new(&yaml);
    bench.wait(Duration::from_secs(1));
    let status = bench.status(&vsvc("w"));
    assert_eq!((status.pods, status.failing.len()), (30, 10));
    assert_eq!(status.failing[9].pod, "default/g09");
    assert!(condition(status, "Programmed").message.contains("and 25 more"));
}

#[test]
fn warnings_of_a_proxy_are_passed_on() {
    let mut bench = Bench::new(&gateway());
    bench.connect("g1");
    bench.turn();
    let push = bench.told.remove(&proxy("g1")).unwrap();
    let warnings = vec![problem("listeners[0].rules", "boundaries may be lost")];
    bench.fleet.acknowledge(&push.proxy, push.sequence, warnings, bench.now);
    bench.turn();
    let status = bench.status(&vsvc("v"));
    assert_eq!(verdict(status, "Ready"), "True Ready");
    let message = &condition(status, "Programmed").message;
    assert!(message.contains("default/g1") && message.contains("spec.listener.rules: boundaries"), "{message}");
    // It may say something else later of what it runs, and then nothing.
    for (later, expected) in [(vec![problem("listeners[0]", "connections fail")], true), (Vec::new(), false)] {
        bench.fleet.acknowledge(&push.proxy, push.sequence, later, bench.now);
        bench.turn();
        let status = bench.status(&vsvc("v"));
        assert_eq!(verdict(status, "Ready"), "True Ready");
        let message = &condition(status, "Programmed").message;
        assert_eq!(message.contains("spec.listener: connections fail"), expected, "{message}");
        assert!(!message.contains("boundaries"), "{message}");
    }
}

/// The status that the API server has when a new leader starts.
fn seeded(bench: &mut Bench, of: &Status) {
    let mut status = of.clone();
    for condition in &mut status.conditions {
        condition.last_transition_time = "2026-01-01T00:00:00Z".to_owned();
    }
    bench.fleet.seed_status(&vsvc("v"), status);
}

#[test]
fn a_new_leader_lowers_no_count_and_says_nothing_anew_for_a_while() {
    let before = Bench::settled(&gateway(), &["g1", "g2"]).status(&vsvc("v")).clone();
    assert_eq!(before.programmed, 2);
    let mut bench = Bench::listed(&gateway());
    seeded(&mut bench, &before);
    bench.turn();
    bench.wait(Duration::from_secs(5));
    bench.connect("g1");
    bench.turn();
    bench.acknowledge("g1");
    bench.wait(TIMING.grace - Duration::from_secs(6));
    assert_eq!(bench.writes, 0, "{:?}", bench.written);
    bench.wait(Duration::from_secs(2));
    let status = bench.status(&vsvc("v"));
    assert_eq!((status.programmed, status.unreachable), (1, 1), "the time is over");
}

#[test]
fn a_leader_that_leads_again_starts_from_what_the_other_wrote() {
    let mut bench = Bench::settled(&gateway(), &["g1"]);
    let mut other = bench.status(&vsvc("v")).clone();
    assert_eq!((other.programmed, other.unreachable), (1, 1));
    (other.programmed, other.unreachable) = (2, 0);
    seeded(&mut bench, &other);
    bench.written.insert(vsvc("v"), other);
    bench.fleet.restart(bench.now);
    let writes = bench.writes;
    bench.fleet.connect(&proxy("g1"), None, bench.now);
    assert_eq!(bench.turn(), ["g1"], "it is told anew");
    bench.acknowledge("g1");
    bench.wait(TIMING.grace - Duration::from_secs(1));
    assert_eq!(bench.writes, writes);
    bench.wait(Duration::from_secs(2));
    assert_eq!((bench.status(&vsvc("v")).programmed, bench.writes), (1, writes + 1));
}

#[test]
fn a_new_leader_says_what_is_wrong_at_once() {
    let before = Bench::settled(&gateway(), &["g1", "g2"]).status(&vsvc("v")).clone();
    let mut bench = Bench::listed(&gateway());
    seeded(&mut bench, &before);
    bench.connect("g1");
    bench.turn();
    bench.refuse("g1", &[problem("listeners[0].spec", "address in use")]);
    bench.turn();
    assert_eq!(verdict(bench.status(&vsvc("v")), "Programmed"), "False Refused");
}

#[test]
fn a_generation_that_the_leader_before_never_saw_is_not_taken_for_programmed() {
    let before = Bench::settled(&gateway(), &["g1", "g2"]).status(&vsvc("v")).clone();
    let mut bench = Bench::listed(&gateway().replace("uid: uid-v, generation: 1", "uid: uid-v, generation: 2"));
    seeded(&mut bench, &before);
    bench.turn();
    bench.wait(Duration::from_secs(1));
    let status = bench.status(&vsvc("v"));
    assert_eq!((status.programmed, condition(status, "Ready").status), (0, ConditionStatus::False));
}

#[test]
fn an_object_made_again_starts_over() {
    let mut bench = Bench::settled(&gateway(), &["g1", "g2"]);
    bench.delete(Kind::VirtualService, "v");
    bench.apply(&service("v", "gw", 9001, ECHO).replace("uid: uid-v", "uid: other"));
    bench.written.clear();
    bench.settle();
    assert_eq!(verdict(bench.status(&vsvc("v")), "Ready"), "True Ready");
}

#[test]
fn a_target_counts_its_endpoints() {
    let workers = |count: usize| (0..count).map(|i| pod(&format!("w{i}"), "worker", &format!("10.0.1.{i}")));
    let yaml = gateway() + &service("w", "gw", 9002, "{destinationRef: back}") + &target("back", "worker", 5000);
    let mut bench = Bench::settled(&(yaml + &workers(3).collect::<String>()), &["g1", "g2"]);
    assert_eq!(bench.status(&id(Kind::Target, "back")).endpoints, Some(3));
    bench.delete(Kind::Pod, "w0");
    bench.settle();
    let status = bench.status(&id(Kind::Target, "back"));
    assert_eq!((status.endpoints, status.port, status.protocol.as_deref()), (Some(2), Some(5000), Some("UDP")));
    assert!(status.conditions.iter().all(|condition| condition.kind != "Degraded"));
    for name in ["w1", "w2"] {
        let number = &name[1..];
        bench.apply(&pod(name, "worker", &format!("10.0.1.{number}")).replace("'True'", "'False'"));
    }
    bench.settle();
    assert_eq!(condition(bench.status(&id(Kind::Target, "back")), "Degraded").status, ConditionStatus::True);
}

#[test]
fn consent_of_pods_of_another_namespace_is_asked_for_and_noticed() {
    let elsewhere = |annotation: &str| {
        pod("far", "gw", "10.0.9.1").replace("metadata: {", &format!("metadata: {{namespace: far, {annotation}"))
    };
    let service = service("v", "gw", 9001, ECHO).replace("selector: {", "selector: {matchNamespace: far, ");
    let mut bench = Bench::settled(&(elsewhere("") + &service), &[]);
    let status = bench.status(&vsvc("v"));
    assert_eq!(verdict(status, "ResolvedRefs"), "False NoConsent");
    assert_eq!((verdict(status, "Programmed").as_str(), status.pods), ("False NoPods", 0));
    assert!(condition(status, "ResolvedRefs").message.contains("far/far"));
    bench.apply(&elsewhere("annotations: {l7mp.io/accept-from: default}, "));
    bench.settle();
    let status = bench.status(&vsvc("v"));
    assert_eq!((verdict(status, "ResolvedRefs").as_str(), status.pods), ("True ResolvedRefs", 1));
    bench.apply(&elsewhere(""));
    bench.settle();
    assert_eq!(verdict(bench.status(&vsvc("v")), "ResolvedRefs"), "False NoConsent");
}
