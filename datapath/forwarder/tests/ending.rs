//! How sessions end: half closes around the ring, broken connections, idle time, refusals.

mod support;

use l7mp_forwarder::codec::websocket::{Opcode, Role};
use l7mp_forwarder::counters::{DropReason, EndReason};
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::verdict::CloseHow;
use support::{Bench, Told, accept_upgrade, client_close, document, document_with, frame, upgrade};

const UDP: &str = "- {name: c, spec: {UDP: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
const TCP: &str = "- {name: c, spec: {TCP: {port: 7}}, endpoints: [{spec: {address: 10.0.0.1}}]}";
const WS: &str = "- {name: w, spec: {WebSocket: {port: 8}}, endpoints: [{spec: {address: 10.0.0.2}}]}";
const ALWAYS: &str = "destination: c, retry: {retry_on: always, num_retries: 2, timeout: 100}";

/// Finishes the upgrade of a WebSocket stage.
fn accept(bench: &mut Bench, stage: LinkId) {
    let request = bench.take(stage).concat();
    bench.bytes(stage, &accept_upgrade(&request));
}

/// A WebSocket client whose stages are open, its 101 read.
fn websocket_client(bench: &mut Bench) -> (LinkId, LinkId) {
    let client = bench.accept("ws").unwrap();
    bench.bytes(client, &upgrade("/chat"));
    let stage = bench.open();
    assert!(bench.text(client).starts_with("HTTP/1.1 101 "));
    (client, stage)
}

#[test]
fn echo_x_pipe_socat_gets_its_answer_through_tcp() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.bytes(client, b"x\n");
    bench.ended(client);
    assert_eq!(bench.told.last(), Some(&Told::Shutdown(stage)));
    assert_eq!(bench.text(stage), "x\n");
    bench.bytes(stage, b"X\n");
    bench.ended(stage);
    assert_eq!(bench.text(client), "X\n");
    assert_eq!((bench.close_of(client), bench.close_of(stage)), (Some(CloseHow::Flush), Some(CloseHow::Flush)));
    assert_eq!(bench.closed(EndReason::Finished), 1);
    bench.is_empty();
}

#[test]
fn echo_x_pipe_socat_gets_its_answer_through_websocket_and_tcp() {
    let mut bench = Bench::new(&document(&format!("{TCP}\n{WS}"), "destination: c, ingress: [w]"));
    let client = bench.accept("tcp").unwrap();
    let (middle, last) = (bench.open(), bench.open());
    accept(&mut bench, middle);
    bench.bytes(client, b"x");
    bench.ended(client);
    let sent = bench.take(middle);
    assert_eq!(sent.iter().map(|frame| frame[0]).collect::<Vec<_>>(), [0x82, 0x88]);
    assert!(!bench.was_shut(last));
    bench.bytes(middle, &frame(Role::Server, Opcode::Binary, b"y"));
    bench.bytes(middle, &frame(Role::Server, Opcode::Close, &1000_u16.to_be_bytes()));
    assert!(bench.was_shut(last));
    bench.bytes(last, b"z");
    assert_eq!((bench.text(last), bench.text(client)), ("y".into(), "z".into()));
    bench.ended(last);
    assert_eq!(bench.close_of(client), Some(CloseHow::Flush));
    bench.is_empty();
}

