//! Byte streams against the real kernel: TCP and Unix.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::*;
use l7mp_engine::{ListenerKind, sockets};
use l7mp_forwarder::address::EndpointAddr;
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::{LinkId, ListenerId};
use l7mp_forwarder::verdict::{CloseHow, Command, Frame, Head, Payload, SocketError, Transport};

fn tcp(world: &mut World) -> SocketAddr {
    let fd = sockets::bind_tcp("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let at = sockets::local_addr(&fd).unwrap();
    world.listen(900, fd, ListenerKind::Tcp);
    at
}

fn open_tcp(world: &mut World, at: SocketAddr) -> LinkId {
    world.open(Transport::Tcp { bind: None }, EndpointAddr::inet(at))
}

/// A connected pair: a link, and the peer's socket.
fn pair(world: &mut World) -> (LinkId, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = open_tcp(world, listener.local_addr().unwrap());
    world.until("opened", |w| w.diary(link).opened);
    world.engine.execute(Command::Resume(link));
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    (link, peer)
}

fn read_all(peer: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_listener_that_left_accepts_nobody_and_frees_its_port() {
    let mut world = World::new();
    let at = tcp(&mut world);
    let _client = TcpStream::connect(at).unwrap();
    world.until("accepted", |w| !w.accepted.is_empty());
    world.engine.unlisten(ListenerId(900));
    world.until("refused", |_| TcpStream::connect(at).is_err());
    sockets::probe_free(sockets::InetKind::Tcp, at).expect("the port is free");
}

#[test]
fn an_accepted_connection_echoes_and_ends() {
    let mut world = World::new();
    let at = tcp(&mut world);
    let mut client = TcpStream::connect(at).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    world.until("accepted", |w| !w.accepted.is_empty());
    assert_eq!(world.accepted[0].1.peer().unwrap().socket_addr(), client.local_addr().unwrap());
    assert_eq!(world.accepted[0].1.local().unwrap().socket_addr(), at);
    let link = world.attach_next();
    world.next.insert(link, link);
    client.write_all(b"hello").unwrap();
    world.until("echoed", |w| w.diary(link).sent_bytes == 5);
    assert_eq!(read_all(&mut client, 5), b"hello");
    client.shutdown(Shutdown::Write).unwrap();
    world.until("ended", |w| w.diary(link).ended == 1);
    world.send(link, b"bye");
    world.close(link, CloseHow::Flush);
    world.until("closed", |w| w.diary(link).closed == 1);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
    assert_eq!(world.engine.stats().payload_copies, 0);
    world.assert_buffers_back();
}

#[test]
fn a_refused_connection_is_closed() {
    let mut world = World::new();
    let at = tcp(&mut world);
    let mut client = TcpStream::connect(at).unwrap();
    world.until("accepted", |w| !w.accepted.is_empty());
    let (_, accepted) = world.accepted.remove(0);
    world.engine.refuse(accepted);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn failures_of_connect_have_their_names() {
    let mut world = World::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = open_tcp(&mut world, closed);
    world.until("failed", |w| w.diary(refused).failed.is_some());
    assert_eq!(world.diary(refused).failed, Some(SocketError::Refused));
    world.close(refused, CloseHow::Flush);
    world.until("closed", |w| w.diary(refused).closed == 1);
    let missing =
        world.open(Transport::UnixStream, EndpointAddr::Unix(std::path::Path::new("/nonexistent/socket").into()));
    world.until("failed", |w| w.diary(missing).failed.is_some());
    assert_eq!(world.diary(missing).failed, Some(SocketError::Refused));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = TcpListener::bind(taken).unwrap();
    let busy = world.open(
        Transport::Tcp { bind: Some(held.local_addr().unwrap()) },
        EndpointAddr::inet("127.0.0.1:1".parse().unwrap()),
    );
    world.until("failed", |w| w.diary(busy).failed.is_some());
    assert_eq!(world.diary(busy).failed, Some(SocketError::Exhausted));
}

#[test]
fn a_connect_that_hangs_can_be_closed() {
    let mut world = World::new();
    // A full backlog lets further connects hang.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let at = listener.local_addr().unwrap();
    let links: Vec<_> = (0..8).map(|_| open_tcp(&mut world, at)).collect();
    world.settle();
    let hanging: Vec<_> = links.iter().copied().filter(|link| !world.diary(*link).opened).collect();
    assert!(!hanging.is_empty());
    for link in &links {
        world.close(*link, CloseHow::Flush);
    }
    world.until("closed", |w| hanging.iter().all(|link| w.diary(*link).closed == 1));
    assert!(hanging.iter().all(|link| world.diaries[link].failed.is_none()));
    drop(listener);
    world.until("all closed", |w| links.iter().all(|link| w.diary(*link).closed == 1));
}

#[test]
fn not_a_byte_is_lost_to_a_slow_reader() {
    let mut world = World::new();
    world.lossy = false;
    let (link, mut peer) = pair(&mut world);
    // 8 MiB: beyond what the kernel takes, so that writes are partial and the link blocks.
    let total = 8 * 1024 * 1024;
    let message = 10_000;
    let mut sent = 0;
    while sent < total {
        let len = message.min(total - sent);
        world.send(link, pattern(len, sent));
        sent += len;
        if sent % (20 * message) == 0 {
            world.turn(Duration::ZERO);
        }
    }
    world.settle();
    assert_eq!(world.diary(link).blocked, 1);
    assert_eq!(world.diary(link).drained, 0);
    let (tx, rx) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut at = 0;
        while at < total {
            let len = message.min(total - at);
            assert_eq!(read_all(&mut peer, len), pattern(len, at));
            at += len;
        }
        tx.send(()).unwrap();
        peer
    });
    world.until("all sent", |w| w.diary(link).sent_bytes == total as u64);
    rx.recv_timeout(PATIENCE).unwrap();
    let diary = world.diary(link);
    assert_eq!((diary.blocked, diary.drained, diary.lost_total()), (1, 1, 0));
    assert_eq!(diary.sent as usize, total.div_ceil(message));
    drop(reader.join().unwrap());
}

#[test]
fn heads_payloads_and_newlines_arrive_in_order_through_partial_writes() {
    let mut world = World::new();
    let (link, mut peer) = pair(&mut world);
    let mut expected = Vec::new();
    for at in 0..2000_usize {
        let mut head = Head::EMPTY;
        head.push(&pattern(at % 15, at));
        let payload = pattern(at % 1500, at);
        expected.extend_from_slice(&head);
        expected.extend_from_slice(&payload);
        let newline = at % 3 == 0 || expected.is_empty() || (head.is_empty() && payload.is_empty());
        if newline {
            expected.push(b'\n');
        }
        let frame = Frame { to: link, head, payload: Payload::Owned(payload), newline, lossy: false, messages: 1 };
        world.engine.send(frame, None);
    }
    let len = expected.len();
    let reader = thread::spawn(move || read_all(&mut peer, len));
    world.until("sent", |w| w.diary(link).sent == 2000);
    assert_eq!(reader.join().unwrap(), expected);
}

#[test]
fn lossy_frames_go_oldest_first_and_others_stay() {
    let mut world = World::new();
    let (link, mut peer) = pair(&mut world);
    let message = 16_000_u32;
    // Fill the socket and the queue; every hundredth must not be lost.
    let count = 1000_u32;
    for at in 0..count {
        world.lossy = at % 100 != 0;
        let mut bytes = pattern(message as usize, 0);
        bytes[..4].copy_from_slice(&at.to_le_bytes());
        world.send(link, bytes);
        world.turn(Duration::ZERO);
    }
    world.settle();
    let lost = world.diary(link).lost.get(&DropReason::Backlog).copied().unwrap_or(0);
    assert!(lost > 100, "{lost}");
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        for _ in 0..count - lost {
            let bytes = read_all(&mut peer, message as usize);
            assert_eq!(bytes[4..], pattern(message as usize, 0)[4..], "a message lost its boundary");
            seen.push(u32::from_le_bytes(bytes[..4].try_into().unwrap()));
        }
        seen
    });
    world.until("sent", |w| w.diary(link).sent == count - lost);
    let seen = reader.join().unwrap();
    assert!(seen.is_sorted());
    assert!((0..count).step_by(100).all(|at| seen.contains(&at)), "a lossless message was lost");
    assert!(seen.contains(&(count - 1)), "the newest stays");
}

