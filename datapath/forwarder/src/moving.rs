//! How a stage moves away from a draining endpoint: the next one is connected first, takes the stage's place, and the
//! former one is heard a little longer, so that answers on their way over it are not lost.

use std::sync::Arc;

use crate::forwarder::Forwarder;
use crate::ids::{LinkId, SessionIndex};
use crate::limits::{IDLE_TIMEOUT_DATAGRAM, MOVE_LINGER};
use crate::links::Phase;
use crate::session::StageWait;
use crate::snapshot::Endpoint;
use crate::time::Time;
use crate::verdict::CloseHow;

impl Forwarder {
    /// Opens a stage to a new endpoint while the old one, which is draining, still serves.
    pub(crate) fn move_stage(&mut self, index: SessionIndex, stage: usize, now: Time) {
        let chosen = self.choose(index, stage);
        let Some((session, retry)) = self.session_and_retry(index) else { return };
        let Some(entry) = session.stages.get(stage) else { return };
        if !self.snapshot.clusters.contains_key(&entry.cluster.name) {
            return self.hear_forgotten(index, stage, now);
        }
        let is_ending = self.links.get(entry.link).is_some_and(|link| link.write_ended || link.read_ended);
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        entry.move_at = None;
        match entry.waits {
            // What was asked of this endpoint, no other can answer.
            StageWait::Nothing if is_ending => return,
            StageWait::Nothing => {}
            // Its next attempt avoids endpoints that drain.
            StageWait::Retry(_) => return,
            StageWait::Connect(_) => {
                entry.move_at = Some(now + retry.timeout);
                return;
            }
        }
        if let Some((late, _)) = entry.successor.take() {
            entry.move_at = Some(now + retry.timeout);
            return self.release(late, CloseHow::Abort);
        }
        // While there is nowhere to go, it is asked again.
        entry.move_at = Some(now + retry.timeout);
        let Some((cluster, endpoint)) = chosen.filter(|(_, endpoint)| !same(&entry.endpoint, endpoint)) else { return };
        let Some(link) = self.new_stage_link(index, &cluster, now) else { return };
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        entry.successor = Some((link, Arc::clone(&endpoint)));
        self.connect(link, &cluster, &endpoint);
    }

    /// A stage whose cluster left the configuration stays while its endpoint lives. Of a datagram endpoint nobody would
    /// say that it has gone: one that is silent for too long is taken for that.
    fn hear_forgotten(&mut self, index: SessionIndex, stage: usize, now: Time) {
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        entry.move_at = None;
        let (link, is_ready) = (entry.link, entry.waits == StageWait::Nothing);
        let Some(link) = self.links.get(link).filter(|link| link.lossy && is_ready) else { return };
        let until = link.last_seen + IDLE_TIMEOUT_DATAGRAM;
        if until <= now {
            return self.removed(index, stage, now);
        }
        if let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) {
            entry.move_at = Some(until);
        }
    }

    /// The successor of a stage is ready: it takes the stage's place in the ring, and the former link is only heard.
    pub(crate) fn succeed(&mut self, index: SessionIndex, stage: usize, now: Time) {
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        let Some((successor, endpoint)) = entry.successor.take() else { return };
        let old = std::mem::replace(&mut entry.link, successor);
        entry.endpoint = Some(endpoint);
        entry.move_at = None;
        entry.ends_at = None;
        // Two moves within the time of one: nothing is expected of the older endpoint any more.
        self.forget_former(index, stage, CloseHow::Flush);
        let speaks = self.links.get(old).is_some_and(|link| link.phase == Phase::Open && !link.read_ended);
        if let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) {
            entry.former = speaks.then_some((old, now + MOVE_LINGER));
        }
        self.wire(index);
        if !speaks {
            self.retire(old);
        }
        self.join(successor, index, now);
    }

    /// The stage that a link was left by.
    pub(crate) fn former_of(&self, link: LinkId) -> Option<(SessionIndex, usize)> {
        let index = self.links.get(link).filter(|link| link.phase != Phase::Closing)?.session;
        let stages = &self.session(index)?.stages;
        let stage = stages.iter().position(|stage| stage.former.is_some_and(|(former, _)| former == link))?;
        Some((index, stage))
    }

    /// Closes the link of the endpoint that a stage has left, if it has one still.
    pub(crate) fn forget_former(&mut self, index: SessionIndex, stage: usize, how: CloseHow) {
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        let Some((former, _)) = entry.former.take() else { return };
        match how {
            CloseHow::Flush => self.retire(former),
            CloseHow::Abort => self.release(former, CloseHow::Abort),
        }
        self.schedule(index);
    }
}

fn same(present: &Option<Arc<Endpoint>>, other: &Endpoint) -> bool {
    present.as_ref().is_some_and(|present| present.address == other.address)
}