#[test]
fn a_datagram_link_passes_the_end_on_after_a_second() {
    let mut bench = Bench::new(&document(UDP, "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.bytes(client, b"x");
    bench.ended(client);
    bench.pass(950);
    bench.bytes(stage, b"late");
    assert_eq!(bench.text(client), "late");
    assert_eq!(bench.sessions(), 1);
    bench.pass(100);
    assert_eq!(bench.closed(EndReason::Finished), 1);
    bench.is_empty();
}

/// Only one lingering link was remembered per session.
#[test]
fn two_datagram_links_linger_one_after_the_other() {
    let clusters =
        format!("{UDP}\n- {{name: d, spec: {{UDP: {{port: 9}}}}, endpoints: [{{spec: {{address: 10.0.0.3}}}}]}}");
    let mut bench = Bench::new(&document(&clusters, "destination: c, egress: [d]"));
    let client = bench.accept("tcp").unwrap();
    let (_, egress) = (bench.open(), bench.open());
    bench.ended(client);
    bench.pass(1500);
    bench.bytes(egress, b"late");
    assert_eq!(bench.text(client), "late");
    bench.pass(600);
    bench.is_empty();
}

#[test]
fn a_datagram_behind_the_linger_is_dropped_as_closed() {
    let clusters =
        format!("{UDP}\n- {{name: d, spec: {{TCP: {{port: 9}}}}, endpoints: [{{spec: {{address: 10.0.0.3}}}}]}}");
    let mut bench = Bench::new(&document(&clusters, "destination: c, egress: [d]"));
    let client = bench.accept("tcp").unwrap();
    let (datagrams, stream) = (bench.open(), bench.open());
    bench.ended(client);
    bench.pass(1_020);
    assert!(bench.was_shut(stream));
    assert_eq!(bench.bytes(datagrams, b"too late"), Some(DropReason::Closed));
    assert_eq!(bench.text(stream), "");
    bench.bytes(stream, b"bye");
    bench.ended(stream);
    assert_eq!(bench.text(client), "bye");
    bench.is_empty();
}

/// The end was told to the connection that was not there yet, before what is held for it.
#[test]
fn an_end_waits_for_the_stage_that_is_reopened() {
    let mut bench = Bench::new(&document(TCP, ALWAYS));
    let client = bench.accept("lines").unwrap();
    let first = bench.open();
    bench.broken(first);
    assert_eq!(bench.close_of(first), Some(CloseHow::Abort));
    assert!(!bench.read.contains(&client));
    // What was read already still arrives, and so does its end.
    bench.bytes(client, b"one\ntwo");
    bench.forwarder.ended(client, bench.now);
    bench.drain();
    let second = bench.open();
    let told: Vec<&Told> = bench.told.iter().rev().take(2).collect();
    assert_eq!(told, [&Told::Shutdown(second), &Told::Sent(second, b"two".to_vec())]);
    assert_eq!(bench.text(second), "onetwo");
    bench.ended(second);
    assert_eq!(bench.text(client), "");
    bench.is_empty();
}

/// Only 64 of the lines that one read held were kept for the stage that was reopened.
#[test]
fn lines_that_were_read_while_a_stage_is_reopened_are_all_kept() {
    let mut bench = Bench::new(&document(TCP, ALWAYS));
    let client = bench.accept("lines").unwrap();
    let first = bench.open();
    bench.broken(first);
    let lines: Vec<u8> = (0..1000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    bench.bytes(client, &lines);
    let second = bench.open();
    let text: String = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(bench.text(second), text);
    assert_eq!(bench.dropped(DropReason::HeldFull), 0);
}

#[test]
fn a_stage_that_ends_unasked_is_reopened_or_ends_the_session() {
    for (route, reopened) in [(ALWAYS, true), ("destination: c", false)] {
        let mut bench = Bench::new(&document(TCP, route));
        bench.udp(5000, b"one");
        let first = bench.open();
        bench.ended(first);
        assert_eq!((bench.asked.len(), bench.sessions()), (usize::from(reopened), usize::from(reopened)), "{route}");
        assert_eq!(bench.close_of(first), Some(CloseHow::Flush));
    }
}

/// It was reopened as fast as it was closed.
#[test]
fn a_server_that_closes_what_it_accepts_is_not_reopened_at_once_forever() {
    let mut bench = Bench::new(&document(TCP, ALWAYS));
    let client = bench.accept("tcp").unwrap();
    let first = bench.open();
    bench.ended(first);
    let second = bench.open();
    bench.ended(second);
    assert_eq!(bench.asked.len(), 0);
    assert_eq!(bench.sessions(), 1);
    bench.pass(120);
    let third = bench.open();
    assert!(bench.read.contains(&client) && bench.read.contains(&third));
}

#[test]
fn a_broken_stage_without_retry_ends_the_session_in_each_protocols_way() {
    let mut bench = Bench::new(&document(UDP, "destination: c"));
    bench.udp(5000, b"x");
    let stage = bench.open();
    bench.broken(stage);
    assert_eq!(bench.closed(EndReason::Disconnect), 1);
    bench.is_empty();
    assert_eq!(bench.udp(5000, b"y"), None);
    let stage = bench.open();
    assert_eq!(bench.text(stage), "y");

    let (client, stage) = websocket_client(&mut bench);
    bench.broken(stage);
    assert_eq!(bench.take(client), [frame(Role::Server, Opcode::Close, &1011_u16.to_be_bytes())]);

    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.broken(stage);
    assert_eq!(bench.close_of(client), Some(CloseHow::Flush));
}

/// A stage that broke before the others were open ended the session at once, without a backoff.
#[test]
fn a_stage_that_breaks_while_others_open_is_a_failed_opening() {
    let clusters =
        format!("{TCP}\n- {{name: d, spec: {{TCP: {{port: 9}}}}, endpoints: [{{spec: {{address: 10.0.0.3}}}}]}}");
    let mut bench = Bench::new(&document(&clusters, "destination: c, egress: [d]"));
    bench.udp(5000, b"x");
    let first = bench.open();
    bench.broken(first);
    assert_eq!(bench.udp(5000, b"x"), Some(DropReason::OpenBackoff));
    assert_eq!(bench.dropped(DropReason::OpenFailed), 1);
}

#[test]
fn a_client_that_breaks_ends_its_session() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.broken(client);
    assert_eq!((bench.close_of(client), bench.close_of(stage)), (Some(CloseHow::Abort), Some(CloseHow::Flush)));
    bench.is_empty();
}

/// Its session stayed for ever: nobody read it any more, and nothing was due.
#[test]
fn a_websocket_client_that_leaves_before_its_101_leaves_nothing() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("ws").unwrap();
    bench.bytes(client, &upgrade("/chat"));
    bench.forwarder.ended(client, bench.now);
    bench.drain();
    assert_eq!(bench.closed(EndReason::ClientGone), 1);
    bench.is_empty();
}

#[test]
fn a_websocket_client_gets_its_close_when_the_end_has_come_around() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let (client, stage) = websocket_client(&mut bench);
    bench.bytes(client, &frame(Role::Client, Opcode::Text, b"bye"));
    bench.bytes(client, &client_close(1000));
    assert!(bench.was_shut(stage));
    assert_eq!(bench.text(stage), "bye");
    bench.bytes(stage, b"good bye");
    bench.ended(stage);
    let close = frame(Role::Server, Opcode::Close, &1000_u16.to_be_bytes());
    assert_eq!(bench.take(client), [frame(Role::Server, Opcode::Binary, b"good bye"), close]);
    bench.is_empty();
}