#[test]
fn a_slow_reader_does_not_pin_the_pool() {
    let mut world = World::with(l7mp_engine::Settings { stream_buffers: 64, ..Default::default() });
    world.lossy = false;
    world.keep = false;
    let (slow, slow_peer) = pair(&mut world);
    let (from, mut source) = pair(&mut world);
    world.next.insert(from, slow);
    let total = 6 * 1024 * 1024;
    let writer = thread::spawn(move || {
        source.write_all(&pattern(total, 0)).unwrap();
        source
    });
    world.until("everything is queued or sent", |w| {
        let diary = w.diary(slow);
        diary.blocked > 0 && w.engine.stats().stream.free == 64
            || w.engine.stats().payload_copies > 0 && w.engine.stats().stream.free >= 16
    });
    // Others are undisturbed.
    let (fast, mut peer) = pair(&mut world);
    world.next.insert(fast, fast);
    for round in 1..=50 {
        peer.write_all(&pattern(1000, round)).unwrap();
        world.until("echoed", |w| w.diary(fast).sent_bytes == 1000 * round as u64);
        assert_eq!(read_all(&mut peer, 1000), pattern(1000, round));
    }
    let mut slow_peer = slow_peer;
    let reader = thread::spawn(move || read_all(&mut slow_peer, total));
    world.until("all sent", |w| w.diary(slow).sent_bytes == total as u64);
    assert!(reader.join().unwrap() == pattern(total, 0));
    drop(writer.join().unwrap());
    world.assert_buffers_back();
}

