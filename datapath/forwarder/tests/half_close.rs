//! An endpoint that has nothing more to say may still listen: its end does not cut what the client still says.

mod support;

use l7mp_forwarder::codec::websocket::{Opcode, Role};
use l7mp_forwarder::counters::EndReason;
use l7mp_forwarder::verdict::CloseHow;
use support::{Bench, accept_upgrade, document, frame, upgrade};

const TCP: &str = "- {name: c, spec: {TCP: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
const WS: &str = "- {name: w, spec: {WebSocket: {port: 8}}, endpoints: [{spec: {address: 10.0.0.2}}]}";

/// What the client had sent behind the endpoint's FIN was dropped as `closed`.
#[test]
fn a_client_goes_on_after_its_endpoints_end() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.bytes(client, b"one ");
    bench.bytes(stage, b"all");
    bench.ended(stage);
    assert!(bench.was_shut(client));
    bench.bytes(client, b"two");
    assert_eq!((bench.text(stage), bench.text(client)), ("one two".into(), "all".into()));
    assert!(!bench.was_shut(stage));
    bench.ended(client);
    assert_eq!((bench.close_of(client), bench.close_of(stage)), (Some(CloseHow::Flush), Some(CloseHow::Flush)));
    assert_eq!(bench.closed(EndReason::Finished), 1);
    bench.is_empty();
}

#[test]
fn ends_of_several_stages_go_around_before_the_session_ends() {
    let egress = "- {name: e, spec: {TCP: {port: 9}}, endpoints: [{spec: {address: 10.0.0.3}}]}";
    let mut bench = Bench::new(&document(&format!("{TCP}\n{egress}"), "destination: c, egress: [e]"));
    let client = bench.accept("tcp").unwrap();
    let (first, last) = (bench.open(), bench.open());
    bench.ended(last);
    assert!(bench.was_shut(client) && !bench.was_shut(first));
    bench.bytes(client, b"x");
    bench.ended(client);
    assert!(bench.was_shut(first));
    bench.bytes(first, b"y");
    assert_eq!((bench.text(first), bench.text(last)), ("x".into(), "y".into()));
    assert_eq!(bench.sessions(), 1);
    bench.ended(first);
    assert_eq!(bench.closed(EndReason::Finished), 1);
    bench.is_empty();
}

#[test]
fn a_client_that_says_nothing_more_is_not_waited_for() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.ended(stage);
    bench.pass(59_000);
    bench.bytes(client, b"slowly");
    bench.pass(59_000);
    assert_eq!(bench.sessions(), 1);
    bench.pass(2_000);
    assert_eq!(bench.closed(EndReason::Idle), 1);
    bench.is_empty();
}

/// A WebSocket has no halves: behind a Close nobody hears.
#[test]
fn a_websocket_endpoints_close_ends_the_session() {
    let mut bench = Bench::new(&document(WS, "destination: w"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    let request = bench.take(stage).concat();
    bench.bytes(stage, &accept_upgrade(&request));
    bench.bytes(stage, &frame(Role::Server, Opcode::Close, &1000_u16.to_be_bytes()));
    assert_eq!(bench.close_of(client), Some(CloseHow::Flush));
    assert_eq!(bench.closed(EndReason::Finished), 1);
    bench.is_empty();
}

#[test]
fn an_endpoints_end_closes_a_websocket_client() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("ws").unwrap();
    bench.bytes(client, &upgrade("/chat"));
    let stage = bench.open();
    bench.take(client);
    bench.ended(stage);
    assert_eq!(bench.take(client), [frame(Role::Server, Opcode::Close, &1000_u16.to_be_bytes())]);
    assert_eq!(bench.closed(EndReason::Finished), 1);
    bench.is_empty();
}
