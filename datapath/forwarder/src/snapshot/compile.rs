//! Document -> snapshot, or every error. Strings stop here.
//!
//! The document was checked by [`Config::read`]: names resolve, rule lists do not loop. What is left to go wrong is
//! what only this proxy knows, such as a table that is too small for all addresses of a name.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use l7mp_api::Problem;
use l7mp_api::config::{self, ActionTarget, ClusterSpec, Config, EndpointAt, ListenerSpec, Policy, Ref, Rules};

use super::{
    Cluster, ClusterProtocol, Endpoint, Listener, ListenerProtocol, Route, Rule, RuleList, RuleTarget, Snapshot,
};
use crate::address::EndpointAddr;
use crate::balance::{self, Balancer, Candidate, Standing};
use crate::counters::{Counter, ScopeCounters};
use crate::ids::ListenerId;
use crate::limits::{APPLY_DEPTH_MAX, IDLE_TIMEOUT_DATAGRAM, MAGLEV_SLOTS_DEFAULT, SESSIONS_DEFAULT, STAGES_MAX};

/// An address that a DNS name has, or had a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The address.
    pub ip: IpAddr,
    /// It vanished from the name: its sessions stay, new ones go elsewhere.
    pub vanished: bool,
}

/// Counters of listeners and clusters, kept by name across configurations. One per worker each.
#[derive(Clone, Debug, Default)]
pub struct Scopes {
    /// Listeners by name.
    pub listeners: HashMap<String, Vec<Arc<ScopeCounters>>>,
    /// Clusters by name.
    pub clusters: HashMap<String, Vec<Arc<ScopeCounters>>>,
}

impl Scopes {
    /// Forgets what the snapshot does not name and no session uses.
    pub fn retain(&mut self, snapshot: &Snapshot) {
        let used = |counters: &[Arc<ScopeCounters>]| counters.iter().any(|counters| counters.sessions_active.get() > 0);
        self.listeners.retain(|name, counters| {
            snapshot.listeners.values().any(|listener| *listener.name == **name) || used(counters)
        });
        self.clusters.retain(|name, counters| snapshot.clusters.contains_key(name.as_str()) || used(counters));
    }
}

/// What a document is compiled with.
pub struct Inputs<'a> {
    /// The document.
    pub config: &'a Config,
    /// The version of the snapshot.
    pub version: u64,
    /// Workers of this process.
    pub workers: usize,
    /// Whose parts are kept where nothing changed.
    pub previous: &'a Snapshot,
    /// The identity of each listener's sockets, in the order of the document.
    pub listeners: &'a [ListenerId],
    /// The addresses of a DNS name.
    pub resolve: &'a dyn Fn(&str) -> Vec<Resolved>,
}

/// Compiles a document.
///
/// # Errors
///
/// Every problem, each with its path in the document.
pub fn compile(inputs: &Inputs<'_>, scopes: &mut Scopes) -> Result<Snapshot, Vec<Problem>> {
    let mut compiler = Compiler {
        inputs,
        scopes,
        snapshot: Snapshot { version: inputs.version, ..Snapshot::default() },
        lists: HashMap::new(),
        deepest: 0,
        problems: Vec::new(),
    };
    for (n, cluster) in inputs.config.clusters.iter().enumerate() {
        compiler.cluster(cluster, &format!("clusters[{n}]"));
    }
    for (n, (listener, &id)) in inputs.config.listeners.iter().zip(inputs.listeners).enumerate() {
        compiler.listener(listener, id, &format!("listeners[{n}]"));
    }
    if compiler.problems.is_empty() { Ok(compiler.snapshot) } else { Err(compiler.problems) }
}

struct Compiler<'a> {
    inputs: &'a Inputs<'a>,
    scopes: &'a mut Scopes,
    snapshot: Snapshot,
    /// Rule lists by name, each with how many it applies one behind the other: lists that share lists are no tree.
    lists: HashMap<String, (Arc<RuleList>, usize)>,
    /// How many lists apply one another at most, down from where we are.
    deepest: usize,
    problems: Vec<Problem>,
}

