//! Unix sockets against the real kernel.

mod common;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use l7mp_engine::sockets::{self, UnixKind};
use l7mp_engine::{ListenerKind, Settings};
use l7mp_forwarder::address::EndpointAddr;
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::verdict::{CloseHow, Command, SocketError, Transport};
use socket2::{Domain, SockAddr, Socket, Type};

fn bind(world: &mut World, path: &Path, kind: UnixKind) {
    let fd = sockets::bind_unix(None, path, kind, 0o600).unwrap();
    let kind = match kind {
        UnixKind::Stream => ListenerKind::UnixStream,
        UnixKind::Seqpacket => ListenerKind::UnixSeqpacket,
        UnixKind::Dgram => ListenerKind::UnixDgram,
    };
    world.listen(900, fd, kind);
}

fn unix(path: &Path) -> EndpointAddr {
    EndpointAddr::Unix(path.into())
}

fn seqpacket_client(path: &Path) -> Socket {
    let client = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    client.connect(&SockAddr::unix(path).unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn read_message(client: &mut impl Read) -> Vec<u8> {
    let mut bytes = vec![0; 300_000];
    loop {
        match client.read(&mut bytes) {
            Ok(len) => {
                bytes.truncate(len);
                return bytes;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn ready(world: &mut World, link: LinkId) {
    world.until("opened", |w| w.diary(link).opened);
    world.engine.execute(Command::Resume(link));
}

#[test]
fn a_unix_stream_echoes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut world = World::new();
    bind(&mut world, &path, UnixKind::Stream);
    let up = world.open(Transport::UnixStream, unix(&path));
    ready(&mut world, up);
    let down = world.attach_next();
    world.next.insert(down, down);
    world.send(up, b"over and back");
    world.until("echoed", |w| w.diary(up).bytes() == b"over and back");
    world.engine.execute(Command::Shutdown(up));
    world.until("ended", |w| w.diary(down).ended == 1);
    world.close(down, CloseHow::Flush);
    world.until("closed", |w| w.diary(down).closed == 1);
    world.until("ended", |w| w.diary(up).ended == 1);
}

#[test]
fn seqpacket_keeps_every_boundary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut world = World::new();
    world.lossy = false;
    bind(&mut world, &path, UnixKind::Seqpacket);
    let up = world.open(Transport::UnixSeqpacket, unix(&path));
    ready(&mut world, up);
    let down = world.attach_next();
    world.next.insert(down, down);
    let sizes: Vec<usize> = (0..2000).map(|at| [1, 7, 1200, 9000, 65_507, 30][at % 6]).collect();
    for (at, size) in sizes.iter().enumerate() {
        world.send(up, pattern(*size, at));
        if at % 16 == 0 {
            world.until("echoed", |w| w.diary(up).received.len() == at + 1);
        }
    }
    world.until("echoed", |w| w.diary(up).received.len() == sizes.len());
    for (at, size) in sizes.iter().enumerate() {
        assert!(world.diary(up).received[at] == pattern(*size, at), "message {at}");
    }
    assert_eq!((world.diary(up).sent, world.diary(up).lost_total()), (2000, 0));
    // An empty message would look like the end.
    world.send(up, b"");
    world.turn(Default::default());
    assert_eq!(world.diary(up).lost[&DropReason::Empty], 1);
    world.close(up, CloseHow::Flush);
    world.until("ended", |w| w.diary(down).ended == 1);
    world.assert_buffers_back();
}

#[test]
fn seqpacket_with_a_slow_reader_keeps_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut world = World::new();
    world.lossy = false;
    bind(&mut world, &path, UnixKind::Seqpacket);
    let mut client = seqpacket_client(&path);
    let link = world.attach_next();
    for at in 0..3000 {
        world.send(link, pattern(100 + at % 900, at));
        if at % 100 == 0 {
            world.turn(Default::default());
        }
    }
    world.settle();
    assert!(world.diary(link).sent < 3000, "the socket takes only so much");
    let reader = std::thread::spawn(move || {
        for at in 0..3000 {
            assert_eq!(read_message(&mut client), pattern(100 + at % 900, at), "message {at}");
        }
        client
    });
    world.until("sent", |w| w.diary(link).sent == 3000);
    drop(reader.join().unwrap());
    assert_eq!(world.diary(link).lost_total(), 0);
    world.until("ended", |w| w.diary(link).ended == 1);
}

#[test]
fn an_oversized_seqpacket_message_is_counted_and_the_next_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut world = World::new();
    bind(&mut world, &path, UnixKind::Seqpacket);
    let mut client = seqpacket_client(&path);
    let link = world.attach_next();
    client.write_all(&pattern(65_536, 1)).unwrap();
    client.write_all(&pattern(65_537, 2)).unwrap();
    client.write_all(b"next").unwrap();
    world.until("read", |w| w.diary(link).received.len() == 2);
    assert_eq!(world.diary(link).oversized, 1);
    assert!(world.diary(link).received[0] == pattern(65_536, 1));
    assert_eq!(world.diary(link).received[1], b"next");
    world.send(link, pattern(250_000, 1));
    world.send(link, b"after it");
    world.until("sent", |w| w.diary(link).sent == 1);
    assert_eq!(world.diary(link).lost[&DropReason::Oversized], 1);
    assert_eq!(read_message(&mut client), b"after it");
    world.assert_buffers_back();
}

#[test]
fn a_dgram_peer_is_answered_by_its_name_and_an_unnamed_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut world = World::new();
    bind(&mut world, &path, UnixKind::Dgram);
    let named = UnixDatagram::bind(dir.path().join("named")).unwrap();
    let unnamed = UnixDatagram::unbound().unwrap();
    for round in 1..=3 {
        named.send_to(b"answer me", &path).unwrap();
        unnamed.send_to(b"one way", &path).unwrap();
        world.until("both", |w| w.unnamed == round && w.diaries.values().any(|diary| diary.sent == round));
        let mut bytes = [0; 100];
        assert_eq!(named.recv(&mut bytes).unwrap(), 9);
    }
    assert_eq!(world.unix_flows.len(), 1);
    let name = world.unix_flows.keys().next().unwrap().1;
    assert_eq!(name.as_bytes(), dir.path().join("named").as_os_str().as_encoded_bytes());
    // And an upstream link, whose name is of the kernel's choice. An empty datagram is one.
    let up = world.open(Transport::UnixDgram, unix(&path));
    ready(&mut world, up);
    for (count, message) in [&b"abstract"[..], b"", b"again"].into_iter().enumerate() {
        world.send(up, message);
        world.until("echoed", |w| w.diary(up).received.len() == count + 1);
        assert_eq!(world.diary(up).received[count], message);
    }
    assert!(world.unix_flows.keys().any(|(_, name)| name.is_abstract()));
    world.assert_buffers_back();
}

#[test]
fn a_full_dgram_peer_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut world = World::new();
    world.lossy = false;
    bind(&mut world, &path, UnixKind::Dgram);
    let client = UnixDatagram::bind(dir.path().join("c")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"hello", &path).unwrap();
    world.until("a flow", |w| w.unix_flows.len() == 1);
    let link = *world.unix_flows.values().next().unwrap();
    for at in 0..200 {
        world.send(link, pattern(50, at));
    }
    for _ in 0..20 {
        world.turn(Duration::from_millis(2));
    }
    assert!(world.diary(link).sent < 200);
    let enters = world.engine.stats().enters;
    let start = std::time::Instant::now();
    for _ in 0..50 {
        world.turn(Duration::from_millis(2));
    }
    let (enters, millis) = (world.engine.stats().enters - enters, start.elapsed().as_millis() as u64);
    assert!(enters < 5 * millis + 50, "spinning: {enters} enters in {millis} ms");
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 100];
        assert_eq!(client.recv(&mut bytes).unwrap(), 5, "the echo");
        for at in 0..200 {
            let len = client.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..len], pattern(50, at));
        }
    });
    world.until("sent", |w| w.diary(link).sent == 201);
    reader.join().unwrap();
    assert_eq!(world.diary(link).lost_total(), 0);
}

