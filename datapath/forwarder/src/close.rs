//! How sessions end: ends of streams that follow the ring, broken connections, refusals, teardown; and
//! backpressure, which walks the ring the other way.

use std::sync::Arc;

use l7mp_api::config::{RetryOn, UnixKind};

use crate::codec::Finish;
use crate::counters::{DropReason, EndReason};
use crate::forwarder::Forwarder;
use crate::ids::{LinkId, SessionIndex};
use crate::limits::{END_LINGER, STAGES_MAX};
use crate::links::{LinkKind, NOWHERE, Paused, Phase};
use crate::session::{SessionState, Source, StageWait};
use crate::snapshot::{ClusterProtocol, ListenerProtocol};
use crate::time::Time;
use crate::verdict::{CloseHow, Command, SocketError, Verdict};

/// Close codes of RFC 6455, section 7.4.1.
mod code {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const INTERNAL: u16 = 1011;
}

/// How the end of a stream is told to a peer.
enum EndSign {
    /// FIN.
    Fin,
    /// A WebSocket Close.
    Close,
    /// Not at all: late answers are waited for, then the end is passed on.
    Linger,
}

impl Forwarder {
    /// A peer ended its stream.
    pub fn ended(&mut self, link: LinkId, now: Time) {
        let Some(entry) = self.links.get_mut(link).filter(|entry| entry.phase != Phase::Closing) else { return };
        entry.read_ended = true;
        let index = entry.session;
        let (phase, last) = (entry.phase, entry.codec.finish());
        if phase == Phase::Open {
            self.last_message(link, last);
        }
        let Some(session) = self.session(index) else { return };
        if session.source_link != link {
            return self.stage_ended(link, index, now);
        }
        match session.state {
            SessionState::Open if self.speaks_websocket(index) => self.end_session(index, EndReason::ClientGone, now),
            SessionState::Open => self.pass_end(link, index, now),
            SessionState::Opening => {}
            SessionState::Handshake => self.end_session(index, EndReason::Handshake, now),
            SessionState::Backoff => self.end_session(index, EndReason::ClientGone, now),
        }
    }

    /// What the end of a stream left behind.
    fn last_message(&mut self, link: LinkId, last: Finish) {
        match last {
            Finish::Clean => {}
            Finish::Message { bytes, kind } => {
                self.counters.messages_in.add(1);
                let verdict = self.forward_owned(link, bytes, kind);
                self.queue(verdict, &[]);
            }
            Finish::Lost => {
                self.counters.messages_in.add(1);
                self.dropped(DropReason::Protocol);
            }
        }
    }

    /// The peer of a stage ended its stream.
    fn stage_ended(&mut self, link: LinkId, index: SessionIndex, now: Time) {
        let Some((_, stage)) = self.stage_of(link) else { return };
        let asked_for = self.links.get(link).is_some_and(|link| link.write_ended);
        let open = self.links.get(link).is_some_and(|link| link.phase == Phase::Open);
        if !open {
            return self.link_failed(link, index, stage, DropReason::OpenFailed, now);
        }
        if asked_for || !self.reopens(index) {
            return self.pass_end(link, index, now);
        }
        self.disconnected(index, stage, now);
    }

    /// A connection broke.
    pub fn broken(&mut self, link: LinkId, _error: SocketError, now: Time) {
        let Some(entry) = self.links.get(link).filter(|entry| entry.phase != Phase::Closing) else { return };
        let index = entry.session;
        let Some(session) = self.session(index) else { return };
        if session.source_link == link {
            return self.end_session(index, EndReason::ClientGone, now);
        }
        let Some((_, stage)) = self.stage_of(link) else { return };
        if matches!(entry.phase, Phase::Opening | Phase::Handshake) {
            return self.link_failed(link, index, stage, DropReason::OpenFailed, now);
        }
        self.disconnected(index, stage, now);
    }

    /// Whether a broken stage of this session is opened again.
    fn reopens(&self, index: SessionIndex) -> bool {
        self.session_and_retry(index)
            .is_some_and(|(_, retry)| matches!(retry.retry_on, RetryOn::Disconnect | RetryOn::Always))
    }

    /// A stage lost its endpoint: it is reopened, or the session ends.
    pub(crate) fn disconnected(&mut self, index: SessionIndex, stage: usize, now: Time) {
        if !self.reopens(index) {
            return self.end_session(index, EndReason::Disconnect, now);
        }
        let Some(link) = self.session(index).and_then(|session| session.stages.get(stage)).map(|stage| stage.link)
        else {
            return;
        };
        if let Some(previous) = self.socket_before(link) {
            self.pause(previous, Paused::RING);
        }
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        entry.attempts = 0;
        entry.waits = StageWait::Retry(now);
        entry.move_at = None;
        if let Some((successor, _)) = entry.successor.take() {
            self.release(successor, CloseHow::Abort);
        }
        self.attempt(index, stage, now);
        self.schedule(index);
    }

