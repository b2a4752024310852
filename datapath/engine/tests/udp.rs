//! Datagrams against the real kernel.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::*;
use l7mp_engine::{Settings, Source};
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::limits;
use l7mp_forwarder::verdict::{CloseHow, Command, SocketError};

#[test]
fn a_datagram_comes_back() {
    for gro in [true, false] {
        let mut world = World::new();
        let (_, at) = world.udp("127.0.0.1:0", gro);
        let client = udp_client(at);
        client.send(b"hello").unwrap();
        world.until("echoed", |w| w.diaries.values().any(|diary| diary.sent == 1));
        assert_eq!(recv(&client), b"hello");
        world.assert_buffers_back();
    }
}

#[test]
fn a_datagram_goes_through_an_upstream_socket_and_back() {
    for gro in [true, false] {
        let mut world = World::new();
        let (_, server) = world.udp("[::1]:0", gro);
        let (listener, at) = world.udp("127.0.0.1:0", gro);
        let upstream = world.udp_link(server, gro);
        let client = udp_client(at);
        client.send(b"one").unwrap();
        world.until("a flow", |w| w.flows.iter().any(|((l, _, _), link)| *l == listener && w.diaries[link].sent == 1));
        recv(&client);
        let flow = *world.flows.iter().find(|((l, _, _), _)| *l == listener).unwrap().1;
        world.next.insert(flow, upstream);
        world.next.insert(upstream, flow);
        client.send(b"two").unwrap();
        world.until("answered", |w| w.diary(flow).sent == 2);
        assert_eq!(recv(&client), b"two");
    }
}

#[test]
fn every_size_comes_back_whole_or_is_counted() {
    for gro in [true, false] {
        let mut world = World::new();
        let (listener, at) = world.udp("127.0.0.1:0", gro);
        let client = udp_client(at);
        let mut sent = 0;
        for len in [0, 1, 1200, 2048, 2049, 9000, limits::UDP_PAYLOAD_BYTES_MAX] {
            client.send(&pattern(len, len)).unwrap();
            if gro || len <= 2048 {
                sent += 1;
                world.until("echoed", |w| w.diaries.values().any(|diary| diary.sent == sent));
                assert_eq!(recv(&client), pattern(len, len));
            } else {
                let before = world.oversized.len();
                world.until("counted", |w| w.oversized.len() == before + 1);
                assert_eq!(world.oversized[before], Source::Listener(listener));
            }
        }
        world.assert_buffers_back();
    }
}

#[test]
fn an_empty_datagram_does_not_end_the_receive() {
    let mut world = World::new();
    let (_, at) = world.udp("127.0.0.1:0", true);
    let upstream = world.udp_link(at, true);
    for count in 1..=20 {
        world.send(upstream, b"");
        world.until("echoed", |w| w.diary(upstream).received.len() == count);
    }
    world.send(upstream, b"full");
    world.until("echoed", |w| w.diary(upstream).received.last().is_some_and(|last| last == b"full"));
    world.assert_buffers_back();
}

#[test]
fn a_train_in_is_a_train_out() {
    let mut world = World::new();
    let (_, at) = world.udp("127.0.0.1:0", true);
    let client = udp_client(at);
    let bytes = pattern(40 * 1000 + 300, 1);
    send_train(&client, &bytes, 1000);
    world.until("echoed", |w| w.diaries.values().any(|diary| diary.sent == 41));
    let mut back = Vec::new();
    for at in 0..41 {
        let datagram = recv(&client);
        assert_eq!(datagram.len(), if at == 40 { 300 } else { 1000 });
        back.extend(datagram);
    }
    assert_eq!(back, bytes);
    let diary = world.diaries.values().next().unwrap();
    assert_eq!(diary.trains, [41], "one completion");
    assert_eq!(world.engine.stats().datagram_sends, 1, "one sendmsg");
    world.assert_buffers_back();
}

#[test]
fn messages_of_one_size_leave_as_trains_and_others_do_not_join() {
    let mut world = World::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let link = world.udp_link(server.local_addr().unwrap(), true);
    // 100 of one size: 64 and 36. A longer one starts anew, a shorter one ends its train, an empty one travels alone.
    let mut sizes = vec![500; 100];
    sizes.extend([700, 700, 20, 700, 0, 0, 3]);
    for (at, size) in sizes.iter().enumerate() {
        world.send(link, pattern(*size, at));
    }
    world.until("sent", |w| w.diary(link).sent == sizes.len() as u32);
    for (at, size) in sizes.iter().enumerate() {
        assert_eq!(recv(&server), pattern(*size, at), "datagram {at}");
    }
    assert_eq!(world.engine.stats().datagram_sends, 2 + 1 + 1 + 1 + 1 + 1);
}

