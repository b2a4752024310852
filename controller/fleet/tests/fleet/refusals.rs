//! What a proxy refuses: one object never takes another down.

use std::time::Duration;

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
