//! Stages that leave a draining endpoint: the next one is connected first, and the former one is heard a little longer.

mod support;

use l7mp_forwarder::codec::websocket::{Opcode, Role};
use l7mp_forwarder::counters::{DropReason, EndReason};
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::verdict::CloseHow;
use support::{Bench, accept_upgrade, document, frame};

/// A cluster of these endpoints, the last octet of each and whether it drains.
fn cluster(name: &str, spec: &str, endpoints: &[(u8, bool)], timeout: u64) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(n, draining)| format!("{{spec: {{address: 10.0.0.{n}}}, draining: {draining}}}"))
        .collect();
    format!("- {{name: {name}, spec: {{{spec}}}, drain_timeout: {timeout}, endpoints: [{}]}}", endpoints.join(", "))
}

fn tcp(endpoints: &[(u8, bool)], timeout: u64) -> String {
    cluster("c", "TCP: {port: 7}", endpoints, timeout)
}

/// The only endpoint drains, and another is there.
const LEFT: &[(u8, bool)] = &[(1, true), (2, false)];

/// A session of a UDP client that has just moved from the first link to the second.
fn moved(spec: &str) -> (Bench, LinkId, LinkId) {
    let mut bench = Bench::new(&document(&cluster("c", spec, &[(1, false)], 100), "destination: c"));
    bench.udp(5000, b"one");
    let old = bench.open();
    assert_eq!(bench.text(old).trim_end(), "one");
    bench.configure(&document(&cluster("c", spec, LEFT, 100), "destination: c"));
    bench.pass(120);
    let new = bench.open();
    bench.udp(5000, b"two");
    assert_eq!((bench.text(new).trim_end(), bench.text(old).as_str()), ("two", ""));
    (bench, old, new)
}

const UDP: &str = "UDP: {port: 9}";
const LINES: &str = "TCP: {port: 9, framing: line}";

