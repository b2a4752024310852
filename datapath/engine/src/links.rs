//! The engine's side of a link: its socket and what is in flight on it.

use std::os::fd::OwnedFd;

use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::limits;
use l7mp_forwarder::time::Time;
use l7mp_forwarder::verdict::SocketError;

use crate::address::{InetName, Name, UNIX_NAME_BYTES};
use crate::buffers::Class;
use crate::cmsg::ControlBuffer;
use crate::files::{Socket, Target};
use crate::outbox::Outbox;

/// Kind of a link's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connected UDP socket; with GRO or not.
    Udp { gro: bool },
    /// A peer of a UDP listener.
    UdpFlow,
    /// TCP or a Unix stream.
    Bytes,
    /// Unix seqpacket.
    Seqpacket,
    /// A connected Unix dgram socket.
    UnixDgram,
    /// A peer of a Unix dgram listener.
    UnixFlow,
}

impl Kind {
    /// Sent at once or dropped, never queued.
    pub fn is_udp(self) -> bool {
        matches!(self, Kind::Udp { .. } | Kind::UdpFlow)
    }

    /// Uses a listener's socket, and does not read by itself.
    pub fn is_flow(self) -> bool {
        matches!(self, Kind::UdpFlow | Kind::UnixFlow)
    }

    /// Which buffers its receives fill.
    pub fn class(self) -> Class {
        match self {
            Kind::Udp { gro: false } => Class::Small,
            Kind::Bytes => Class::Stream,
            Kind::Udp { gro: true } | Kind::UdpFlow | Kind::Seqpacket | Kind::UnixDgram | Kind::UnixFlow => {
                Class::Large
            }
        }
    }
}

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody uses the slot.
    Vacant,
    /// Connecting.
    Opening,
    /// Connecting failed, or the socket broke: waits for its Close.
    Dead,
    /// In use.
    Open,
    /// Sends what is queued, then FIN.
    Flushing,
    /// FIN is sent; what still arrives is thrown away until the peer's FIN, so that no reset destroys our last words.
    Lingering,
    /// Waits for the operations in flight to end.
    Closing,
}

/// The receive operation of a link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// Resumed and not paused.
    pub wanted: bool,
    /// An operation is in flight.
    pub armed: bool,
    /// It is being cancelled.
    pub cancelling: bool,
    /// Waits for buffers or the next turn to be armed.
    pub queued: bool,
    /// The peer's FIN was seen.
    pub ended: bool,
}

/// To whom a flow sends, ready for the kernel.
#[derive(Debug)]
pub(crate) enum Destination {
    /// The peer of a UDP listener, and from which address of ours.
    Inet { name: InetName, source: ControlBuffer },
    /// The peer of a Unix dgram listener.
    Unix { name: Name<UNIX_NAME_BYTES> },
}

/// A connect in flight.
#[derive(Debug)]
pub(crate) struct Connecting {
    /// Where to. Boxed by its owner, so that it stays where the operation found it.
    pub name: Name<UNIX_NAME_BYTES>,
    /// Keeps `/proc/self/fd/N` of the name alive.
    pub _path: Option<OwnedFd>,
}

/// One end of a session.
#[derive(Debug)]
pub(crate) struct Link {
    pub id: LinkId,
    pub phase: Phase,
    pub kind: Kind,
    /// How operations name its socket, or its listener's.
    pub target: Target,
    /// Its own socket.
    pub socket: Option<Socket>,
    /// The listener's slot, of a flow.
    pub listener: u32,
    pub reading: Reading,
    /// Joins datagrams into trains with segments up to this size; 0 when the socket cannot.
    pub segment_max: u16,
    /// When a connected UDP socket was refused last.
    pub refused_at: Option<Time>,
    pub destination: Option<Box<Destination>>,
    pub connecting: Option<Box<Connecting>>,
    /// What waits to be sent in order.
    pub outbox: Option<Box<Outbox>>,
    /// `Shutdown` was asked for.
    pub shut: bool,
    /// A stream that takes nothing more. It is broken once all that its peer sent before was read.
    pub write_error: Option<SocketError>,
}

impl Link {
    fn vacant(index: usize) -> Link {
        Link::new(LinkId::new(index as u32, 0), Phase::Vacant, Kind::UdpFlow)
    }

    /// A fresh link without a socket.
    pub fn new(id: LinkId, phase: Phase, kind: Kind) -> Link {
        Link {
            id,
            phase,
            kind,
            target: Target::NONE,
            socket: None,
            listener: u32::MAX,
            reading: Reading::default(),
            segment_max: u16::MAX,
            refused_at: None,
            destination: None,
            connecting: None,
            outbox: None,
            shut: false,
            write_error: None,
        }
    }

    /// Whether events about it still interest anybody.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether an operation in flight names its socket. Datagram sends do not count: they end with their submission.
    pub fn is_busy(&self) -> bool {
        self.reading.armed
            || self.connecting.is_some()
            || self.outbox.as_ref().is_some_and(|outbox| outbox.is_in_flight())
    }
}

/// All links of a worker, by index.
#[derive(Debug, Default)]
pub(crate) struct Links {
    slots: Vec<Link>,
}

impl Links {
    /// The link, unless its slot is vacant or somebody else's by now.
    pub fn get(&mut self, id: LinkId) -> Option<&mut Link> {
        self.slots.get_mut(id.index()).filter(|link| link.id == id && link.phase != Phase::Vacant)
    }

    /// Puts a link into its slot. Refused when the slot is taken: a `Closed` was not waited for.
    pub fn insert(&mut self, link: Link) -> bool {
        let index = link.id.index();
        if index >= limits::LINKS_MAX as usize {
            return false;
        }
        while self.slots.len() <= index {
            self.slots.push(Link::vacant(self.slots.len()));
        }
        let slot = &mut self.slots[index];
        if slot.phase != Phase::Vacant {
            return false;
        }
        *slot = link;
        true
    }

    /// Vacates a slot, and gives back what was in it.
    pub fn remove(&mut self, id: LinkId) -> Option<Link> {
        let link = self.get(id)?;
        let vacant = Link::vacant(id.index());
        Some(std::mem::replace(link, vacant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_of_two_links_is_small() {
        let flow = size_of::<Link>() + size_of::<Destination>();
        let upstream = size_of::<Link>();
        assert!(flow + upstream <= 640, "{flow} + {upstream} bytes");
    }
}
