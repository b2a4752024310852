//! How much those who have proved nothing may hold: connections in all, and of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Connections at once that have proved nothing.
const STRANGERS_MAX: usize = 512;
/// Of these, from one address: agents of pods on a host's network share theirs.
const STRANGERS_PER_ADDRESS_MAX: usize = 64;

/// Counts the strangers.
#[derive(Debug, Default)]
pub(super) struct Gate {
    strangers: Mutex<HashMap<IpAddr, usize>>,
}

/// One stranger's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    peer: IpAddr,
}

impl Gate {
    /// A place for a new connection; `None`: there are too many.
    pub(super) fn enter(self: &Arc<Gate>, peer: IpAddr) -> Option<Place> {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.values().sum::<usize>() >= STRANGERS_MAX {
            return None;
        }
        let of_peer = strangers.entry(peer).or_default();
        if *of_peer >= STRANGERS_PER_ADDRESS_MAX {
            return None;
        }
        *of_peer += 1;
        Some(Place { gate: Arc::clone(self), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut strangers = self.gate.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = strangers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                strangers.remove(&self.peer);
            }
        }
    }
}

/// What one connection is doing: it ends when nothing has been asked of it for a while.
#[derive(Debug)]
pub(super) struct Busy {
    count: watch::Sender<usize>,
    place: Mutex<Option<Place>>,
}

/// A request or a stream of a connection.
#[derive(Debug)]
pub(super) struct Work(Arc<Busy>);

impl Busy {
    pub(super) fn new(place: Place) -> Arc<Busy> {
        Arc::new(Busy { count: watch::channel(0).0, place: Mutex::new(Some(place)) })
    }

    /// Follows how much is going on.
    pub(super) fn follow(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Something begins, and goes on until the value is dropped.
    pub(super) fn begin(self: &Arc<Busy>) -> Work {
        self.count.send_modify(|count| *count += 1);
        Work(Arc::clone(self))
    }
}

impl Work {
    /// The client is no stranger any more.
    pub(super) fn known(&self) {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_bounded_in_all_and_by_address() {
        let gate = Arc::new(Gate::default());
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut places: Vec<Place> = Vec::new();
        for _ in 0..STRANGERS_PER_ADDRESS_MAX {
            places.push(gate.enter(address(0)).unwrap());
        }
        assert!(gate.enter(address(0)).is_none());
        let mut other = 1;
        while places.len() < STRANGERS_MAX {
            places.push(gate.enter(address(other)).unwrap());
            other = other % 200 + 1;
        }
        assert!(gate.enter(address(250)).is_none());
        let busy = Busy::new(places.remove(0));
        busy.begin().known();
        assert!(gate.enter(address(0)).is_some());
        drop(places);
        assert!(gate.strangers.lock().unwrap().is_empty());
    }
}
