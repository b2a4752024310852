//! `/metrics`: every counter, in Prometheus' text format. All names of metrics stand in this file.
//!
//! Labels have values that the configuration bounds: names of listeners and clusters, reasons, worker numbers. Counters
//! of one object are those of all workers together; what tells something about a thread is told per worker.

use std::collections::HashMap;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use l7mp_forwarder::counters::{Counter, DropReason, EndReason, OpenTime, ScopeCounters};
use l7mp_forwarder::snapshot::compile::Scopes;

use crate::control::Control;
use crate::ledger::SocketReport;
use crate::worker::Shared;

/// Counters of listeners or clusters by name, one per worker each.
pub type ScopesByName = HashMap<String, Vec<Arc<ScopeCounters>>>;

/// All metrics of this process.
pub async fn of(control: &Control) -> String {
    control.settle().await;
    let version = control.adopted().version;
    let sockets = control.sockets();
    let workers: Vec<&Shared> = control.workers.iter().map(|worker| &*worker.shared).collect();
    let mut text = Text::default();
    process(&mut text, control, version);
    of_workers(&mut text, &workers);
    control.scopes(|scopes| of_scopes(&mut text, scopes));
    of_sockets(&mut text, &sockets);
    text.0
}

/// One counter of a listener or cluster, over all workers.
pub fn sum(workers: &[Arc<ScopeCounters>], counter: impl Fn(&ScopeCounters) -> &Counter) -> u64 {
    workers.iter().map(|worker| counter(worker).get()).sum()
}

