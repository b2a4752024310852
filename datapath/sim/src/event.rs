//! What is going to happen, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use l7mp_forwarder::time::Time;

use crate::network::Parcel;

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client does its next thing.
    Act(usize),
    /// A client has waited long enough.
    Leave(usize),
    /// A datagram of a client arrives at its listener.
    Datagram(usize, Vec<u8>),
    /// A parcel arrives at a connection's peer.
    ToPeer(usize, Parcel),
    /// A parcel arrives at our side of a connection.
    ToKernel(usize, Parcel),
    /// The engine reads.
    Read(usize),
    /// The engine writes.
    Pump(usize),
    /// The engine's queue is above its mark.
    Blocked(usize),
    /// A connection that was asked for is made, or not.
    Connected(usize),
    /// The engine has closed a socket.
    Closed(usize),
    /// A closing socket has waited long enough.
    Lingered(usize),
    /// The configuration changes.
    Change,
    /// A server changes its mood.
    Mood,
    /// A session is deleted.
    Delete,
    /// The proxy drains.
    Drain,
}

/// Events in the order of their times; those of one time in the order in which they were planned.
#[derive(Default)]
pub struct Agenda {
    events: BinaryHeap<Reverse<(Time, u64)>>,
    bodies: std::collections::HashMap<u64, Event>,
    planned: u64,
}

impl Agenda {
    /// Plans an event.
    pub fn plan(&mut self, at: Time, event: Event) {
        self.events.push(Reverse((at, self.planned)));
        self.bodies.insert(self.planned, event);
        self.planned += 1;
    }

    /// When the next event is.
    pub fn next_time(&self) -> Option<Time> {
        self.events.peek().map(|Reverse((at, _))| *at)
    }

    /// The next event, if its time has come.
    pub fn take(&mut self, now: Time) -> Option<Event> {
        if self.next_time()? > now {
            return None;
        }
        let Reverse((_, number)) = self.events.pop()?;
        self.bodies.remove(&number)
    }
}
