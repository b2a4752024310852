//! Everything that the operator counts, and how `/metrics` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counters and gauges of one process. The names of the series are in [`Metrics::render`].
#[derive(Debug, Default)]
pub struct Metrics {
    /// Watch events, by kind and type (`init`, `apply`, `delete`).
    pub watch_events: Counts<2>,
    /// Watches that failed, by kind.
    pub watch_errors: Counts<1>,
    /// Objects that are not usable, as they came, by kind.
    pub rejected: Counts<1>,
    /// Configurations that were handed to agents' streams.
    pub pushes: AtomicU64,
    /// Configurations that proxies refused.
    pub refusals: AtomicU64,
    /// Configurations that proxies adopted.
    pub acknowledgements: AtomicU64,
    /// Writes of status, by result.
    pub status_writes: Counts<1>,
    /// Kubernetes Events, by result.
    pub events: Counts<1>,
    /// Attempts on the Lease that failed.
    pub lease_errors: AtomicU64,
    /// Whether this replica holds the Lease.
    pub leads: AtomicBool,
    turns: Mutex<Turns>,
    gauges: Mutex<Gauges>,
}

/// Counts, by the values of `N` labels. Labels are of our own making: their number is bounded.
#[derive(Debug)]
pub struct Counts<const N: usize>(Mutex<BTreeMap<[&'static str; N], u64>>);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Counts(Mutex::default())
    }
}

impl<const N: usize> Counts<N> {
    /// Counts one more.
    pub fn add(&self, labels: [&'static str; N]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(labels).or_default() += 1;
    }

    /// How many were counted.
    pub fn get(&self, labels: [&'static str; N]) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&labels).copied().unwrap_or_default()
    }

    fn render(&self, text: &mut Text, names: [&str; N]) {
        for (labels, count) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels: Vec<(&str, &str)> = names.into_iter().zip(labels.iter().copied()).collect();
            text.sample(&labels, *count);
        }
    }
}

/// Turns of the loop that compiled.
#[derive(Debug, Default)]
struct Turns {
    count: u64,
    sum: Duration,
    last: Duration,
    longest: Duration,
}

/// What is so now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Agents that are connected.
    pub agents: usize,
    /// Pods that have a proxy.
    pub proxies: usize,
    /// Proxies that wait for being compiled for.
    pub queue: usize,
    /// Usable objects, by kind.
    pub objects: BTreeMap<&'static str, usize>,
    /// Objects whose status says that something is wrong, by kind, condition and reason.
    pub problems: BTreeMap<(&'static str, String, String), usize>,
    /// Statuses that are to be written.
    pub unwritten: usize,
}

impl Metrics {
    /// A turn of the loop has compiled for so long.
    pub fn compiled(&self, took: Duration) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.count += 1;
        turns.sum += took;
        turns.last = took;
        turns.longest = turns.longest.max(took);
    }

