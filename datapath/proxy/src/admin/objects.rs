//! `/api/v1/{listeners,clusters,routes,rules,rulelists}`: parts of the adopted document, in their canonical spelling.
//!
//! A list is a JSON array, in the order of the document; one object is answered by itself. Listeners and clusters
//! carry a `status` beside what the document says:
//!
//! * listener: `{address, sessions, kernel_drops}`: where it is bound (with the port that the kernel chose; null for
//!   Unix sockets), the sessions that came in by it and live, the datagrams that the kernel dropped before us.
//! * cluster: `{sessions}`: the sessions that use it now.

use std::collections::HashMap;

use l7mp_api::Config;
use l7mp_forwarder::snapshot::compile::Scopes;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::place::Kind;
use crate::control::Control;
use crate::ledger::SocketReport;
use crate::metrics;

/// What the status of objects is made of.
struct Facts {
    listeners: HashMap<String, u64>,
    clusters: HashMap<String, u64>,
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
        Facts { listeners, clusters, sockets: control.sockets() }
    }

    fn listener(&self, name: &str) -> Value {
        let sockets = self.sockets.iter().filter(|socket| socket.listener == name);
        let kernel_drops: u64 = sockets.clone().map(|socket| socket.kernel_drops).sum();
        let address = sockets.filter_map(|socket| socket.address).map(|address| address.to_string()).next();
        let sessions = self.listeners.get(name).copied().unwrap_or_default();
        json!({"address": address, "sessions": sessions, "kernel_drops": kernel_drops})
    }

    fn cluster(&self, name: &str) -> Value {
        json!({"sessions": self.clusters.get(name).copied().unwrap_or_default()})
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
