//! `/healthz` and `/readyz`.

use std::time::Duration;

use hyper::StatusCode;
use l7mp_forwarder::time::Time;

use super::answer::{self, Answer};
use crate::control::Control;

/// How long one turn of a worker may take.
const TURN_PATIENCE: Duration = Duration::from_secs(5);

/// `/healthz`
pub(super) fn health(control: &Control) -> Answer {
    let turns = control.workers.iter().map(|worker| worker.shared.busy_since.get());
    match stuck(turns, l7mp_engine::now()) {
        None => answer::line(StatusCode::OK, "ok"),
        Some((worker, age)) => {
            let text = format!("worker {worker} has had work and not turned for {} s", age.as_secs());
            answer::line(StatusCode::SERVICE_UNAVAILABLE, &text)
        }
    }
}

/// The first worker whose turn takes too long, and how long already. `turns` has when each began its turn, 0 while it
/// waits for work.
fn stuck(turns: impl Iterator<Item = u64>, now: Time) -> Option<(usize, Duration)> {
    let ages = turns.map(|turn| if turn == 0 { Duration::ZERO } else { now.since(Time::from_nanos(turn)) });
    ages.enumerate().find(|(_, age)| *age >= TURN_PATIENCE)
}

/// `/readyz`
pub(super) fn ready(control: &Control) -> Answer {
    let reason = if control.is_draining() {
        "draining"
    } else if !control.is_configured() {
        "no configuration is adopted yet"
    } else {
        return answer::line(StatusCode::OK, "ready");
    };
    answer::line(StatusCode::SERVICE_UNAVAILABLE, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_after_5_s_in_one_turn() {
        let now = Time::ZERO + Duration::from_secs(100);
        let stuck = |began: [Option<u64>; 3]| {
            stuck(began.map(|seconds| seconds.unwrap_or_default() * 1_000_000_000).into_iter(), now)
        };
        assert_eq!(stuck([None, None, None]), None, "all wait for work");
        assert_eq!(stuck([Some(96), None, Some(100)]), None);
        assert_eq!(stuck([Some(96), Some(95), Some(1)]), Some((1, Duration::from_secs(5))));
        assert_eq!(stuck([Some(101), None, None]), None, "a turn that began after we looked at the clock");
    }
}
