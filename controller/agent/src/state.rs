//! How the agent stands, for its probes and metrics.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Everything that is counted, and what the probes need to know.
#[derive(Debug, Default)]
pub struct State {
    /// The proxy has a configuration.
    pub ready: AtomicBool,
    /// The proxy answers.
    pub proxy_answers: AtomicBool,
    /// There is a stream to the operator.
    pub connected: AtomicBool,
    /// Streams begun.
    pub connects: AtomicU64,
    /// Attempts to begin one that failed.
    pub connect_failures: AtomicU64,
    /// Of these, because the operator did not believe the token.
    pub token_refused: AtomicU64,
    /// Configurations that came.
    pub received: AtomicU64,
    /// Of these, older than what was held already.
    pub older: AtomicU64,
    /// Pushes to the proxy.
    pub pushes: AtomicU64,
    /// Of these, refused by the proxy.
    pub refused: AtomicU64,
    /// Times that another process answered as the proxy.
    pub proxy_restarts: AtomicU64,
    /// Times that the file could not be written.
    pub save_failures: AtomicU64,
    /// Term of what the proxy acknowledged last.
    pub term: AtomicU64,
    /// Sequence of what the proxy acknowledged last.
    pub sequence: AtomicU64,
    /// When the token ends, seconds since 1970; 0: not known.
    pub token_expires: AtomicU64,
}

impl State {
    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let gauges = [
            ("ready", "The proxy has a configuration.", u64::from(self.ready.load(Relaxed))),
            ("proxy_answers", "The proxy's admin socket answers.", u64::from(self.proxy_answers.load(Relaxed))),
            ("connected", "There is a stream to the operator.", u64::from(self.connected.load(Relaxed))),
            ("acknowledged_term", "Term of what the proxy acknowledged last.", self.term.load(Relaxed)),
            ("acknowledged_sequence", "Its sequence.", self.sequence.load(Relaxed)),
            ("token_expires_seconds", "When the token ends, since 1970.", self.token_expires.load(Relaxed)),
        ];
        let counters = [
            ("connects_total", "Streams to the operator begun.", &self.connects),
            ("connect_failures_total", "Attempts to begin one that failed.", &self.connect_failures),
            ("token_refused_total", "Times that the operator refused the token.", &self.token_refused),
            ("configurations_total", "Configurations that came.", &self.received),
            ("configurations_older_total", "Of these, older than what was held.", &self.older),
            ("pushes_total", "Pushes to the proxy.", &self.pushes),
            ("pushes_refused_total", "Of these, refused by the proxy.", &self.refused),
            ("proxy_restarts_total", "Times that another process answered as the proxy.", &self.proxy_restarts),
            ("save_failures_total", "Times that the file could not be written.", &self.save_failures),
        ];
        let mut text = String::new();
        for (name, help, value) in gauges {
            let _ = writeln!(text, "# HELP l7mp_agent_{name} {help}\n# TYPE l7mp_agent_{name} gauge");
            let _ = writeln!(text, "l7mp_agent_{name} {value}");
        }
        for (name, help, value) in counters {
            let _ = writeln!(text, "# HELP l7mp_agent_{name} {help}\n# TYPE l7mp_agent_{name} counter");
            let _ = writeln!(text, "l7mp_agent_{name} {}", value.load(Relaxed));
        }
        text
    }
}
