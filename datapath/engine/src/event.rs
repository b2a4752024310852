//! What the engine tells the worker.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;

use l7mp_forwarder::address::{ClientAddr, LocalAddr, UnixName};
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::{LinkId, ListenerId};
use l7mp_forwarder::verdict::SocketError;

use crate::buffers::Class;

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// Bytes arrived on a connected socket of any kind. The buffer must be released.
    Received {
        /// Whose socket.
        link: LinkId,
        /// What arrived.
        bytes: Received,
    },
    /// A datagram, or a train of them, arrived on a UDP listener. The buffer must be released.
    Datagram {
        /// Where.
        listener: ListenerId,
        /// From whom.
        peer: ClientAddr,
        /// To which address of ours.
        local: LocalAddr,
        /// What arrived.
        bytes: Received,
    },
    /// A datagram arrived on a Unix dgram listener. The buffer must be released.
    UnixDatagram {
        /// Where.
        listener: ListenerId,
        /// From whom; `None` for an unnamed peer, who cannot be answered.
        peer: Option<UnixName>,
        /// What arrived.
        bytes: Received,
    },
    /// A connection arrived. It must be attached to a link or refused; dropping it closes it too.
    Accepted {
        /// Where.
        listener: ListenerId,
        /// The connection.
        socket: Accepted,
    },
    /// `Command::Open` succeeded.
    Opened(LinkId),
    /// `Command::Open` failed. The link still wants its `Command::Close`.
    Failed {
        /// Whose.
        link: LinkId,
        /// What kind of failure it is.
        error: SocketError,
        /// What the kernel said.
        errno: i32,
    },
    /// The peer sent FIN: nothing more arrives. Sending is still possible.
    Ended(LinkId),
    /// The socket is of no more use; nothing more arrives, what is queued was `Lost`. At most once per link.
    Broken(LinkId, SocketError),
    /// The link's queue passed `OUTBOX_HIGH_BYTES`.
    Blocked(LinkId),
    /// The queue of a blocked link fell to `OUTBOX_LOW_BYTES`.
    Drained(LinkId),
    /// The kernel took messages. For UDP: and reported no error.
    Sent {
        /// Whose.
        link: LinkId,
        /// The sum of `Frame::messages`.
        messages: u32,
        /// Bytes, framing included.
        bytes: u64,
    },
    /// Messages that were given to `send` will not go out.
    Lost {
        /// Whose.
        link: LinkId,
        /// The sum of `Frame::messages`.
        messages: u32,
        /// Why.
        reason: DropReason,
    },
    /// A datagram longer than the receive buffer arrived and was dropped.
    Oversized(Source),
    /// Answers `Command::Close`: the socket is closed, the slot may be used again.
    Closed(LinkId),
    /// Another thread used the [`crate::Waker`].
    Woken,
}

/// Where something arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// On a link's own socket.
    Link(LinkId),
    /// On a listener's shared socket.
    Listener(ListenerId),
}

/// A received buffer. It must be given back with [`crate::Engine::release`], exactly once.
///
/// ```text
///   | >= 16 bytes of headroom | datagram | datagram | ... | last |
///                             |<-stride->|                  <= stride
///                             |<------------- len ------------>|
/// ```
#[derive(Debug)]
#[must_use = "a received buffer is lost to its pool until it is released"]
pub struct Received {
    pub(crate) class: Class,
    pub(crate) buffer: u16,
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) stride: u32,
}

impl Received {
    /// How many bytes, over all datagrams of a train.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none: an empty datagram.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size of each datagram of a train but the last, which may be shorter. `len` when there is no train.
    pub fn stride(&self) -> usize {
        self.stride as usize
    }

    /// Where each datagram lies. One range, of everything, when there is no train; an empty one for an empty datagram.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (len, stride) = (self.len(), self.stride().max(1));
        (0..len.div_ceil(stride).max(1)).map(move |i| i * stride..len.min((i + 1) * stride))
    }
}

/// A connection that waits for its link.
#[derive(Debug)]
pub struct Accepted {
    pub(crate) fd: OwnedFd,
    pub(crate) kind: StreamKind,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
}

impl Accepted {
    /// Who connected; `None` for a Unix socket.
    pub fn peer(&self) -> Option<ClientAddr> {
        self.peer.map(ClientAddr::new)
    }

    /// The address of ours that it connected to; `None` for a Unix socket.
    pub fn local(&self) -> Option<LocalAddr> {
        self.local.map(LocalAddr::new)
    }
}

/// Kinds of connected sockets that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    Tcp,
    UnixStream,
    UnixSeqpacket,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(len: u32, stride: u32) -> Received {
        Received { class: Class::Large, buffer: 0, start: 0, len, stride }
    }

    #[test]
    fn a_train_is_cut_at_its_stride() {
        let cut = |len, stride| received(len, stride).datagrams().map(|at| (at.start, at.end)).collect::<Vec<_>>();
        assert_eq!(cut(0, 0), [(0, 0)]);
        assert_eq!(cut(5, 5), [(0, 5)]);
        assert_eq!(cut(5, 2), [(0, 2), (2, 4), (4, 5)]);
        assert_eq!(cut(4, 2), [(0, 2), (2, 4)]);
    }
}
