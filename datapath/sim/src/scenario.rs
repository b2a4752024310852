//! A configuration made of a seed, and its changes.

use std::fmt::Write;

use l7mp_api::config::{Framing, WebSocketPayload};

use crate::random::Random;
use crate::wire::Wire;

/// A listener of the document.
#[derive(Clone, Debug)]
pub struct ListenerPlan {
    /// Its name, which also names its route.
    pub name: String,
    /// What its clients speak.
    pub wire: Wire,
    /// A Unix socket rather than TCP, for byte streams.
    pub unix: bool,
    /// Milliseconds.
    pub idle_timeout: Option<u64>,
    /// Whether its sessions outlive it.
    pub orphans_stay: bool,
    /// Indices of clusters, in the order of the ring, and which of them is the destination.
    pub chain: Vec<usize>,
    /// Position in `chain`.
    pub destination: usize,
    /// As the document has it.
    pub retry: String,
}

/// A cluster of the document.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Its name.
    pub name: String,
    /// What its servers speak; `None`: in process.
    pub wire: Option<Wire>,
    /// Swallows rather than sends back, in process.
    pub discard: bool,
    /// Numbers of its servers, and whether each drains.
    pub servers: Vec<(usize, bool)>,
    /// Milliseconds.
    pub drain_timeout: Option<u64>,
    /// As the document has it.
    pub policy: &'static str,
}

/// Everything that a document says.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// In the order of the document.
    pub listeners: Vec<ListenerPlan>,
    /// In the order of the document.
    pub clusters: Vec<ClusterPlan>,
    /// Nothing breaks, nothing changes: every byte stream must be complete.
    pub calm: bool,
    servers: usize,
}

const WIRES: [Wire; 9] = [
    Wire::Udp,
    Wire::Udp,
    Wire::Dgram,
    Wire::Seqpacket,
    Wire::Stream(Framing::Raw),
    Wire::Stream(Framing::Line),
    Wire::Stream(Framing::U16be),
    Wire::Stream(Framing::U32be),
    Wire::WebSocket(WebSocketPayload::Binary),
];

fn wire(random: &mut Random) -> Wire {
    let wire = random.pick(&WIRES);
    match wire {
        Wire::WebSocket(_) if random.chance(50) => Wire::WebSocket(WebSocketPayload::Text),
        Wire::Stream(Framing::Line) if random.chance(50) => Wire::WebSocket(WebSocketPayload::Binary),
        Wire::Udp | Wire::Dgram | Wire::Seqpacket | Wire::Stream(_) | Wire::WebSocket(_) => wire,
    }
}

impl Scenario {
    /// A scenario of a seed.
    pub fn new(random: &mut Random) -> Scenario {
        let calm = random.chance(35);
        let mut scenario = Scenario { listeners: Vec::new(), clusters: Vec::new(), calm, servers: 0 };
        for n in 0..random.of(2..=4) {
            let cluster = scenario.cluster(n, random);
            scenario.clusters.push(cluster);
        }
        for n in 0..random.of(1..=3) {
            let listener = scenario.listener(n, random);
            scenario.listeners.push(listener);
        }
        scenario
    }

    fn cluster(&mut self, n: u64, random: &mut Random) -> ClusterPlan {
        let wire = random.chance(85).then(|| wire(random));
        let servers = if wire.is_some() { random.of(u64::from(self.calm)..=3) } else { 0 };
        let first = self.servers;
        self.servers += servers as usize;
        ClusterPlan {
            name: format!("cluster-{n}"),
            wire,
            discard: random.chance(25),
            servers: (first..self.servers).map(|server| (server, false)).collect(),
            drain_timeout: random.chance(50).then(|| random.of(1..=1500)),
            policy: random.pick(&["ConsistentHash, table_size: 251", "RoundRobin", "Trivial"]),
        }
    }

    fn listener(&self, n: u64, random: &mut Random) -> ListenerPlan {
        let chain: Vec<usize> = (0..random.of(1..=3)).map(|_| random.below(self.clusters.len())).collect();
        let retry_on = random.pick(&["never", "connect-failure", "disconnect", "always"]);
        let timeout = if self.calm { 60_000 } else { random.of(100..=1500) };
        ListenerPlan {
            name: format!("listener-{n}"),
            wire: wire(random),
            unix: random.chance(30),
            idle_timeout: (!self.calm && random.chance(60)).then(|| random.of(500..=4000)),
            orphans_stay: random.chance(30),
            destination: random.below(chain.len()),
            chain,
            retry: format!("{{retry_on: {retry_on}, num_retries: {}, timeout: {timeout}}}", random.of(0..=3)),
        }
    }

    /// Changes something.
    pub fn change(&mut self, random: &mut Random) {
        let with_servers: Vec<usize> = (0..self.clusters.len()).filter(|&n| self.clusters[n].wire.is_some()).collect();
        match random.of(0..=6) {
            0 if self.listeners.len() > 1 => {
                let gone = random.below(self.listeners.len());
                self.listeners.remove(gone);
            }
            1 => {
                let at = random.below(self.listeners.len());
                self.listeners[at].orphans_stay ^= true;
                self.listeners[at].idle_timeout = Some(random.of(500..=4000));
            }
            2 => {
                let at = random.below(self.listeners.len());
                let changed = self.listener(0, random);
                let listener = &mut self.listeners[at];
                (listener.chain, listener.destination) = (changed.chain, changed.destination);
            }
            3 if !with_servers.is_empty() => {
                let cluster = random.pick(&with_servers);
                self.servers += 1;
                self.clusters[cluster].servers.push((self.servers - 1, false));
            }
            _ if !with_servers.is_empty() => {
                let cluster = &mut self.clusters[random.pick(&with_servers)];
                if cluster.servers.is_empty() {
                    return;
                }
                let at = random.below(cluster.servers.len());
                if random.chance(65) {
                    cluster.servers[at].1 ^= true;
                } else {
                    cluster.servers.remove(at);
                }
            }
            _ => {}
        }
    }

