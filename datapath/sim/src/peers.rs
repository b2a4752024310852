//! What clients and servers do.

use l7mp_forwarder::address::UnixName;
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::verdict::Downstream;

use crate::endpoint::Mood;
use crate::engine::{client_address, local_address};
use crate::event::Event;
use crate::message::Message;
use crate::network::{Conn, Far, Parcel};
use crate::wire::{Seen, Wire};
use crate::world::World;

impl World {
    /// A client does its next thing.
    pub(crate) fn act(&mut self, n: usize) -> Result<(), String> {
        if self.clients[n].ended {
            return Ok(());
        }
        if self.clients[n].wire.is_lossy() {
            return self.act_datagrams(n);
        }
        let Some(conn) = self.clients[n].conn else { return self.connect(n) };
        let impatient = !self.scenario.calm;
        if impatient && self.random.chance(1) {
            self.say(|| format!("client {n} breaks"));
            return self.leave(n);
        }
        if impatient && self.random.chance(1) && self.conns[conn].wire.is_stream() {
            self.say(|| format!("client {n} talks nonsense"));
            self.model.ignore(n as u32);
            self.conns[conn].tap_in.deafen();
            self.conns[conn].raw = true;
            self.send_to_us(conn, Parcel::Bytes(vec![0xff; 40]));
            self.plan(200, Event::Leave(n));
            self.clients[n].ended = true;
            return Ok(());
        }
        if !self.conns[conn].peer.is_ready() {
            if impatient && self.random.chance(5) {
                return self.leave(n);
            }
            self.plan(20, Event::Act(n));
            return Ok(());
        }
        if self.clients[n].next < self.clients[n].messages {
            self.say_some(n, conn);
            let delay = if self.clients[n].talkative { 2 } else { self.random.of(0..=150) };
            self.plan(delay, Event::Act(n));
            return Ok(());
        }
        self.clients[n].ended = true;
        match self.conns[conn].peer.goodbye() {
            Some(goodbye) => self.send_to_us(conn, Parcel::Bytes(goodbye)),
            None => self.end_ours(conn),
        }
        let patience = if impatient { self.random.of(500..=5000) } else { 600_000 };
        self.plan(patience, Event::Leave(n));
        Ok(())
    }

    fn message(&mut self, n: usize) -> Vec<u8> {
        let long = if self.clients[n].talkative { 60 } else { 10 };
        let fill = if self.random.chance(long) { self.random.of(300..=2500) } else { self.random.of(0..=60) };
        let client = &mut self.clients[n];
        let message = Message { client: n as u32, hop: 0, sequence: client.next, fill: fill as usize };
        client.next += 1;
        message.encode()
    }

    /// A few messages; in a stream they may come in one piece or in many.
    fn say_some(&mut self, n: usize, conn: usize) {
        for _ in 0..self.random.of(1..=6) {
            if self.clients[n].next == self.clients[n].messages {
                break;
            }
            let message = self.message(n);
            if let Some(bytes) = self.conns[conn].peer.write(&message) {
                self.send_to_us(conn, Parcel::Bytes(bytes));
            }
            if self.random.chance(5)
                && let Some(ping) = self.conns[conn].peer.ping()
            {
                self.send_to_us(conn, Parcel::Bytes(ping));
            }
        }
    }

    fn act_datagrams(&mut self, n: usize) -> Result<(), String> {
        for _ in 0..self.random.of(1..=6) {
            if self.clients[n].next == self.clients[n].messages {
                self.clients[n].ended = true;
                return Ok(());
            }
            let bytes = self.message(n);
            for _ in 0..self.copies(self.clients[n].wire) {
                // Unix datagrams keep their order; UDP does not.
                let delay = if self.clients[n].wire == Wire::Udp { self.delay().as_millis() as u64 } else { 3 };
                self.plan(delay, Event::Datagram(n, bytes.clone()));
            }
        }
        let delay = self.random.of(0..=300);
        self.plan(delay, Event::Act(n));
        Ok(())
    }

    /// A datagram arrives at a listener.
    pub(crate) fn datagram(&mut self, n: usize, bytes: Vec<u8>) -> Result<(), String> {
        let listener = self.listener(n);
        let found = match UnixName::new(format!("client-{n}").as_bytes()) {
            Some(name) if self.clients[n].wire == Wire::Dgram => self.forwarder.unix_source(listener, name, self.now),
            Some(_) | None => self.forwarder.source(listener, local_address(), client_address(n), self.now),
        };
        match found {
            Ok(link) => {
                self.execute()?;
                let conn = *self.sockets.get(&link).ok_or_else(|| format!("{link:?} has no socket"))?;
                if self.conns[conn].far != Far::Client(n) || self.conns[conn].closing.is_some() {
                    return Err(format!("{link:?} is not that of client {n}, or closes"));
                }
                self.deliver(conn, bytes)
            }
            Err(reason) => {
                self.say(|| format!("client {n} refused: {}", reason.name()));
                self.forwarder.refuse(listener, 1, bytes.len() as u64, reason);
                let silent = matches!(reason, DropReason::OpenBackoff | DropReason::HeldFull);
                if silent { Err(format!("refused as {}", reason.name())) } else { Ok(()) }
            }
        }
    }