impl Compiler<'_> {
    fn problem(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    fn listener(&mut self, listener: &config::Listener, id: ListenerId, path: &str) {
        let rules = self.rules(&listener.rules, &format!("{path}.rules"), 0);
        let protocol = listener_protocol(&listener.spec);
        let lossy =
            matches!(protocol, ListenerProtocol::Udp { .. } | ListenerProtocol::Unix(config::UnixKind::Dgram, _));
        let workers = self.inputs.workers;
        let total = listener.options.max_sessions.unwrap_or(SESSIONS_DEFAULT);
        let share = if owned_by_one_worker(&listener.spec) { 1 } else { workers as u32 };
        let counters = self.scopes.listeners.entry(listener.name.clone()).or_insert_with(|| scope(workers));
        let compiled = Listener {
            id,
            name: listener.name.as_str().into(),
            protocol,
            rules,
            idle_timeout: listener.options.idle_timeout.or(lossy.then_some(IDLE_TIMEOUT_DATAGRAM)),
            sessions_max: total.div_ceil(share),
            remove_orphan_sessions: listener.options.remove_orphan_sessions,
            counters: counters.clone(),
        };
        self.snapshot.listeners.insert(id, Arc::new(compiled));
    }

    fn rules(&mut self, rules: &Rules, path: &str, depth: usize) -> Arc<RuleList> {
        match rules {
            Rules::List(name) => self.rule_list(name, path, depth),
            Rules::Inline(items) => self.rule_items(items, path, depth),
        }
    }

    fn rule_list(&mut self, name: &str, path: &str, depth: usize) -> Arc<RuleList> {
        let known = self.lists.get(name).cloned();
        let bottom = depth + known.as_ref().map_or(0, |(_, height)| *height);
        if bottom > APPLY_DEPTH_MAX {
            self.problem(path, format!("more than {APPLY_DEPTH_MAX} rule lists apply one another"));
            return Arc::default();
        }
        self.deepest = self.deepest.max(bottom);
        if let Some((list, _)) = known {
            return list;
        }
        let config = self.inputs.config;
        let Some((n, list)) = config.rulelists.iter().enumerate().find(|(_, list)| list.name == name) else {
            self.problem(path, format!("no rule list {name:?}"));
            return Arc::default();
        };
        let deepest = std::mem::replace(&mut self.deepest, depth);
        let rules = self.rule_items(&list.rules, &format!("rulelists[{n}].rules"), depth);
        self.lists.insert(name.to_owned(), (Arc::clone(&rules), self.deepest - depth));
        self.deepest = self.deepest.max(deepest);
        rules
    }

    fn rule_items(&mut self, items: &[Ref<config::Rule>], path: &str, depth: usize) -> Arc<RuleList> {
        let config = self.inputs.config;
        let mut rules = Vec::new();
        for (n, item) in items.iter().enumerate() {
            let place = format!("{path}[{n}]");
            let (rule, place) = match item {
                Ref::Inline(rule) => (&**rule, place),
                Ref::Name(name) => match config.rules.iter().enumerate().find(|(_, rule)| rule.name == *name) {
                    Some((n, rule)) => (rule, format!("rules[{n}]")),
                    None => {
                        self.problem(&place, format!("no rule {name:?}"));
                        continue;
                    }
                },
            };
            rules.extend(self.rule(rule, &place, depth));
        }
        Arc::new(RuleList { rules })
    }

    fn rule(&mut self, rule: &config::Rule, path: &str, depth: usize) -> Option<Arc<Rule>> {
        let target = match &rule.action.target {
            ActionTarget::Route(route) => RuleTarget::Route(self.route(route, &format!("{path}.action.route"))?),
            ActionTarget::Apply(list) => {
                RuleTarget::Apply(self.rule_list(list, &format!("{path}.action.apply"), depth + 1))
            }
            ActionTarget::Refuse(reason) => RuleTarget::Refuse(reason.as_str().into()),
        };
        Some(Arc::new(Rule { rewrite: rule.action.rewrite.clone(), target }))
    }

    fn route(&mut self, route: &Ref<config::Route>, path: &str) -> Option<Arc<Route>> {
        let config = self.inputs.config;
        let (route, path) = match route {
            Ref::Inline(route) => (&**route, path.to_owned()),
            Ref::Name(name) => match config.routes.iter().enumerate().find(|(_, route)| route.name == *name) {
                Some((n, route)) => (route, format!("routes[{n}]")),
                None => {
                    self.problem(path, format!("no route {name:?}"));
                    return None;
                }
            },
        };
        let mut stages = Vec::new();
        for (n, cluster) in route.ingress.iter().enumerate() {
            stages.push(self.cluster_ref(cluster, &format!("{path}.ingress[{n}]"))?);
        }
        stages.push(self.cluster_ref(&route.destination, &format!("{path}.destination"))?);
        for (n, cluster) in route.egress.iter().enumerate() {
            stages.push(self.cluster_ref(cluster, &format!("{path}.egress[{n}]"))?);
        }
        if stages.len() > STAGES_MAX {
            self.problem(&path, format!("a chain of {} clusters; at most {STAGES_MAX} are possible", stages.len()));
        }
        Some(Arc::new(Route { stages, destination: route.ingress.len(), retry: route.retry.clone() }))
    }

    fn cluster_ref(&mut self, cluster: &Ref<config::Cluster>, path: &str) -> Option<Arc<Cluster>> {
        match cluster {
            Ref::Inline(cluster) => self.cluster(cluster, path),
            Ref::Name(name) => {
                let found = self.snapshot.clusters.get(name.as_str()).cloned();
                if found.is_none() {
                    self.problem(path, format!("no cluster {name:?}"));
                }
                found
            }
        }
    }

    /// Compiles a cluster, or keeps the one of the previous snapshot when nothing changed.
    fn cluster(&mut self, cluster: &config::Cluster, path: &str) -> Option<Arc<Cluster>> {
        let name: Arc<str> = match cluster.name.as_str() {
            "" => place(self.inputs.config, path).into(),
            name => name.into(),
        };
        if let Some(known) = self.snapshot.clusters.get(&name) {
            return Some(Arc::clone(known));
        }
        let protocol = cluster_protocol(&cluster.spec);
        let endpoints = self.endpoints(cluster);
        let policy = policy(&cluster.loadbalancer);
        let candidates: Vec<Candidate> = endpoints
            .iter()
            .map(|endpoint| Candidate {
                identity: endpoint.address.to_string(),
                weight: endpoint.weight,
                standing: endpoint.standing,
            })
            .collect();
        if let Some(previous) = self.inputs.previous.clusters.get(&name)
            && previous.protocol == protocol
            && previous.endpoints == endpoints
            && previous.key == cluster.loadbalancer.key
            && previous.drain_timeout == cluster.drain_timeout
            && previous.balancer.is_for(policy, &candidates)
        {
            self.snapshot.clusters.insert(name, Arc::clone(previous));
            return Some(Arc::clone(previous));
        }
        let balancer = match Balancer::new(policy, &candidates) {
            Ok(balancer) => balancer,
            Err(error) => {
                self.problem(&format!("{path}.loadbalancer.table_size"), error.to_string());
                return None;
            }
        };
        let workers = self.inputs.workers;
        let counters = self.scopes.clusters.entry(name.to_string()).or_insert_with(|| scope(workers));
        let compiled = Arc::new(Cluster {
            name: Arc::clone(&name),
            protocol,
            endpoints,
            balancer,
            key: cluster.loadbalancer.key.clone(),
            drain_timeout: cluster.drain_timeout,
            counters: counters.clone(),
            turns: (0..workers).map(|_| Counter::default()).collect(),
        });
        self.snapshot.clusters.insert(name, Arc::clone(&compiled));
        Some(compiled)
    }

    /// The endpoints of a cluster: a DNS name stands for each of its addresses, and no address stands twice.
    fn endpoints(&self, cluster: &config::Cluster) -> Vec<Arc<Endpoint>> {
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for endpoint in &cluster.endpoints {
            let addresses: Vec<(EndpointAddr, bool)> = match &endpoint.at {
                EndpointAt::Filename(path) => vec![(EndpointAddr::Unix(Arc::from(Path::new(path))), false)],
                EndpointAt::Address { address, port } => {
                    let port = port.or(cluster.spec.port()).unwrap_or_default();
                    let inet = |ip| EndpointAddr::inet(SocketAddr::new(ip, port));
                    match address.parse::<IpAddr>() {
                        Ok(ip) => vec![(inet(ip), false)],
                        Err(_) => (self.inputs.resolve)(address)
                            .into_iter()
                            .map(|resolved| (inet(resolved.ip), resolved.vanished))
                            .collect(),
                    }
                }
            };
            for (address, vanished) in addresses {
                if endpoints.iter().all(|known| known.address != address) {
                    endpoints.push(Arc::new(Endpoint {
                        address,
                        name: endpoint.name.clone(),
                        weight: endpoint.weight,
                        standing: standing(endpoint, vanished),
                    }));
                }
            }
        }
        endpoints
    }
}

