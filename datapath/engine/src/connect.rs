//! Links come and go: sockets that connect, flows on a listener's socket, accepted connections, closing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use io_uring::opcode;
use l7mp_forwarder::address::{EndpointAddr, UnixName, canonical};
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::{LinkId, ListenerId};
use l7mp_forwarder::limits;
use l7mp_forwarder::verdict::{CloseHow, SocketError, Transport};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::SocketAddr;

use crate::address::{Name, UNIX_NAME_BYTES, inet_name, unix_name};
use crate::cmsg::ControlBuffer;
use crate::engine::{Engine, Timer};
use crate::event::{Accepted, Event, StreamKind};
use crate::links::{Connecting, Destination, Kind, Link, Phase};
use crate::listeners::ListenerKind;
use crate::sockets;
use crate::stream::shutdown;
use crate::token::{Op, Token};

impl Engine {
    /// Gives an accepted connection to a link. Reading starts with `Command::Resume`.
    pub fn attach(&mut self, accepted: Accepted, link: LinkId) {
        let kind = match accepted.kind {
            StreamKind::Tcp | StreamKind::UnixStream => Kind::Bytes,
            StreamKind::UnixSeqpacket => Kind::Seqpacket,
        };
        let mut new = Link::new(link, Phase::Open, kind);
        if accepted.kind == StreamKind::Tcp {
            sockets::keep_alive(&accepted.fd);
        }
        let socket = self.files.adopt(&self.ring, accepted.fd);
        new.target = socket.target();
        new.socket = Some(socket);
        let taken = self.links.insert(new);
        debug_assert!(taken, "{link:?} was attached before its slot was closed");
    }

    /// Closes an accepted connection that nobody wants.
    pub fn refuse(&mut self, accepted: Accepted) {
        drop(accepted);
    }

    /// Makes a socket and connects it.
    pub(crate) fn open(&mut self, id: LinkId, transport: &Transport, remote: &EndpointAddr) {
        let kind = match transport {
            Transport::Udp { gro, .. } => Kind::Udp { gro: *gro },
            Transport::Tcp { .. } | Transport::UnixStream => Kind::Bytes,
            Transport::UnixSeqpacket => Kind::Seqpacket,
            Transport::UnixDgram => Kind::UnixDgram,
        };
        if !self.links.insert(Link::new(id, Phase::Opening, kind)) {
            debug_assert!(false, "{id:?} was opened before its slot was closed");
            self.events.push_back(Event::Failed { link: id, error: SocketError::Exhausted, errno: libc::EBUSY });
            return;
        }
        let started = match (transport, remote) {
            (Transport::Udp { bind, gro }, EndpointAddr::Inet(remote)) => self.open_udp(id, *bind, *gro, *remote),
            (Transport::Tcp { bind }, EndpointAddr::Inet(remote)) => self.open_tcp(id, *bind, *remote),
            (Transport::UnixStream, EndpointAddr::Unix(path)) => self.open_unix(id, SocketType::STREAM, path),
            (Transport::UnixSeqpacket, EndpointAddr::Unix(path)) => self.open_unix(id, SocketType::SEQPACKET, path),
            (Transport::UnixDgram, EndpointAddr::Unix(path)) => self.open_unix(id, SocketType::DGRAM, path),
            (Transport::Udp { .. } | Transport::Tcp { .. }, EndpointAddr::Unix(_))
            | (Transport::UnixStream | Transport::UnixSeqpacket | Transport::UnixDgram, EndpointAddr::Inet(_)) => {
                Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
            }
        };
        if let Err(error) = started {
            self.open_failed(id, error.raw_os_error().unwrap_or(libc::EIO));
        }
    }

    fn open_udp(&mut self, id: LinkId, bind: Option<SocketAddr>, gro: bool, remote: SocketAddr) -> io::Result<()> {
        let remote = canonical(remote);
        let fd = inet_socket(remote, SocketType::DGRAM)?;
        sockets::set_buffer_sizes(&fd, self.settings.udp_socket_bytes);
        let gro = gro && sockets::set_gro(&fd).is_ok();
        if let Some(bind) = bind {
            // A fixed port serves one session at a time: two sockets with one port and one peer would get each other's
            // answers, and nothing in the kernel forbids them once addresses may be reused.
            rustix::net::bind(&fd, &canonical(bind))?;
        }
        rustix::net::connect(&fd, &remote)?;
        self.give_socket(id, fd);
        if let Some(link) = self.links.get(id) {
            link.kind = Kind::Udp { gro };
            link.phase = Phase::Open;
            self.events.push_back(Event::Opened(id));
        }
        Ok(())
    }