    fn connect(&mut self, n: usize) -> Result<(), String> {
        let is_unix = self.scenario.listeners.iter().any(|plan| plan.name == self.clients[n].listener && plan.unix)
            || self.clients[n].wire == Wire::Seqpacket;
        let from = (!is_unix).then(|| Downstream { peer: client_address(n), local: local_address() });
        let listener = self.listener(n);
        let Some(link) = self.forwarder.accepted(listener, from, self.now) else {
            self.clients[n].connects -= 1;
            if self.clients[n].connects > 0 {
                self.plan(500, Event::Act(n));
            } else {
                self.clients[n].ended = true;
            }
            return Ok(());
        };
        self.say(|| format!("{link:?} is the connection of client {n}"));
        let mut conn = Conn::new(link, self.clients[n].wire, Far::Client(n), self.is_raw(n));
        conn.connected = true;
        conn.rate = if self.random.chance(25) { self.random.of(20..=200) as usize } else { 1 << 20 };
        let conn = self.attach(link, conn)?;
        self.clients[n].conn = Some(conn);
        if let Some(greeting) = self.conns[conn].peer.greeting() {
            self.send_to_us(conn, Parcel::Bytes(greeting));
        }
        let delay = self.random.of(0..=50);
        self.plan(delay, Event::Act(n));
        Ok(())
    }

    /// A client closes its socket, whatever there is to come.
    pub(crate) fn leave(&mut self, n: usize) -> Result<(), String> {
        self.clients[n].ended = true;
        if let Some(conn) = self.clients[n].conn {
            self.peer_breaks(conn);
        }
        Ok(())
    }

    /// A connection's peer is gone: RST.
    pub(crate) fn peer_breaks(&mut self, conn: usize) {
        let entry = &mut self.conns[conn];
        entry.peer_ended = true;
        if entry.gone || entry.flow || entry.wire.is_lossy() {
            return;
        }
        entry.peer_gone = true;
        self.send_to_us(conn, Parcel::Reset);
    }

    fn end_ours(&mut self, conn: usize) {
        if !std::mem::replace(&mut self.conns[conn].peer_ended, true) {
            self.send_to_us(conn, Parcel::End);
        }
    }

    /// A parcel arrives in our kernel.
    pub(crate) fn at_kernel(&mut self, conn: usize, parcel: Parcel) -> Result<(), String> {
        let entry = &mut self.conns[conn];
        if parcel == Parcel::Reset {
            // What was not read is lost, and so is what is written from now on.
            entry.reset = true;
            entry.inbox.clear();
        }
        if entry.gone || entry.closing.is_some() {
            return Ok(());
        }
        entry.inbox.push_back(parcel);
        self.plan_read(conn);
        Ok(())
    }

    /// A parcel arrives at a connection's peer.
    pub(crate) fn at_peer(&mut self, conn: usize, parcel: Parcel) -> Result<(), String> {
        let entry = &mut self.conns[conn];
        let dead = match entry.far {
            Far::Server(server) => matches!(self.servers[server].mood, Mood::Dead | Mood::Silent),
            Far::Client(_) => false,
        };
        entry.peer_gone |= dead && !entry.wire.is_lossy();
        if dead || entry.peer_gone {
            return Ok(());
        }
        let seen = match parcel {
            Parcel::Bytes(bytes) => entry.peer.read(&bytes),
            Parcel::End => vec![Seen::End],
            Parcel::Reset => {
                entry.peer_ended = true;
                return Ok(());
            }
        };
        for seen in seen {
            match (seen, self.conns[conn].far) {
                (Seen::Message(payload), far) => {
                    for message in self.conns[conn].peer_scanner.push(&payload) {
                        match far {
                            Far::Client(n) => self.answered(n, message)?,
                            Far::Server(_) => self.send_back(conn, message),
                        }
                    }
                }
                (Seen::Answer(bytes), _) => {
                    if !self.conns[conn].peer_ended {
                        self.send_to_us(conn, Parcel::Bytes(bytes));
                    }
                }
                (Seen::End, far) => {
                    if let Far::Client(n) = far {
                        self.clients[n].told = true;
                    }
                    self.end_ours(conn);
                }
                (Seen::Fault, _) => return Err(format!("the peer of {:?} is told nonsense", self.conns[conn].link)),
            }
        }
        Ok(())
    }

    fn answered(&mut self, n: usize, message: Message) -> Result<(), String> {
        if message.client as usize != n {
            return Err(format!("client {n} gets {message:?}"));
        }
        self.clients[n].answers.push(message.sequence);
        Ok(())
    }

    fn send_back(&mut self, conn: usize, message: Message) {
        if self.conns[conn].peer_ended {
            return;
        }
        let message = Message { hop: message.hop + 1, ..message }.encode();
        if let Some(bytes) = self.conns[conn].peer.write(&message) {
            self.send_to_us(conn, Parcel::Bytes(bytes));
        }
    }
}
