//! What a datagram costs beside system calls: nothing on the heap, no copy.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use l7mp_engine::{Engine, Event, ListenerKind, ListenerSocket, Settings, sockets};
use l7mp_forwarder::ids::{LinkId, ListenerId};
use l7mp_forwarder::verdict::{Command, Payload, Transport};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One turn of a relay between a client's flow and an upstream link. Says how many messages went back to the client.
fn turn(engine: &mut Engine, flow: LinkId, up: LinkId, open: &mut bool) -> u32 {
    let deadline = engine.now() + Duration::from_millis(1);
    engine.wait(Some(deadline)).unwrap();
    let mut answered = 0;
    while let Some(event) = engine.next_event() {
        let (to, bytes) = match event {
            Event::Datagram { listener, peer, local, bytes } => {
                if !std::mem::replace(open, true) {
                    engine.execute(Command::OpenFlow { link: flow, listener, peer, local });
                }
                (up, bytes)
            }
            Event::Received { bytes, .. } => (flow, bytes),
            Event::Sent { link, messages, .. } => {
                answered += if link == flow { messages } else { 0 };
                continue;
            }
            Event::Lost { reason, .. } => panic!("{reason:?}"),
            _ => continue,
        };
        for at in bytes.datagrams() {
            engine.send(frame(to, Payload::Received(at), true), Some((&bytes, 0)));
        }
        engine.release(bytes);
    }
    answered
}

fn steady(transport: Transport, remote: l7mp_forwarder::address::EndpointAddr, mut answer: impl FnMut(usize)) {
    let (flow, up) = (LinkId::new(0, 1), LinkId::new(1, 1));
    let mut engine = Engine::new(Settings::default()).unwrap();
    let fd = sockets::bind_udp("127.0.0.1:0".parse().unwrap(), 1, Default::default()).unwrap().remove(0);
    let local = sockets::local_addr(&fd).unwrap();
    engine.listen(ListenerId(1), ListenerSocket { fd, kind: ListenerKind::Udp { gro: true }, local: Some(local) });
    engine.execute(Command::Open { link: up, transport, remote });
    engine.wait(None).unwrap();
    while engine.next_event().is_some() {}
    engine.execute(Command::Resume(up));
    let client = udp_client(local);
    let mut buffer = [0; 2000];
    let (mut counted, mut open) = (0, false);
    for round in 0..200 {
        if round == 100 {
            counted = ALLOCATIONS.load(Ordering::Relaxed);
        }
        let train = [7_u8; 1200];
        for _ in 0..4 {
            client.send(&train[..100 + round]).unwrap();
        }
        let mut answered = 0;
        let mut turns = 0;
        while answered < 4 {
            answered += turn(&mut engine, flow, up, &mut open);
            answer(100 + round);
            turns += 1;
            assert!(turns < 5000, "no answer");
        }
        for _ in 0..4 {
            while client.recv(&mut buffer).is_err() {}
        }
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - counted, 0, "allocations for 400 datagrams there and back");
    assert_eq!(engine.stats().payload_copies, 0);
}

// One test, so that no other allocates meanwhile.
#[test]
fn a_datagram_allocates_and_copies_nothing() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let at = l7mp_forwarder::address::EndpointAddr::inet(server.local_addr().unwrap());
    let mut buffer = [0; 2000];
    steady(Transport::Udp { bind: None, gro: true }, at, |_| {
        while let Ok((len, peer)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..len], peer).unwrap();
        }
    });

    // The same through a byte stream, where reads may join messages: what comes back is counted in bytes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = l7mp_forwarder::address::EndpointAddr::inet(listener.local_addr().unwrap());
    let mut stream = None;
    steady(Transport::Tcp { bind: None }, at, |len| {
        use std::io::{Read, Write};
        let stream = stream.get_or_insert_with(|| {
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        });
        // One message at a time, so that each is a read of its own for certain: the engine turns in between.
        if let Ok(read) = stream.read(&mut buffer[..len]) {
            stream.write_all(&buffer[..read]).unwrap();
        }
    });
}