#[test]
fn half_close_goes_after_what_is_queued_and_reading_goes_on() {
    let mut world = World::new();
    let (link, mut peer) = pair(&mut world);
    world.send(link, pattern(100_000, 1));
    world.engine.execute(Command::Shutdown(link));
    world.turn(Duration::ZERO);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        peer.write_all(b"still here").unwrap();
        (bytes, peer)
    });
    world.until("answered", |w| w.diary(link).bytes() == b"still here");
    assert!(reader.join().unwrap().0 == pattern(100_000, 1));
    world.until("ended", |w| w.diary(link).ended == 1);
    world.send(link, b"after the end");
    world.turn(Duration::ZERO);
    assert_eq!(world.diary(link).lost[&DropReason::Closed], 1);
    world.close(link, CloseHow::Flush);
    world.until("closed", |w| w.diary(link).closed == 1);
}

#[test]
fn a_flushed_close_delivers_everything_though_the_peer_still_sends() {
    let mut world = World::new();
    world.lossy = false;
    let (link, mut peer) = pair(&mut world);
    let total = 3 * 1024 * 1024;
    world.send(link, pattern(total, 3));
    world.close(link, CloseHow::Flush);
    let reader = thread::spawn(move || {
        // Unread bytes at a close would make a reset that overtakes the data.
        peer.write_all(&pattern(50_000, 0)).unwrap();
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        bytes
    });
    world.until("sent", |w| w.diary(link).sent == 1);
    world.until("closed", |w| w.diary(link).closed == 1);
    assert!(reader.join().unwrap() == pattern(total, 3));
    assert!(world.diary(link).received.is_empty(), "nothing arrives after a close");
    world.assert_buffers_back();
}

#[test]
fn an_aborted_close_loses_what_is_queued_and_says_so() {
    let mut world = World::new();
    world.lossy = false;
    let (link, peer) = pair(&mut world);
    for at in 0..2000 {
        world.send(link, pattern(10_000, at));
    }
    world.turn(Duration::ZERO);
    world.settle();
    world.close(link, CloseHow::Abort);
    world.until("closed", |w| w.diary(link).closed == 1);
    let diary = world.diary(link);
    assert_eq!(diary.sent + diary.lost[&DropReason::Closed], 2000);
    assert!(diary.lost_total() > 0);
    drop(peer);
    world.assert_buffers_back();
}

#[test]
fn a_reset_breaks_the_link_once_and_loses_its_queue() {
    let mut world = World::new();
    world.lossy = false;
    let (link, peer) = pair(&mut world);
    for at in 0..1000 {
        world.send(link, pattern(10_000, at));
    }
    world.settle();
    // Closing with unread bytes sends a reset.
    drop(peer);
    world.until("broken", |w| !w.diary(link).broken.is_empty());
    world.send(link, b"to nobody");
    world.settle();
    let diary = world.diary(link);
    assert_eq!(diary.broken, [SocketError::Reset]);
    assert_eq!(diary.sent + diary.lost[&DropReason::Disconnected], 1001);
    assert_eq!(diary.closed, 0);
    world.close(link, CloseHow::Flush);
    world.until("closed", |w| w.diary(link).closed == 1);
    world.assert_buffers_back();
}

#[test]
fn a_reset_breaks_a_link_that_only_reads() {
    let mut world = World::new();
    let (link, peer) = pair(&mut world);
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    world.until("broken", |w| w.diary(link).broken == [SocketError::Reset]);
}

#[test]
fn a_paused_link_holds_its_peer_back_and_loses_nothing() {
    let mut world = World::new();
    let (link, mut peer) = pair(&mut world);
    let total = 4 * 1024 * 1024;
    let writer = thread::spawn(move || peer.write_all(&pattern(total, 5)).map(|()| peer));
    let mut paused = 0;
    world.until("all read", |w| {
        w.engine.execute(Command::Pause(link));
        w.turn(Duration::ZERO);
        paused += 1;
        w.engine.execute(Command::Resume(link));
        w.diary(link).received.iter().map(Vec::len).sum::<usize>() == total
    });
    assert!(paused > 2);
    assert!(world.diary(link).bytes() == pattern(total, 5));
    drop(writer.join().unwrap());
    world.assert_buffers_back();
}

#[test]
fn a_closed_link_with_bytes_under_way_frees_its_buffers() {
    let mut world = World::new();
    let mut peers = Vec::new();
    for round in 0..100 {
        let (link, mut peer) = pair(&mut world);
        world.next.insert(link, link);
        peer.write_all(&pattern(3000, round)).unwrap();
        if round % 2 == 0 {
            world.turn(Duration::ZERO);
        }
        world.close(link, if round % 3 == 0 { CloseHow::Flush } else { CloseHow::Abort });
        peers.push((link, peer));
    }
    world.settle();
    let links: Vec<_> = peers.iter().map(|(link, _)| *link).collect();
    drop(peers);
    world.until("closed", |w| links.iter().all(|link| w.diary(*link).closed == 1));
    assert_eq!(world.engine.stats().stale, 0);
    world.assert_buffers_back();
}
