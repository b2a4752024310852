//! What may leave the forwarder: what has arrived at it, in that order, each message at most once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::message::Message;

/// Messages between two neighbours of a session: those of a client that have passed a number of servers.
#[derive(Debug, Default)]
struct Hop {
    /// Arrived and neither seen to leave nor passed by a later one.
    waiting: VecDeque<Message>,
    /// Passed by a later one: they were dropped.
    skipped: u64,
}

/// The reference model of every session.
#[derive(Debug, Default)]
pub struct Model {
    hops: BTreeMap<(u32, u32), Hop>,
    /// Clients that talk nonsense: what becomes of it is nobody's concern.
    ignored: BTreeSet<u32>,
    /// How many messages left.
    pub passed: u64,
}

impl Model {
    /// A message arrives at the forwarder.
    pub fn arrives(&mut self, message: Message) {
        self.hops.entry((message.client, message.hop)).or_default().waiting.push_back(message);
    }

    /// From now on a client talks nonsense.
    pub fn ignore(&mut self, client: u32) {
        self.ignored.insert(client);
    }

    /// A message leaves the forwarder.
    ///
    /// # Errors
    ///
    /// It did not arrive, or left before, or one that arrived later has left already.
    pub fn leaves(&mut self, message: Message) -> Result<(), String> {
        let hop = self.hops.entry((message.client, message.hop)).or_default();
        if self.ignored.contains(&message.client) {
            return Ok(());
        }
        let Some(at) = hop.waiting.iter().position(|waiting| *waiting == message) else {
            return Err(format!("{message:?} leaves, out of order, twice or out of nothing"));
        };
        hop.skipped += at as u64;
        hop.waiting.drain(..=at);
        self.passed += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_number_are_kept() {
        let message = |sequence| Message { client: 1, hop: 0, sequence, fill: 3 };
        let mut model = Model::default();
        (0..4).for_each(|sequence| model.arrives(message(sequence)));
        assert!(model.leaves(message(1)).is_ok());
        assert!(model.leaves(message(0)).is_err());
        assert!(model.leaves(message(1)).is_err());
        assert!(model.leaves(message(3)).is_ok());
        assert!(model.leaves(message(4)).is_err());
        assert!(model.leaves(Message { client: 2, ..message(2) }).is_err());
    }
}
