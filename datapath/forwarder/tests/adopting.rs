//! New configurations under live sessions: removed and draining endpoints, removed listeners, shared parts; listings.

mod support;

use std::sync::Arc;

use l7mp_forwarder::codec::websocket::{Opcode, Role};
use l7mp_forwarder::counters::EndReason;
use l7mp_forwarder::verdict::CloseHow;
use support::{Bench, document, frame, upgrade};

/// A TCP cluster of these endpoints, the last octet of each and whether it drains.
fn cluster(endpoints: &[(u8, bool)], more: &str) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(n, draining)| format!("{{spec: {{address: 10.0.0.{n}}}, draining: {draining}}}"))
        .collect();
    format!("- {{name: c, spec: {{TCP: {{port: 7}}}}, endpoints: [{}]{more}}}", endpoints.join(", "))
}

const HASH: &str = ", loadbalancer: {policy: ConsistentHash, table_size: 251}";
const REOPEN: &str = "destination: c, retry: {retry_on: disconnect, num_retries: 2, timeout: 100}";

#[test]
fn a_removed_endpoint_ends_its_sessions_in_each_protocols_way() {
    let mut bench = Bench::new(&document(&cluster(&[(1, false)], ""), "destination: c"));
    bench.udp(5000, b"x");
    let tcp = bench.accept("tcp").unwrap();
    let websocket = bench.accept("ws").unwrap();
    bench.bytes(websocket, &upgrade("/chat"));
    for _ in 0..3 {
        bench.open();
    }
    bench.take(websocket);
    bench.configure(&document(&cluster(&[(2, false)], ""), "destination: c"));
    assert_eq!(bench.closed(EndReason::Removed), 3);
    assert_eq!(bench.close_of(tcp), Some(CloseHow::Flush));
    assert_eq!(bench.take(websocket), [frame(Role::Server, Opcode::Close, &1001_u16.to_be_bytes())]);
    bench.is_empty();
    bench.udp(5000, b"y");
    assert_eq!(bench.asked().remote, "10.0.0.2:7");
}

#[test]
fn a_removed_endpoint_is_replaced_when_the_route_reopens() {
    let mut bench = Bench::new(&document(&cluster(&[(1, false)], ""), REOPEN));
    let client = bench.accept("tcp").unwrap();
    let first = bench.open();
    bench.configure(&document(&cluster(&[(2, false)], ""), REOPEN));
    assert_eq!(bench.close_of(first), Some(CloseHow::Flush));
    assert!(!bench.read.contains(&client));
    assert_eq!(bench.asked[0].remote, "10.0.0.2:7");
    bench.open();
    assert!(bench.read.contains(&client));
}

#[test]
fn what_else_changes_moves_no_session() {
    let before = document(&cluster(&[(1, false), (2, false)], HASH), "destination: c");
    let mut bench = Bench::new(&before);
    bench.udp(5000, b"x");
    let stage = bench.open();
    let remote = bench.forwarder.list(None, 0, 1, bench.now).sessions[0].destination.endpoint.clone();
    for after in [
        document(&cluster(&[(1, false), (2, false)], ""), "destination: c"),
        document(&cluster(&[(1, false), (2, false), (3, false)], HASH), REOPEN),
        document(
            &format!("{}\n- {{name: d, spec: {{Echo: {{}}}}}}", cluster(&[(1, false), (2, false)], "")),
            "destination: d",
        ),
    ] {
        bench.configure(&after);
        bench.udp(5000, b"y");
        assert_eq!(bench.text(stage).as_bytes().last(), Some(&b'y'));
        assert_eq!(bench.forwarder.list(None, 0, 1, bench.now).sessions[0].destination.endpoint, remote);
    }
}

/// An inline cluster was known by the position of its listener, and its session by that of another.
#[test]
fn a_listener_that_leaves_does_not_take_the_inline_clusters_of_the_next() {
    let listener = |name: &str, n: u8| {
        format!(
            "{{name: {name}, spec: {{UDP: {{port: {n}}}}}, rules: [{{action: {{route: {{destination: {{spec: {{UDP: {{port: 7}}}}, endpoints: [{{spec: {{address: 10.0.0.{n}}}}}]}}}}}}}}]}}"
        )
    };
    let mut bench = Bench::new(&format!("listeners: [{}, {}]", listener("other", 1), listener("udp", 2)));
    bench.udp(5000, b"x");
    let stage = bench.open();
    bench.configure(&format!("listeners: [{}]", listener("udp", 2)));
    bench.udp(5000, b"y");
    assert_eq!(bench.text(stage), "xy");
}

