//! Everything that the server counts, for `/metrics`.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Reason;

/// Why a connection or a stream was turned away, other than for its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// What came was no TLS.
    NotTls,
    /// TLS that could not be agreed upon: version, name, a certificate that the client does not trust.
    Tls,
    /// The client took too long to prove who it is.
    TooSlow,
    /// Too many connections that have proved nothing.
    TooMany,
    /// The token could not be reviewed.
    Unavailable,
    /// Nobody leads.
    NoLeader,
    /// Another replica leads.
    Elsewhere,
    /// The agent said what makes no sense.
    Protocol,
}

impl Turned {
    const ALL: [(Turned, &str); 8] = [
        (Turned::NotTls, "not_tls"),
        (Turned::Tls, "tls"),
        (Turned::TooSlow, "too_slow"),
        (Turned::TooMany, "too_many"),
        (Turned::Unavailable, "review_unavailable"),
        (Turned::NoLeader, "no_leader"),
        (Turned::Elsewhere, "elsewhere"),
        (Turned::Protocol, "protocol"),
    ];
}

/// What happened at the operator's port since its start.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) streams: AtomicU64,
    pub(super) live: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) configurations: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) reviews: AtomicU64,
    pub(super) too_long: AtomicU64,
    turned: [AtomicU64; Turned::ALL.len()],
    refused: [AtomicU64; Reason::ALL.len()],
}

impl Counters {
    /// Streams that live now.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Tokens that were refused for this reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// Connections and streams that were turned away for this reason.
    pub fn turned(&self, why: Turned) -> u64 {
        self.turned[why as usize].load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turn(&self, why: Turned) {
        self.turned[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// In Prometheus' text format, each with its `# HELP` and `# TYPE`; names begin with `l7mp_link_`.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let singles = [
            ("connections_total", "counter", "TCP connections taken at the operator's port.", &self.connections),
            ("streams_total", "counter", "Agents' streams begun.", &self.streams),
            ("streams", "gauge", "Agents' streams that live now.", &self.live),
            ("replaced_total", "counter", "Streams ended by a newer one of the same pod.", &self.replaced),
            ("configurations_total", "counter", "Configurations sent to agents.", &self.configurations),
            ("configuration_bytes_total", "counter", "Bytes of documents sent to agents.", &self.bytes),
            ("reviews_total", "counter", "Tokens given to review.", &self.reviews),
            ("documents_too_long_total", "counter", "Documents not sent, being longer than 4 MiB.", &self.too_long),
        ];
        for (name, kind, help, value) in singles {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "l7mp_link_{name} {}", value.load(Ordering::Relaxed));
        }
        head(&mut text, "turned_away_total", "counter", "Connections and streams turned away.");
        for (why, name) in Turned::ALL {
            let _ = writeln!(text, "l7mp_link_turned_away_total{{reason=\"{name}\"}} {}", self.turned(why));
        }
        head(&mut text, "refused_tokens_total", "counter", "Tokens refused.");
        for reason in Reason::ALL {
            let (name, count) = (reason.name(), self.refused(reason));
            let _ = writeln!(text, "l7mp_link_refused_tokens_total{{reason=\"{name}\"}} {count}");
        }
        text
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP l7mp_link_{name} {help}\n# TYPE l7mp_link_{name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_line() {
        let counters = Counters::default();
        for (index, (why, _)) in Turned::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        counters.refuse(Reason::Invalid);
        counters.turn(Turned::Protocol);
        let text = counters.render();
        assert!(text.contains("l7mp_link_refused_tokens_total{reason=\"invalid\"} 1\n"), "{text}");
        assert!(text.contains("l7mp_link_turned_away_total{reason=\"protocol\"} 1\n"), "{text}");
        assert_eq!(text.matches(" 1\n").count(), 2, "{text}");
    }
}