#[test]
fn handshakes_are_refused_with_their_status() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let client = bench.accept("ws").unwrap();
    bench.bytes(client, &upgrade("/other"));
    assert!(bench.text(client).starts_with("HTTP/1.1 404 "));

    let client = bench.accept("ws").unwrap();
    bench.bytes(client, &upgrade("/chat"));
    assert_eq!(bench.text(client), "", "no answer before the ring is closed");
    bench.refuse();
    assert!(bench.text(client).starts_with("HTTP/1.1 503 "));

    let client = bench.accept("ws").unwrap();
    bench.bytes(client, b"GET /chat HTTP/1.1\r\n");
    bench.pass(9_900);
    assert_eq!(bench.text(client), "");
    bench.pass(200);
    assert!(bench.text(client).starts_with("HTTP/1.1 408 "));

    let client = bench.accept("ws").unwrap();
    bench.bytes(client, b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(bench.text(client).starts_with("HTTP/1.1 405 "));
    bench.is_empty();
    assert_eq!((bench.closed(EndReason::Handshake), bench.closed(EndReason::OpenFailed)), (3, 1));

    let none = "listeners: [{name: ws, spec: {WebSocket: {port: 1}}, rules: []}]";
    let refuse = "listeners: [{name: ws, spec: {WebSocket: {port: 1}}, rules: [{action: {refuse: no}}]}]";
    for (document, status) in [(none, "404"), (refuse, "503")] {
        let mut bench = Bench::new(document);
        let client = bench.accept("ws").unwrap();
        bench.bytes(client, &upgrade("/"));
        assert!(bench.text(client).starts_with(&format!("HTTP/1.1 {status} ")));
        bench.is_empty();
    }
}

#[test]
fn a_server_that_does_not_speak_websocket_is_a_failed_opening() {
    for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "nonsense\r\n\r\n"] {
        let mut bench = Bench::new(&document(WS, "destination: w"));
        bench.udp(5000, b"x");
        let stage = bench.open();
        bench.bytes(stage, answer.as_bytes());
        assert_eq!(bench.dropped(DropReason::OpenFailed), 1, "{answer}");
        assert_eq!(bench.close_of(stage), Some(CloseHow::Abort));
    }
}