fn process(text: &mut Text, control: &Control, version: u64) {
    text.family("l7mp_build_info", "gauge", "1; the version is in the label");
    text.sample("l7mp_build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
    text.gauge("l7mp_uptime_seconds", "Since the start of the process", control.started.elapsed().as_secs());
    text.gauge("l7mp_config_version", "Adopted configuration; 0: none yet", version);
    text.gauge("l7mp_draining", "1 while no new sessions are taken", u64::from(control.is_draining()));
    let refused = control.admin_refused.load(Ordering::Relaxed);
    text.counter("l7mp_admin_refused_total", "Connections to the admin socket that were refused", refused);
}

fn of_workers(text: &mut Text, workers: &[&Shared]) {
    messages(text, workers);
    sessions(text, workers);
    open_time(text, workers);
    engines(text, workers);
}

fn messages(text: &mut Text, workers: &[&Shared]) {
    let total = |counter: fn(&Shared) -> &Counter| workers.iter().map(|worker| counter(worker).get()).sum::<u64>();
    let name = "l7mp_messages_in_total";
    text.counter(name, "Messages that arrived: sent, dropped, held or queued", total(|w| &w.counters.messages_in));
    let name = "l7mp_messages_out_total";
    text.counter(name, "Messages that went out, to a peer or into the proxy", total(|w| &w.counters.messages_out));
    let name = "l7mp_messages_dropped_total";
    text.family(name, "counter", "Messages that did not go out, by reason");
    for &reason in DropReason::ALL {
        let dropped: u64 = workers.iter().map(|worker| worker.counters.dropped.of(reason).get()).sum();
        text.sample(name, &[("reason", &reason.name())], dropped);
    }
    let name = "l7mp_messages_held";
    text.gauge(name, "Messages that wait for their session to open", total(|w| &w.counters.held));
    let name = "l7mp_messages_queued";
    text.gauge(name, "Messages that wait for a slow receiver", total(|w| &w.counters.queued));
    let name = "l7mp_payload_copies_total";
    text.family(name, "counter", "Payloads copied in user space, by the part that copied");
    text.sample(name, &[("by", &"forwarder")], total(|w| &w.counters.payload_copies));
    text.sample(name, &[("by", &"engine")], total(|w| &w.engine.payload_copies));
}

fn sessions(text: &mut Text, workers: &[&Shared]) {
    let total = |counter: fn(&Shared) -> &Counter| workers.iter().map(|worker| counter(worker).get()).sum::<u64>();
    let name = "l7mp_sessions_opened_total";
    text.counter(name, "Sessions that were opened", total(|w| &w.counters.sessions_opened));
    text.gauge("l7mp_sessions_active", "Sessions that live", total(|w| &w.counters.sessions_active));
    let name = "l7mp_sessions_closed_total";
    text.family(name, "counter", "Sessions that ended, by reason");
    for &reason in EndReason::ALL {
        let closed: u64 = workers.iter().map(|worker| worker.counters.sessions_closed.of_end(reason).get()).sum();
        text.sample(name, &[("reason", &reason.name())], closed);
    }
}

/// A histogram's buckets are cumulative; the counters are not.
fn open_time(text: &mut Text, workers: &[&Shared]) {
    text.family("l7mp_session_open_seconds", "histogram", "From a session's first message to its closed ring");
    let mut count = 0;
    for &bucket in OpenTime::ALL {
        count += workers.iter().map(|worker| worker.counters.open_time.of_time(bucket).get()).sum::<u64>();
        text.sample("l7mp_session_open_seconds_bucket", &[("le", &bucket.name())], count);
    }
    let micros: u64 = workers.iter().map(|worker| worker.counters.open_time_us.get()).sum();
    let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.sample("l7mp_session_open_seconds_sum", &[], seconds);
    text.sample("l7mp_session_open_seconds_count", &[], count);
}

fn engines(text: &mut Text, workers: &[&Shared]) {
    type Metric = (&'static str, &'static str, &'static str, fn(&Shared) -> &Counter);
    let metrics: [Metric; 7] = [
        ("l7mp_worker_sessions_active", "gauge", "Sessions that live on a worker", |w| &w.counters.sessions_active),
        ("l7mp_worker_turns_total", "counter", "Turns of a worker's loop", |w| &w.engine.turns),
        ("l7mp_worker_completions_total", "counter", "io_uring completions handled", |w| &w.engine.completions),
        ("l7mp_worker_enters_total", "counter", "Calls of io_uring_enter", |w| &w.engine.enters),
        ("l7mp_worker_no_buffer_total", "counter", "Receives that found no buffer", |w| &w.engine.no_buffers),
        ("l7mp_worker_overflows_total", "counter", "Overflows of the completion queue", |w| &w.engine.overflows),
        ("l7mp_worker_buffers_free_min", "gauge", "Fewest free buffers of any class since the start", |w| {
            &w.engine.buffers_low
        }),
    ];
    for (name, kind, help, counter) in metrics {
        text.family(name, kind, help);
        for (number, worker) in workers.iter().enumerate() {
            text.sample(name, &[("worker", &number)], counter(worker).get());
        }
    }
}

/// Metrics of listeners and clusters: what is counted, and for which of them it means something.
fn of_scopes(text: &mut Text, scopes: &Scopes) {
    let listeners = Scope::new("listener", &scopes.listeners);
    let clusters = Scope::new("cluster", &scopes.clusters);
    for scope in [&listeners, &clusters] {
        scope.in_and_out(text, "messages", "Messages from and to peers", |c| &c.messages_in, |c| &c.messages_out);
        scope.in_and_out(text, "bytes", "Bytes of those messages", |c| &c.bytes_in, |c| &c.bytes_out);
        scope.metric(text, "sessions_opened_total", "Sessions that were opened", |c| &c.sessions_opened);
        scope.metric(text, "sessions_active", "Sessions that live", |c| &c.sessions_active);
        scope.metric(text, "handshake_failures_total", "Handshakes that failed", |c| &c.handshake_failures);
    }
    clusters.metric(text, "connect_failures_total", "Connections that failed", |c| &c.connect_failures);
    clusters.metric(text, "retries_total", "Attempts to connect again", |c| &c.retries);
}

/// All listeners, or all clusters, by name.
struct Scope<'a> {
    kind: &'static str,
    members: Vec<(&'a str, &'a [Arc<ScopeCounters>])>,
}

impl<'a> Scope<'a> {
    fn new(kind: &'static str, scopes: &'a ScopesByName) -> Scope<'a> {
        let mut members: Vec<_> = scopes.iter().map(|(name, workers)| (name.as_str(), workers.as_slice())).collect();
        members.sort_unstable_by_key(|(name, _)| *name);
        Scope { kind, members }
    }

    fn metric(&self, text: &mut Text, what: &str, help: &str, counter: fn(&ScopeCounters) -> &Counter) {
        let name = format!("l7mp_{}_{what}", self.kind);
        text.family(&name, if what.ends_with("_total") { "counter" } else { "gauge" }, help);
        for (member, workers) in &self.members {
            text.sample(&name, &[(self.kind, member)], sum(workers, counter));
        }
    }

    fn in_and_out(
        &self,
        text: &mut Text,
        what: &str,
        help: &str,
        inward: fn(&ScopeCounters) -> &Counter,
        outward: fn(&ScopeCounters) -> &Counter,
    ) {
        let name = format!("l7mp_{}_{what}_total", self.kind);
        text.family(&name, "counter", help);
        for (member, workers) in &self.members {
            text.sample(&name, &[(self.kind, member), ("direction", &"in")], sum(workers, inward));
            text.sample(&name, &[(self.kind, member), ("direction", &"out")], sum(workers, outward));
        }
    }
}

