//! Log lines that anybody who reaches the port, or any agent, can cause: one a second, with how many were left out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(1);

/// Says when a line may be written again: after a second.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    /// `Some(n)`: write the line, `n` were left out before it. `None`: leave it out.
    pub fn allows(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match state.0 {
            Some(last) if now.duration_since(last) < PAUSE => {
                state.1 += 1;
                None
            }
            _ => {
                state.0 = Some(now);
                Some(std::mem::take(&mut state.1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_were_left_out() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        let at = |millis| quiet.allows(start + Duration::from_millis(millis));
        assert_eq!([at(0), at(1), at(999), at(1000), at(2000)], [Some(0), None, None, Some(2), Some(0)]);
    }
}