#[test]
fn a_dgram_peer_that_left_breaks_the_link_or_loses_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let server = UnixDatagram::bind(dir.path().join("up")).unwrap();
    let up = world.open(Transport::UnixDgram, unix(&dir.path().join("up")));
    ready(&mut world, up);
    world.send(up, b"hello");
    world.until("sent", |w| w.diary(up).sent == 1);
    drop(server);
    world.send(up, b"anybody?");
    world.until("broken", |w| !w.diary(up).broken.is_empty());
    assert!(matches!(world.diary(up).broken[..], [SocketError::Refused | SocketError::Reset]));

    bind(&mut world, &dir.path().join("s"), UnixKind::Dgram);
    let client = UnixDatagram::bind(dir.path().join("c")).unwrap();
    client.send_to(b"hello", dir.path().join("s")).unwrap();
    world.until("a flow", |w| w.unix_flows.len() == 1);
    let flow = *world.unix_flows.values().next().unwrap();
    world.until("echoed", |w| w.diary(flow).sent == 1);
    drop(client);
    world.send(flow, b"gone");
    world.until("lost", |w| w.diary(flow).lost_total() == 1);
    assert!(world.diary(flow).broken.is_empty(), "the listener's socket is fine");
    world.close(flow, CloseHow::Flush);
    world.until("closed", |w| w.diary(flow).closed == 1);
}

