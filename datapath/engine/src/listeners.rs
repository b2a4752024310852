//! Listening sockets: shared datagram sockets, and sockets that accept.

use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::opcode;
use l7mp_forwarder::ids::ListenerId;

use crate::address::is_wildcard;
use crate::buffers::Class;
use crate::engine::{Engine, Reader, Timer};
use crate::event::{Accepted, Event, StreamKind};
use crate::files::{Socket, Target};
use crate::ring::Completion;
use crate::sockets;
use crate::token::{Op, Token};

/// How long to wait for descriptors, or after an error that says nothing.
const BACKOFF: Duration = Duration::from_millis(100);

/// Kind of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// An unconnected UDP socket. Whether it is bound to a wildcard is read from its address.
    Udp {
        /// Receive trains.
        gro: bool,
    },
    /// A listening TCP socket.
    Tcp,
    /// A listening Unix stream socket.
    UnixStream,
    /// A listening Unix seqpacket socket.
    UnixSeqpacket,
    /// A bound Unix dgram socket.
    UnixDgram,
}

/// A bound (and, but for datagrams, listening) socket for the engine.
#[derive(Debug)]
pub struct ListenerSocket {
    /// The socket.
    pub fd: OwnedFd,
    /// What it is.
    pub kind: ListenerKind,
    /// Where it is bound; `None` for Unix sockets.
    pub local: Option<SocketAddr>,
}

/// A listener of this worker.
#[derive(Debug)]
pub(crate) struct Listener {
    pub id: ListenerId,
    pub kind: ListenerKind,
    pub socket: Option<Socket>,
    pub local: Option<SocketAddr>,
    /// Datagrams say to which address they were sent.
    pub wildcard: bool,
    /// The socket is IPv6: IPv4 addresses are mapped.
    pub ipv6: bool,
    /// The receive or accept in flight.
    pub armed: bool,
    /// Links that send on its socket.
    pub flows: u32,
    /// No longer reads; closed when nothing uses it.
    pub leaving: bool,
}

impl Listener {
    /// Which buffers its receives fill.
    pub fn class(&self) -> Class {
        match self.kind {
            ListenerKind::Udp { gro: false } => Class::Small,
            ListenerKind::Tcp | ListenerKind::UnixStream | ListenerKind::UnixSeqpacket => Class::Stream,
            ListenerKind::Udp { gro: true } | ListenerKind::UnixDgram => Class::Large,
        }
    }

    /// How operations name its socket.
    pub fn target(&self) -> Target {
        self.socket.as_ref().map_or(Target::NONE, Socket::target)
    }
}

/// A slot and how often it was used.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    listener: Option<Listener>,
}

/// All listeners of a worker.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    slots: Vec<Slot>,
}

impl Listeners {
    /// The listener in a slot.
    pub fn get(&mut self, index: u32) -> Option<&mut Listener> {
        self.slots.get_mut(index as usize)?.listener.as_mut()
    }

    /// The listener of a token, unless the slot is somebody else's by now.
    pub fn of(&mut self, token: Token) -> Option<&mut Listener> {
        let slot = self.slots.get_mut(token.index as usize)?;
        slot.listener.as_mut().filter(|_| slot.generation == token.generation)
    }

    /// The slot of a listener that is not leaving.
    pub fn find(&self, id: ListenerId) -> Option<u32> {
        let found = |slot: &Slot| slot.listener.as_ref().is_some_and(|listener| listener.id == id && !listener.leaving);
        self.slots.iter().position(found).map(|at| at as u32)
    }

    /// The token of an operation on a listener.
    pub fn token(&self, op: Op, index: u32) -> Token {
        Token::new(op, index, self.slots.get(index as usize).map_or(0, |slot| slot.generation))
    }

    fn insert(&mut self, listener: Listener) -> u32 {
        let index = self.slots.iter().position(|slot| slot.listener.is_none()).unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[index].listener = Some(listener);
        index as u32
    }

    fn remove(&mut self, index: u32) -> Option<Listener> {
        let slot = self.slots.get_mut(index as usize)?;
        let listener = slot.listener.take()?;
        slot.generation = Token::new(Op::Accept, 0, slot.generation.wrapping_add(1)).generation;
        Some(listener)
    }
}

impl Engine {
    /// Starts to receive or accept on a socket.
    pub fn listen(&mut self, listener: ListenerId, socket: ListenerSocket) {
        let ListenerSocket { fd, kind, local } = socket;
        sockets::make_blocking(&fd);
        let mut kind = kind;
        let mut wildcard = false;
        let ipv6 = local.is_some_and(|local| local.is_ipv6());
        if let ListenerKind::Udp { gro } = &mut kind {
            sockets::set_buffer_sizes(&fd, self.settings.udp_socket_bytes);
            *gro = *gro && sockets::set_gro(&fd).is_ok();
            wildcard =
                local.is_some_and(|local| is_wildcard(local.ip())) && sockets::set_packet_info(&fd, ipv6).is_ok();
        }
        let socket = Some(self.files.adopt(&self.ring, fd));
        let listener =
            Listener { id: listener, kind, socket, local, wildcard, ipv6, armed: false, flows: 0, leaving: false };
        let index = self.listeners.insert(listener);
        self.queue_reader(Reader::Listener(index));
    }

