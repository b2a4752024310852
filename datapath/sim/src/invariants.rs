//! What must hold after every event, and what must be left in the end.

use l7mp_forwarder::audit::Audit;

use crate::network::{HIGH_BYTES, READ_BYTES_MAX};
use crate::world::World;

/// A queue may pass its mark by what arrives before its source is paused: a few reads.
const QUEUE_BYTES_MAX: usize = HIGH_BYTES + 6 * READ_BYTES_MAX;

impl World {
    /// After every event.
    pub(crate) fn check(&self) -> Result<(), String> {
        let audit = self.forwarder.audit()?;
        let closing = self.sockets.values().filter(|&&conn| self.conns[conn].closing.is_some()).count();
        require(audit.closing == closing, || format!("{} links close, {closing} sockets do", audit.closing))?;
        let queued: u64 = self.conns.iter().flat_map(|conn| &conn.out).map(|frame| u64::from(frame.messages)).sum();
        let counted = self.forwarder.counters().queued.get();
        require(queued == counted, || format!("{queued} messages are queued, {counted} counted"))?;
        for conn in &self.conns {
            require(conn.out_bytes <= QUEUE_BYTES_MAX, || {
                format!("{} bytes queued on {:?}", conn.out_bytes, conn.link)
            })?;
        }
        Ok(())
    }

    /// When nothing happens any more.
    pub(crate) fn check_the_end(&self) -> Result<(), String> {
        let audit = self.forwarder.audit()?;
        require(audit == Audit::default(), || format!("something is left: {audit:?}"))?;
        require(self.sockets.is_empty(), || format!("sockets are left: {:?}", self.sockets))?;
        let scopes = self.scopes.listeners.iter().chain(&self.scopes.clusters);
        for (name, counters) in scopes.flat_map(|(name, all)| all.iter().map(move |counters| (name, counters))) {
            let active = counters.sessions_active.get();
            require(active == 0, || format!("{name} still counts {active} sessions"))?;
        }
        for (n, client) in self.clients.iter().enumerate() {
            client.check().map_err(|fault| format!("client {n} ({:?}): {fault}", client.wire))?;
        }
        Ok(())
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
