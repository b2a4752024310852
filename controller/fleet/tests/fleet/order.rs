//! The order across proxies: no endpoint before its listener is there, no listener gone before it is let go.

use std::time::Duration;

use l7mp_compiler::object::Kind;

use crate::support::*;

const LINGER: Duration = TIMING.linger;

/// A gateway that sends to workers, which have a proxy each.
fn chain() -> String {
    [
        pod("g", "gw", "10.0.0.1"),
        pod("w1", "worker", "10.0.1.1"),
        pod("w2", "worker", "10.0.1.2"),
        service("front", "gw", 9001, "{destinationRef: back}"),
        linked("back"),
        service("worker", "worker", 9000, ECHO),
    ]
    .concat()
}

/// A Target that dials the VirtualService `worker`.
fn linked(name: &str) -> String {
    format!(
        "---\n{{apiVersion: l7mp.io/v1, kind: Target, metadata: {{name: {name}, uid: uid-{name}, generation: 1}},
spec: {{linkedVirtualService: worker}}}}\n"
    )
}

fn back(bench: &Bench) -> Vec<String> {
    endpoints(bench.config("g"), "default/back").into_iter().map(str::to_owned).collect()
}

#[test]
fn an_endpoint_is_used_once_its_proxy_has_acknowledged_the_listener() {
    let mut bench = Bench::settled(&chain(), &["g"]);
    bench.wait(TIMING.grace);
    bench.settle();
    assert_eq!(back(&bench), [""; 0]);
    bench.connect("w1");
    assert_eq!(bench.turn(), ["w1"]);
    bench.acknowledge("w1");
    assert_eq!(bench.soon(), ["g"]);
    assert_eq!(back(&bench), ["default/w1"]);
    bench.connect("w2");
    bench.turn();
    assert!(bench.soon().is_empty(), "it has said nothing yet");
    bench.acknowledge("w2");
    bench.soon();
    assert_eq!(back(&bench), ["default/w1", "default/w2"]);
    // What a proxy had acknowledged stays when its agent goes.
    bench.acknowledge("g");
    bench.disconnect("w1");
    bench.disconnect("w2");
    assert!(bench.wait(Duration::from_secs(100)).is_empty());
}

#[test]
fn a_listener_stays_until_those_that_use_it_have_let_go() {
    let mut bench = Bench::settled(&chain(), &["g", "w1", "w2"]);
    assert_eq!(back(&bench).len(), 2);
    bench.delete(Kind::VirtualService, "worker");
    assert_eq!(bench.soon(), ["g"]);
    assert!(bench.wait(Duration::from_secs(5)).is_empty(), "the gateway has not answered");
    bench.acknowledge("g");
    assert_eq!(bench.turn(), ["w1", "w2"], "at once");
    assert!(bench.config("w1").listeners.is_empty());
    bench.settle();
}

#[test]
fn a_listener_stays_no_longer_than_it_may() {
    let mut bench = Bench::settled(&chain(), &["g", "w1", "w2"]);
    bench.disconnect("g");
    bench.delete(Kind::VirtualService, "worker");
    assert!(bench.soon().is_empty());
    assert!(bench.wait(LINGER - Duration::from_millis(1)).is_empty());
    assert_eq!(bench.wait(Duration::from_millis(1)), ["w1", "w2"]);
    assert!(bench.config("w1").listeners.is_empty());
}

#[test]
fn a_pod_that_is_gone_uses_nothing() {
    let mut bench = Bench::settled(&chain(), &["g", "w1", "w2"]);
    bench.delete(Kind::Pod, "g");
    bench.delete(Kind::VirtualService, "worker");
    assert_eq!(bench.soon(), ["w1", "w2"]);
    assert!(bench.config("w1").listeners.is_empty());
}

#[test]
fn a_document_that_was_told_and_not_answered_counts_too() {
    let mut bench = Bench::settled(&chain(), &["w1", "w2"]);
    bench.connect("g");
    bench.turn();
    assert_eq!(back(&bench).len(), 2);
    bench.delete(Kind::VirtualService, "worker");
    assert_eq!(bench.soon(), ["g"], "it may have adopted the first one");
    bench.acknowledge("g");
    assert_eq!(bench.turn(), ["w1", "w2"]);
}

#[test]
fn a_pod_that_is_no_longer_selected_keeps_its_listener_while_it_is_used() {
    let mut bench = Bench::settled(&chain(), &["g", "w1", "w2"]);
    bench.apply(&pod("w1", "idle", "10.0.1.1"));
    assert_eq!(bench.soon(), ["g"]);
    assert_eq!(back(&bench), ["default/w2"]);
    assert!(bench.soon().is_empty());
    bench.acknowledge("g");
    assert_eq!(bench.turn(), ["w1"]);
    bench.acknowledge("w1");
    // And back again.
    bench.apply(&pod("w1", "worker", "10.0.1.1"));
    assert_eq!(bench.soon(), ["w1"]);
    bench.acknowledge("w1");
    assert_eq!(bench.soon(), ["g"]);
    assert_eq!(back(&bench).len(), 2);
}

