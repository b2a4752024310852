//! Backpressure: who is paused, and until when.

mod support;

use l7mp_forwarder::codec::websocket::{Opcode, Role};
use support::{Bench, document, frame, upgrade};

const TCP: &str = "- {name: c, spec: {TCP: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
const ALWAYS: &str = "destination: c, retry: {retry_on: always, num_retries: 2, timeout: 100}";

#[test]
fn only_the_source_of_a_full_queue_is_paused() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let (one, other) = (bench.accept("tcp").unwrap(), bench.accept("tcp").unwrap());
    let (stage, other_stage) = (bench.open(), bench.open());
    bench.blocked(stage);
    assert_eq!([one, stage, other, other_stage].map(|link| bench.read.contains(&link)), [false, true, true, true]);
    bench.blocked(one);
    assert_eq!([one, stage].map(|link| bench.read.contains(&link)), [false, false]);
    bench.drained(stage);
    assert_eq!([one, stage].map(|link| bench.read.contains(&link)), [true, false]);
    bench.drained(one);
    assert_eq!([one, stage].map(|link| bench.read.contains(&link)), [true, true]);
}

#[test]
fn a_lossy_source_is_never_paused() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    bench.udp(5000, b"x");
    let stage = bench.open();
    let source = bench.flow(5000);
    bench.blocked(stage);
    bench.drained(stage);
    bench.blocked(source);
    assert!(!bench.read.contains(&stage), "a stream that feeds a datagram socket is paused");
    bench.drained(source);
    assert!(bench.read.contains(&stage));
}

#[test]
fn in_process_links_pass_the_pressure_on() {
    let clusters = format!("{TCP}\n- {{name: e, spec: {{Echo: {{}}}}}}");
    let mut bench = Bench::new(&document(&clusters, "destination: c, ingress: [e]"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.blocked(stage);
    assert!(!bench.read.contains(&client));
    let mut bench = Bench::new(&document(&clusters, "destination: e"));
    let client = bench.accept("tcp").unwrap();
    bench.blocked(client);
    assert!(!bench.read.contains(&client), "an echo is its own source");
    bench.drained(client);
    assert!(bench.read.contains(&client));
}

/// The new link has an empty queue, and never said that it is drained.
#[test]
fn a_full_queue_that_breaks_does_not_pause_its_source_for_ever() {
    let mut bench = Bench::new(&document(TCP, ALWAYS));
    let client = bench.accept("tcp").unwrap();
    let first = bench.open();
    bench.blocked(first);
    bench.broken(first);
    assert!(!bench.read.contains(&client));
    bench.open();
    assert!(bench.read.contains(&client));
}

/// The new link was read although the queue of the next one was full.
#[test]
fn a_stage_that_is_reopened_waits_for_a_full_queue() {
    let mut bench = Bench::new(&document(TCP, ALWAYS));
    let client = bench.accept("tcp").unwrap();
    let first = bench.open();
    bench.blocked(client);
    bench.broken(first);
    let second = bench.open();
    assert!(bench.read.contains(&client) && !bench.read.contains(&second));
    bench.drained(client);
    assert!(bench.read.contains(&second));
}

#[test]
fn a_stage_before_one_that_is_reopened_is_paused() {
    let clusters =
        format!("{TCP}\n- {{name: d, spec: {{TCP: {{port: 9}}}}, endpoints: [{{spec: {{address: 10.0.0.3}}}}]}}");
    let mut bench = Bench::new(&document(&clusters, &ALWAYS.replace("destination: c", "destination: c, egress: [d]")));
    let client = bench.accept("tcp").unwrap();
    let (first, second) = (bench.open(), bench.open());
    bench.broken(second);
    assert_eq!([client, first].map(|link| bench.read.contains(&link)), [true, false]);
    let second = bench.open();
    assert_eq!([client, first, second].map(|link| bench.read.contains(&link)), [true, true, true]);
}

#[test]
fn pings_of_a_client_that_does_not_read_are_not_answered() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("ws").unwrap();
    bench.bytes(client, &upgrade("/chat"));
    bench.open();
    bench.take(client);
    let ping = frame(Role::Client, Opcode::Ping, b"x");
    bench.bytes(client, &ping);
    assert_eq!(bench.take(client), [frame(Role::Server, Opcode::Pong, b"x")]);
    bench.blocked(client);
    bench.bytes(client, &ping);
    assert_eq!(bench.take(client).len(), 0);
    bench.drained(client);
    bench.bytes(client, &ping);
    assert_eq!(bench.take(client).len(), 1);
}

/// What came behind the answer was kept without bound until the last stage was open.
#[test]
fn a_websocket_stage_is_paused_until_the_ring_is_closed() {
    let clusters =
        format!("{TCP}\n- {{name: w, spec: {{WebSocket: {{port: 8}}}}, endpoints: [{{spec: {{address: 10.0.0.2}}}}]}}");
    let mut bench = Bench::new(&document(&clusters, "destination: w, egress: [c]"));
    bench.udp(5000, b"x");
    let websocket = bench.open();
    assert!(bench.read.contains(&websocket));
    let request = bench.take(websocket).concat();
    let mut answer = support::accept_upgrade(&request);
    answer.extend(frame(Role::Server, Opcode::Text, b"early"));
    bench.bytes(websocket, &answer);
    assert!(!bench.read.contains(&websocket));
    let egress = bench.open();
    assert!(bench.read.contains(&websocket));
    assert_eq!(bench.text(egress), "early");
}