/// Whether one worker has the listener's only socket: Unix sockets and a UDP singleton cannot be shared.
pub fn owned_by_one_worker(spec: &ListenerSpec) -> bool {
    match spec {
        ListenerSpec::UnixDomainSocket(_) => true,
        ListenerSpec::Udp(udp) => {
            udp.connect.as_ref().is_some_and(|connect| connect.address.is_some() && connect.port.is_some())
        }
        ListenerSpec::Tcp(_) | ListenerSpec::WebSocket(_) => false,
    }
}

/// Where an inline cluster stands, with the name of the object in place of its position in the document: a session finds
/// its cluster again when objects before that one come and go.
fn place(config: &Config, path: &str) -> String {
    let Some((kind, rest)) = path.split_once('[') else { return path.to_owned() };
    let Some((n, rest)) = rest.split_once(']') else { return path.to_owned() };
    let n: usize = n.parse().unwrap_or(usize::MAX);
    let name = match kind {
        "listeners" => config.listeners.get(n).map(|listener| &listener.name),
        "rulelists" => config.rulelists.get(n).map(|list| &list.name),
        "rules" => config.rules.get(n).map(|rule| &rule.name),
        "routes" => config.routes.get(n).map(|route| &route.name),
        _ => None,
    };
    name.map_or_else(|| path.to_owned(), |name| format!("{kind}[{name:?}]{rest}"))
}

