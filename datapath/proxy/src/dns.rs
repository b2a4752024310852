//! The addresses of DNS names, resolved on the admin thread and again every few seconds.
//!
//! An address that vanishes from its name drains; a failed resolution keeps the last set.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use l7mp_api::Problem;
use l7mp_api::config::{Cluster, Config, EndpointAt, Ref};
use l7mp_forwarder::snapshot::compile::Resolved;
use tokio::task::JoinSet;

/// How often names are resolved again.
pub const REFRESH: Duration = Duration::from_secs(5);
/// How long one resolution may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Vanished addresses that a name remembers.
const VANISHED_MAX: usize = 256;

/// Every name of the document and its addresses.
#[derive(Default)]
pub struct Names {
    known: HashMap<String, Vec<Resolved>>,
}

impl Names {
    /// Forgets the names that an adopted document does not have.
    pub fn retain(&mut self, config: &Config) {
        let wanted = names_of(config);
        self.known.retain(|name, _| wanted.iter().any(|(_, wanted)| wanted == name));
    }

    /// Resolves the names of a document that are not known yet. Answers a warning for each that could not be
    /// resolved: its cluster has no endpoint until it can.
    pub async fn learn(&mut self, config: &Config) -> Vec<Problem> {
        let wanted = names_of(config);
        let unknown = |name: &String| self.known.get(name).is_none_or(Vec::is_empty);
        let unknown: BTreeSet<String> = wanted.iter().map(|(_, name)| name.clone()).filter(unknown).collect();
        for name in &unknown {
            self.known.entry(name.clone()).or_default();
        }
        self.merge(resolve(unknown.into_iter().collect()).await);
        let unresolved = wanted.into_iter().filter(|(_, name)| self.known.get(name).is_none_or(Vec::is_empty));
        unresolved
            .map(|(path, name)| Problem::new(path, format!("{name:?} does not resolve yet; it is tried again")))
            .collect()
    }

    /// Every known name.
    pub fn list(&self) -> Vec<String> {
        self.known.keys().cloned().collect()
    }

    /// Takes over what [`resolve`] found; true when addresses came or went.
    pub fn merge(&mut self, fresh: Vec<(String, Vec<IpAddr>)>) -> bool {
        let mut changed = false;
        for (name, addresses) in fresh {
            let Some(known) = self.known.get_mut(&name) else { continue };
            let merged = merge(known, &addresses);
            changed |= merged != *known;
            *known = merged;
        }
        changed
    }

    /// The addresses of a name.
    pub fn addresses(&self, name: &str) -> Vec<Resolved> {
        self.known.get(name).cloned().unwrap_or_default()
    }
}

/// Resolves names side by side. One that cannot be resolved is left out, and so keeps what it has.
pub async fn resolve(names: Vec<String>) -> Vec<(String, Vec<IpAddr>)> {
    let mut lookups = JoinSet::new();
    for name in names {
        lookups.spawn(async move {
            let addresses = lookup(&name).await.ok()?;
            Some((name, addresses))
        });
    }
    lookups.join_all().await.into_iter().flatten().collect()
}

/// What a name has now, and what it had before: that is draining.
fn merge(known: &[Resolved], fresh: &[IpAddr]) -> Vec<Resolved> {
    let mut merged: Vec<Resolved> = fresh.iter().map(|&ip| Resolved { ip, vanished: false }).collect();
    let vanished = known.iter().filter(|resolved| !fresh.contains(&resolved.ip));
    merged.extend(vanished.take(VANISHED_MAX).map(|resolved| Resolved { vanished: true, ..*resolved }));
    merged
}

/// Sorted, each once: the order in which a server lists its addresses means nothing.
async fn lookup(name: &str) -> Result<Vec<IpAddr>, ()> {
    let answer = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name, 0))).await;
    let addresses = answer.map_err(|_| ())?.map_err(|_| ())?;
    let mut addresses: Vec<IpAddr> = addresses.map(|address| address.ip().to_canonical()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Every endpoint address of a document that is no IP address, with its path.
fn names_of(config: &Config) -> Vec<(String, String)> {
    let mut names = Vec::new();
    for (n, cluster) in config.clusters.iter().enumerate() {
        names_of_cluster(cluster, &format!("clusters[{n}]"), &mut names);
    }
    let listener_rules = config.listeners.iter().filter_map(|listener| match &listener.rules {
        l7mp_api::config::Rules::Inline(rules) => Some(rules),
        l7mp_api::config::Rules::List(_) => None,
    });
    let rules = listener_rules.chain(config.rulelists.iter().map(|list| &list.rules)).flatten().filter_map(inline);
    let routes = rules.chain(&config.rules).filter_map(|rule| match &rule.action.target {
        l7mp_api::config::ActionTarget::Route(route) => inline(route),
        l7mp_api::config::ActionTarget::Apply(_) | l7mp_api::config::ActionTarget::Refuse(_) => None,
    });
    for route in routes.chain(&config.routes) {
        for cluster in route.ingress.iter().chain([&route.destination]).chain(&route.egress).filter_map(inline) {
            names_of_cluster(cluster, "an inline cluster", &mut names);
        }
    }
    names
}

fn inline<T>(reference: &Ref<T>) -> Option<&T> {
    match reference {
        Ref::Inline(object) => Some(object),
        Ref::Name(_) => None,
    }
}

fn names_of_cluster(cluster: &Cluster, path: &str, names: &mut Vec<(String, String)>) {
    for (n, endpoint) in cluster.endpoints.iter().enumerate() {
        if let EndpointAt::Address { address, .. } = &endpoint.at
            && address.parse::<IpAddr>().is_err()
        {
            names.push((format!("{path}.endpoints[{n}].spec.address"), address.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, n])
    }

    #[test]
    fn an_address_that_vanishes_drains_and_may_come_back() {
        let first = merge(&[], &[ip(1), ip(2)]);
        let second = merge(&first, &[ip(2), ip(3)]);
        let vanished: Vec<(IpAddr, bool)> = second.iter().map(|resolved| (resolved.ip, resolved.vanished)).collect();
        assert_eq!(vanished, [(ip(2), false), (ip(3), false), (ip(1), true)]);
        let third = merge(&second, &[ip(1)]);
        assert_eq!(third.iter().filter(|resolved| !resolved.vanished).count(), 1);
        assert_eq!(third[0], Resolved { ip: ip(1), vanished: false });
    }
}