    fn open_tcp(&mut self, id: LinkId, bind: Option<SocketAddr>, remote: SocketAddr) -> io::Result<()> {
        let remote = canonical(remote);
        let fd = inet_socket(remote, SocketType::STREAM)?;
        rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
        sockets::keep_alive(&fd);
        if let Some(bind) = bind {
            sockets::set_bind_address_no_port(&fd, bind.port() == 0)?;
            rustix::net::sockopt::set_socket_reuseaddr(&fd, bind.port() != 0)?;
            rustix::net::bind(&fd, &canonical(bind))?;
        }
        self.give_socket(id, fd);
        let inet = inet_name(remote, false);
        let mut name = Name { bytes: [0; UNIX_NAME_BYTES], len: inet.len };
        name.bytes[..inet.bytes.len()].copy_from_slice(&inet.bytes);
        self.connect(id, Connecting { name, _path: None });
        Ok(())
    }

    fn open_unix(&mut self, id: LinkId, kind: SocketType, path: &std::path::Path) -> io::Result<()> {
        let fd = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let root = self.settings.unix_root.as_deref().map(AsFd::as_fd);
        let (name, path) = sockets::unix_remote(root, path)?;
        if kind == SocketType::DGRAM {
            // An abstract name of the kernel's choice, so that the peer can answer.
            sockets::autobind(&fd)?;
        }
        self.give_socket(id, fd);
        self.connect(id, Connecting { name: unix_name(&name), _path: path });
        Ok(())
    }

    fn give_socket(&mut self, id: LinkId, fd: OwnedFd) {
        let socket = self.files.adopt(&self.ring, fd);
        if let Some(link) = self.links.get(id) {
            link.target = socket.target();
            link.socket = Some(socket);
        }
    }

    fn connect(&mut self, id: LinkId, connecting: Connecting) {
        let Some(link) = self.links.get(id) else { return };
        let target = link.target;
        let connecting = link.connecting.insert(Box::new(connecting));
        let name = &connecting.name;
        let connect = opcode::Connect::new(target.field(), name.bytes.as_ptr().cast(), name.len.into())
            .build()
            .user_data(Token::link(Op::Connect, id).pack());
        let connect = target.mark(connect);
        // SAFETY: the name is boxed in the link until the connect completes, and the link's socket stays open as long.
        unsafe { self.push(&connect) };
    }

    /// A connect completed.
    pub(crate) fn connect_completed(&mut self, token: Token, result: i32) {
        let id = token.link_id();
        let Some(link) = self.links.get(id) else {
            self.stats.stale += 1;
            return;
        };
        link.connecting = None;
        if link.phase != Phase::Opening {
            return;
        }
        if result < 0 {
            return self.open_failed(id, -result);
        }
        link.phase = Phase::Open;
        self.events.push_back(Event::Opened(id));
    }

    fn open_failed(&mut self, id: LinkId, errno: i32) {
        if let Some(link) = self.links.get(id) {
            link.phase = Phase::Dead;
        }
        self.events.push_back(Event::Failed { link: id, error: socket_error(errno), errno });
    }

    /// Gives a link the socket of a UDP listener.
    pub(crate) fn open_flow(&mut self, id: LinkId, listener: ListenerId, peer: SocketAddr, local: SocketAddr) {
        let mut link = Link::new(id, Phase::Open, Kind::UdpFlow);
        if let Some(index) = self.listeners.find(listener)
            && let Some(listener) = self.listeners.get(index)
        {
            let mut source = ControlBuffer::EMPTY;
            if listener.wildcard {
                source.push_source(local, listener.ipv6);
            }
            link.destination = Some(Box::new(Destination::Inet { name: inet_name(peer, listener.ipv6), source }));
            link.target = listener.target();
            link.listener = index;
            listener.flows += 1;
        } else {
            link.phase = Phase::Dead;
        }
        self.insert_flow(link);
    }

    /// Gives a link the socket of a Unix dgram listener.
    pub(crate) fn open_unix_flow(&mut self, id: LinkId, listener: ListenerId, peer: &UnixName) {
        let mut link = Link::new(id, Phase::Open, Kind::UnixFlow);
        if let Some(index) = self.listeners.find(listener)
            && let Some(listener) =
                self.listeners.get(index).filter(|listener| listener.kind == ListenerKind::UnixDgram)
        {
            link.destination = Some(Box::new(Destination::Unix { name: unix_name(peer) }));
            link.target = listener.target();
            link.listener = index;
            listener.flows += 1;
        } else {
            link.phase = Phase::Dead;
        }
        self.insert_flow(link);
    }