fn scope(workers: usize) -> Vec<Arc<ScopeCounters>> {
    (0..workers).map(|_| Arc::default()).collect()
}

fn listener_protocol(spec: &ListenerSpec) -> ListenerProtocol {
    match spec {
        ListenerSpec::Udp(udp) => {
            let connect = udp.connect.clone().unwrap_or_default();
            ListenerProtocol::Udp { address: connect.address.map(|ip| ip.to_canonical()), port: connect.port }
        }
        ListenerSpec::Tcp(tcp) => ListenerProtocol::Tcp(tcp.framing),
        ListenerSpec::WebSocket(websocket) => ListenerProtocol::WebSocket {
            path: websocket.path.clone(),
            subprotocols: websocket.subprotocols.clone(),
            payload: websocket.payload,
        },
        ListenerSpec::UnixDomainSocket(unix) => ListenerProtocol::Unix(unix.kind, unix.framing),
    }
}

fn cluster_protocol(spec: &ClusterSpec) -> ClusterProtocol {
    match spec {
        ClusterSpec::Udp(udp) => ClusterProtocol::Udp { bind: udp.bind.clone().unwrap_or_default(), gro: udp.gro },
        ClusterSpec::Tcp(tcp) => {
            ClusterProtocol::Tcp { bind: tcp.bind.clone().unwrap_or_default(), framing: tcp.framing }
        }
        ClusterSpec::WebSocket(websocket) => ClusterProtocol::WebSocket {
            path: websocket.path.clone(),
            host: websocket.host.clone(),
            subprotocol: websocket.subprotocol.clone(),
            payload: websocket.payload,
        },
        ClusterSpec::UnixDomainSocket(unix) => ClusterProtocol::Unix(unix.kind, unix.framing),
        ClusterSpec::Echo => ClusterProtocol::Echo,
        ClusterSpec::Discard => ClusterProtocol::Discard,
    }
}

/// An address that a DNS name no longer has drains.
fn standing(endpoint: &config::Endpoint, vanished: bool) -> Standing {
    match endpoint.ready {
        _ if endpoint.draining || vanished => Standing::Draining,
        true => Standing::Ready,
        false => Standing::Unready,
    }
}

fn policy(loadbalancer: &config::LoadBalancer) -> balance::Policy {
    match loadbalancer.policy {
        Policy::ConsistentHash | Policy::HashRing => {
            balance::Policy::ConsistentHash { slots: loadbalancer.table_size.unwrap_or(MAGLEV_SLOTS_DEFAULT) }
        }
        Policy::RoundRobin => balance::Policy::RoundRobin,
        Policy::Trivial => balance::Policy::Trivial,
    }
}
