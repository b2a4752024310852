//! The engine of this world: what it does with commands and frames, and what it tells the forwarder.

use std::time::Duration;

use l7mp_forwarder::address::{ClientAddr, EndpointAddr, LocalAddr};
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::limits::CLOSE_LINGER;
use l7mp_forwarder::verdict::{CloseHow, Command, Frame, Payload, SocketError, Transport, Verdict};

use crate::endpoint::Mood;
use crate::event::Event;
use crate::network::{Conn, Far, HIGH_BYTES, LOW_BYTES, Parcel, Queued, READ_BYTES_MAX};
use crate::scenario::address;
use crate::wire::Wire;
use crate::world::World;

/// The address that UDP and stream clients connect to.
pub(crate) fn local_address() -> LocalAddr {
    LocalAddr::new(([10, 9, 9, 9], 9001).into())
}

/// The address of a client.
pub(crate) fn client_address(client: usize) -> ClientAddr {
    ClientAddr::new(([10, 8, 8, 8], 10_000 + client as u16).into())
}

impl World {
    /// Executes every command.
    pub(crate) fn execute(&mut self) -> Result<(), String> {
        while let Some(command) = self.forwarder.next_command() {
            self.command(command)?;
        }
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Open { link, transport, remote } => self.open(link, &transport, &remote),
            Command::OpenFlow { link, peer, .. } => {
                let client = usize::from(peer.socket_addr().port()) - 10_000;
                self.open_flow(link, client)
            }
            Command::OpenUnixFlow { link, peer, .. } => {
                let name = String::from_utf8_lossy(peer.as_bytes()).into_owned();
                let client = name.strip_prefix("client-").and_then(|n| n.parse().ok()).ok_or("an unknown peer")?;
                self.open_flow(link, client)
            }
            Command::Send(frame) => self.send(frame, &[]),
            Command::Resume(link) => {
                let conn = self.socket(link, "resume")?;
                if std::mem::replace(&mut self.conns[conn].reading, true) {
                    return Err(format!("{link:?} is resumed twice"));
                }
                self.plan_read(conn);
                Ok(())
            }
            Command::Pause(link) => {
                let conn = self.socket(link, "pause")?;
                if !std::mem::replace(&mut self.conns[conn].reading, false) {
                    return Err(format!("{link:?} is paused twice"));
                }
                let late = self.conns[conn].read_due && !self.scenario.calm && self.random.chance(40);
                self.conns[conn].late_read = late;
                Ok(())
            }
            Command::Shutdown(link) => {
                let conn = self.socket(link, "shut down")?;
                if !self.conns[conn].connected || std::mem::replace(&mut self.conns[conn].shut, true) {
                    return Err(format!("{link:?} is shut down before it is connected, or twice"));
                }
                self.plan_pump(conn, 0);
                Ok(())
            }
            Command::Close { link, how } => self.close(link, how),
        }
    }

    /// The connection of a link that may still be used.
    fn socket(&self, link: LinkId, what: &str) -> Result<usize, String> {
        let conn = self.sockets.get(&link).copied();
        conn.filter(|&conn| self.conns[conn].closing.is_none())
            .ok_or_else(|| format!("{what} of {link:?}, which is gone"))
    }

    pub(crate) fn attach(&mut self, link: LinkId, conn: Conn) -> Result<usize, String> {
        self.conns.push(conn);
        let conn = self.conns.len() - 1;
        match self.sockets.insert(link, conn) {
            None => Ok(conn),
            Some(_) => Err(format!("{link:?} is opened, and is there already")),
        }
    }

    fn open(&mut self, link: LinkId, transport: &Transport, remote: &EndpointAddr) -> Result<(), String> {
        let remote = remote.to_string();
        let fits = |wire: Wire| match transport {
            Transport::Udp { .. } => wire == Wire::Udp,
            Transport::Tcp { .. } => wire.is_stream(),
            Transport::UnixStream => wire.is_stream(),
            Transport::UnixSeqpacket => wire == Wire::Seqpacket,
            Transport::UnixDgram => wire == Wire::Dgram,
        };
        let servers = self.server_wires.iter().copied().enumerate();
        let (server, wire) = { servers }
            .find(|(server, wire)| fits(*wire) && address(*wire, *server) == remote)
            .ok_or_else(|| format!("nobody is {remote}"))?;
        let mut conn = Conn::new(link, wire, Far::Server(server), self.any_raw());
        conn.rate = self.servers[server].rate;
        let conn = self.attach(link, conn)?;
        let delay = self.random.of(0..=60);
        self.say(|| format!("{link:?} opens to server {server} {wire:?}"));
        self.plan(delay, Event::Connected(conn));
        Ok(())
    }

    fn open_flow(&mut self, link: LinkId, client: usize) -> Result<(), String> {
        let mut conn = Conn::new(link, self.clients[client].wire, Far::Client(client), self.is_raw(client));
        conn.flow = true;
        conn.connected = true;
        self.say(|| format!("{link:?} is the flow of client {client}"));
        self.attach(link, conn).map(|_| ())
    }

    pub(crate) fn connected(&mut self, conn: usize) -> Result<(), String> {
        let (link, far, wire) = (self.conns[conn].link, self.conns[conn].far, self.conns[conn].wire);
        let Far::Server(server) = far else { return Ok(()) };
        if self.conns[conn].closing.is_some() {
            return Ok(());
        }
        match self.servers[server].mood {
            Mood::Dead if wire != Wire::Udp => {
                self.conns[conn].over = true;
                self.forwarder.failed(link, SocketError::Refused, self.now);
            }
            Mood::Silent if !wire.is_lossy() => {}
            Mood::Serves | Mood::Fickle | Mood::Dead | Mood::Silent => {
                self.conns[conn].connected = true;
                self.forwarder.opened(link, self.now);
                if self.servers[server].mood == Mood::Fickle && wire.is_stream() {
                    self.conns[conn].peer_ended = true;
                    self.send_to_us(conn, Parcel::End);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, link: LinkId, how: CloseHow) -> Result<(), String> {
        let conn = self.socket(link, "close")?;
        self.say(|| format!("{link:?} closes: {how:?}"));
        let entry = &mut self.conns[conn];
        entry.closing = Some(how);
        entry.reading = false;
        entry.inbox.clear();
        if how == CloseHow::Flush && !entry.out.is_empty() && entry.connected && !entry.over {
            self.plan(CLOSE_LINGER.as_millis() as u64, Event::Lingered(conn));
            self.plan_pump(conn, 0);
        } else {
            self.finish_close(conn, how);
        }
        Ok(())
    }

    fn finish_close(&mut self, conn: usize, how: CloseHow) {
        let entry = &mut self.conns[conn];
        if entry.gone {
            return;
        }
        entry.gone = true;
        let (lost, tell) = (entry.clear(), entry.connected && !entry.flow && !entry.wire.is_lossy());
        self.forwarder.lost(lost, DropReason::Closed);
        if tell {
            let parcel = if how == CloseHow::Flush { Parcel::End } else { Parcel::Reset };
            if !self.conns[conn].shut_sent || parcel == Parcel::Reset {
                self.send_to_peer(conn, parcel);
            }
        }
        let delay = self.random.of(0..=20);
        self.plan(delay, Event::Closed(conn));
    }

    pub(crate) fn lingered(&mut self, conn: usize) -> Result<(), String> {
        self.finish_close(conn, CloseHow::Abort);
        Ok(())
    }

    pub(crate) fn closed(&mut self, conn: usize) -> Result<(), String> {
        let link = self.conns[conn].link;
        self.conns[conn].connected = false;
        self.sockets.remove(&link);
        self.forwarder.closed(link);
        Ok(())
    }

    /// Takes a frame; `received` is what was given to `step`.
    pub(crate) fn send(&mut self, frame: Frame, received: &[u8]) -> Result<(), String> {
        let conn = self.socket(frame.to, "a frame")?;
        let mut bytes = frame.head.to_vec();
        match frame.payload {
            Payload::Received(range) => bytes.extend_from_slice(&received[range]),
            Payload::Owned(payload) => bytes.extend_from_slice(&payload),
        }
        bytes.extend_from_slice(if frame.newline { b"\n" } else { b"" });
        let raw = self.conns[conn].raw;
        let left =
            self.conns[conn].tap_out.read(&bytes, raw).map_err(|fault| format!("{:?} sends: {fault}", frame.to))?;
        for message in left {
            self.model.leaves(message).map_err(|fault| format!("{:?}: {fault}", frame.to))?;
        }
        if self.conns[conn].shut {
            return Err(format!("{:?} sends behind its end", frame.to));
        }
        let len = bytes.len();
        self.conns[conn].out_bytes += len;
        self.conns[conn].out.push_back(Queued { bytes, len, messages: frame.messages, lossy: frame.lossy });
        if self.conns[conn].wire.is_lossy() {
            return self.pump(conn);
        }
        while self.conns[conn].out_bytes > HIGH_BYTES {
            let Some(messages) = self.conns[conn].drop_oldest() else { break };
            self.forwarder.lost(messages, DropReason::Backlog);
        }
        if self.conns[conn].out_bytes > HIGH_BYTES && !self.conns[conn].blocked {
            self.conns[conn].blocked = true;
            self.plan(0, Event::Blocked(conn));
        }
        self.plan_pump(conn, 1);
        Ok(())
    }

    pub(crate) fn report_blocked(&mut self, conn: usize) -> Result<(), String> {
        if self.conns[conn].blocked && self.conns[conn].closing.is_none() {
            self.forwarder.blocked(self.conns[conn].link);
        }
        Ok(())
    }

    fn plan_pump(&mut self, conn: usize, millis: u64) {
        if !std::mem::replace(&mut self.conns[conn].pumping, true) {
            self.plan(millis, Event::Pump(conn));
        }
    }

    /// Writes as much as the peer takes in a millisecond.
    pub(crate) fn pump(&mut self, conn: usize) -> Result<(), String> {
        self.conns[conn].pumping = false;
        if self.conns[conn].gone || !self.conns[conn].connected {
            return Ok(());
        }
        if self.conns[conn].reset {
            return self.write_fails(conn);
        }
        let mut budget = if self.conns[conn].wire.is_lossy() { usize::MAX } else { self.conns[conn].rate };
        while budget > 0 {
            let entry = &mut self.conns[conn];
            let Some(front) = entry.out.front_mut() else { break };
            let whole = !entry.wire.is_stream() || front.bytes.len() <= budget;
            let taken = if whole { front.bytes.len() } else { budget };
            let bytes: Vec<u8> = front.bytes.drain(..taken).collect();
            entry.out_bytes -= taken;
            budget = budget.saturating_sub(taken.max(1));
            if whole && let Some(frame) = entry.out.pop_front() {
                self.written(conn, &frame);
            }
            self.send_to_peer(conn, Parcel::Bytes(bytes));
        }
        let entry = &mut self.conns[conn];
        if entry.blocked && entry.out_bytes <= LOW_BYTES {
            entry.blocked = false;
            if entry.closing.is_none() {
                let link = entry.link;
                self.forwarder.drained(link);
            }
        }
        if !self.conns[conn].out.is_empty() {
            self.plan_pump(conn, 1);
            return Ok(());
        }
        if self.conns[conn].shut && !std::mem::replace(&mut self.conns[conn].shut_sent, true) {
            self.send_to_peer(conn, Parcel::End);
        }
        if self.conns[conn].closing == Some(CloseHow::Flush) {
            self.finish_close(conn, CloseHow::Flush);
        }
        Ok(())
    }

    /// A whole frame was written; datagrams may be refused by a dead peer, or find no room.
    fn written(&mut self, conn: usize, frame: &Queued) {
        let entry = &mut self.conns[conn];
        let link = entry.link;
        let dead = match entry.far {
            Far::Server(server) => self.servers[server].mood == Mood::Dead,
            Far::Client(_) => false,
        };
        if entry.wire.is_lossy() && !self.scenario.calm && self.random.chance(1) {
            return self.forwarder.lost(frame.messages, DropReason::SendBufferFull);
        }
        self.forwarder.sent(link, frame.messages, frame.len as u64);
        if dead && entry.wire == Wire::Udp && !entry.over {
            entry.refusals += 1;
            if entry.refusals > 1 {
                entry.inbox.push_back(Parcel::Reset);
                self.plan_read(conn);
            }
        }
    }

    fn write_fails(&mut self, conn: usize) -> Result<(), String> {
        let lost = self.conns[conn].clear();
        self.forwarder.lost(lost, DropReason::Disconnected);
        match self.conns[conn].closing {
            Some(how) => self.finish_close(conn, how),
            None => {
                if !std::mem::replace(&mut self.conns[conn].over, true) {
                    self.forwarder.broken(self.conns[conn].link, SocketError::Reset, self.now);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn plan_read(&mut self, conn: usize) {
        let entry = &mut self.conns[conn];
        let due = (entry.reading || entry.flow || entry.ended) && !entry.over && !entry.inbox.is_empty();
        if due && !std::mem::replace(&mut entry.read_due, true) {
            let delay = self.random.of(0..=2);
            self.plan(delay, Event::Read(conn));
        }
    }

    /// Reads a piece of what waits.
    pub(crate) fn read(&mut self, conn: usize) -> Result<(), String> {
        let entry = &mut self.conns[conn];
        entry.read_due = false;
        let late = std::mem::take(&mut entry.late_read);
        if entry.closing.is_some() || entry.over || !(entry.reading || entry.flow || entry.ended || late) {
            return Ok(());
        }
        let limit =
            if self.random.chance(30) { self.random.of(1..=20) } else { self.random.of(20..=READ_BYTES_MAX as u64) };
        let link = entry.link;
        match entry.take_read(limit as usize) {
            None => {}
            Some(Parcel::Bytes(bytes)) => self.deliver(conn, bytes)?,
            Some(Parcel::End) => {
                entry.over = true;
                self.say(|| format!("{link:?} ended"));
                self.forwarder.ended(link, self.now);
                // Sending goes on; a reset would still be told.
                self.conns[conn].over = false;
                self.conns[conn].ended = true;
                self.conns[conn].inbox.clear();
            }
            Some(Parcel::Reset) => {
                entry.over = true;
                let lost = entry.clear();
                self.say(|| format!("{link:?} broke"));
                self.forwarder.lost(lost, DropReason::Disconnected);
                self.forwarder.broken(link, SocketError::Reset, self.now);
            }
        }
        self.plan_read(conn);
        Ok(())
    }

    /// Hands bytes to the forwarder, message by message.
    pub(crate) fn deliver(&mut self, conn: usize, bytes: Vec<u8>) -> Result<(), String> {
        let link = self.conns[conn].link;
        let raw = self.conns[conn].raw;
        let arrived =
            self.conns[conn].tap_in.read(&bytes, raw).map_err(|fault| format!("{link:?} receives: {fault}"))?;
        for message in arrived {
            self.model.arrives(message);
        }
        let (mut bytes, mut at) = (bytes, 0);
        loop {
            let step = self.forwarder.step(link, &mut bytes[at..], self.now);
            match step.verdict {
                Verdict::Forward(frame) | Verdict::Reply(frame) => self.send(frame, &bytes[at..])?,
                Verdict::Kept => {}
                Verdict::Dropped(reason) => self.say(|| format!("{link:?} dropped as {}", reason.name())),
            }
            at += step.used;
            if at >= bytes.len() {
                return Ok(());
            }
            if step.used == 0 {
                return Err(format!("{link:?} makes no progress"));
            }
        }
    }

    /// When something that leaves now arrives: streams do not overtake themselves.
    pub(crate) fn delay(&mut self) -> Duration {
        // Now and then something is stuck for longer than anybody lingers.
        let stuck = !self.scenario.calm && self.random.of(1..=400) == 1;
        Duration::from_millis(if stuck { self.random.of(900..=1600) } else { self.random.of(0..=15) })
    }

    /// Sends a parcel to a connection's peer.
    fn send_to_peer(&mut self, conn: usize, parcel: Parcel) {
        for _ in 0..self.copies(self.conns[conn].wire) {
            let mut at = self.now + self.delay();
            if self.conns[conn].wire != Wire::Udp {
                at = at.max(self.conns[conn].arrivals.0);
                self.conns[conn].arrivals.0 = at;
            }
            self.agenda.plan(at, Event::ToPeer(conn, parcel.clone()));
        }
    }

    /// Sends a parcel from a connection's peer to us.
    pub(crate) fn send_to_us(&mut self, conn: usize, parcel: Parcel) {
        for _ in 0..self.copies(self.conns[conn].wire) {
            let mut at = self.now + self.delay();
            if self.conns[conn].wire != Wire::Udp {
                at = at.max(self.conns[conn].arrivals.1);
                self.conns[conn].arrivals.1 = at;
            }
            self.agenda.plan(at, Event::ToKernel(conn, parcel.clone()));
        }
    }

    /// How often a datagram arrives.
    pub(crate) fn copies(&mut self, wire: Wire) -> u32 {
        match (wire, self.random.of(1..=100)) {
            (Wire::Udp, 1..=3) => 0,
            (Wire::Udp, 4..=6) => 2,
            (Wire::Udp | Wire::Dgram | Wire::Seqpacket | Wire::Stream(_) | Wire::WebSocket(_), _) => 1,
        }
    }
}