    /// Stops to receive or accept, and closes the socket once the last flow on it was closed.
    pub fn unlisten(&mut self, listener: ListenerId) {
        let Some(index) = self.listeners.find(listener) else { return };
        let Some(listener) = self.listeners.get(index) else { return };
        listener.leaving = true;
        if listener.armed {
            // A cancellation must name the operation just as it was armed: an accept has no buffers, so no class.
            let class = listener.class();
            let token = match is_datagram(listener.kind) {
                true => self.listeners.token(Op::ListenerReceive, index).with_class(class),
                false => self.listeners.token(Op::Accept, index),
            };
            self.cancel(token, Token::new(Op::Cancel, u32::MAX, 0));
        }
        self.closing_listeners.push(index);
    }

    /// Closes listeners that left and that nothing uses any more.
    pub(crate) fn finish_listeners(&mut self) {
        let mut at = 0;
        while at < self.closing_listeners.len() {
            let index = self.closing_listeners[at];
            let used = self.listeners.get(index).is_some_and(|listener| listener.armed || listener.flows > 0);
            if used {
                at += 1;
                continue;
            }
            self.closing_listeners.swap_remove(at);
            if let Some(socket) = self.listeners.remove(index).and_then(|listener| listener.socket) {
                self.files.close(&self.ring, socket);
            }
        }
    }

    /// Arms the multishot accept of a listener.
    pub(crate) fn arm_accept(&mut self, index: u32) {
        let Some(listener) = self.listeners.get(index) else { return };
        let target = listener.target();
        listener.armed = true;
        let accept = opcode::AcceptMulti::new(target.field())
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(self.listeners.token(Op::Accept, index).pack());
        let accept = target.mark(accept);
        // SAFETY: a multishot accept without an address points to no memory; the listener's socket stays open until it
        // is no longer armed.
        unsafe { self.push(&accept) };
    }

    /// A completion of an accept.
    pub(crate) fn accepted(&mut self, token: Token, completion: Completion) -> Option<Event> {
        // SAFETY: a non-negative result of an accept is a new descriptor, which nobody else knows.
        let fd = (completion.result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(completion.result) });
        let now = self.now;
        let Some(listener) = self.listeners.of(token) else {
            self.stats.stale += 1;
            return None;
        };
        listener.armed &= completion.more();
        let (id, kind, leaving) = (listener.id, listener.kind, listener.leaving);
        let rearm = !listener.armed && !leaving;
        if rearm {
            match -completion.result {
                libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                    self.stats.accept_exhausted += 1;
                    self.timers.push(now + BACKOFF, Timer::Reader(Reader::Listener(token.index)));
                }
                libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP => {
                    self.timers.push(now + BACKOFF, Timer::Reader(Reader::Listener(token.index)));
                }
                _ => self.queue_reader(Reader::Listener(token.index)),
            }
        }
        let socket = accepted_socket(kind, fd.filter(|_| !leaving)?)?;
        Some(Event::Accepted { listener: id, socket })
    }

    /// A datagram listener could not receive: tries again a little later.
    pub(crate) fn back_off(&mut self, index: u32) {
        self.timers.push(self.now + BACKOFF, Timer::Reader(Reader::Listener(index)));
    }
}

/// Looks up who connected; `None` when they are gone again.
fn accepted_socket(kind: ListenerKind, fd: OwnedFd) -> Option<Accepted> {
    let kind = match kind {
        ListenerKind::Tcp => StreamKind::Tcp,
        ListenerKind::UnixStream => StreamKind::UnixStream,
        ListenerKind::UnixSeqpacket => StreamKind::UnixSeqpacket,
        ListenerKind::Udp { .. } | ListenerKind::UnixDgram => return None,
    };
    if kind != StreamKind::Tcp {
        return Some(Accepted { fd, kind, peer: None, local: None });
    }
    let socket = socket2::Socket::from(fd);
    let peer = socket.peer_addr().ok()?.as_socket();
    let local = socket.local_addr().ok()?.as_socket();
    let _ = socket.set_tcp_nodelay(true);
    Some(Accepted { fd: socket.into(), kind, peer, local })
}

/// Whether messages arrive on the listening socket itself.
pub(crate) fn is_datagram(kind: ListenerKind) -> bool {
    matches!(kind, ListenerKind::Udp { .. } | ListenerKind::UnixDgram)
}