#[test]
fn a_datagram_that_no_path_takes_is_lost_as_oversized() {
    let mut world = World::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let link = world.udp_link(server.local_addr().unwrap(), true);
    world.send(link, pattern(limits::UDP_PAYLOAD_BYTES_MAX + 1, 0));
    world.send(link, b"small");
    world.until("sent", |w| w.diary(link).sent == 1);
    assert_eq!(world.diary(link).lost.get(&DropReason::Oversized), Some(&1));
}

#[test]
fn an_empty_pool_delays_and_does_not_lose_or_spin() {
    let mut world = World::with(Settings { large_buffers: 8, ..Settings::default() });
    world.hoard = Some(Vec::new());
    let (_, at) = world.udp("127.0.0.1:0", true);
    let client = udp_client(at);
    for count in 0..100 {
        client.send(&pattern(100, count)).unwrap();
    }
    world.until("exhausted", |w| w.hoard.as_ref().unwrap().len() == 8);
    let before = world.engine.stats();
    for _ in 0..20 {
        world.turn(Duration::from_millis(1));
    }
    let after = world.engine.stats();
    assert!(after.enters - before.enters <= 60, "spinning: {before:?} {after:?}");
    assert_eq!(after.large.free, 0);
    assert_eq!(after.large.free_min, 0);
    for bytes in world.hoard.take().unwrap() {
        world.engine.release(bytes);
    }
    world.until("all came back", |w| w.diaries.values().any(|diary| diary.sent == 100));
    for count in 0..100 {
        assert_eq!(recv(&client), pattern(100, count));
    }
    assert!(world.engine.stats().enobufs > 0);
    world.assert_buffers_back();
}

#[test]
fn many_readers_share_a_small_pool() {
    let mut world = World::with(Settings { large_buffers: 4, ..Settings::default() });
    let (_, at) = world.udp("127.0.0.1:0", true);
    let links: Vec<_> = (0..64).map(|_| world.udp_link(at, true)).collect();
    for round in 1..=5 {
        for link in &links {
            world.send(*link, pattern(200, round));
        }
        let all = links.clone();
        world.until("everybody got an answer", |w| all.iter().all(|link| w.diary(*link).received.len() == round));
    }
    world.assert_buffers_back();
}

#[test]
fn a_wildcard_answers_from_the_address_that_was_asked() {
    for (any, asked) in
        [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "127.0.0.2"), ("[::]:0", "::1"), ("0.0.0.0:0", "127.0.0.1")]
    {
        let mut world = World::new();
        let (_, bound) = world.udp(any, true);
        let to = SocketAddr::new(asked.parse().unwrap(), bound.port());
        // Connected: an answer from anywhere else would not be received.
        let client = udp_client(to);
        client.send(b"who").unwrap();
        world.until("answered", |w| w.diaries.values().any(|diary| diary.sent == 1));
        assert_eq!(recv(&client), b"who");
        let (_, peer, local) = *world.flows.keys().next().unwrap();
        assert_eq!(local.socket_addr(), to, "{any}");
        assert_eq!(peer.socket_addr(), client.local_addr().unwrap());
        // And a train, whose control messages are two.
        send_train(&client, &pattern(3000, 2), 1000);
        world.until("answered", |w| w.diaries.values().any(|diary| diary.sent == 4));
        for _ in 0..3 {
            assert_eq!(recv(&client).len(), 1000);
        }
    }
}

#[test]
fn one_refusal_is_old_news_and_two_are_the_end() {
    let mut world = World::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    let link = world.udp_link(at, true);
    drop(server);
    world.send(link, b"into the void");
    world.settle();
    assert_eq!(world.diary(link).broken, []);
    // The endpoint is back: nothing is lost, whoever read the refusal.
    let server = UdpSocket::bind(at).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    world.send(link, b"hello again");
    world.until("sent", |w| w.diary(link).sent == 2);
    assert_eq!(recv(&server), b"hello again");
    drop(server);
    world.until("broken", |w| {
        w.send(link, b"x");
        !w.diary(link).broken.is_empty()
    });
    assert_eq!(world.diary(link).broken, [SocketError::Refused]);
    world.send(link, b"too late");
    world.turn(Duration::ZERO);
    assert!(world.diary(link).lost[&DropReason::Disconnected] >= 1);
    world.close(link, CloseHow::Flush);
    world.until("closed", |w| w.diary(link).closed == 1);
}

#[test]
fn a_refusal_that_a_send_reads_is_sent_once_more() {
    let mut world = World::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    // Not resumed: only sends can see the error.
    let link = world.open(
        l7mp_forwarder::verdict::Transport::Udp { bind: None, gro: true },
        l7mp_forwarder::address::EndpointAddr::inet(at),
    );
    drop(server);
    world.send(link, b"lost");
    world.until("sent", |w| w.diary(link).sent == 1);
    let server = UdpSocket::bind(at).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    world.send(link, b"once more");
    world.until("sent", |w| w.diary(link).sent == 2);
    assert_eq!(recv(&server), b"once more");
    assert_eq!(world.engine.stats().resent, 1);
    assert_eq!(world.diary(link).lost_total(), 0);
}