#[test]
fn long_paths_are_bound_and_connected() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(60)).join("e".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("a-socket-with-a-name");
    assert!(path.as_os_str().len() > 107);
    let mut world = World::new();
    bind(&mut world, &path, UnixKind::Stream);
    let up = world.open(Transport::UnixStream, unix(&path));
    ready(&mut world, up);
    let down = world.attach_next();
    world.send(up, b"x");
    world.until("arrived", |w| w.diary(down).bytes() == b"x");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn nothing_leads_out_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let root_path = dir.path().join("root");
    std::fs::create_dir_all(root_path.join("sub")).unwrap();
    std::fs::create_dir_all(dir.path().join("outside")).unwrap();
    let outside = dir.path().join("outside/socket");
    let _listener = UnixListener::bind(&outside).unwrap();
    symlink(&outside, root_path.join("link")).unwrap();
    symlink("../outside", root_path.join("leading-out")).unwrap();
    symlink(dir.path().join("outside"), root_path.join("absolute")).unwrap();
    symlink("sub", root_path.join("inside")).unwrap();
    let root: Arc<OwnedFd> = Arc::new(std::fs::File::open(&root_path).unwrap().into());

    for escape in ["../outside/new", "leading-out/new", "absolute/new", "sub/../../outside/new", "/../outside/new"] {
        let bound = sockets::bind_unix(Some(root.as_fd()), Path::new(escape), UnixKind::Stream, 0o600);
        assert!(bound.is_err(), "{escape}");
    }
    assert!(!dir.path().join("outside/new").exists());
    for path in ["sub/ok", "/sub/absolute", "inside/through-a-link"] {
        sockets::bind_unix(Some(root.as_fd()), Path::new(path), UnixKind::Stream, 0o600).expect(path);
    }
    assert!(root_path.join("sub/through-a-link").exists());

    let mut world = World::with(Settings { unix_root: Some(Arc::clone(&root)), ..Settings::default() });
    for escape in ["../outside/socket", "link", "leading-out/socket", "absolute/socket"] {
        let link = world.open(Transport::UnixStream, unix(Path::new(escape)));
        world.until("refused", |w| w.diary(link).failed.is_some());
    }
    let listener = UnixListener::bind(root_path.join("sub/here")).unwrap();
    let link = world.open(Transport::UnixStream, unix(Path::new("sub/here")));
    ready(&mut world, link);
    drop(listener);
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_or_foreign_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    for kind in [UnixKind::Stream, UnixKind::Seqpacket, UnixKind::Dgram] {
        let path: PathBuf = dir.path().join(format!("{kind:?}"));
        let first = sockets::bind_unix(None, &path, kind, 0o600).unwrap();
        let live = sockets::bind_unix(None, &path, kind, 0o600).unwrap_err();
        assert_eq!(live.raw_os_error(), Some(libc::EADDRINUSE), "{kind:?}");
        drop(first);
        assert!(path.exists());
        drop(sockets::bind_unix(None, &path, kind, 0o600).unwrap());
        sockets::unlink_unix(None, &path).unwrap();
        assert!(!path.exists());
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    for kind in [UnixKind::Stream, UnixKind::Dgram] {
        let refused = sockets::bind_unix(None, &file, kind, 0o600).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EEXIST));
    }
    symlink(&file, dir.path().join("link")).unwrap();
    assert!(sockets::bind_unix(None, &dir.path().join("link"), UnixKind::Stream, 0o600).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn an_accepted_unix_stream_has_no_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut world = World::new();
    bind(&mut world, &path, UnixKind::Stream);
    let _client = UnixStream::connect(&path).unwrap();
    world.until("accepted", |w| !w.accepted.is_empty());
    assert_eq!(world.accepted[0].1.peer(), None);
    assert_eq!(world.accepted[0].1.local(), None);
}

#[test]
fn an_answer_is_read_though_the_peer_takes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut world = World::new();
    let link = world.open(Transport::UnixStream, unix(&path));
    world.until("opened", |w| w.diary(link).opened);
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(&pattern(100_000, 1)).unwrap();
    drop(peer);
    world.send(link, b"too late");
    world.until("lost", |w| w.diary(link).lost.contains_key(&DropReason::Disconnected));
    assert!(world.diary(link).broken.is_empty());
    world.engine.execute(Command::Resume(link));
    world.until("broken", |w| w.diary(link).broken == [SocketError::Reset]);
    assert!(world.diary(link).bytes() == pattern(100_000, 1));
    world.send(link, b"still too late");
    world.turn(Duration::ZERO);
    assert_eq!(world.diary(link).lost_total(), 2);
    world.close(link, CloseHow::Flush);
    world.until("closed", |w| w.diary(link).closed == 1);
    world.assert_buffers_back();
}
