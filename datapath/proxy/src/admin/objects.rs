//! `/api/v1/{listeners,clusters,routes,rules,rulelists}`: parts of the adopted document, in their canonical spelling.
//!
//! A list is a JSON array, in the order of the document; one object is answered by itself. Listeners and clusters
//! carry a `status` beside what the document says:
//!
//! * listener: `{address, sessions, kernel_drops}`: where it is bound (with the port that the kernel chose; null for
//!   Unix sockets), the sessions that came in by it and live, the datagrams that the kernel dropped before us.
//! * cluster: `{sessions, last_error, last_error_age_ms}`: the sessions that use it now; why the last connection to it
//!   could not be made that the kernel refused, and how long ago that was (absent: none was).

use std::collections::HashMap;

use l7mp_api::Config;
use l7mp_forwarder::counters::Failure;
use l7mp_forwarder::snapshot::compile::Scopes;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::place::Kind;
use crate::control::Control;
use crate::failures;
use crate::ledger::SocketReport;
use crate::metrics;

/// What the status of objects is made of.
struct Facts {
    listeners: HashMap<String, u64>,
    clusters: HashMap<String, u64>,
    failures: HashMap<String, (String, u64)>,
    sockets: Vec<SocketReport>,
}

/// `GET`: all of a kind, or the one of that name.
pub(super) async fn get(control: &Control, kind: Kind, name: Option<&str>) -> Answer {
    let config = control.adopted().config;
    let facts = Facts::gather(control).await;
    let mut objects = list(kind, &config, &facts);
    let Some(name) = name else {
        return answer::ok(&objects.into_iter().map(|(_, object)| object).collect::<Vec<Value>>());
    };
    match objects.iter().position(|(known, _)| *known == name) {
        Some(at) => answer::ok(&objects.swap_remove(at).1),
        None => answer::unknown(kind.name(), name),
    }
}

impl Facts {
    async fn gather(control: &Control) -> Facts {
        let (listeners, clusters) =
            control.scopes(|Scopes { listeners, clusters }| (sessions(listeners), sessions(clusters)));
        let failures = control.scopes(|scopes| {
            let last = |(name, workers): (&String, &Vec<_>)| Some((name.clone(), failures::last(workers)?));
            scopes.clusters.iter().filter_map(last).collect::<Vec<_>>()
        });
        let now = l7mp_engine::now();
        let age = |at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let worded = |(name, failure): (String, Failure)| (name, (control.words.of(&failure), age(failure.at)));
        let failures = failures.into_iter().map(worded).collect();
        Facts { listeners, clusters, failures, sockets: control.sockets() }
    }

    fn listener(&self, name: &str) -> Value {
        let sockets = self.sockets.iter().filter(|socket| socket.listener == name);
        let kernel_drops: u64 = sockets.clone().map(|socket| socket.kernel_drops).sum();
        let address = sockets.filter_map(|socket| socket.address).map(|address| address.to_string()).next();
        let sessions = self.listeners.get(name).copied().unwrap_or_default();
        json!({"address": address, "sessions": sessions, "kernel_drops": kernel_drops})
    }

    fn cluster(&self, name: &str) -> Value {
        let sessions = self.clusters.get(name).copied().unwrap_or_default();
        match self.failures.get(name) {
            None => json!({"sessions": sessions}),
            Some((error, age)) => json!({"sessions": sessions, "last_error": error, "last_error_age_ms": age}),
        }
    }
}

/// Sessions that use each scope now.
fn sessions(scopes: &metrics::ScopesByName) -> HashMap<String, u64> {
    scopes.iter().map(|(name, workers)| (name.clone(), metrics::sum(workers, |scope| &scope.sessions_active))).collect()
}

/// The objects of a kind with their names, in the order of the document.
fn list<'a>(kind: Kind, config: &'a Config, facts: &Facts) -> Vec<(&'a str, Value)> {
    match kind {
        Kind::Listener => named(&config.listeners, |listener| &listener.name, |name| Some(facts.listener(name))),
        Kind::Cluster => named(&config.clusters, |cluster| &cluster.name, |name| Some(facts.cluster(name))),
        Kind::Route => named(&config.routes, |route| &route.name, |_| None),
        Kind::Rule => named(&config.rules, |rule| &rule.name, |_| None),
        Kind::RuleList => named(&config.rulelists, |list| &list.name, |_| None),
    }
}

fn named<'a, T: Serialize>(
    objects: &'a [T],
    name: impl Fn(&T) -> &String,
    status: impl Fn(&str) -> Option<Value>,
) -> Vec<(&'a str, Value)> {
    let written = |object: &'a T| {
        let name = name(object).as_str();
        let mut value = serde_json::to_value(object).unwrap_or_default();
        if let (Some(status), Value::Object(fields)) = (status(name), &mut value) {
            fields.insert("status".to_owned(), status);
        }
        (name, value)
    };
    objects.iter().map(written).collect()
}