    /// The end of what `from`'s peer says goes one hop along the ring, behind what is queued.
    pub(crate) fn pass_end(&mut self, from: LinkId, index: SessionIndex, now: Time) {
        let Some(next) = self.socket_after(from) else { return };
        let Some(session) = self.session(index) else { return };
        if next == session.source_link {
            return self.end_session(index, EndReason::Finished, now);
        }
        let Some(stage) = session.stages.iter().find(|stage| stage.link == next) else { return };
        let sign = match &stage.cluster.protocol {
            ClusterProtocol::Tcp { .. } | ClusterProtocol::Unix(UnixKind::Stream | UnixKind::Seqpacket, _) => {
                EndSign::Fin
            }
            ClusterProtocol::WebSocket { .. } => EndSign::Close,
            ClusterProtocol::Udp { .. }
            | ClusterProtocol::Unix(UnixKind::Dgram, _)
            | ClusterProtocol::Echo
            | ClusterProtocol::Discard => EndSign::Linger,
        };
        let already = self.links.get_mut(next).is_some_and(|link| std::mem::replace(&mut link.write_ended, true));
        let read_ended = self.links.get(next).is_some_and(|link| link.read_ended);
        match sign {
            _ if read_ended => return self.pass_end(next, index, now),
            EndSign::Fin if !already => self.commands.push_back(Command::Shutdown(next)),
            EndSign::Close if !already => self.send_close(next, code::NORMAL),
            EndSign::Fin | EndSign::Close => {}
            EndSign::Linger => {
                if let Some(session) = self.session_mut(index) {
                    session.ending_from = Some(next);
                    session.deadline = Some(now + END_LINGER);
                }
            }
        }
        self.schedule(index);
    }

    /// A WebSocket peer sent Close.
    pub(crate) fn peer_closed(&mut self, from: LinkId, reply: Option<Vec<u8>>, now: Time) -> Verdict {
        let Some(link) = self.links.get_mut(from) else { return Verdict::Kept };
        link.read_ended = true;
        let index = link.session;
        let Some(session) = self.session_mut(index) else { return Verdict::Kept };
        if session.source_link == from {
            session.close_reply = reply;
            self.pass_end(from, index, now);
            return Verdict::Kept;
        }
        if let Some(reply) = reply {
            self.send_control(from, reply);
        }
        self.stage_ended(from, index, now);
        Verdict::Kept
    }

    /// A peer broke its protocol's rules.
    pub(crate) fn violation(&mut self, from: LinkId, reply: Vec<u8>, reason: DropReason, now: Time) -> Verdict {
        self.counters.messages_in.add(1);
        let verdict = self.dropped(reason);
        if !reply.is_empty() {
            self.send_control(from, reply);
        }
        let Some(index) = self.links.get(from).map(|link| link.session) else { return verdict };
        match self.stage_of(from) {
            Some((_, stage)) => self.disconnected(index, stage, now),
            None => self.end_session(index, EndReason::Protocol, now),
        }
        verdict
    }

    /// The next socket along the ring, past in-process links.
    fn socket_after(&mut self, from: LinkId) -> Option<LinkId> {
        self.walk(from, |link| link.next)
    }

    /// The socket whose messages a link gets, past in-process links.
    fn socket_before(&mut self, from: LinkId) -> Option<LinkId> {
        self.walk(from, |link| link.prev)
    }

