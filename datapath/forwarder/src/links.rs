//! A slab of links: per end of a session its codec, and the link that its messages go to.
//!
//! A slot is used again only after the engine said `closed`, and under the next generation.

use std::sync::Arc;

use crate::codec::Codec;
use crate::counters::ScopeCounters;
use crate::ids::{LinkId, SessionIndex};
use crate::limits::LINKS_MAX;
use crate::time::Time;

/// What a link does with a message that arrives at it along the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Sends it on a socket.
    Socket,
    /// Passes it to its own next link.
    Echo,
    /// Swallows it.
    Discard,
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No socket yet: it connects, or waits for its next attempt.
    Opening,
    /// The WebSocket upgrade is under way.
    Handshake,
    /// Ready, but the ring is not closed: what arrives is kept in the stash.
    Ready,
    /// Messages flow.
    Open,
    /// The engine was told to close it; its slot waits for `closed`.
    Closing,
}

/// Why a link is not read. It is read when no bit is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paused(u8);

impl Paused {
    /// The ring is not closed, or the next stage is being reopened.
    pub const RING: u8 = 1;
    /// The next link's queue is above its high-water mark.
    pub const BLOCKED: u8 = 2;

    /// Paused until its ring is closed.
    pub fn until_ring() -> Paused {
        Paused(Paused::RING)
    }

    /// These bits.
    pub fn of(bits: u8) -> Paused {
        Paused(bits)
    }

    /// Whether no bit is set.
    pub fn is_read(self) -> bool {
        self.0 == 0
    }
}

/// The `next` and `prev` of a link without a ring.
pub const NOWHERE: u32 = u32::MAX;

/// One end of a session.
#[derive(Debug)]
pub struct Link {
    /// Slot and generation.
    pub id: LinkId,
    /// Where its messages go; [`NOWHERE`] when it has no ring.
    pub next: u32,
    /// Whose messages it gets; for backpressure.
    pub prev: u32,
    /// What it does with a message.
    pub kind: LinkKind,
    /// How far it is.
    pub phase: Phase,
    /// Why it is not read.
    pub paused: Paused,
    /// Its source may lose messages (UDP, Unix dgram): they are dropped rather than paused.
    pub lossy: bool,
    /// Its peer ended its stream.
    pub read_ended: bool,
    /// We ended ours towards its peer.
    pub write_ended: bool,
    /// What waits to be sent on it is above the high-water mark.
    pub blocked: bool,
    /// The engine has a socket for it, and will say `closed`.
    pub in_engine: bool,
    /// The session it belongs to.
    pub session: SessionIndex,
    /// When a message last arrived at or left through it.
    pub last_seen: Time,
    /// How messages lie in its bytes.
    pub codec: Codec,
    /// What its listener or cluster counts.
    pub counters: Arc<ScopeCounters>,
    /// Bytes that arrived before messages could flow: the start of a handshake, or what came right behind it.
    pub stash: Vec<u8>,
}

/// All links of a worker.
#[derive(Debug, Default)]
pub struct Links {
    slots: Vec<Option<Link>>,
    free: Vec<LinkId>,
    live: usize,
}

impl Links {
    /// Makes a link; `None` when [`LINKS_MAX`] are live.
    pub fn insert(&mut self, make: impl FnOnce(LinkId) -> Link) -> Option<LinkId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let index = u32::try_from(self.slots.len()).ok().filter(|&n| n < LINKS_MAX)?;
                self.slots.push(None);
                LinkId::new(index, 0)
            }
        };
        self.slots[id.index()] = Some(make(id));
        self.live += 1;
        Some(id)
    }

    /// Frees a slot for its next generation. False when `id` is not its present user.
    pub fn remove(&mut self, id: LinkId) -> bool {
        if self.get(id).is_none() {
            return false;
        }
        self.slots[id.index()] = None;
        self.free.push(id.successor());
        self.live -= 1;
        true
    }

    /// The link of an id, if it is the slot's present user.
    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.slots.get(id.index())?.as_ref().filter(|link| link.id == id)
    }

    /// The link of an id, if it is the slot's present user.
    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.slots.get_mut(id.index())?.as_mut().filter(|link| link.id == id)
    }

    /// The present user of a slot, as `next` and `prev` name it.
    pub fn at(&self, index: u32) -> Option<&Link> {
        self.slots.get(index as usize)?.as_ref()
    }

    /// The present user of a slot, as `next` and `prev` name it.
    pub fn at_mut(&mut self, index: u32) -> Option<&mut Link> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// How many are live, closing ones included.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether none is live.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Every live link.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.slots.iter().flatten()
    }
}
