//! How long to wait before trying again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

/// Doubles from 100 ms to 5 s; each wait is between half of that and the whole, so that a thousand agents that lost
/// one operator do not come back together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait; `random` is any number.
    pub fn next(&mut self, random: u64) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(LAST);
        self.failures += 1;
        whole / 2 + whole.mul_f64((random % 1024) as f64 / 2048.0)
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_seconds_and_no_further() {
        let mut backoff = Backoff::default();
        let least: Vec<u128> = (0..8).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(least, [50, 100, 200, 400, 800, 1600, 2500, 2500]);
        assert!(backoff.next(u64::MAX) <= LAST && backoff.next(1023) > LAST.mul_f64(0.99));
        backoff.reset();
        assert_eq!(backoff.next(512).as_millis(), 75);
    }
}