    fn walk(&mut self, from: LinkId, step: impl Fn(&crate::links::Link) -> u32) -> Option<LinkId> {
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

    /// A link's queue is above its high-water mark: who feeds it is paused, unless its messages may be lost.
    pub fn blocked(&mut self, link: LinkId) {
        if let Some(previous) = self.socket_before(link) {
            self.pause(previous, Paused::BLOCKED);
        }
    }

    /// A link's queue is below its low-water mark again.
    pub fn drained(&mut self, link: LinkId) {
        let Some(previous) = self.socket_before(link) else { return };
        let Some(entry) = self.links.get_mut(previous) else { return };
        if entry.paused.clear(Paused::BLOCKED) && entry.in_engine && !entry.read_ended {
            self.commands.push_back(Command::Resume(previous));
        }
    }

    fn pause(&mut self, link: LinkId, bit: u8) {
        let Some(entry) = self.links.get_mut(link).filter(|entry| !entry.lossy) else { return };
        if entry.paused.set(bit) && entry.in_engine {
            self.commands.push_back(Command::Pause(link));
        }
    }

    /// Whether the session's client speaks WebSocket.
    pub(crate) fn speaks_websocket(&self, index: SessionIndex) -> bool {
        self.session(index)
            .is_some_and(|session| matches!(session.listener.protocol, ListenerProtocol::WebSocket { .. }))
    }

    /// Ends a session: everybody is told in the way of their protocol, after what is queued.
    pub(crate) fn end_session(&mut self, index: SessionIndex, reason: EndReason, now: Time) {
        let _ = now;
        let Some(session) = self.session_mut(index) else { return };
        let (source, state, reply) = (session.source_link, session.state, session.close_reply.take());
        if let Some(key) = session.flow_key() {
            self.flows.remove(&key);
        }
        self.drop_held(index, DropReason::Closed);
        self.release_stages(index, CloseHow::Flush);
        if self.speaks_websocket(index) && state == SessionState::Open {
            match reply {
                Some(reply) => self.send_control(source, reply),
                None => self.send_close(source, close_code(reason)),
            }
        }
        let how = match reason {
            EndReason::ClientGone => CloseHow::Abort,
            EndReason::Finished
            | EndReason::Idle
            | EndReason::OpenFailed
            | EndReason::Refused
            | EndReason::Disconnect
            | EndReason::Protocol
            | EndReason::Removed
            | EndReason::Deleted
            | EndReason::Drained
            | EndReason::Handshake => CloseHow::Flush,
        };
        self.release(source, how);
        self.timers.clear(index.0);
        let session = self.sessions.remove(index.0 as usize);
        session.listener.counters[self.identity.worker].sessions_active.sub(1);
        self.counters.sessions_active.sub(1);
        self.counters.sessions_closed.of_end(reason).add(1);
    }

    /// Closes every stage of a session.
    pub(crate) fn release_stages(&mut self, index: SessionIndex, how: CloseHow) {
        let Some(session) = self.session_mut(index) else { return };
        for stage in std::mem::take(&mut session.stages) {
            stage.counters.sessions_active.sub(1);
            if let ClusterProtocol::WebSocket { .. } = stage.cluster.protocol {
                self.send_close(stage.link, code::NORMAL);
            }
            self.release(stage.link, how);
            if let Some((successor, _)) = stage.successor {
                self.release(successor, CloseHow::Abort);
            }
        }
    }

    /// Sends a WebSocket Close, if the link is open and none was sent.
    fn send_close(&mut self, link: LinkId, code: u16) {
        let mask = self.random_word();
        let Some(entry) = self.links.get_mut(link).filter(|entry| entry.phase == Phase::Open) else { return };
        if let Some(bytes) = entry.codec.close(code, mask) {
            self.send_control(link, bytes);
        }
    }

    /// Takes a link out of its ring and closes its socket; its slot is free when the engine says `closed`.
    pub(crate) fn release(&mut self, link: LinkId, how: CloseHow) {
        self.handshakes.remove(&link);
        let Some(entry) = self.links.get_mut(link).filter(|entry| entry.phase != Phase::Closing) else { return };
        if !entry.in_engine {
            self.links.remove(link);
            return;
        }
        entry.phase = Phase::Closing;
        entry.next = NOWHERE;
        entry.prev = NOWHERE;
        entry.stash = Vec::new();
        self.commands.push_back(Command::Close { link, how });
    }

    /// The engine let go of a link.
    pub fn closed(&mut self, link: LinkId) {
        debug_assert!(
            self.links.get(link).is_none_or(|entry| entry.phase == Phase::Closing),
            "{link:?} closed unasked"
        );
        self.links.remove(link);
    }

    /// The sessions' names are cheap to compare only after they were made: finds one by its number.
    pub fn delete(&mut self, name: &str, now: Time) -> bool {
        let Some(index) = self.find(name) else { return false };
        self.end_session(index, EndReason::Deleted, now);
        true
    }

    /// The session of a name.
    pub(crate) fn find(&self, name: &str) -> Option<SessionIndex> {
        let number: u64 = name.rsplit('-').next()?.parse().ok()?;
        let (index, _) =
            self.sessions.iter().find(|(_, session)| session.number.0 == number && session.name() == name)?;
        u32::try_from(index).ok().map(SessionIndex)
    }

    /// What a link's datagram listener is, for tests and invariants.
    pub fn is_flow(&self, link: LinkId) -> bool {
        let session = self.links.get(link).and_then(|entry| self.session(entry.session));
        session.is_some_and(|session| {
            session.source_link == link && matches!(session.source, Source::Udp(_) | Source::UnixDgram(_))
        })
    }
}

fn close_code(reason: EndReason) -> u16 {
    match reason {
        EndReason::Finished | EndReason::Deleted => code::NORMAL,
        EndReason::Idle | EndReason::Removed | EndReason::Drained => code::GOING_AWAY,
        EndReason::OpenFailed
        | EndReason::Refused
        | EndReason::ClientGone
        | EndReason::Disconnect
        | EndReason::Protocol
        | EndReason::Handshake => code::INTERNAL,
    }
}

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<crate::snapshot::Snapshot>>();
};
