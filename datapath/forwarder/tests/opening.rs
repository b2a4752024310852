//! How sessions open: held messages, retries, backoff, refusals.

mod support;

use l7mp_forwarder::counters::{DropReason, EndReason};
use l7mp_forwarder::verdict::CloseHow;
use support::{Bench, document, upgrade};

const UDP: &str = "- {name: c, spec: {UDP: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
const TCP: &str = "- {name: c, spec: {TCP: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
const NOBODY: &str = "- {name: c, spec: {TCP: {port: 7}}, endpoints: []}";

#[test]
fn the_first_message_opens_and_the_rest_is_held_in_order() {
    let mut bench = Bench::new(&document(UDP, "destination: c"));
    for n in 0..10 {
        assert_eq!(bench.udp(5000, format!("{n}").as_bytes()), None);
    }
    assert_eq!((bench.sessions(), bench.asked.len()), (1, 1));
    assert_eq!(bench.forwarder.counters().held.get(), 10);
    let stage = bench.open();
    bench.udp(5000, b"x");
    assert_eq!(bench.text(stage), "0123456789x");
    assert!(bench.read.contains(&stage));
    let source = bench.flow(5000);
    bench.bytes(stage, b"answer");
    assert_eq!(bench.text(source), "answer");
}

#[test]
fn more_than_64_messages_are_not_held() {
    let mut bench = Bench::new(&document(UDP, "destination: c"));
    for n in 0..70 {
        bench.udp(5000, &[n]);
    }
    assert_eq!(bench.dropped(DropReason::HeldFull), 6);
    let stage = bench.open();
    assert_eq!(bench.take(stage).concat(), (0..64).collect::<Vec<u8>>());
}

#[test]
fn all_stages_open_in_parallel_and_none_flows_before_all_do() {
    let clusters = format!(
        "{TCP}\n- {{name: in, spec: {{TCP: {{port: 8}}}}, endpoints: [{{spec: {{address: 10.0.0.2}}}}]}}
- {{name: out, spec: {{UDP: {{port: 9}}}}, endpoints: [{{spec: {{address: 10.0.0.3}}}}]}}"
    );
    let mut bench = Bench::new(&document(&clusters, "destination: c, ingress: [in], egress: [out]"));
    bench.udp(5000, b"one");
    let remotes: Vec<String> = bench.asked.iter().map(|asked| asked.remote.clone()).collect();
    assert_eq!(remotes, ["10.0.0.2:8", "10.0.0.1:7", "10.0.0.3:9"]);
    let (ingress, destination) = (bench.open(), bench.open());
    assert!(bench.read.is_empty());
    assert_eq!(bench.text(ingress), "");
    let egress = bench.open();
    assert_eq!(bench.text(ingress), "one");
    bench.bytes(ingress, b"two");
    bench.bytes(destination, b"three");
    bench.bytes(egress, b"four");
    let source = bench.flow(5000);
    let texts = [destination, egress, source].map(|link| bench.text(link));
    assert_eq!(texts, ["two", "three", "four"]);
}

#[test]
fn a_failed_opening_is_a_backoff_of_the_retry_timeout() {
    let mut bench = Bench::new(&document(UDP, "destination: c, retry: {timeout: 500}"));
    bench.udp(5000, b"one");
    bench.refuse();
    assert_eq!(bench.dropped(DropReason::OpenFailed), 1);
    assert_eq!(bench.udp(5000, b"two"), Some(DropReason::OpenBackoff));
    bench.pass(400);
    assert_eq!(bench.udp(5000, b"three"), Some(DropReason::OpenBackoff));
    bench.pass(120);
    assert_eq!(bench.closed(EndReason::OpenFailed), 1);
    bench.is_empty();
    assert_eq!(bench.udp(5000, b"four"), None);
    let stage = bench.open();
    assert_eq!(bench.text(stage), "four");
}

/// The ring of no stages counted as closed, and the session as open until it was idle.
#[test]
fn a_cluster_without_endpoints_does_not_open_a_ring_of_nothing() {
    let mut bench = Bench::new(&document(NOBODY, "destination: c, retry: {timeout: 500}"));
    assert_eq!(bench.udp(5000, b"one"), Some(DropReason::NoEndpoint));
    assert_eq!(bench.udp(5000, b"two"), Some(DropReason::OpenBackoff));
    bench.pass(520);
    assert_eq!(bench.udp(5000, b"three"), Some(DropReason::NoEndpoint));
    let stream = bench.accept("tcp").unwrap();
    assert_eq!(bench.close_of(stream), Some(CloseHow::Flush));
    bench.pass(520);
    assert_eq!(bench.closed(EndReason::OpenFailed), 3);
    bench.is_empty();
}

#[test]
fn retries_are_counted_per_stage_and_wait_the_timeout() {
    for (retry, attempts) in [
        ("{retry_on: connect-failure, num_retries: 2, timeout: 100}", 3),
        ("{retry_on: always, timeout: 100}", 2),
        ("{retry_on: disconnect, num_retries: 5, timeout: 100}", 1),
        ("{num_retries: 5, timeout: 100}", 1),
    ] {
        let mut bench = Bench::new(&document(TCP, &format!("destination: c, retry: {retry}")));
        bench.udp(5000, b"one");
        for attempt in 1..=attempts {
            assert_eq!(bench.asked.len(), 1, "{retry}: attempt {attempt}");
            bench.refuse();
            assert_eq!(bench.asked.len(), 0, "{retry}: not at once");
            bench.pass(120);
        }
        assert_eq!(bench.asked.len(), 0, "{retry}: no more than that");
        assert_eq!(bench.dropped(DropReason::OpenFailed), 1, "{retry}");
        bench.pass(200);
        bench.is_empty();
    }
}