#[test]
fn a_violation_of_a_client_closes_it_with_the_right_code() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let (client, _) = websocket_client(&mut bench);
    // Not masked.
    assert_eq!(bench.bytes(client, &frame(Role::Server, Opcode::Binary, b"x")), Some(DropReason::Protocol));
    assert_eq!(bench.take(client), [frame(Role::Server, Opcode::Close, &1002_u16.to_be_bytes())]);
    assert_eq!(bench.closed(EndReason::Protocol), 1);
    bench.is_empty();
}

/// Its link was closed at once, and the Close in its queue with it.
#[test]
fn a_violation_of_a_stage_reopens_it_behind_its_close() {
    let route = "destination: w, retry: {retry_on: disconnect, timeout: 100}";
    let mut bench = Bench::new(&document(WS, route));
    bench.udp(5000, b"x");
    let first = bench.open();
    accept(&mut bench, first);
    bench.take(first);
    bench.bytes(first, &frame(Role::Client, Opcode::Binary, b"masked"));
    assert_eq!(bench.take(first).len(), 1);
    assert_eq!(bench.close_of(first), Some(CloseHow::Flush));
    bench.udp(5000, b"y");
    let second = bench.open();
    accept(&mut bench, second);
    assert_eq!(bench.take(second).len(), 1);
}

#[test]
fn idle_sessions_expire_and_busy_ones_do_not() {
    let mut bench = Bench::new(&document_with("idle_timeout: 500", TCP, "destination: c"));
    bench.udp(5000, b"x");
    let stage = bench.open();
    bench.udp(5001, b"x");
    bench.open();
    let (client, _) = {
        let client = bench.accept("ws").unwrap();
        bench.bytes(client, &upgrade("/chat"));
        let stage = bench.open();
        bench.take(client);
        (client, stage)
    };
    for _ in 0..4 {
        bench.pass(300);
        bench.bytes(stage, b"still there");
    }
    assert_eq!(bench.closed(EndReason::Idle), 2);
    assert_eq!(bench.take(client), [frame(Role::Server, Opcode::Close, &1001_u16.to_be_bytes())]);
    bench.pass(600);
    assert_eq!(bench.closed(EndReason::Idle), 3);
    bench.is_empty();
}

/// Each new connection counted as a message.
#[test]
fn a_session_whose_stage_comes_and_goes_is_idle() {
    let route = "destination: c, retry: {retry_on: always, num_retries: 9, timeout: 200}";
    let mut bench = Bench::new(&document_with("idle_timeout: 2000", TCP, route));
    bench.udp(5000, b"x");
    for _ in 0..9 {
        let stage = bench.open();
        bench.pass(210);
        bench.ended(stage);
    }
    assert_eq!(bench.sessions(), 1);
    bench.open();
    bench.pass(210);
    assert_eq!(bench.closed(EndReason::Idle), 1);
    bench.is_empty();
}

#[test]
fn udp_is_idle_after_60_seconds_and_tcp_never() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    bench.udp(5000, b"x");
    bench.open();
    bench.accept("tcp").unwrap();
    bench.open();
    bench.pass(59_000);
    assert_eq!(bench.sessions(), 2);
    bench.pass(1_100);
    assert_eq!(bench.sessions(), 1);
    bench.pass(3_600_000);
    assert_eq!(bench.sessions(), 1);
}

#[test]
fn a_deleted_session_is_closed_once() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let (client, _) = websocket_client(&mut bench);
    let name = bench.forwarder.list(None, 0, 10, bench.now).sessions[0].name.clone();
    assert!(bench.forwarder.delete(&name, bench.now));
    assert!(!bench.forwarder.delete(&name, bench.now));
    bench.drain();
    assert_eq!(bench.take(client), [frame(Role::Server, Opcode::Close, &1000_u16.to_be_bytes())]);
    bench.is_empty();
}

#[test]
fn bytes_behind_the_end_of_a_session_are_dropped_as_closed() {
    let mut bench = Bench::new(&document(TCP, "destination: c"));
    let (client, _) = websocket_client(&mut bench);
    bench.forwarder.end_drained(bench.now);
    let step = bench.forwarder.step(client, &mut frame(Role::Client, Opcode::Text, b"x"), bench.now);
    assert!(matches!(step.verdict, l7mp_forwarder::verdict::Verdict::Dropped(DropReason::Closed)));
    bench.drain();
    bench.is_empty();
}
