//! What is logged of the things that an agent says: any pod may run its own agent, and say them without end.

use std::time::Instant;

use l7mp_api::Problem;
use l7mp_compiler::object::PodName;
use l7mp_link::Version;
use l7mp_link::server::Quiet;

/// When each kind of line was written last for one agent.
#[derive(Default)]
pub(super) struct Said {
    warned: Quiet,
    refused: Quiet,
    troubled: Quiet,
    reached: Quiet,
}

impl Said {
    pub(super) fn warned(&self, pod: &PodName, version: Version, warnings: &[Problem], now: Instant) {
        let Some(first) = warnings.first() else { return };
        if let Some(left_out) = self.warned.allows(now) {
            let more = more(warnings);
            tracing::warn!(%pod, %version, left_out, "its proxy warns of what it runs: {first}{more}");
        }
    }

    pub(super) fn refused(&self, pod: &PodName, version: Version, errors: &[Problem], now: Instant) {
        if let Some(left_out) = self.refused.allows(now) {
            let first = errors.first().map_or_else(|| "no reason given".to_owned(), ToString::to_string);
            let more = more(errors);
            tracing::warn!(%pod, %version, left_out, "its proxy refuses what it was told: {first}{more}");
        }
    }

    pub(super) fn troubled(&self, pod: &PodName, message: &str, now: Instant) {
        if let Some(left_out) = self.troubled.allows(now) {
            tracing::warn!(%pod, left_out, "{message}");
        }
    }

    pub(super) fn reached(&self, pod: &PodName, now: Instant) {
        if let Some(left_out) = self.reached.allows(now) {
            tracing::info!(%pod, left_out, "its proxy is reached again");
        }
    }
}

/// How many there are besides the first.
fn more(problems: &[Problem]) -> String {
    match problems.len() {
        0 | 1 => String::new(),
        count => format!(", and {} more", count - 1),
    }
}
