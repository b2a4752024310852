//! What a proxy refuses: one object never takes another down.

use std::time::Duration;

use l7mp_compiler::object::Kind;

use crate::support::*;

fn gateway() -> String {
    [pod("g", "gw", "10.0.0.1"), service("a", "gw", 9001, ECHO), service("b", "gw", 9002, ECHO)].concat()
}

/// The position of a listener in what the proxy was told.
fn at(bench: &Bench, listener: &str) -> String {
    let index = listeners(bench.config("g")).iter().position(|name| *name == listener).unwrap();
    format!("listeners[{index}].spec.UDP.port")
}

#[test]
fn the_object_at_fault_is_held_back_and_the_rest_goes_at_once() {
    let mut bench = Bench::new(&gateway());
    bench.connect("g");
    bench.turn();
    bench.refuse("g", &[problem(&at(&bench, "default/b"), "address in use")]);
    assert_eq!(bench.turn(), ["g"], "at once");
    assert_eq!(listeners(bench.config("g")), ["default/a"]);
    bench.acknowledge("g");
    bench.turn();
    assert_eq!(verdict(bench.status(&vsvc("a")), "Ready"), "True Ready");
    let status = bench.status(&vsvc("b")).clone();
    assert_eq!(verdict(&status, "Programmed"), "False Refused");
    assert_eq!(status.failing[0].pod, "default/g");
    assert_eq!(status.failing[0].message, "spec.listener.spec.UDP.port: address in use");
    // Tried again, with growing pauses; what works is not touched by it.
    for pause in [1, 2, 4] {
        assert!(bench.wait(Duration::from_millis(pause * 1000 - 1)).is_empty(), "{pause}");
        assert_eq!(bench.wait(Duration::from_millis(1)), ["g"], "{pause}");
        assert_eq!(listeners(bench.config("g")), ["default/a", "default/b"]);
        bench.refuse("g", &[problem(&at(&bench, "default/b"), "address in use")]);
        assert!(bench.turn().is_empty(), "it has the rest");
    }
    assert_eq!(bench.status(&vsvc("b")), &status, "nothing new to say");
    bench.wait(Duration::from_secs(8));
    bench.acknowledge("g");
    bench.turn();
    assert_eq!(verdict(bench.status(&vsvc("b")), "Ready"), "True Ready");
    assert!(bench.wait(Duration::from_secs(100)).is_empty());
}

#[test]
fn a_refused_object_that_changes_is_tried_at_once() {
    let mut bench = Bench::new(&gateway());
    bench.connect("g");
    bench.turn();
    bench.refuse("g", &[problem(&at(&bench, "default/b"), "address in use")]);
    bench.turn();
    bench.acknowledge("g");
    bench.apply(&service("b", "gw", 9003, ECHO).replace("generation: 1", "generation: 2"));
    assert_eq!(bench.soon(), ["g"]);
    assert_eq!(listeners(bench.config("g")), ["default/a", "default/b"]);
    bench.acknowledge("g");
    bench.turn();
    assert_eq!(verdict(bench.status(&vsvc("b")), "Ready"), "True Ready");
}

#[test]
fn a_refusal_that_no_object_can_be_blamed_for_is_said_of_all_and_tried_again() {
    let mut bench = Bench::new(&gateway());
    bench.connect("g");
    bench.turn();
    let first = bench.told[&proxy("g")].sequence;
    bench.refuse("g", &[problem("", "out of memory")]);
    assert!(bench.turn().is_empty());
    for name in ["a", "b"] {
        assert_eq!(verdict(bench.status(&vsvc(name)), "Programmed"), "False Refused");
        assert!(condition(bench.status(&vsvc(name)), "Programmed").message.contains("out of memory"));
    }
    assert_eq!(bench.wait(Duration::from_secs(1)), ["g"]);
    assert!(bench.told[&proxy("g")].sequence > first, "agents take nothing that is older");
    bench.refuse("g", &[problem("", "out of memory")]);
    assert!(bench.wait(Duration::from_millis(1999)).is_empty());
    assert_eq!(bench.wait(Duration::from_millis(1)), ["g"]);
    bench.acknowledge("g");
    bench.turn();
    assert_eq!(verdict(bench.status(&vsvc("a")), "Ready"), "True Ready");
}

#[test]
fn answers_to_what_was_not_asked_are_for_nobody() {
    let mut bench = Bench::settled(&gateway(), &["g"]);
    let before = bench.writes;
    bench.fleet.refuse(&proxy("g"), 4711, vec![problem("listeners[0]", "no")], bench.now);
    bench.fleet.acknowledge(&proxy("g"), 4711, Vec::new(), bench.now);
    bench.fleet.acknowledge(&proxy("stranger"), 1, Vec::new(), bench.now);
    bench.fleet.disconnect(&proxy("stranger"), bench.now);
    assert!(bench.wait(Duration::from_secs(10)).is_empty());
    assert_eq!(bench.writes, before);
}