    fn insert_flow(&mut self, link: Link) {
        let (id, listener) = (link.id, link.listener);
        if !self.links.insert(link) {
            debug_assert!(false, "{id:?} was opened before its slot was closed");
            if let Some(listener) = self.listeners.get(listener) {
                listener.flows -= 1;
            }
        }
    }

    /// Sends FIN after what is queued.
    pub(crate) fn shutdown_link(&mut self, id: LinkId) {
        if let Some(link) = self.links.get(id).filter(|link| link.is_open() && !link.shut) {
            link.shut = true;
            self.shutdown_if_due(id);
        }
    }

    /// Closes a link, now or after what is queued.
    pub(crate) fn close(&mut self, id: LinkId, how: CloseHow) {
        let linger = self.now + limits::CLOSE_LINGER;
        let Some(link) = self.links.get(id) else { return };
        match (link.phase, how) {
            (Phase::Closing | Phase::Vacant, _) | (Phase::Flushing | Phase::Lingering, CloseHow::Flush) => {}
            (Phase::Open, CloseHow::Flush) if !link.kind.is_udp() => {
                link.phase = Phase::Flushing;
                self.stop_reading(id);
                self.timers.push(linger, Timer::Linger(id));
                if self.links.get(id).is_some_and(|link| Engine::is_flushed(link)) {
                    self.flushed(id);
                }
            }
            (Phase::Open | Phase::Opening | Phase::Dead | Phase::Flushing | Phase::Lingering, _) => {
                self.close_socket(id)
            }
        }
    }

    /// A closing link has sent everything: FIN, then until the peer's own FIN what it still sends is thrown away. Were
    /// the socket closed with unread bytes, the kernel would send a reset, which may overtake what we sent.
    pub(crate) fn flushed(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        if !link.shut {
            shutdown(link);
            link.shut = true;
        }
        if link.kind != Kind::Bytes || link.reading.ended {
            return self.close_socket(id);
        }
        link.phase = Phase::Lingering;
        link.reading.wanted = true;
        self.queue_link(id);
    }

    /// Ends what is in flight; the socket is closed when it has ended.
    pub(crate) fn close_socket(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id).filter(|link| link.phase != Phase::Closing) else { return };
        link.phase = Phase::Closing;
        if link.connecting.is_some() {
            self.cancel(Token::link(Op::Connect, id), Token::link(Op::Cancel, id));
        }
        self.stop_reading(id);
        self.empty_outbox(id, DropReason::Closed);
        self.cancel_ordered(id);
        self.closing.push(id);
    }

    /// A closing link took too long.
    pub(crate) fn linger_over(&mut self, id: LinkId) {
        if self.links.get(id).is_some_and(|link| matches!(link.phase, Phase::Flushing | Phase::Lingering)) {
            self.close_socket(id);
        }
    }

    /// Closes the sockets of links on which nothing is in flight any more. No train is left when this runs.
    pub(crate) fn finish_closing(&mut self) {
        debug_assert!(self.trains.is_empty());
        let mut at = 0;
        while at < self.closing.len() {
            let id = self.closing[at];
            if self.links.get(id).is_some_and(|link| link.is_busy()) {
                at += 1;
                continue;
            }
            self.closing.swap_remove(at);
            let Some(link) = self.links.remove(id) else { continue };
            if let Some(listener) = self.listeners.get(link.listener) {
                listener.flows -= 1;
            }
            if let Some(socket) = link.socket {
                self.files.close(&self.ring, socket);
            }
            self.events.push_back(Event::Closed(id));
        }
    }
}

fn inet_socket(remote: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if remote.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// Sorts an error of a socket.
pub(crate) fn socket_error(errno: i32) -> SocketError {
    match errno {
        libc::ECONNREFUSED | libc::ENOENT => SocketError::Refused,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::ETIMEDOUT => SocketError::Unreachable,
        libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN | libc::ECONNABORTED => SocketError::Reset,
        libc::EMFILE | libc::ENFILE | libc::EADDRINUSE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN => {
            SocketError::Exhausted
        }
        _ => SocketError::Other,
    }
}
