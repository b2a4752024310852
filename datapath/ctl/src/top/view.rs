//! Two looks at a proxy, as tables of rates.

use std::collections::HashMap;
use std::fmt;

use super::Look;
use crate::table::{Table, counted, short, time};
use crate::tables;

/// What is shown.
pub struct View {
    /// Which proxy this is.
    pub title: String,
    /// The whole proxy in one line.
    pub totals: String,
    /// Why the tables are old.
    pub trouble: Option<String>,
    /// By name; the busiest first.
    pub listeners: Table,
    /// By name; the busiest first.
    pub clusters: Table,
    /// Why messages did not go out; the most frequent first.
    pub drops: Table,
    /// Some sessions.
    pub sessions: Table,
}

impl View {
    /// What happened between two looks. Without the first one, or when another process answered, all rates are 0.
    pub fn new(before: Option<&Look>, now: &Look) -> View {
        let before = before.filter(|before| before.info.instance == now.info.instance);
        let rates = Rates { before, now };
        View {
            title: title(now),
            totals: rates.totals(),
            trouble: None,
            listeners: rates.listeners(),
            clusters: rates.clusters(),
            drops: rates.drops(),
            sessions: tables::sessions(&now.sessions),
        }
    }

    /// The tables in the order in which they are shown.
    pub fn tables(&self) -> [&Table; 4] {
        [&self.listeners, &self.clusters, &self.drops, &self.sessions]
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.title, self.totals)?;
        for table in self.tables() {
            write!(f, "\n{table}")?;
        }
        Ok(())
    }
}

fn title(now: &Look) -> String {
    let info = &now.info;
    let draining = if info.draining { ", draining" } else { "" };
    format!(
        "l7mp-proxy {}, pid {}, up {}, configuration {}, {}{draining}",
        info.version,
        info.pid,
        time(info.uptime_seconds * 1000),
        info.config_version,
        counted(info.workers as u64, "worker")
    )
}

struct Rates<'a> {
    before: Option<&'a Look>,
    now: &'a Look,
}

/// Values of one metric by the members of a label.
type Values<'a> = HashMap<&'a str, f64>;

impl<'a> Rates<'a> {
    fn seconds(&self) -> f64 {
        let elapsed = self.before.map(|before| self.now.at.saturating_duration_since(before.at));
        elapsed.unwrap_or_default().as_secs_f64().max(0.001)
    }

    fn total(&self, metric: &str) -> f64 {
        let before = self.before.map(|before| before.samples.total(metric));
        before.map_or(0.0, |before| (self.now.samples.total(metric) - before).max(0.0) / self.seconds())
    }

    fn by(&self, metric: &str, label: &str, only: Option<(&str, &str)>) -> Values<'a> {
        let mut values = self.now.samples.by(metric, label, only);
        let before = self.before.map(|before| before.samples.by(metric, label, only));
        let seconds = self.seconds();
        for (member, value) in &mut values {
            let before = before.as_ref().map(|before| before.get(member).copied().unwrap_or_default());
            *value = before.map_or(0.0, |before| (*value - before).max(0.0) / seconds);
        }
        values
    }

    fn totals(&self) -> String {
        let total = |metric: &str| short(self.total(metric));
        let level = |metric: &str| short(self.now.samples.total(metric));
        format!(
            "messages in {}/s, out {}/s, dropped {}/s, held {}, queued {}; sessions {}, opened {}/s",
            total("l7mp_messages_in_total"),
            total("l7mp_messages_out_total"),
            total("l7mp_messages_dropped_total"),
            level("l7mp_messages_held"),
            level("l7mp_messages_queued"),
            level("l7mp_sessions_active"),
            total("l7mp_sessions_opened_total"),
        )
    }

    /// The columns that listeners and clusters share: cells of each member by name, the busiest first.
    fn traffic(&self, kind: &str) -> Vec<(&'a str, Vec<String>)> {
        let metric = |what: &str| format!("l7mp_{kind}_{what}");
        let rate = |what: &str, direction| self.by(&metric(what), kind, Some(("direction", direction)));
        let (messages_in, messages_out) = (rate("messages_total", "in"), rate("messages_total", "out"));
        let (bytes_in, bytes_out) = (rate("bytes_total", "in"), rate("bytes_total", "out"));
        let opened = self.by(&metric("sessions_opened_total"), kind, None);
        let active = self.now.samples.by(&metric("sessions_active"), kind, None);
        let of = |values: &Values<'a>, name: &str| values.get(name).copied().unwrap_or_default();
        let busy = |name: &str| of(&messages_in, name) + of(&messages_out, name);
        let mut names: Vec<&str> = self.now.samples.members(&metric("sessions_active"), kind).into_iter().collect();
        names.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
        let columns = [&active, &opened, &messages_in, &messages_out, &bytes_in, &bytes_out];
        names.into_iter().map(|name| (name, columns.map(|values| short(of(values, name))).to_vec())).collect()
    }

    fn listeners(&self) -> Table {
        let mut table =
            Table::new(&["LISTENER", ">SESSIONS", ">NEW/S", ">IN/S", ">OUT/S", ">IN B/S", ">OUT B/S", ">KERNEL DROPS"]);
        let lost = self.now.samples.by("l7mp_listener_kernel_drops_total", "listener", None);
        for (name, cells) in self.traffic("listener") {
            let lost = short(lost.get(name).copied().unwrap_or_default());
            table.rows.push([vec![name.to_owned()], cells, vec![lost]].concat());
        }
        table
    }

    fn clusters(&self) -> Table {
        let mut table = Table::new(&[
            "CLUSTER",
            ">SESSIONS",
            ">NEW/S",
            ">IN/S",
            ">OUT/S",
            ">IN B/S",
            ">OUT B/S",
            ">FAILED",
            ">RETRIES",
        ]);
        let totals = |metric: &str| self.now.samples.by(metric, "cluster", None);
        let connects = totals("l7mp_cluster_connect_failures_total");
        let handshakes = totals("l7mp_cluster_handshake_failures_total");
        let retries = totals("l7mp_cluster_retries_total");
        for (name, cells) in self.traffic("cluster") {
            let of = |values: &Values<'_>| values.get(name).copied().unwrap_or_default();
            let last = vec![short(of(&connects) + of(&handshakes)), short(of(&retries))];
            table.rows.push([vec![name.to_owned()], cells, last].concat());
        }
        table
    }

    /// Reasons that occurred.
    fn drops(&self) -> Table {
        let mut table = Table::new(&["DROPPED", ">TOTAL", ">PER S"]);
        let metric = "l7mp_messages_dropped_total";
        let totals = self.now.samples.by(metric, "reason", None);
        let rates = self.by(metric, "reason", None);
        let mut reasons: Vec<(&str, f64)> = totals.into_iter().filter(|(_, total)| *total > 0.0).collect();
        reasons.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        for (reason, total) in reasons {
            let rate = rates.get(reason).copied().unwrap_or_default();
            table.rows.push(vec![reason.to_owned(), short(total), short(rate)]);
        }
        table
    }
}
