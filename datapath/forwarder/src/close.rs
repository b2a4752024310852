//! How sessions end: ends of streams that follow the ring, broken connections, refusals, teardown.

use std::sync::Arc;

use l7mp_api::config::RetryOn;
use smallvec::SmallVec;

use crate::codec::websocket::handshake::Refusal;
use crate::codec::{Codec, Finish};
use crate::counters::{DropReason, EndReason};
use crate::forwarder::Forwarder;
use crate::ids::{LinkId, SessionIndex};
use crate::limits::END_LINGER;
use crate::links::{Link, NOWHERE, Phase};
use crate::session::{SessionState, Source, StageWait};
use crate::snapshot::ListenerProtocol;
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
            // Nobody is left who waits for the 101. Of another stream only this half is over: see `settle_ends`.
            SessionState::Opening if self.speaks_websocket(index) => {
                self.end_session(index, EndReason::ClientGone, now);
            }
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
                self.count_in(link, bytes.len());
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
        if let Some((index, stage)) = self.former_of(link) {
            return self.forget_former(index, stage, CloseHow::Flush);
        }
        let Some((_, stage)) = self.stage_of(link) else { return };
        let asked_for = self.links.get(link).is_some_and(|link| link.write_ended);
        let open = self.links.get(link).is_some_and(|link| link.phase == Phase::Open);
        if !open {
            return self.link_failed(link, index, stage, DropReason::OpenFailed, now);
        }
        if asked_for || !self.reopens(index) {
            self.leave_flow(index);
            return self.pass_end(link, index, now);
        }
        self.disconnected(index, stage, CloseHow::Flush, now);
    }

    /// A ring that a stage has ended takes nothing more from a datagram client, which cannot know it: its next datagram
    /// opens another session. Late answers still come back by this one.
    fn leave_flow(&mut self, index: SessionIndex) {
        let Some(session) = self.session_mut(index) else { return };
        let Some(key) = session.flow_key() else { return };
        session.left_flow = true;
        self.flows.remove(&key);
    }

    /// A connection broke.
    pub fn broken(&mut self, link: LinkId, _error: SocketError, now: Time) {
        let Some(entry) = self.links.get(link).filter(|entry| entry.phase != Phase::Closing) else { return };
        let index = entry.session;
        let Some(session) = self.session(index) else { return };
        if session.source_link == link {
            return self.end_session(index, EndReason::ClientGone, now);
        }
        if let Some((_, stage)) = self.former_of(link) {
            return self.forget_former(index, stage, CloseHow::Abort);
        }
        let Some((_, stage)) = self.stage_of(link) else { return };
        if entry.phase != Phase::Open {
            return self.link_failed(link, index, stage, DropReason::OpenFailed, now);
        }
        if entry.write_ended {
            // Its conversation was over from our side: there is nothing to reopen it for.
            return self.give_up_reading(link, index, now);
        }
        self.disconnected(index, stage, CloseHow::Abort, now);
    }

    /// Nothing more is awaited from a stage's peer: its end is passed on.
    pub(crate) fn give_up_reading(&mut self, link: LinkId, index: SessionIndex, now: Time) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.read_ended = true;
        }
        self.pass_end(link, index, now);
    }

    /// Whether a broken stage of this session is opened again.
    fn reopens(&self, index: SessionIndex) -> bool {
        self.session_and_retry(index)
            .is_some_and(|(_, retry)| matches!(retry.retry_on, RetryOn::Disconnect | RetryOn::Always))
    }

    /// A stage lost its endpoint: it is reopened, or the session ends. `how` its link is closed: `Flush` when what is
    /// queued on it may still arrive.
    pub(crate) fn disconnected(&mut self, index: SessionIndex, stage: usize, how: CloseHow, now: Time) {
        if !self.reopens(index) {
            return self.end_session(index, EndReason::Disconnect, now);
        }
        let Some((_, retry)) = self.session_and_retry(index) else { return };
        let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) else { return };
        // One that breaks again at once is not reopened at once, or an endpoint that closes what it accepts would
        // keep us busy.
        let again = entry.lost_at.replace(now).is_some_and(|lost| now.since(lost) < retry.timeout);
        entry.ends_at = None;
        entry.move_at = None;
        let (link, successor) = (entry.link, entry.successor.take());
        if let Some((successor, _)) = successor {
            self.release(successor, CloseHow::Abort);
        }
        self.release(link, how);
        if again {
            return self.stage_failed(index, stage, DropReason::Disconnected, now);
        }
        if let Some(entry) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) {
            entry.attempts = 0;
            entry.waits = StageWait::Retry(now);
            entry.counters.retries.add(1);
        }
        self.attempt(index, stage, now);
        self.schedule(index);
    }

    /// The end of what `from`'s peer says goes one hop along the ring, behind what is queued.
    pub(crate) fn pass_end(&mut self, from: LinkId, index: SessionIndex, now: Time) {
        let Some(next) = self.socket_after(from) else { return };
        let Some(session) = self.session(index) else { return };
        if next == session.source_link {
            return match self.source_goes_on(index) {
                true => self.end_half(index),
                false => self.end_session(index, EndReason::Finished, now),
            };
        }
        let Some(stage) = session.stages.iter().position(|stage| stage.link == next) else { return };
        // One that is being reopened is told when it is open, behind what is held for it.
        let Some(entry) = self.links.get_mut(next).filter(|entry| entry.phase == Phase::Open) else { return };
        let (told, read_ended) = (std::mem::replace(&mut entry.write_ended, true), entry.read_ended);
        match end_sign(&entry.codec) {
            EndSign::Fin | EndSign::Close | EndSign::Linger if told => {}
            EndSign::Fin => self.commands.push_back(Command::Shutdown(next)),
            EndSign::Close => self.send_close(next, code::NORMAL),
            EndSign::Linger => {
                if let Some(stage) = self.session_mut(index).and_then(|session| session.stages.get_mut(stage)) {
                    stage.ends_at = Some(now + END_LINGER);
                }
                self.schedule(index);
            }
        }
        if read_ended {
            self.pass_end(next, index, now);
        }
    }

    /// Whether the source, whose peer gets nothing more, may still speak, and everybody on the ring would still hear it.
    fn source_goes_on(&self, index: SessionIndex) -> bool {
        let Some(session) = self.session(index) else { return false };
        let source = self.links.get(session.source_link);
        // Only a byte stream or seqpacket has two halves that end one by one.
        let speaks = source.is_some_and(|link| !link.read_ended && matches!(end_sign(&link.codec), EndSign::Fin));
        let hears = |link: &Link| {
            let closed = link.read_ended && matches!(end_sign(&link.codec), EndSign::Close);
            link.phase == Phase::Open && !link.write_ended && !closed
        };
        speaks && session.stages.iter().all(|stage| self.links.get(stage.link).is_some_and(hears))
    }

    /// Tells the source that nothing more comes. What it says itself still goes its way, until it ends that too, or is
    /// silent for [`HALF_CLOSED_TIMEOUT`](crate::limits::HALF_CLOSED_TIMEOUT).
    fn end_half(&mut self, index: SessionIndex) {
        let Some(session) = self.session_mut(index) else { return };
        session.half_closed = true;
        let source = session.source_link;
        let Some(entry) = self.links.get_mut(source) else { return };
        if !std::mem::replace(&mut entry.write_ended, true) {
            self.commands.push_back(Command::Shutdown(source));
        }
        self.schedule(index);
    }

    /// Ends that arrived while the ring was not closed are passed on.
    pub(crate) fn settle_ends(&mut self, index: SessionIndex, now: Time) {
        let Some(session) = self.session(index) else { return };
        let mut ring: SmallVec<[LinkId; 4]> = SmallVec::new();
        ring.push(session.source_link);
        ring.extend(session.stages.iter().map(|stage| stage.link));
        for link in ring {
            if self.links.get(link).is_some_and(|link| link.read_ended && link.phase == Phase::Open) {
                self.pass_end(link, index, now);
            }
        }
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
        // Behind the reply nothing more may be sent.
        if let Some(link) = self.links.get_mut(from) {
            link.write_ended = true;
        }
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
        if let Some((_, stage)) = self.former_of(from) {
            self.forget_former(index, stage, CloseHow::Flush);
            return verdict;
        }
        match self.stage_of(from) {
            Some((_, stage)) => self.disconnected(index, stage, CloseHow::Flush, now),
            None => self.end_session(index, EndReason::Protocol, now),
        }
        verdict
    }

    /// Whether the session's client speaks WebSocket.
    pub(crate) fn speaks_websocket(&self, index: SessionIndex) -> bool {
        self.session(index)
            .is_some_and(|session| matches!(session.listener.protocol, ListenerProtocol::WebSocket { .. }))
    }

    /// Ends a session: everybody is told in the way of their protocol, after what is queued.
    pub(crate) fn end_session(&mut self, index: SessionIndex, reason: EndReason, _now: Time) {
        let Some(session) = self.session_mut(index) else { return };
        let (source, state, reply) = (session.source_link, session.state, session.close_reply.take());
        if let Some(key) = session.flow_key() {
            self.flows.remove(&key);
        }
        self.drop_held(index, DropReason::Closed);
        self.release_stages(index, CloseHow::Flush);
        match (state, reply) {
            (SessionState::Open, Some(reply)) => self.send_control(source, reply),
            (SessionState::Open, None) => self.send_close(source, close_code(reason)),
            (SessionState::Handshake | SessionState::Opening, _) => self.refuse_unanswered(index, reason),
            (SessionState::Backoff, _) => {}
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

    /// A WebSocket client whose session ends before it was answered gets an answer, unless it was refused already.
    fn refuse_unanswered(&mut self, index: SessionIndex, reason: EndReason) {
        match reason {
            EndReason::Idle | EndReason::Disconnect | EndReason::Removed | EndReason::Deleted | EndReason::Drained => {
                self.refuse_upgrade(index, Refusal::UNAVAILABLE);
            }
            EndReason::Finished
            | EndReason::OpenFailed
            | EndReason::Refused
            | EndReason::ClientGone
            | EndReason::Protocol
            | EndReason::Handshake => {}
        }
    }

    /// Closes every stage of a session.
    pub(crate) fn release_stages(&mut self, index: SessionIndex, how: CloseHow) {
        let Some(session) = self.session_mut(index) else { return };
        for stage in std::mem::take(&mut session.stages) {
            stage.counters.sessions_active.sub(1);
            if let Some((former, _)) = stage.former {
                self.send_close(former, code::NORMAL);
                self.release(former, how);
            }
            self.send_close(stage.link, code::NORMAL);
            self.release(stage.link, how);
            if let Some((successor, _)) = stage.successor {
                self.release(successor, CloseHow::Abort);
            }
        }
    }

    /// Tells the peer of a link that is replaced by another, and closes it behind what is queued.
    pub(crate) fn retire(&mut self, link: LinkId) {
        self.send_close(link, code::NORMAL);
        self.release(link, CloseHow::Flush);
    }

    /// Sends a WebSocket Close, if the link speaks WebSocket, is open, and none was sent.
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
        self.unlink(link);
        let Some(entry) = self.links.get_mut(link).filter(|entry| entry.phase != Phase::Closing) else { return };
        if !entry.in_engine {
            self.links.remove(link);
            return;
        }
        entry.phase = Phase::Closing;
        entry.stash = Vec::new();
        self.commands.push_back(Command::Close { link, how });
    }

    /// Takes a link out of its ring. Its neighbours forget it, so that none of them ever names a slot of somebody else.
    fn unlink(&mut self, link: LinkId) {
        let Some(entry) = self.links.get_mut(link) else { return };
        let slot = link.index() as u32;
        let next = std::mem::replace(&mut entry.next, NOWHERE);
        let prev = std::mem::replace(&mut entry.prev, NOWHERE);
        if let Some(next) = self.links.at_mut(next).filter(|next| next.prev == slot) {
            next.prev = NOWHERE;
        }
        if let Some(prev) = self.links.at_mut(prev).filter(|prev| prev.next == slot) {
            prev.next = NOWHERE;
        }
        let Some(session) = self.links.get(link).map(|entry| entry.session) else { return };
        let formers = self.sessions.get(session.0 as usize).into_iter().flat_map(|session| &session.stages);
        for (former, _) in formers.filter_map(|stage| stage.former) {
            if let Some(former) = self.links.get_mut(former).filter(|former| former.next == slot) {
                former.next = NOWHERE;
            }
        }
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

/// How a link's peer learns of an end: by what the link speaks, whatever its cluster has become since.
fn end_sign(codec: &Codec) -> EndSign {
    match codec {
        Codec::Datagram => EndSign::Linger,
        Codec::WebSocket(_) => EndSign::Close,
        Codec::Seqpacket | Codec::Raw | Codec::Line(_) | Codec::Length(_) => EndSign::Fin,
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
