//! Whether everything fits together: for the simulator and for tests, which look after every event.

use crate::forwarder::Forwarder;
use crate::held::{Held, HeldMessage};
use crate::ids::{LinkId, SessionIndex};
use crate::limits::{
    HELD_BYTES_MAX, HELD_BYTES_TOTAL_MAX, HELD_LOSSLESS_BYTES_MAX, HELD_LOSSLESS_MESSAGES_MAX, HELD_MESSAGES_MAX,
};
use crate::links::{Link, NOWHERE, Phase};
use crate::session::{Session, SessionState};

/// How much a worker has. All of it is 0 when no session is left and the engine closed every link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Sessions, those in backoff included.
    pub sessions: usize,
    /// Links, closing ones included.
    pub links: usize,
    /// Links that wait for the engine's `closed`.
    pub closing: usize,
    /// Peers of shared sockets.
    pub flows: usize,
    /// Messages that are held.
    pub held_messages: usize,
    /// Their bytes.
    pub held_bytes: usize,
    /// Timers that are set.
    pub timers: usize,
    /// WebSocket requests that are not answered.
    pub handshakes: usize,
}

impl Forwarder {
    /// Checks what must hold between events.
    ///
    /// # Errors
    ///
    /// What does not hold.
    pub fn audit(&self) -> Result<Audit, String> {
        let mut held = (0, 0);
        let mut flows = 0;
        for (index, session) in &self.sessions {
            self.audit_session(SessionIndex(index as u32), session)
                .map_err(|fault| format!("session {} ({:?}): {fault}", session.name(), session.state))?;
            let (messages, bytes) = session.held.as_ref().map_or((0, 0), |held| (held.len(), held.bytes()));
            held = (held.0 + messages, held.1 + bytes);
            flows += usize::from(session.flow_key().is_some());
        }
        for link in self.links.iter() {
            self.audit_link(link).map_err(|fault| format!("{:?} ({:?}): {fault}", link.id, link.phase))?;
        }
        let counters = &self.counters;
        same("held messages", held.0 as u64, counters.held.get())?;
        same("held bytes", held.1 as u64, self.held_total.bytes() as u64)?;
        same("active sessions", self.sessions.len() as u64, counters.sessions_active.get())?;
        same("flows", flows as u64, self.flows.len() as u64)?;
        let gone = counters.messages_out.get() + counters.dropped.total();
        same(
            "messages in and accounted for",
            counters.messages_in.get(),
            gone + counters.held.get() + counters.queued.get(),
        )?;
        require(held.1 <= HELD_BYTES_TOTAL_MAX, "too much is held")?;
        Ok(Audit {
            sessions: self.sessions.len(),
            links: self.links.len(),
            closing: self.links.iter().filter(|link| link.phase == Phase::Closing).count(),
            flows: self.flows.len(),
            held_messages: held.0,
            held_bytes: held.1,
            timers: self.timers.len(),
            handshakes: self.handshakes.len(),
        })
    }

    fn audit_session(&self, index: SessionIndex, session: &Session) -> Result<(), String> {
        let bounded = |held: &Held| held.len() <= HELD_LOSSLESS_MESSAGES_MAX && held.bytes() <= HELD_LOSSLESS_BYTES_MAX;
        require(session.held.as_deref().is_none_or(bounded), "holds too much")?;
        let is_lossy = |message: &&HeldMessage| self.links.get(message.from).is_some_and(|link| link.lossy);
        let lossy = || session.held.iter().flat_map(|held| held.iter()).filter(is_lossy);
        let bytes: usize = lossy().map(|message| message.payload.len()).sum();
        let bounded = lossy().count() <= HELD_MESSAGES_MAX && bytes <= HELD_BYTES_MAX;
        require(bounded, "holds too much of sources that may lose messages")?;
        let flows = session.state == SessionState::Open && session.ready();
        require(!flows || session.held.as_deref().is_none_or(Held::is_empty), "flows, and still holds messages")?;
        let due = session.next_deadline(self.last_seen(index)).is_some();
        require(self.timers.is_set(index.0) == due, "its timer does not fit its deadlines")?;
        if let Some(key) = session.flow_key() {
            require(self.flows.get(&key) == Some(session.source_link), "its flow does not lead to its source")?;
        }
        let mut ring: Vec<LinkId> = vec![session.source_link];
        ring.extend(session.stages.iter().map(|stage| stage.link));
        let alone = matches!(session.state, SessionState::Handshake | SessionState::Backoff);
        require(!alone || session.stages.is_empty(), "has stages already")?;
        for (at, stage) in session.stages.iter().enumerate() {
            let Some((former, _)) = stage.former else { continue };
            let link = self.links.get(former).ok_or_else(|| format!("{former:?}, left by a stage, is not there"))?;
            require(link.session == index && link.phase == Phase::Open, "a link that a stage left is not open")?;
            let next = ring[(at + 2) % ring.len()].index() as u32;
            require((link.next, link.prev) == (next, NOWHERE), "a link that a stage left leads elsewhere")?;
        }
        for (at, &id) in ring.iter().enumerate() {
            let link = self.links.get(id).ok_or_else(|| format!("{id:?} is not there"))?;
            require(link.session == index && link.phase != Phase::Closing, "a link of its ring is not its own")?;
            let next = ring[(at + 1) % ring.len()].index() as u32;
            let prev = ring[(at + ring.len() - 1) % ring.len()].index() as u32;
            let wanted = if alone { (NOWHERE, NOWHERE) } else { (next, prev) };
            require((link.next, link.prev) == wanted, "its ring is not closed")?;
            let deaf = link.phase == Phase::Open && link.read_ended && session.state == SessionState::Open;
            let next = self.socket_after(id).filter(|_| deaf).and_then(|next| self.links.get(next));
            let told = next.is_none_or(|next| next.write_ended || next.phase != Phase::Open);
            require(told, "the end of a stream went no further")?;
        }
        Ok(())
    }

    fn audit_link(&self, link: &Link) -> Result<(), String> {
        if link.phase == Phase::Closing {
            require((link.next, link.prev) == (NOWHERE, NOWHERE), "closes, and still names others")?;
            return require(link.in_engine, "closes, and the engine does not know it");
        }
        let session = self.session(link.session).ok_or("its session is gone")?;
        let owned =
            session.source_link == link.id || session.stage_of(link.id).is_some() || self.former_of(link.id).is_some();
        require(owned, "its session does not know it")
    }
}

fn require(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn same(what: &str, left: u64, right: u64) -> Result<(), String> {
    if left == right { Ok(()) } else { Err(format!("{what}: {left} and {right}")) }
}