#[test]
fn a_refused_document_that_was_followed_by_another_is_answered_by_that() {
    let mut bench = Bench::settled(&gateway(), &["g"]);
    bench.apply(&service("b", "gw", 9003, ECHO));
    bench.soon();
    let old = bench.told[&proxy("g")].sequence;
    bench.apply(&service("b", "gw", 9004, ECHO));
    bench.soon();
    bench.fleet.refuse(&proxy("g"), old, vec![problem(&at(&bench, "default/b"), "no")], bench.now);
    assert!(bench.soon().is_empty());
    bench.acknowledge("g");
    bench.turn();
    assert_eq!(verdict(bench.status(&vsvc("b")), "Ready"), "True Ready");
}

/// A gateway whose service `a` leads to the Target `t`, which the proxy has just refused; nothing is under way.
fn refused_target() -> Bench {
    let world = [
        pod("g", "gw", "10.0.0.1"),
        pod("w", "worker", "10.0.0.2").replace(", {name: l7mp}", ""),
        service("a", "gw", 9001, "{destinationRef: t}"),
        service("b", "gw", 9002, ECHO),
        target("t", "worker", 9000),
    ];
    let mut bench = Bench::new(&world.concat());
    bench.connect("g");
    bench.turn();
    bench.refuse("g", &[problem(&at_cluster(&bench), "no such device")]);
    assert_eq!(bench.turn(), ["g"], "at once");
    bench.acknowledge("g");
    bench.turn();
    assert_eq!(verdict(bench.status(&id(Kind::Target, "t")), "Ready"), "False Refused");
    assert_eq!(verdict(bench.status(&vsvc("a")), "Ready"), "False RefNotUsable");
    assert_eq!(verdict(bench.status(&vsvc("b")), "Ready"), "True Ready");
    bench
}

fn at_cluster(bench: &Bench) -> String {
    let index = bench.config("g").clusters.iter().position(|cluster| cluster.name == "default/t").unwrap();
    format!("clusters[{index}].spec")
}

/// Waits for the next trial, and then longer than any status waits for an answer; no status is written meanwhile.
fn trial(bench: &mut Bench, pause: u64) {
    let writes = bench.writes;
    assert_eq!(bench.wait(Duration::from_secs(pause)), ["g"]);
    assert_eq!(endpoints(bench.config("g"), "default/t"), ["default/w"], "it is tried");
    assert!(bench.wait(Duration::from_secs(20)).is_empty());
    assert_eq!(bench.writes, writes, "nobody's status shows the trial: {:?}", bench.written);
}

#[test]
fn a_trial_changes_no_status_before_it_has_succeeded() {
    let mut bench = refused_target();
    for pause in [1, 2, 4] {
        trial(&mut bench, pause);
        let writes = bench.writes;
        bench.refuse("g", &[problem(&at_cluster(&bench), "no such device")]);
        assert!(bench.turn().is_empty(), "it has the rest");
        assert_eq!(bench.writes, writes, "nor its failure");
    }
    trial(&mut bench, 8);
    bench.acknowledge("g");
    assert!(bench.turn().is_empty());
    for id in [id(Kind::Target, "t"), vsvc("a"), vsvc("b")] {
        assert_eq!(verdict(bench.status(&id), "Ready"), "True Ready", "{id}");
    }
    assert_eq!(bench.status(&id(Kind::Target, "t")).endpoints, Some(1));
    assert!(bench.wait(Duration::from_secs(100)).is_empty());
}

#[test]
fn a_trial_that_is_refused_without_an_object_to_blame_blames_what_was_tried() {
    let mut bench = refused_target();
    trial(&mut bench, 1);
    bench.refuse("g", &[problem("", "out of memory")]);
    assert_eq!(bench.turn(), ["g"], "the rule that leads to it names the new fault");
    assert!(endpoints(bench.config("g"), "default/t").is_empty());
    bench.acknowledge("g");
    assert!(bench.turn().is_empty());
    assert!(condition(bench.status(&id(Kind::Target, "t")), "Programmed").message.contains("out of memory"));
    for (id, says) in [(vsvc("a"), "False RefNotUsable"), (vsvc("b"), "True Ready")] {
        assert_eq!(verdict(bench.status(&id), "Ready"), says, "{id}");
    }
    trial(&mut bench, 2);
}

#[test]
fn a_trial_that_succeeds_after_it_was_followed_by_another_document_counts() {
    let mut bench = refused_target();
    trial(&mut bench, 1);
    let tried = bench.told[&proxy("g")].sequence;
    bench.apply(&service("b", "gw", 9003, ECHO).replace("generation: 1", "generation: 2"));
    assert_eq!(bench.soon(), ["g"]);
    assert!(bench.config("g").clusters.iter().all(|cluster| cluster.name != "default/t"), "what is good goes first");
    bench.fleet.acknowledge(&proxy("g"), tried, Vec::new(), bench.now);
    assert_eq!(bench.turn(), ["g"], "the Target has proved good");
    assert_eq!(endpoints(bench.config("g"), "default/t"), ["default/w"]);
    bench.acknowledge("g");
    bench.turn();
    for id in [id(Kind::Target, "t"), vsvc("a"), vsvc("b")] {
        assert_eq!(verdict(bench.status(&id), "Ready"), "True Ready", "{id}");
    }
}
