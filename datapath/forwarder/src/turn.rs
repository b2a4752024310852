//! What happens once per turn: timers, a new configuration, draining.

use std::sync::Arc;

use crate::balance::Standing;
use crate::codec::websocket::handshake::Refusal;
use crate::counters::{DropReason, EndReason};
use crate::forwarder::Forwarder;
use crate::ids::SessionIndex;
use crate::limits::{IDLE_TIMEOUT_DATAGRAM, SESSIONS_PER_TURN};
use crate::links::LinkKind;
use crate::session::{SessionState, StageWait};
use crate::snapshot::{Cluster, Endpoint, Snapshot};
use crate::time::Time;
use crate::verdict::CloseHow;

/// What a new snapshot says of a stage's endpoint.
enum Judgement {
    /// The cluster is the very same.
    Unchanged,
    /// The endpoint stays.
    Kept(Arc<Cluster>),
    /// The cluster left the configuration, and the session keeps the route that it opened with.
    Forgotten,
    /// It stays, but is draining.
    Draining(Arc<Cluster>),
    /// It is no longer one of the cluster's.
    Gone,
}

impl Forwarder {
    /// When `expire` has something to do.
    pub fn deadline(&self) -> Option<Time> {
        match self.judging {
            Some(_) => Some(Time::ZERO),
            None => self.timers.next_deadline(),
        }
    }

    /// Does what is due. Bounded: what is left is done in the next turn.
    pub fn expire(&mut self, now: Time) {
        let mut budget = SESSIONS_PER_TURN;
        while let Some(index) = self.timers.pop(now, &mut budget) {
            self.tick(SessionIndex(index), now);
        }
        self.judge_some(now);
    }

    /// Sets a session's timer to the earliest time at which something is due.
    pub(crate) fn schedule(&mut self, index: SessionIndex) {
        let Some(session) = self.session(index) else { return };
        match session.next_deadline(self.last_seen(index)) {
            Some(at) => self.timers.set(index.0, at),
            None => self.timers.clear(index.0),
        }
    }

    /// When a message of a session last arrived.
    pub(crate) fn last_seen(&self, index: SessionIndex) -> Time {
        let Some(session) = self.session(index) else { return Time::ZERO };
        let links = session.stages.iter().map(|stage| stage.link).chain([session.source_link]);
        links.filter_map(|link| self.links.get(link)).map(|link| link.last_seen).max().unwrap_or(session.born)
    }

    /// A session's time has come: whatever is due is done.
    fn tick(&mut self, index: SessionIndex, now: Time) {
        let Some(session) = self.session(index) else { return };
        if session.deadline.is_some_and(|at| at <= now) {
            self.session_due(index, now);
        }
        let stages = self.session(index).map_or(0, |session| session.stages.len());
        for stage in 0..stages {
            self.stage_due(index, stage, now);
        }
        let Some(session) = self.session(index) else { return };
        if session.idle_timeout().is_some_and(|timeout| self.last_seen(index) + timeout <= now) {
            return self.end_session(index, EndReason::Idle, now);
        }
        self.schedule(index);
    }

    fn session_due(&mut self, index: SessionIndex, now: Time) {
        let Some(session) = self.session_mut(index) else { return };
        session.deadline = None;
        match session.state {
            SessionState::Handshake => {
                self.refuse_upgrade(index, Refusal::TIMEOUT);
                self.end_session(index, EndReason::Handshake, now);
            }
            SessionState::Backoff => self.end_session(index, EndReason::OpenFailed, now),
            SessionState::Opening | SessionState::Open => {}
        }
    }