    /// How many servers were ever named.
    pub fn server_count(&self) -> usize {
        self.servers
    }

    /// The document.
    pub fn document(&self) -> String {
        let mut text = String::from("{listeners: [");
        for (n, listener) in self.listeners.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{{name: {}, spec: {}, ", listener.name, listener_spec(listener, n));
            let idle = listener.idle_timeout.map(|idle| format!("idle_timeout: {idle}, ")).unwrap_or_default();
            let _ = write!(text, "options: {{{idle}remove_orphan_sessions: {}}}, ", !listener.orphans_stay);
            let names = |range: &[usize]| {
                let names: Vec<&str> = range.iter().map(|&cluster| self.clusters[cluster].name.as_str()).collect();
                names.join(", ")
            };
            let (ingress, rest) = listener.chain.split_at(listener.destination);
            let _ = write!(
                text,
                "rules: [{{action: {{route: {{destination: {}, ingress: [{}], egress: [{}], retry: {}}}}}}}]}},",
                names(&rest[..1]),
                names(ingress),
                names(&rest[1..]),
                listener.retry
            );
        }
        text.push_str("], clusters: [");
        for cluster in &self.clusters {
            let servers: Vec<String> = cluster.servers.iter().map(|server| endpoint(cluster, *server)).collect();
            let drain = cluster.drain_timeout.map(|time| format!("drain_timeout: {time}, ")).unwrap_or_default();
            let _ = write!(
                text,
                "{{name: {}, spec: {}, {drain}loadbalancer: {{policy: {}}}, endpoints: [{}]}},",
                cluster.name,
                cluster_spec(cluster),
                cluster.policy,
                servers.join(", ")
            );
        }
        text.push_str("]}");
        text
    }
}

/// The identity of a server of a cluster.
pub fn address(wire: Wire, server: usize) -> String {
    match wire {
        Wire::Dgram | Wire::Seqpacket => format!("/run/{server}"),
        Wire::Udp | Wire::Stream(_) | Wire::WebSocket(_) => format!("10.0.0.{server}:7"),
    }
}

fn endpoint(cluster: &ClusterPlan, (server, draining): (usize, bool)) -> String {
    let spec = match cluster.wire {
        Some(Wire::Dgram | Wire::Seqpacket) => format!("filename: /run/{server}"),
        Some(Wire::Udp | Wire::Stream(_) | Wire::WebSocket(_)) | None => format!("address: 10.0.0.{server}"),
    };
    format!("{{spec: {{{spec}}}, draining: {draining}}}")
}

fn framing(framing: Framing) -> &'static str {
    match framing {
        Framing::Raw => "raw",
        Framing::Line => "line",
        Framing::U16be => "u16be",
        Framing::U32be => "u32be",
    }
}

fn payload(payload: WebSocketPayload) -> &'static str {
    match payload {
        WebSocketPayload::Binary => "binary",
        WebSocketPayload::Text => "text",
    }
}

fn listener_spec(listener: &ListenerPlan, n: usize) -> String {
    let name = &listener.name;
    let port = 9000 + n;
    match listener.wire {
        Wire::Udp => format!("{{UDP: {{port: {port}}}}}"),
        Wire::Dgram => format!("{{UnixDomainSocket: {{filename: /run/{name}, type: dgram}}}}"),
        Wire::Seqpacket => format!("{{UnixDomainSocket: {{filename: /run/{name}, type: seqpacket}}}}"),
        Wire::Stream(kind) if listener.unix => {
            format!("{{UnixDomainSocket: {{filename: /run/{name}, type: stream, framing: {}}}}}", framing(kind))
        }
        Wire::Stream(kind) => format!("{{TCP: {{port: {port}, framing: {}}}}}", framing(kind)),
        Wire::WebSocket(kind) => format!("{{WebSocket: {{port: {port}, payload: {}}}}}", payload(kind)),
    }
}

fn cluster_spec(cluster: &ClusterPlan) -> String {
    match cluster.wire {
        None if cluster.discard => "{Discard: {}}".to_owned(),
        None => "{Echo: {}}".to_owned(),
        Some(Wire::Udp) => "{UDP: {port: 7}}".to_owned(),
        Some(Wire::Dgram) => "{UnixDomainSocket: {type: dgram}}".to_owned(),
        Some(Wire::Seqpacket) => "{UnixDomainSocket: {type: seqpacket}}".to_owned(),
        Some(Wire::Stream(kind)) => format!("{{TCP: {{port: 7, framing: {}}}}}", framing(kind)),
        Some(Wire::WebSocket(kind)) => format!("{{WebSocket: {{port: 7, payload: {}}}}}", payload(kind)),
    }
}
