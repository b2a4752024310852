//! UDP through the real binary.

mod common;

use std::net::UdpSocket;

use common::{PATIENCE, Proxy};

const ECHO: &str = "
listeners: [{name: in, spec: {UDP: {port: 0}}, rules: [{action: {route: {destination: echo}}}]}]
clusters: [{name: echo, spec: {Echo: {}}}]
";

fn client(proxy: &Proxy) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(proxy.address("in")).unwrap();
    socket
}

#[test]
fn a_datagram_comes_back() {
    let proxy = Proxy::start(ECHO);
    let client = client(&proxy);
    client.send(b"hello").unwrap();
    let mut buffer = [0; 100];
    assert_eq!(client.recv(&mut buffer).unwrap(), 5);
    assert_eq!(&buffer[..5], b"hello");
    let sessions = proxy.get("/api/v1/sessions").json();
    let name = sessions["sessions"][0]["name"].as_str().unwrap();
    assert!(name.starts_with(&format!("UDP:{}-{}-", client.local_addr().unwrap(), proxy.address("in"))), "{name}");
    assert_eq!(proxy.metric("l7mp_messages_in_total", ""), 1);
    assert_eq!(proxy.metric("l7mp_messages_out_total", ""), 1);
}

#[test]
fn a_deleted_session_opens_anew() {
    let proxy = Proxy::start(ECHO);
    let client = client(&proxy);
    let mut buffer = [0; 100];
    for _ in 0..2 {
        client.send(b"x").unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 1);
        let sessions = proxy.get("/api/v1/sessions").json();
        let name = sessions["sessions"][0]["name"].as_str().unwrap().to_owned();
        assert_eq!(proxy.request("DELETE", &format!("/api/v1/sessions/{name}"), "").status, 204);
        assert_eq!(proxy.request("DELETE", &format!("/api/v1/sessions/{name}"), "").status, 404);
    }
    assert_eq!(proxy.metric("l7mp_sessions_closed_total", "reason=\"deleted\""), 2);
}