fn of_sockets(text: &mut Text, sockets: &[SocketReport]) {
    let name = "l7mp_listener_kernel_drops_total";
    text.family(name, "counter", "Datagrams that the kernel dropped before the proxy saw them");
    let mut drops: HashMap<&str, u64> = HashMap::new();
    for socket in sockets {
        *drops.entry(&socket.listener).or_default() += socket.kernel_drops;
    }
    let mut drops: Vec<(&str, u64)> = drops.into_iter().collect();
    drops.sort_unstable();
    for (listener, drops) in drops {
        text.sample(name, &[("listener", &listener)], drops);
    }
}

/// The text format: families, each with its help, its type and its samples.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            self.0.push(if n == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escaped(&text.to_string()));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    /// What Prometheus' own parser would accept, and the conventions beside: samples by name and labels.
    pub(crate) fn checked(text: &str) -> BTreeMap<String, f64> {
        let (mut samples, mut families, mut kind) = (BTreeMap::new(), HashSet::new(), ("", ""));
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(families.insert(name.to_owned()), "{name} comes twice");
                assert!(name.starts_with("l7mp_") && !help.is_empty(), "{line}");
                let typed = lines.next().unwrap().strip_prefix("# TYPE ").unwrap();
                kind = typed.split_once(' ').unwrap();
                assert_eq!(kind.0, name);
                assert_eq!(kind.1 == "counter", name.ends_with("_total"), "{name} is a {}", kind.1);
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            match kind.1 {
                "histogram" => assert!(name.starts_with(kind.0), "{line}"),
                _ => assert_eq!(name, kind.0, "{line}"),
            }
            assert!(labels.ends_with('}'), "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line} comes twice");
        }
        samples
    }

    fn scope(name: &str, workers: usize) -> ScopesByName {
        HashMap::from([(name.to_owned(), (0..workers).map(|_| Arc::default()).collect())])
    }

    #[test]
    fn every_worker_counts() {
        let workers = [Shared::default(), Shared::default()];
        for worker in &workers {
            worker.counters.messages_in.add(5);
            worker.counters.dropped.of(DropReason::NoRule).add(2);
            worker.counters.sessions_closed.of_end(EndReason::Idle).add(1);
            worker.counters.payload_copies.add(3);
            worker.engine.turns.set(10);
        }
        let mut text = Text::default();
        of_workers(&mut text, &workers.each_ref());
        let samples = checked(&text.0);
        assert_eq!(samples["l7mp_messages_in_total"], 10.0);
        assert_eq!(samples[r#"l7mp_messages_dropped_total{reason="no_rule"}"#], 4.0);
        assert_eq!(samples[r#"l7mp_messages_dropped_total{reason="backlog"}"#], 0.0, "every reason is there");
        assert_eq!(samples[r#"l7mp_sessions_closed_total{reason="idle"}"#], 2.0);
        assert_eq!(samples[r#"l7mp_payload_copies_total{by="forwarder"}"#], 6.0);
        assert_eq!(samples[r#"l7mp_worker_turns_total{worker="1"}"#], 10.0);
    }

    #[test]
    fn buckets_are_cumulative() {
        let worker = Shared::default();
        worker.counters.open_time.of_time(OpenTime::Ms1).add(2);
        worker.counters.open_time.of_time(OpenTime::Ms50).add(3);
        worker.counters.open_time.of_time(OpenTime::More).add(1);
        worker.counters.open_time_us.add(12_000_150);
        let mut text = Text::default();
        open_time(&mut text, &[&worker]);
        let samples = checked(&text.0);
        let bucket = |le: &str| samples[&format!("l7mp_session_open_seconds_bucket{{le=\"{le}\"}}")];
        let counts = ["0.001", "0.005", "0.05", "5", "+Inf"].map(bucket);
        assert_eq!(counts, [2.0, 2.0, 5.0, 5.0, 6.0]);
        assert_eq!(samples["l7mp_session_open_seconds_count"], 6.0);
        assert_eq!(samples["l7mp_session_open_seconds_sum"], 12.00015);
    }

    #[test]
    fn listeners_and_clusters_by_name() {
        let scopes = Scopes { listeners: scope("a\"b\\c", 2), clusters: scope("c", 2) };
        scopes.listeners["a\"b\\c"][0].bytes_out.add(7);
        scopes.listeners["a\"b\\c"][1].bytes_out.add(8);
        scopes.clusters["c"][1].retries.add(1);
        let mut text = Text::default();
        of_scopes(&mut text, &scopes);
        let samples = checked(&text.0);
        assert_eq!(samples[r#"l7mp_listener_bytes_total{listener="a\"b\\c",direction="out"}"#], 15.0);
        assert_eq!(samples[r#"l7mp_listener_bytes_total{listener="a\"b\\c",direction="in"}"#], 0.0);
        assert_eq!(samples[r#"l7mp_cluster_retries_total{cluster="c"}"#], 1.0);
        assert_eq!(samples[r#"l7mp_cluster_connect_failures_total{cluster="c"}"#], 0.0);
    }
}