    fn stage_due(&mut self, index: SessionIndex, stage: usize, now: Time) {
        let Some(entry) = self.session(index).and_then(|session| session.stages.get(stage)) else { return };
        let (link, waits, move_at, ends_at) = (entry.link, entry.waits, entry.move_at, entry.ends_at);
        if entry.former.is_some_and(|(_, until)| until <= now) {
            self.forget_former(index, stage, CloseHow::Flush);
        }
        match waits {
            StageWait::Connect(at) if at <= now => {
                self.link_failed(link, index, stage, DropReason::OpenFailed, now);
            }
            StageWait::Retry(at) if at <= now => self.attempt(index, stage, now),
            StageWait::Connect(_) | StageWait::Retry(_) | StageWait::Nothing => {}
        }
        if move_at.is_some_and(|at| at <= now) {
            self.move_stage(index, stage, now);
        }
        if ends_at.is_some_and(|at| at <= now) {
            if let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) {
                entry.ends_at = None;
            }
            self.give_up_reading(link, index, now);
        }
    }

    /// Takes over a new configuration. Live sessions are judged by it in this turn and the next ones.
    pub fn adopt(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        self.judging = Some(0);
    }

    /// The configuration that new sessions open with.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    fn judge_some(&mut self, now: Time) {
        let Some(start) = self.judging else { return };
        let version = self.snapshot.version;
        let end = (start + SESSIONS_PER_TURN).min(self.sessions.capacity());
        for index in start..end {
            if self.sessions.get(index).is_some_and(|session| session.judged != version) {
                self.judge(SessionIndex(index as u32), now);
            }
        }
        self.judging = (end < self.sessions.capacity()).then_some(end);
    }

    /// Ends or mends a session whose listener or endpoint a new configuration removed.
    fn judge(&mut self, index: SessionIndex, now: Time) {
        let version = self.snapshot.version;
        let Some(session) = self.session_mut(index) else { return };
        session.judged = version;
        let listener = Arc::clone(&session.listener);
        let stages = session.stages.len();
        match self.snapshot.listeners.get(&listener.id) {
            Some(_) => {}
            None if listener.remove_orphan_sessions => return self.end_session(index, EndReason::Removed, now),
            None => {}
        }
        for stage in 0..stages {
            self.judge_stage(index, stage, now);
        }
        self.schedule(index);
    }

    fn judge_stage(&mut self, index: SessionIndex, stage: usize, now: Time) {
        let judgement = self.judgement(index, stage);
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        match judgement {
            Judgement::Unchanged => {}
            Judgement::Forgotten => {
                entry.move_at = entry.move_at.or(Some(now + IDLE_TIMEOUT_DATAGRAM));
            }
            Judgement::Kept(cluster) => {
                entry.cluster = cluster;
                entry.move_at = None;
                if let Some((needless, _)) = entry.successor.take() {
                    self.release(needless, CloseHow::Abort);
                }
            }
            Judgement::Draining(cluster) => {
                entry.move_at = entry.move_at.or(cluster.drain_timeout.map(|timeout| now + timeout));
                let serves = |endpoint: &Endpoint| {
                    cluster.endpoint(&endpoint.address).is_some_and(|now| now.standing != Standing::Draining)
                };
                if let Some((late, _)) = entry.successor.take_if(|(_, endpoint)| !serves(endpoint)) {
                    entry.move_at = Some(now);
                    self.release(late, CloseHow::Abort);
                }
                if let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) {
                    entry.cluster = cluster;
                }
            }
            Judgement::Gone => match entry.waits {
                StageWait::Nothing => self.removed(index, stage, now),
                StageWait::Connect(_) => {
                    let link = entry.link;
                    self.link_failed(link, index, stage, DropReason::NoEndpoint, now);
                }
                StageWait::Retry(_) => {}
            },
        }
    }

    fn judgement(&self, index: SessionIndex, stage: usize) -> Judgement {
        let Some(entry) = self.session(index).and_then(|session| session.stages.get(stage)) else {
            return Judgement::Unchanged;
        };
        // What has no endpoint cannot lose it: a session keeps the route that it opened with.
        if self.links.get(entry.link).is_some_and(|link| link.kind != LinkKind::Socket) {
            return Judgement::Unchanged;
        }
        let Some(cluster) = self.snapshot.clusters.get(&entry.cluster.name) else { return Judgement::Forgotten };
        if Arc::ptr_eq(cluster, &entry.cluster) {
            return Judgement::Unchanged;
        }
        let Some(endpoint) = &entry.endpoint else { return Judgement::Kept(Arc::clone(cluster)) };
        match cluster.endpoint(&endpoint.address) {
            None => Judgement::Gone,
            Some(now) if now.standing == Standing::Draining => Judgement::Draining(Arc::clone(cluster)),
            Some(_) => Judgement::Kept(Arc::clone(cluster)),
        }
    }

    /// The endpoint of a stage left the configuration: a disconnect.
    pub(crate) fn removed(&mut self, index: SessionIndex, stage: usize, now: Time) {
        let reopens = self.session_and_retry(index).is_some_and(|(_, retry)| {
            matches!(retry.retry_on, l7mp_api::config::RetryOn::Disconnect | l7mp_api::config::RetryOn::Always)
        });
        if reopens {
            self.disconnected(index, stage, CloseHow::Flush, now);
        } else {
            self.end_session(index, EndReason::Removed, now);
        }
    }

    /// Takes no new sessions from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends up to a turn's worth of sessions, because the time to drain is over; true when none is left.
    pub fn end_drained(&mut self, now: Time) -> bool {
        let some: Vec<usize> = self.sessions.iter().map(|(index, _)| index).take(SESSIONS_PER_TURN).collect();
        for index in some {
            self.end_session(SessionIndex(index as u32), EndReason::Drained, now);
        }
        self.sessions.is_empty()
    }
}