#[test]
fn what_is_queued_before_a_close_still_leaves() {
    let mut world = World::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let link = world.udp_link(server.local_addr().unwrap(), true);
    world.send(link, b"last words");
    world.close(link, CloseHow::Flush);
    world.until("closed", |w| w.diary(link).closed == 1);
    assert_eq!(recv(&server), b"last words");
    assert_eq!(world.diary(link).sent, 1);
    world.send(link, b"to nobody");
    world.turn(Duration::ZERO);
    assert_eq!(world.diary(link).lost[&DropReason::Closed], 1);
}

#[test]
fn a_slot_is_used_again_while_datagrams_for_its_last_user_are_under_way() {
    let mut world = World::new();
    let (_, at) = world.udp("127.0.0.1:0", true);
    let mut link = world.udp_link(at, true);
    for round in 0..200 {
        for _ in 0..5 {
            world.send(link, pattern(50, round));
        }
        world.close(link, CloseHow::Abort);
        world.until("closed", |w| w.diary(link).closed == 1);
        link = link.successor();
        world.engine.execute(Command::Open {
            link,
            transport: l7mp_forwarder::verdict::Transport::Udp { bind: None, gro: true },
            remote: l7mp_forwarder::address::EndpointAddr::inet(at),
        });
        world.engine.execute(Command::Resume(link));
        assert!(world.diary(link).received.is_empty(), "bytes of its predecessor");
    }
    world.settle();
    assert!(world.diary(link).received.is_empty());
    world.assert_buffers_back();
}

#[test]
fn a_paused_link_does_not_read_and_a_resumed_one_does() {
    let mut world = World::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let link = world.udp_link(server.local_addr().unwrap(), true);
    world.send(link, b"here I am");
    world.until("sent", |w| w.diary(link).sent == 1);
    let (_, peer) = server.recv_from(&mut [0; 100]).unwrap();
    world.engine.execute(Command::Pause(link));
    world.turn(Duration::ZERO);
    world.turn(Duration::ZERO);
    server.send_to(b"later", peer).unwrap();
    world.settle();
    assert!(world.diary(link).received.is_empty());
    world.engine.execute(Command::Resume(link));
    world.until("read", |w| w.diary(link).received == [b"later"]);
    // Pause and resume in one turn: the cancelled receive is armed again.
    world.engine.execute(Command::Pause(link));
    world.engine.execute(Command::Resume(link));
    world.turn(Duration::ZERO);
    server.send_to(b"still", peer).unwrap();
    world.until("read", |w| w.diary(link).received.len() == 2);
}

#[test]
fn a_listener_that_left_answers_nobody_and_frees_its_port() {
    let mut world = World::new();
    let (listener, at) = world.udp("127.0.0.1:0", true);
    let client = udp_client(at);
    client.send(b"x").unwrap();
    world.until("echoed", |w| w.diaries.values().any(|diary| diary.sent == 1));
    let flow = *world.flows.values().next().unwrap();
    world.engine.unlisten(listener);
    world.settle();
    // Its flow still answers until it is closed.
    world.send(flow, b"bye");
    world.until("sent", |w| w.diary(flow).sent == 2);
    world.close(flow, CloseHow::Flush);
    world.until("closed", |w| w.diary(flow).closed == 1);
    world.turn(Duration::ZERO);
    world.turn(Duration::ZERO);
    UdpSocket::bind(at).expect("the port is free");
}

#[test]
fn another_thread_wakes_the_engine() {
    let mut world = World::new();
    for count in 1..=3 {
        let waker = world.engine.waker();
        let thread = std::thread::spawn(move || waker.wake());
        world.until("woken", |w| w.woken == count);
        thread.join().unwrap();
    }
}

#[test]
fn older_kernels_are_served_with_the_flags_that_they_have() {
    let mut counts = Vec::new();
    for ring_flags_first in 0..4 {
        let mut world = World::with(Settings { ring_flags_first, ..Settings::default() });
        counts.push(world.engine.features().missing().count());
        let (_, at) = world.udp("127.0.0.1:0", true);
        let client = udp_client(at);
        send_train(&client, &pattern(5000, 1), 1000);
        world.until("echoed", |w| w.diaries.values().any(|diary| diary.sent == 5));
        for _ in 0..5 {
            assert_eq!(recv(&client).len(), 1000);
        }
        world.assert_buffers_back();
    }
    assert_eq!(counts, [0, 1, 2, 4]);
    assert!(l7mp_engine::Engine::new(Settings { ring_flags_first: 4, ..Settings::default() }).is_err());
}
