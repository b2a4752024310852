//! No heap allocation and no copy of a payload per forwarded message in steady state.

mod support;

use l7mp_forwarder::address::{ClientAddr, LocalAddr};
use l7mp_forwarder::codec::websocket::{Opcode, Role};
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::time::Time;
use l7mp_forwarder::verdict::{Payload, Verdict};
use support::{Bench, accept_upgrade, document, frame};

const MESSAGES: usize = 1000;

/// What the worker does for a message that arrived in a buffer.
fn step(bench: &mut Bench, link: LinkId, bytes: &mut [u8], now: Time) {
    let step = bench.forwarder.step(link, bytes, now);
    assert_eq!(step.used, bytes.len());
    let Verdict::Forward(frame) = step.verdict else { panic!("{:?}", step.verdict) };
    assert!(matches!(frame.payload, Payload::Received(_)));
    bench.forwarder.sent(frame.to, frame.messages, bytes.len() as u64);
    assert!(bench.forwarder.next_command().is_none());
}

/// Messages from a UDP client, and answers as `answer` frames them; no allocation and no copy.
fn ping_pong(bench: &mut Bench, stage: LinkId, answer: &[u8]) {
    let listener = bench.listener("udp");
    let peer = ClientAddr::new(([127, 0, 0, 1], 5000).into());
    let local = LocalAddr::new(([127, 0, 0, 1], 9001).into());
    let (mut request, mut received) = (vec![7; 1200], answer.to_vec());
    let copies = bench.forwarder.counters().payload_copies.get();
    let before = bench.forwarder.counters().messages_out.get();
    let allocated = allocation_counter::measure(|| {
        for _ in 0..MESSAGES {
            bench.now = bench.now + std::time::Duration::from_millis(1);
            let now = bench.now;
            let link = bench.forwarder.source(listener, local, peer, now).unwrap();
            step(bench, link, &mut request, now);
            received.copy_from_slice(answer);
            step(bench, stage, &mut received, now);
            bench.forwarder.expire(now);
        }
    });
    assert_eq!(allocated.count_total, 0);
    assert_eq!(bench.forwarder.counters().payload_copies.get(), copies);
    assert_eq!(bench.forwarder.counters().messages_out.get() - before, 2 * MESSAGES as u64);
}

#[test]
fn udp_to_udp_and_back_allocates_nothing() {
    let clusters = "- {name: c, spec: {UDP: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
    let mut bench = Bench::new(&document(clusters, "destination: c"));
    bench.udp(5000, b"first");
    let stage = bench.open();
    ping_pong(&mut bench, stage, &[8; 1200]);
}

#[test]
fn udp_to_websocket_and_back_allocates_nothing() {
    let clusters = "- {name: c, spec: {WebSocket: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
    let mut bench = Bench::new(&document(clusters, "destination: c"));
    bench.udp(5000, b"first");
    let stage = bench.open();
    let request = bench.take(stage).concat();
    bench.bytes(stage, &accept_upgrade(&request));
    ping_pong(&mut bench, stage, &frame(Role::Server, Opcode::Binary, &[8; 1200]));
}

#[test]
fn websocket_to_udp_and_back_allocates_nothing() {
    let clusters = "- {name: c, spec: {UDP: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
    let mut bench = Bench::new(&document(clusters, "destination: c"));
    let client = bench.accept("ws").unwrap();
    bench.bytes(client, &support::upgrade("/chat"));
    let stage = bench.open();
    let request = frame(Role::Client, Opcode::Text, &[b'x'; 1200]);
    let (mut received, mut answer) = (request.clone(), vec![9; 1200]);
    let allocated = allocation_counter::measure(|| {
        for _ in 0..MESSAGES {
            received.copy_from_slice(&request);
            let now = bench.now;
            step(&mut bench, client, &mut received, now);
            step(&mut bench, stage, &mut answer, now);
        }
    });
    assert_eq!(allocated.count_total, 0);
    assert_eq!(bench.forwarder.counters().payload_copies.get(), 0);
}