#[test]
fn draining_endpoints_are_left_after_the_drain_timeout_and_the_new_is_opened_first() {
    let mut bench = Bench::new(&document(&tcp(&[(1, false)], 500), "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let old = bench.open();
    bench.configure(&document(&tcp(LEFT, 500), "destination: c"));
    bench.bytes(client, b"a");
    bench.pass(480);
    assert_eq!(bench.asked.len(), 0);
    bench.pass(50);
    assert_eq!(bench.asked[0].remote, "10.0.0.2:7");
    bench.bytes(client, b"b");
    assert_eq!((bench.text(old), bench.close_of(old)), ("ab".into(), None));
    let new = bench.open();
    bench.bytes(client, b"c");
    assert_eq!((bench.text(new), bench.text(old), bench.close_of(old)), ("c".into(), String::new(), None));
    bench.pass(1_100);
    assert_eq!(bench.close_of(old), Some(CloseHow::Flush));
    bench.ended(client);
    assert!(bench.was_shut(new));
}

/// They were dropped: what a client had asked last before its session moved was never answered.
#[test]
fn answers_that_are_on_their_way_when_a_stage_moves_arrive() {
    for spec in [UDP, LINES] {
        let (mut bench, old, new) = moved(spec);
        let source = bench.flow(5000);
        bench.bytes(old, b"ONE\n");
        bench.bytes(new, b"TWO\n");
        bench.pass(900);
        bench.bytes(old, b"late\n");
        assert_eq!(bench.text(source).replace('\n', ""), "ONETWOlate", "{spec}");
        bench.pass(200);
        assert_eq!(bench.close_of(old), Some(CloseHow::Flush), "{spec}");
        bench.bytes(old, b"too late\n");
        assert_eq!((bench.text(source), bench.dropped(DropReason::Closed)), (String::new(), 1), "{spec}");
        bench.bytes(new, b"THREE\n");
        assert_eq!(bench.text(source).trim_end(), "THREE", "{spec}");
    }
}

#[test]
fn a_websocket_that_is_left_is_closed_when_its_time_is_over() {
    let spec = "WebSocket: {port: 9}";
    let mut bench = Bench::new(&document(&cluster("c", spec, &[(1, false)], 100), "destination: c"));
    bench.udp(5000, b"one");
    let open = |bench: &mut Bench| {
        let link = bench.open();
        let request = bench.take(link).concat();
        bench.bytes(link, &accept_upgrade(&request));
        link
    };
    let old = open(&mut bench);
    bench.take(old);
    bench.configure(&document(&cluster("c", spec, LEFT, 100), "destination: c"));
    bench.pass(120);
    let new = open(&mut bench);
    let source = bench.flow(5000);
    bench.bytes(old, &frame(Role::Server, Opcode::Binary, b"ONE"));
    assert_eq!((bench.text(source), bench.take(old).len()), ("ONE".into(), 0));
    bench.pass(1_100);
    assert_eq!((bench.take(old).len(), bench.close_of(old)), (1, Some(CloseHow::Flush)), "a Close, then the end");
    bench.bytes(new, &frame(Role::Server, Opcode::Binary, b"TWO"));
    assert_eq!((bench.text(source), bench.sessions()), ("TWO".into(), 1));
}

/// Any of these ended the session, or nothing, when the link was a stage's present one.
#[test]
fn the_end_of_a_link_that_was_left_is_its_own_affair() {
    type End = fn(&mut Bench, LinkId);
    let ends: [(End, CloseHow); 3] = [
        (|bench, old| bench.ended(old), CloseHow::Flush),
        (|bench, old| bench.broken(old), CloseHow::Abort),
        (|bench, old| assert!(bench.bytes(old, &[b'x'; 70_000]).is_some()), CloseHow::Flush),
    ];
    for (end, how) in ends {
        let (mut bench, old, new) = moved(LINES);
        end(&mut bench, old);
        assert_eq!((bench.close_of(old), bench.asked.len(), bench.sessions()), (Some(how), 0, 1));
        let source = bench.flow(5000);
        bench.bytes(new, b"TWO\n");
        assert_eq!(bench.text(source), "TWO");
    }
}

#[test]
fn a_session_that_ends_takes_the_links_that_it_left_with_it() {
    let (mut bench, old, new) = moved(LINES);
    bench.ended(new);
    assert_eq!(bench.closed(EndReason::Finished), 1);
    assert_eq!(bench.close_of(old), Some(CloseHow::Flush));
    bench.is_empty();
}

#[test]
fn two_moves_in_a_row_leave_one_link_that_is_heard() {
    let (mut bench, first, second) = moved(LINES);
    let endpoints = [(1, true), (2, true), (3, false)];
    bench.configure(&document(&cluster("c", LINES, &endpoints, 100), "destination: c"));
    bench.pass(120);
    bench.open();
    assert_eq!((bench.close_of(first), bench.close_of(second)), (Some(CloseHow::Flush), None));
    bench.pass(1_100);
    assert_eq!(bench.close_of(second), Some(CloseHow::Flush));
}

/// What is left of the former link's stream is paused with the present one's, and goes to the next stage as it is then.
#[test]
fn a_link_that_was_left_feels_the_pressure_of_its_ring() {
    let clusters = |ingress: &[(u8, bool)]| {
        format!("{}\n{}", cluster("i", LINES, ingress, 100), cluster("c", "TCP: {port: 8}", &[(9, false)], 100))
    };
    let route = "destination: c, ingress: [i], retry: {retry_on: disconnect, num_retries: 2, timeout: 100}";
    let mut bench = Bench::new(&document(&clusters(&[(1, false)]), route));
    bench.udp(5000, b"one");
    let (old, destination) = (bench.open(), bench.open());
    bench.configure(&document(&clusters(LEFT), route));
    bench.pass(120);
    let new = bench.open();
    let both = |bench: &Bench| (bench.read.contains(&old), bench.read.contains(&new));
    assert_eq!(both(&bench), (true, true));
    bench.blocked(destination);
    assert_eq!(both(&bench), (false, false));
    bench.drained(destination);
    assert_eq!(both(&bench), (true, true));

    bench.broken(destination);
    assert_eq!(both(&bench), (false, false), "nothing to send to");
    bench.bytes(old, b"ONE\n");
    let reopened = bench.open();
    assert_eq!(both(&bench), (true, true));
    assert_eq!(bench.text(reopened), "ONE");
}

/// Its successor was connected to an endpoint that no configuration has, and stayed there.
#[test]
fn a_move_to_an_endpoint_that_is_removed_meanwhile_goes_elsewhere() {
    let mut bench = Bench::new(&document(&tcp(&[(1, false)], 100), "destination: c"));
    bench.accept("tcp").unwrap();
    bench.open();
    bench.configure(&document(&tcp(&[(1, true), (2, false)], 100), "destination: c"));
    bench.pass(120);
    let late = bench.asked().link;
    bench.configure(&document(&tcp(&[(1, true), (3, false)], 100), "destination: c"));
    bench.pass(20);
    assert_eq!(bench.close_of(late), Some(CloseHow::Abort));
    assert_eq!(bench.asked().remote, "10.0.0.3:7");
}

#[test]
fn a_move_is_called_off_when_the_endpoint_no_longer_drains() {
    let mut bench = Bench::new(&document(&tcp(&[(1, false)], 100), "destination: c"));
    bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.configure(&document(&tcp(&[(1, true), (2, false)], 100), "destination: c"));
    bench.pass(120);
    assert_eq!(bench.asked.len(), 1);
    bench.configure(&document(&tcp(&[(1, false), (2, false)], 100), "destination: c"));
    bench.pass(10_000);
    assert_eq!((bench.asked.len(), bench.close_of(stage)), (0, None));
}

/// Readiness comes and goes: a timeout for endpoints that go away threw sessions off a server that still served them.
#[test]
fn an_endpoint_that_is_not_ready_keeps_its_sessions_and_gets_no_others() {
    let mut bench = Bench::new(&document(&tcp(&[(1, false)], 100), "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    let unready = tcp(&[(1, false), (2, false)], 100).replacen("draining: false", "ready: false", 1);
    bench.configure(&document(&unready, "destination: c"));
    bench.pass(10_000);
    assert_eq!((bench.asked.len(), bench.close_of(stage)), (0, None));
    bench.bytes(client, b"a");
    assert_eq!(bench.text(stage), "a");
    bench.accept("tcp").unwrap();
    assert_eq!(bench.asked().remote, "10.0.0.2:7");
}

/// The timeout began again when an endpoint came that it could go to.
#[test]
fn a_stage_with_nowhere_to_go_moves_as_soon_as_there_is_somewhere() {
    let mut bench = Bench::new(&document(&tcp(&[(1, false)], 60_000), "destination: c"));
    bench.accept("tcp").unwrap();
    bench.open();
    bench.configure(&document(&tcp(&[(1, true)], 60_000), "destination: c"));
    bench.pass(120_000);
    assert_eq!(bench.asked.len(), 0);
    bench.configure(&document(&tcp(LEFT, 60_000), "destination: c"));
    bench.pass(2_100);
    assert_eq!(bench.asked().remote, "10.0.0.2:7");
}

/// It was connected to another endpoint, which was told nothing but the end.
#[test]
fn a_stage_whose_peer_was_told_the_end_waits_for_its_answer() {
    let mut bench = Bench::new(&document(&tcp(&[(1, false)], 100), "destination: c"));
    let client = bench.accept("tcp").unwrap();
    let stage = bench.open();
    bench.bytes(client, b"a long question");
    bench.ended(client);
    assert!(bench.was_shut(stage));
    bench.configure(&document(&tcp(LEFT, 100), "destination: c"));
    bench.pass(10_000);
    assert_eq!((bench.asked.len(), bench.close_of(stage)), (0, None));
    bench.bytes(stage, b"a late answer");
    assert_eq!(bench.text(client), "a late answer");
}
