//! (listener, local address, peer) -> link, for listeners whose peers share one socket.

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::address::{ClientAddr, LocalAddr, UnixName};
use crate::ids::{LinkId, ListenerId};

/// A peer of an unconnected socket, as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FlowKey {
    /// A UDP peer, and the local address that it sends to.
    Udp(ListenerId, LocalAddr, ClientAddr),
    /// A Unix dgram peer.
    Unix(ListenerId, UnixName),
}

/// Finds the link of a datagram. Two maps, so that the UDP one is looked up without making a key that owns.
#[derive(Debug)]
pub struct Flows {
    udp: HashMap<(ListenerId, LocalAddr, ClientAddr), LinkId, FixedState>,
    unix: HashMap<(ListenerId, UnixName), LinkId, FixedState>,
}

impl Flows {
    /// No flows. `seed` keys the hash, so that peers cannot choose colliding addresses.
    pub fn new(seed: u64) -> Flows {
        Flows {
            udp: HashMap::with_hasher(FixedState::with_seed(seed)),
            unix: HashMap::with_hasher(FixedState::with_seed(seed)),
        }
    }

    /// The link of a UDP peer.
    pub fn udp(&self, listener: ListenerId, local: LocalAddr, peer: ClientAddr) -> Option<LinkId> {
        self.udp.get(&(listener, local, peer)).copied()
    }

    /// The link of any peer.
    pub fn get(&self, key: &FlowKey) -> Option<LinkId> {
        match key {
            FlowKey::Udp(listener, local, peer) => self.udp(*listener, *local, *peer),
            FlowKey::Unix(listener, name) => self.unix.get(&(*listener, *name)).copied(),
        }
    }

    /// Remembers a peer's link.
    pub fn insert(&mut self, key: FlowKey, link: LinkId) {
        match key {
            FlowKey::Udp(listener, local, peer) => self.udp.insert((listener, local, peer), link),
            FlowKey::Unix(listener, name) => self.unix.insert((listener, name), link),
        };
    }

    /// Forgets a peer.
    pub fn remove(&mut self, key: &FlowKey) {
        match key {
            FlowKey::Udp(listener, local, peer) => self.udp.remove(&(*listener, *local, *peer)),
            FlowKey::Unix(listener, name) => self.unix.remove(&(*listener, *name)),
        };
    }

    /// How many peers are known.
    pub fn len(&self) -> usize {
        self.udp.len() + self.unix.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