#[test]
fn what_is_held_survives_a_retry() {
    let route = "destination: c, retry: {retry_on: connect-failure, num_retries: 3, timeout: 100}";
    let mut bench = Bench::new(&document(TCP, route));
    bench.udp(5000, b"a");
    bench.refuse();
    bench.udp(5000, b"b");
    bench.pass(120);
    bench.udp(5000, b"c");
    // This one is never answered.
    bench.pass(220);
    let stage = bench.open();
    assert_eq!(bench.text(stage), "abc");
}

#[test]
fn a_connection_that_is_never_answered_fails_after_the_timeout() {
    let mut bench = Bench::new(&document(TCP, "destination: c, retry: {timeout: 300}"));
    let client = bench.accept("tcp").unwrap();
    bench.pass(290);
    assert_eq!(bench.sessions(), 1);
    bench.pass(30);
    assert_eq!(bench.close_of(client), Some(CloseHow::Flush));
    bench.is_empty();
}

#[test]
fn a_stream_is_not_read_before_its_ring_is_closed() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("tcp").unwrap();
    assert!(bench.read.is_empty());
    let stage = bench.open();
    assert!(bench.read.contains(&client) && bench.read.contains(&stage));
}

#[test]
fn a_limit_of_sessions_is_kept() {
    let document = support::document_with("max_sessions: 2", UDP, "destination: c");
    let mut bench = Bench::new(&document);
    assert_eq!(bench.udp(5000, b""), None);
    assert_eq!(bench.udp(5001, b""), None);
    assert_eq!(bench.udp(5002, b""), Some(DropReason::SessionLimit));
}

#[test]
fn a_rule_that_refuses_and_no_rule_are_told_apart() {
    let refuse = "listeners: [{name: udp, spec: {UDP: {port: 1}}, rules: [{action: {refuse: gone}}]}]";
    let none = "listeners: [{name: udp, spec: {UDP: {port: 1}}, rules: []}]";
    for (document, reason) in [(refuse, DropReason::Refused), (none, DropReason::NoRule)] {
        let mut bench = Bench::new(document);
        assert_eq!(bench.udp(5000, b"x"), Some(reason));
        assert_eq!(bench.dropped(reason), 1);
        bench.is_empty();
    }
}

#[test]
fn a_peer_that_the_listener_is_not_connected_to_is_filtered() {
    let document = "listeners: [{name: udp, spec: {UDP: {port: 1, connect: {port: 5001}}}, rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]}]";
    let mut bench = Bench::new(document);
    assert_eq!(bench.udp(5000, b"x"), Some(DropReason::Filtered));
    assert_eq!(bench.udp(5001, b"x"), None);
}

#[test]
fn nothing_opens_while_draining() {
    let mut bench = Bench::new(&document(UDP, "destination: c"));
    bench.udp(5000, b"x");
    bench.forwarder.drain();
    assert_eq!(bench.udp(5001, b"x"), Some(DropReason::Draining));
    assert_eq!(bench.accept("tcp"), None);
    assert_eq!(bench.udp(5000, b"x"), None);
    assert!(bench.forwarder.end_drained(bench.now));
    bench.drain();
    bench.is_empty();
}

#[test]
fn a_chain_of_in_process_clusters_needs_no_opening() {
    let clusters = "- {name: c, spec: {Echo: {}}}\n- {name: d, spec: {Discard: {}}}";
    let mut bench = Bench::new(&document(clusters, "destination: c"));
    assert_eq!(bench.udp(5000, b"hello"), None);
    let source = bench.flow(5000);
    assert_eq!(bench.text(source), "hello");
    let mut bench = Bench::new(&document(clusters, "destination: c, ingress: [d]"));
    assert_eq!(bench.udp(5000, b"hello"), None);
    let source = bench.flow(5000);
    assert_eq!(bench.text(source), "");
    assert_eq!(bench.forwarder.counters().messages_out.get(), 1);
}

#[test]
fn a_request_that_came_with_its_first_frames_loses_none_of_them() {
    use l7mp_forwarder::codec::websocket::{Opcode, Role};
    let mut bench = Bench::new(&document(UDP, "destination: c"));
    let client = bench.accept("ws").unwrap();
    let mut bytes = upgrade("/chat");
    bytes.extend(support::frame(Role::Client, Opcode::Binary, b"one"));
    bytes.extend(support::frame(Role::Client, Opcode::Binary, b"two"));
    for byte in bytes {
        bench.bytes(client, &[byte]);
    }
    assert!(!bench.read.contains(&client));
    let stage = bench.open();
    assert_eq!(bench.take(stage), [b"one", b"two"]);
    assert!(bench.text(client).starts_with("HTTP/1.1 101 "));
    assert!(bench.read.contains(&client));
}

/// Each of them was compiled once for each way that leads to it: thirty took the proxy down.
#[test]
fn rule_lists_that_share_lists_cost_what_they_are() {
    use std::fmt::Write as _;
    let mut text = "listeners: [{name: udp, spec: {UDP: {port: 9001}}, rules: l0}]\nrulelists:\n".to_owned();
    for n in 0..30 {
        let both = format!("{{action: {{apply: l{}}}}}", n + 1);
        let _ = writeln!(text, "- {{name: l{n}, rules: [{both}, {both}]}}");
    }
    text += "- {name: l30, rules: [{action: {route: {destination: c}}}]}\n";
    text += "clusters: [{name: c, spec: {UDP: {port: 9}}, endpoints: [{spec: {address: 10.0.0.2}}]}]\n";
    let mut bench = Bench::new(&text);
    bench.udp(5000, b"x");
    assert_eq!(bench.asked().remote, "10.0.0.2:9");
}
