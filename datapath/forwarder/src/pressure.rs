//! Backpressure: who is read and who is not. It walks the ring the other way.

use smallvec::SmallVec;

use crate::forwarder::Forwarder;
use crate::ids::{LinkId, SessionIndex};
use crate::limits::STAGES_MAX;
use crate::links::{Link, LinkKind, Paused, Phase};
use crate::verdict::Command;

impl Forwarder {
    /// A link's queue is above its high-water mark: who feeds it is paused, unless its messages may be lost.
    pub fn blocked(&mut self, link: LinkId) {
        self.set_blocked(link, true);
    }

    /// A link's queue is below its low-water mark again.
    pub fn drained(&mut self, link: LinkId) {
        self.set_blocked(link, false);
    }

    fn set_blocked(&mut self, link: LinkId, blocked: bool) {
        let Some(entry) = self.links.get_mut(link) else { return };
        entry.blocked = blocked;
        let index = entry.session;
        if let Some(previous) = self.socket_before(link) {
            self.press_link(previous);
        }
        self.press_formers(index);
    }

    /// Pauses and resumes the links of a session as their own phase and the state of their next sockets ask for.
    pub(crate) fn press(&mut self, index: SessionIndex) {
        let Some(session) = self.session(index) else { return };
        let mut ring: SmallVec<[LinkId; 4]> = session.stages.iter().map(|stage| stage.link).collect();
        ring.push(session.source_link);
        for link in ring {
            self.press_link(link);
        }
        self.press_formers(index);
    }

    /// The links that the stages of a session have left feed the same queues.
    fn press_formers(&mut self, index: SessionIndex) {
        let Some(session) = self.session(index) else { return };
        let formers: SmallVec<[LinkId; 4]> =
            session.stages.iter().filter_map(|stage| stage.former).map(|(former, _)| former).collect();
        for former in formers {
            self.press_link(former);
        }
    }

    /// Pauses or resumes one link.
    pub(crate) fn press_link(&mut self, link: LinkId) {
        let Some(wanted) = self.pressure_on(link) else { return };
        let Some(entry) = self.links.get_mut(link) else { return };
        let before = std::mem::replace(&mut entry.paused, wanted);
        if !entry.in_engine || entry.read_ended {
            return;
        }
        match (before.is_read(), wanted.is_read()) {
            (true, false) => self.commands.push_back(Command::Pause(link)),
            (false, true) => self.commands.push_back(Command::Resume(link)),
            (true, true) | (false, false) => {}
        }
    }

    fn pressure_on(&self, link: LinkId) -> Option<Paused> {
        let entry = self.links.get(link)?;
        match entry.phase {
            Phase::Opening | Phase::Ready => Some(Paused::until_ring()),
            Phase::Handshake => Some(Paused::default()),
            Phase::Closing => None,
            Phase::Open if entry.lossy => Some(Paused::default()),
            Phase::Open => {
                let next = self.links.get(self.socket_after(link)?)?;
                let waits = matches!(next.phase, Phase::Opening | Phase::Handshake | Phase::Ready);
                let ring = if waits { Paused::RING } else { 0 };
                let blocked = if next.blocked { Paused::BLOCKED } else { 0 };
                Some(Paused::of(ring | blocked))
            }
        }
    }

    /// The next socket along the ring, past in-process links.
    pub(crate) fn socket_after(&self, from: LinkId) -> Option<LinkId> {
        self.walk(from, |link| link.next)
    }

    /// The socket whose messages a link gets, past in-process links.
    fn socket_before(&self, from: LinkId) -> Option<LinkId> {
        self.walk(from, |link| link.prev)
    }

    fn walk(&self, from: LinkId, step: impl Fn(&Link) -> u32) -> Option<LinkId> {
        let mut at = step(self.links.get(from)?);
        for _ in 0..=STAGES_MAX {
            let link = self.links.at(at)?;
            if link.kind == LinkKind::Socket {
                return Some(link.id);
            }
            at = step(link);
        }
        None
    }
}