#[test]
fn a_session_that_loses_an_in_process_cluster_keeps_its_route() {
    let echo = "- {name: c, spec: {Echo: {}}}";
    let mut bench = Bench::new(&document(echo, "destination: c"));
    bench.udp(5000, b"x");
    bench.configure(&document(&cluster(&[], "").replace("name: c", "name: d"), "destination: d"));
    bench.udp(5000, b"y");
    let source = bench.flow(5000);
    assert_eq!(bench.text(source), "xy");
}

/// A rule that leads elsewhere, or a listener whose sessions may stay, took the clusters of live sessions with it.
#[test]
fn a_session_keeps_its_route_when_its_cluster_leaves() {
    let other = cluster(&[(9, false)], "").replace("name: c", "name: d");
    let mut bench = Bench::new(&document(&cluster(&[(1, false)], ""), "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.configure(&document(&other, "destination: d"));
    bench.pass(300_000);
    bench.bytes(client, b"a");
    assert_eq!((bench.text(stage), bench.asked.len()), ("a".into(), 0));
    bench.broken(stage);
    assert_eq!(bench.closed(EndReason::Disconnect), 1, "nothing is there to reopen it with");
}

/// Nobody says that a datagram endpoint has gone when no configuration has it.
#[test]
fn a_datagram_endpoint_that_nobody_vouches_for_is_kept_while_it_speaks() {
    let udp = |name: &str| {
        format!("- {{name: {name}, spec: {{UDP: {{port: 7}}}}, endpoints: [{{spec: {{address: 10.0.0.1}}}}]}}")
    };
    let mut bench = Bench::new(&document(&udp("c"), "destination: c"));
    bench.udp(5000, b"x");
    let stage = bench.open();
    bench.configure(&document(&udp("d"), "destination: d"));
    for _ in 0..4 {
        bench.pass(50_000);
        bench.udp(5000, b"x");
        bench.bytes(stage, b"y");
    }
    assert_eq!(bench.sessions(), 1);
    for _ in 0..4 {
        bench.pass(20_000);
        bench.udp(5000, b"x");
    }
    assert_eq!((bench.closed(EndReason::Removed), bench.close_of(stage)), (1, Some(CloseHow::Flush)));
    assert_eq!(bench.asked.len(), 1, "its next datagram goes where the rules lead now");
}

#[test]
fn without_a_drain_timeout_sessions_stay_and_new_ones_go_elsewhere() {
    let mut bench = Bench::new(&document(&cluster(&[(1, false)], ""), "destination: c"));
    bench.udp(5000, b"x");
    let stage = bench.open();
    bench.configure(&document(&cluster(&[(1, true), (2, false)], ""), "destination: c"));
    bench.udp(5001, b"x");
    assert_eq!(bench.asked().remote, "10.0.0.2:7");
    for _ in 0..100 {
        bench.pass(1_000);
        bench.udp(5000, b"y");
    }
    assert_eq!(bench.take(stage).len(), 101);
}

#[test]
fn a_removed_listener_ends_its_sessions_unless_orphans_may_stay() {
    let clusters = cluster(&[(1, false)], "");
    for (options, left) in [("", 0), ("remove_orphan_sessions: false", 2)] {
        let mut bench = Bench::new(&support::document_with(options, &clusters, "destination: c"));
        bench.udp(5000, b"x");
        bench.accept("tcp").unwrap();
        let stage = bench.open();
        bench.open();
        let source = bench.flow(5000);
        bench.configure(&format!("clusters:\n{clusters}"));
        assert_eq!(bench.sessions(), left, "{options}");
        if left == 0 {
            bench.is_empty();
            continue;
        }
        assert_eq!(bench.udp(5000, b"y"), None);
        bench.bytes(stage, b"z");
        assert_eq!((bench.text(stage), bench.text(source)), ("xy".into(), "z".into()));
        assert_eq!(bench.udp(5001, b"y"), Some(l7mp_forwarder::counters::DropReason::Draining));
        assert_eq!(bench.accept("tcp"), None);
        bench.pass(61_000);
        assert_eq!(bench.sessions(), 1, "a TCP session is never idle");
    }
}

#[test]
fn adoptions_that_follow_quickly_are_all_judged() {
    let mut bench = Bench::new(&document(&cluster(&[(1, false)], ""), "destination: c"));
    for port in 5000..8000 {
        bench.udp(port, b"x");
        bench.open();
    }
    let mut counters = bench.scopes.clusters["c"].clone();
    assert_eq!(counters.remove(0).sessions_active.get(), 3000);
    bench.configure(&document(&cluster(&[(1, false), (2, false)], ""), "destination: c"));
    assert_eq!(bench.sessions(), 3000);
    bench.configure(&document(&cluster(&[(2, false)], ""), "destination: c"));
    assert_eq!(bench.sessions(), 3000 - 1024, "1,024 a turn");
    assert_eq!(bench.forwarder.deadline(), Some(l7mp_forwarder::time::Time::ZERO));
    bench.configure(&document(&cluster(&[(2, false), (3, false)], ""), "destination: c"));
    bench.turn();
    bench.turn();
    bench.turn();
    assert_eq!(bench.sessions(), 0);
    bench.is_empty();
}

#[test]
fn an_unchanged_cluster_is_shared_by_both_snapshots() {
    let changed = "- {name: d, spec: {Echo: {}}}";
    let mut bench = Bench::new(&document(&cluster(&[(1, false)], HASH), "destination: c"));
    let before = Arc::clone(&bench.snapshot);
    bench.configure(&document(&format!("{}\n{changed}", cluster(&[(1, false)], HASH)), "destination: d, ingress: [c]"));
    assert!(Arc::ptr_eq(&before.clusters["c"], &bench.snapshot.clusters["c"]));
    bench.configure(&document(&cluster(&[(1, false), (2, false)], HASH), "destination: c"));
    assert!(!Arc::ptr_eq(&before.clusters["c"], &bench.snapshot.clusters["c"]));
}

#[test]
fn a_key_gets_the_same_endpoint_in_every_run() {
    let endpoints: Vec<(u8, bool)> = (1..=10).map(|n| (n, false)).collect();
    let clients = |endpoints: &[(u8, bool)]| {
        let mut bench = Bench::new(&document(&cluster(endpoints, HASH), "destination: c"));
        (5000..5100)
            .map(|port| {
                bench.udp(port, b"x");
                bench.asked().remote
            })
            .collect::<Vec<_>>()
    };
    let first = clients(&endpoints);
    let reversed: Vec<_> = endpoints.iter().rev().copied().collect();
    assert_eq!(first, clients(&endpoints));
    assert_eq!(first, clients(&reversed), "whatever the order of the document");
    let fewer = clients(&endpoints[1..]);
    let moved = first.iter().zip(&fewer).filter(|(before, after)| *before != "10.0.0.1:7" && before != after).count();
    assert!(moved <= 20, "{moved} of 100 moved");
}

#[test]
fn sessions_have_the_originals_names_and_metadata() {
    let rule = "rules: [{action: {rewrite: [{path: /labels/a, valueStr: b}], route: {destination: {spec: {Echo: }}}}}]";
    let mut bench = Bench::new(&format!(
        "listeners: [{{name: udp, spec: {{UDP: {{port: 9001}}}}, {rule}}}, {{name: ws, spec: {{WebSocket: {{port: 9004}}}}, {rule}}}]"
    ));
    bench.udp(41020, b"x");
    let client = bench.accept("ws").unwrap();
    bench.bytes(client, &upgrade("/chat?room=1"));
    let sessions = bench.forwarder.list(None, 0, 10, bench.now).sessions;
    assert_eq!(sessions[0].name, "UDP:127.0.0.1:41020-127.0.0.1:9001-0");
    let metadata = serde_json::json!({
        "name": "UDP:127.0.0.1:41020-127.0.0.1:9001-0",
        "IP": {"src_addr": "127.0.0.1", "dst_addr": "127.0.0.1"},
        "UDP": {"src_port": 41020, "dst_port": 9001},
        "labels": {"a": "b"},
    });
    assert_eq!(sessions[0].metadata, metadata);
    let http = &sessions[1].metadata["HTTP"];
    assert_eq!(sessions[1].name, "WebSocket:127.0.0.1:50001-127.0.0.1:9001-1");
    assert_eq!((&http["method"], &http["version"]), (&"GET".into(), &"1.1".into()));
    assert_eq!(http["url"]["path"], "/chat");
    assert_eq!(http["url"]["query"], "room=1");
    assert_eq!(http["headers"]["upgrade"], "websocket");
    assert!(bench.forwarder.show(&sessions[1].name, bench.now).is_some());
    assert!(bench.forwarder.show("UDP:127.0.0.1:1-127.0.0.1:9001-0", bench.now).is_none());
}

#[test]
fn listings_come_in_pages_and_miss_none() {
    let mut bench = Bench::new(&document("- {name: c, spec: {Echo: {}}}", "destination: c"));
    for port in 5000..7500 {
        bench.udp(port, b"x");
    }
    bench.accept("tcp").unwrap();
    for limit in [7, 1000, 5000] {
        let (mut names, mut start) = (std::collections::BTreeSet::new(), Some(0));
        while let Some(at) = start {
            let page = bench.forwarder.list(Some("udp"), at, limit, bench.now);
            assert!(page.sessions.len() <= limit.min(1024));
            names.extend(page.sessions.into_iter().map(|session| session.name));
            start = page.next;
        }
        assert_eq!(names.len(), 2500);
    }
}