#[test]
fn a_listener_that_comes_back_in_time_was_never_gone() {
    let mut bench = Bench::settled(&chain(), &["g", "w1", "w2"]);
    bench.disconnect("g");
    bench.delete(Kind::VirtualService, "worker");
    bench.wait(Duration::from_secs(5));
    bench.apply(&service("worker", "worker", 9000, ECHO));
    assert!(bench.wait(Duration::from_secs(60)).is_empty(), "nobody heard of it");
    bench.connect("g");
    assert!(bench.turn().is_empty());
}

#[test]
fn a_port_that_moves_never_leaves_a_target_empty() {
    let mut bench = Bench::settled(&chain(), &["g", "w1", "w2"]);
    bench.apply(&service("worker", "worker", 9009, ECHO).replace("generation: 1", "generation: 2"));
    assert_eq!(bench.soon(), ["w1", "w2"], "the gateway waits for both");
    assert_eq!(bench.config("w1").listeners.len(), 2, "the old port stays");
    bench.acknowledge("w1");
    assert!(bench.soon().is_empty());
    bench.acknowledge("w2");
    assert_eq!(bench.soon(), ["g"]);
    assert_eq!(back(&bench).len(), 2);
    bench.acknowledge("g");
    assert_eq!(bench.turn(), ["w1", "w2"]);
    assert_eq!(bench.config("w1").listeners.len(), 1);
    bench.settle();
}

#[test]
fn a_new_leader_empties_no_target_while_agents_come_back() {
    let mut bench = Bench::listed(&chain());
    bench.connect("g");
    assert_eq!(bench.turn(), ["g"]);
    assert_eq!(back(&bench).len(), 2, "the workers are taken to have what they should");
    bench.acknowledge("g");
    bench.wait(Duration::from_secs(2));
    bench.connect("w1");
    assert_eq!(bench.turn(), ["w1"]);
    assert!(bench.soon().is_empty());
    bench.acknowledge("w1");
    assert!(bench.soon().is_empty(), "it has it indeed");
    // A worker that is made now is not trusted, nor is an object that nobody can have yet.
    bench.apply(&pod("w3", "worker", "10.0.1.3"));
    bench.soon();
    assert_eq!(back(&bench).len(), 2);
    // One that does not come back is not used for ever.
    assert_eq!(bench.wait(TIMING.grace), ["g"]);
    assert_eq!(back(&bench), ["default/w1"]);
}

#[test]
fn the_time_for_coming_back_begins_with_the_first_agent() {
    let mut bench = Bench::listed(&chain());
    bench.turn();
    bench.wait(Duration::from_secs(3600));
    bench.connect("g");
    bench.turn();
    assert_eq!(back(&bench).len(), 2);
}

#[test]
fn a_proxy_that_comes_back_without_the_listener_is_not_used() {
    let mut bench = Bench::listed(&chain());
    for agent in ["g", "w1"] {
        bench.connect(agent);
    }
    bench.turn();
    bench.acknowledge("g");
    bench.refuse("w1", &[problem("listeners[0].spec", "address in use")]);
    bench.turn();
    bench.acknowledge("w1");
    assert_eq!(bench.soon(), ["g"]);
    assert_eq!(back(&bench), ["default/w2"]);
}

/// A gateway that sends to the app of a worker, whose proxy has nothing to do with it.
fn plain() -> String {
    let target = "---\n{apiVersion: l7mp.io/v1, kind: Target, metadata: {name: back, uid: uid-back, generation: 1},
spec: {cluster: {spec: {UDP: {port: 9000}}, endpoints: [{selector: {matchLabels: {app: worker}}}]}}}\n";
    let workers = [pod("w1", "worker", "10.0.1.1"), pod("w2", "worker", "10.0.1.2")].concat();
    let front = service("front", "gw", 9001, "{destinationRef: back}");
    [pod("g", "gw", "10.0.0.1"), workers, front, target.to_owned()].concat()
}

/// Who wrote it took the workers of a Target away, for as long as the object was there.
#[test]
fn a_listener_on_the_port_of_an_app_takes_no_endpoint_away() {
    let mut bench = Bench::settled(&plain(), &["g", "w1", "w2"]);
    bench.wait(TIMING.grace);
    bench.settle();
    let both = ["default/w1", "default/w2"];
    assert_eq!(back(&bench), both);
    bench.apply(&service("oops", "worker", 9000, ECHO));
    bench.soon();
    assert_eq!(back(&bench), both, "while it is not known who has the port");
    for worker in ["w1", "w2"] {
        bench.refuse(worker, &[problem("listeners[0].spec", "Address already in use")]);
    }
    bench.turn();
    bench.settle();
    assert_eq!(back(&bench), both);

    // Nobody remembers what this one was sent before.
    bench.apply(&[pod("g2", "gw", "10.0.0.2")].concat());
    bench.connect("g2");
    bench.turn();
    bench.settle();
    assert_eq!(endpoints(bench.config("g2"), "default/back"), both);
}
