//! Agents that say that they have more than this leadership has made.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A pod is believed again after so long. One that says the truth is below every later term of this process.
const PAUSE: Duration = Duration::from_secs(3_600);

/// When which pod, by its UID, was believed last.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<String, Instant>);

impl Claims {
    /// Whether what this pod says is to be believed now: once in a while.
    pub(super) fn believes(&mut self, uid: &str, now: Instant) -> bool {
        self.0.retain(|_, at| now.duration_since(*at) < PAUSE);
        if self.0.contains_key(uid) {
            return false;
        }
        self.0.insert(uid.to_owned(), now);
        true
    }
}
