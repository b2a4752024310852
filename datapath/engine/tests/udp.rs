//! Datagrams against the real kernel.

mod common;

use common::*;

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