    /// Changes what is so now.
    pub fn gauge(&self, change: impl FnOnce(&mut Gauges)) {
        change(&mut self.gauges.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// In Prometheus' text format, each series with its `# HELP` and `# TYPE`.
    pub fn render(&self) -> String {
        let mut text = Text::default();
        self.render_counters(&mut text);
        self.render_gauges(&mut text);
        text.0
    }

    fn render_counters(&self, text: &mut Text) {
        text.begin("l7mp_operator_watch_events_total", "counter", "Watch events received.");
        self.watch_events.render(text, ["kind", "type"]);
        text.begin("l7mp_operator_watch_errors_total", "counter", "Watches and lists that failed.");
        self.watch_errors.render(text, ["kind"]);
        text.begin("l7mp_operator_rejected_objects_total", "counter", "Received objects that are not usable.");
        self.rejected.render(text, ["kind"]);
        text.begin("l7mp_operator_pushes_total", "counter", "Configurations handed to agents' streams.");
        text.sample(&[], self.pushes.load(Relaxed));
        text.begin("l7mp_operator_refusals_total", "counter", "Configurations that proxies refused.");
        text.sample(&[], self.refusals.load(Relaxed));
        text.begin("l7mp_operator_acknowledgements_total", "counter", "Configurations that proxies adopted.");
        text.sample(&[], self.acknowledgements.load(Relaxed));
        text.begin("l7mp_operator_status_writes_total", "counter", "Writes of objects' status.");
        self.status_writes.render(text, ["result"]);
        text.begin("l7mp_operator_events_total", "counter", "Kubernetes Events about objects.");
        self.events.render(text, ["result"]);
        text.begin("l7mp_operator_lease_errors_total", "counter", "Attempts on the Lease that failed.");
        text.sample(&[], self.lease_errors.load(Relaxed));
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        text.begin(
            "l7mp_operator_compile_seconds",
            "summary",
            "Time of each turn that compiled, all its proxies together.",
        );
        text.named("l7mp_operator_compile_seconds_sum", &turns.sum.as_secs_f64().to_string());
        text.named("l7mp_operator_compile_seconds_count", &turns.count.to_string());
        text.begin("l7mp_operator_compile_last_seconds", "gauge", "Time of the last turn that compiled.");
        text.sample(&[], turns.last.as_secs_f64());
        text.begin("l7mp_operator_compile_longest_seconds", "gauge", "Time of the longest turn that compiled.");
        text.sample(&[], turns.longest.as_secs_f64());
    }

    fn render_gauges(&self, text: &mut Text) {
        text.begin("l7mp_operator_leads", "gauge", "1 where this replica holds the Lease.");
        text.sample(&[], u8::from(self.leads.load(Relaxed)));
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        text.begin("l7mp_operator_agents", "gauge", "Agents that are connected.");
        text.sample(&[], gauges.agents);
        text.begin("l7mp_operator_proxies", "gauge", "Pods that have a proxy.");
        text.sample(&[], gauges.proxies);
        text.begin("l7mp_operator_queue", "gauge", "Proxies that wait for being compiled for.");
        text.sample(&[], gauges.queue);
        text.begin("l7mp_operator_unwritten_statuses", "gauge", "Statuses that are to be written.");
        text.sample(&[], gauges.unwritten);
        text.begin("l7mp_operator_objects", "gauge", "Usable objects.");
        for (kind, count) in &gauges.objects {
            text.sample(&[("kind", kind)], count);
        }
        text.begin("l7mp_operator_object_problems", "gauge", "Objects whose status says that something is wrong.");
        for ((kind, condition, reason), count) in &gauges.problems {
            text.sample(&[("kind", kind), ("condition", condition), ("reason", reason)], count);
        }
    }
}

/// A text in Prometheus' format that grows series by series.
#[derive(Default)]
struct Text(String);

impl Text {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the series that was begun last.
    fn sample(&mut self, labels: &[(&str, &str)], value: impl ToString) {
        let begun = self.0.rfind("# TYPE ").map_or(0, |at| at + "# TYPE ".len());
        let name = self.0[begun..].split(' ').next().unwrap_or_default().to_owned();
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.named(&format!("{name}{labels}"), &value.to_string());
    }

    fn named(&mut self, series: &str, value: &str) {
        let _ = writeln!(self.0, "{series} {value}");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.watch_events.add(["Pod", "apply"]);
        metrics.watch_events.add(["Pod", "apply"]);
        metrics.pushes.fetch_add(3, Relaxed);
        metrics.compiled(Duration::from_millis(250));
        metrics.compiled(Duration::from_millis(500));
        metrics.gauge(|gauges| {
            gauges.problems.insert(("Target", "Accepted".to_owned(), "Sp\"ec".to_owned()), 2);
        });
        let text = metrics.render();
        for line in [
            "# TYPE l7mp_operator_watch_events_total counter",
            "l7mp_operator_watch_events_total{kind=\"Pod\",type=\"apply\"} 2",
            "l7mp_operator_pushes_total 3",
            "l7mp_operator_compile_seconds_sum 0.75",
            "l7mp_operator_compile_seconds_count 2",
            "l7mp_operator_compile_last_seconds 0.5",
            "l7mp_operator_object_problems{kind=\"Target\",condition=\"Accepted\",reason=\"Sp\\\"ec\"} 2",
            "l7mp_operator_leads 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with('\n'));
    }
}
