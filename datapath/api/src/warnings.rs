//! What is legal and perhaps not meant: messages that lose their boundaries on a raw byte stream.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::config::{
    ActionTarget, Cluster, ClusterSpec, Config, Framing, ListenerSpec, Ref, Route, Rule, RuleList, Rules, UnixKind,
};
use crate::path::Path;
use crate::problem::{Problem, Problems, quoted};

impl Config {
    /// Places where a hop that keeps the boundaries of messages (UDP, WebSocket, Unix seqpacket and dgram, a framed
    /// stream) is followed by a cluster that loses them (a TCP or Unix stream with `framing: raw`). One warning per
    /// stage of a route, which names the first hop that leads there. A route that no listener reaches is looked at from
    /// its second hop on.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        let mut walk = Walk::new(self, &mut problems);
        let root = Path::Root;
        let at = root.key("listeners");
        for (index, listener) in self.listeners.iter().enumerate() {
            let hop = Hop { what: "listener", name: &listener.name, keeping: listener_keeps(&listener.spec) };
            match &listener.rules {
                Rules::List(name) => walk.lists(vec![name], hop),
                Rules::Inline(rules) => {
                    let applied = walk.rules(rules, &at.index(index).key("rules"), Some(hop));
                    walk.lists(applied, hop);
                }
            }
        }
        let at = root.key("routes");
        for (index, route) in self.routes.iter().enumerate() {
            walk.route(route, &at.index(index), None);
        }
        let at = root.key("rules");
        for (index, rule) in self.rules.iter().enumerate() {
            walk.rule(rule, &at.index(index), None);
        }
        let at = root.key("rulelists");
        for (index, list) in self.rulelists.iter().enumerate() {
            walk.rules(&list.rules, &at.index(index).key("rules"), None);
        }
        problems.into_vec()
    }
}

/// Where a message comes from.
#[derive(Clone, Copy)]
struct Hop<'c> {
    what: &'static str,
    name: &'c str,
    /// How it keeps the boundaries of messages; `None`: it does not.
    keeping: Option<&'static str>,
}

fn listener_keeps(spec: &ListenerSpec) -> Option<&'static str> {
    match spec {
        ListenerSpec::Udp(_) => Some("UDP"),
        ListenerSpec::WebSocket(_) => Some("WebSocket"),
        ListenerSpec::Tcp(tcp) => stream_keeps(tcp.framing),
        ListenerSpec::UnixDomainSocket(unix) => unix_keeps(unix.kind, unix.framing),
    }
}

fn stream_keeps(framing: Framing) -> Option<&'static str> {
    match framing {
        Framing::Raw => None,
        Framing::Line => Some("framing line"),
        Framing::U16be => Some("framing u16be"),
        Framing::U32be => Some("framing u32be"),
    }
}

fn unix_keeps(kind: UnixKind, framing: Framing) -> Option<&'static str> {
    match kind {
        UnixKind::Stream => stream_keeps(framing),
        UnixKind::Seqpacket => Some("Unix seqpacket"),
        UnixKind::Dgram => Some("Unix dgram"),
    }
}

/// What a cluster does to the boundaries of messages.
enum Effect {
    Keeps(&'static str),
    /// A raw byte stream of this protocol.
    Loses(&'static str),
    /// Gives back what it got, as it got it.
    PassesOn,
    /// Nothing comes out.
    Swallows,
}

fn effect(spec: &ClusterSpec) -> Effect {
    let (kept, protocol) = match spec {
        ClusterSpec::Udp(_) => (Some("UDP"), "UDP"),
        ClusterSpec::WebSocket(_) => (Some("WebSocket"), "WebSocket"),
        ClusterSpec::Tcp(tcp) => (stream_keeps(tcp.framing), "TCP"),
        ClusterSpec::UnixDomainSocket(unix) => (unix_keeps(unix.kind, unix.framing), "Unix stream"),
        ClusterSpec::Echo => return Effect::PassesOn,
        ClusterSpec::Discard => return Effect::Swallows,
    };
    kept.map_or(Effect::Loses(protocol), Effect::Keeps)
}

struct Walk<'c, 'p> {
    clusters: HashMap<&'c str, &'c Cluster>,
    /// With their index in the document.
    routes: HashMap<&'c str, (usize, &'c Route)>,
    rules: HashMap<&'c str, (usize, &'c Rule)>,
    lists: HashMap<&'c str, (usize, &'c RuleList)>,
    /// Stages that are warned about.
    warned: HashSet<String>,
    /// Routes, with what comes in, that are walked: many rules may lead to one route, many listeners to one list.
    walked_routes: HashSet<(usize, Option<&'static str>)>,
    walked_lists: HashSet<(usize, Option<&'static str>)>,
    problems: &'p mut Problems,
}

impl<'c, 'p> Walk<'c, 'p> {
    fn new(config: &'c Config, problems: &'p mut Problems) -> Walk<'c, 'p> {
        Walk {
            clusters: config.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster)).collect(),
            routes: config
                .routes
                .iter()
                .enumerate()
                .map(|(index, route)| (route.name.as_str(), (index, route)))
                .collect(),
            rules: config.rules.iter().enumerate().map(|(index, rule)| (rule.name.as_str(), (index, rule))).collect(),
            lists: config
                .rulelists
                .iter()
                .enumerate()
                .map(|(index, list)| (list.name.as_str(), (index, list)))
                .collect(),
            warned: HashSet::new(),
            walked_routes: HashSet::new(),
            walked_lists: HashSet::new(),
            problems,
        }
    }

    /// Rule lists and those that they apply. Not recursive: a chain may be as long as the document has lists.
    fn lists(&mut self, names: Vec<&'c str>, from: Hop<'c>) {
        let root = Path::Root;
        let at = root.key("rulelists");
        let mut waiting = VecDeque::from(names);
        while let Some(name) = waiting.pop_front() {
            let Some((index, list)) = self.lists.get(name).copied() else { continue };
            if self.walked_lists.insert((index, from.keeping)) {
                waiting.extend(self.rules(&list.rules, &at.index(index).key("rules"), Some(from)));
            }
        }
    }

    /// The lists that the rules apply.
    fn rules(&mut self, rules: &'c [Ref<Rule>], at: &Path<'_>, from: Option<Hop<'c>>) -> Vec<&'c str> {
        let root = Path::Root;
        let named = root.key("rules");
        let mut applied = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let rule: &'c Rule = match rule {
                Ref::Inline(rule) => {
                    self.rule(rule, &at.index(index), from);
                    rule
                }
                Ref::Name(name) => {
                    let Some((index, rule)) = self.rules.get(name.as_str()).copied() else { continue };
                    self.rule(rule, &named.index(index), from);
                    rule
                }
            };
            match &rule.action.target {
                ActionTarget::Apply(name) => applied.push(name.as_str()),
                ActionTarget::Route(_) | ActionTarget::Refuse(_) => {}
            }
        }
        applied
    }

    fn rule(&mut self, rule: &'c Rule, at: &Path<'_>, from: Option<Hop<'c>>) {
        match &rule.action.target {
            ActionTarget::Route(Ref::Inline(route)) => self.route(route, &at.key("action").key("route"), from),
            ActionTarget::Route(Ref::Name(name)) => {
                let Some((index, route)) = self.routes.get(name.as_str()).copied() else { return };
                if self.walked_routes.insert((index, from.and_then(|hop| hop.keeping))) {
                    let root = Path::Root;
                    self.route(route, &root.key("routes").index(index), from);
                }
            }
            ActionTarget::Apply(_) | ActionTarget::Refuse(_) => {}
        }
    }

    fn route(&mut self, route: &'c Route, at: &Path<'_>, from: Option<Hop<'c>>) {
        let mut from = from;
        let ingress = at.key("ingress");
        for (index, cluster) in route.ingress.iter().enumerate() {
            from = self.stage(cluster, &ingress.index(index), from);
        }
        from = self.stage(&route.destination, &at.key("destination"), from);
        let egress = at.key("egress");
        for (index, cluster) in route.egress.iter().enumerate() {
            from = self.stage(cluster, &egress.index(index), from);
        }
    }

    /// What leaves a stage. `None`: nothing is known, or nothing comes.
    fn stage(&mut self, cluster: &'c Ref<Cluster>, at: &Path<'_>, from: Option<Hop<'c>>) -> Option<Hop<'c>> {
        let cluster = match cluster {
            Ref::Name(name) => self.clusters.get(name.as_str()).copied()?,
            Ref::Inline(cluster) => cluster,
        };
        let hop = |keeping| Some(Hop { what: "cluster", name: &cluster.name, keeping });
        match effect(&cluster.spec) {
            Effect::PassesOn => from,
            Effect::Swallows => None,
            Effect::Keeps(how) => hop(Some(how)),
            Effect::Loses(protocol) => {
                if let Some((from, kept)) = from.and_then(|from| from.keeping.map(|kept| (from, kept))) {
                    self.warn(at, from, kept, cluster, protocol);
                }
                hop(None)
            }
        }
    }

    fn warn(&mut self, at: &Path<'_>, from: Hop<'c>, kept: &str, cluster: &Cluster, protocol: &str) {
        if !self.warned.insert(at.to_string()) {
            return;
        }
        let (from, to) = (describe(from.what, from.name, kept), describe("cluster", &cluster.name, protocol));
        let message =
            format!("messages of {from} lose their boundaries on {to}: set its framing to line, u16be or u32be");
        self.problems.push(at, message);
    }
}

fn describe(what: &str, name: &str, protocol: &str) -> String {
    if name.is_empty() {
        format!("an inline {what} ({protocol})")
    } else {
        format!("{what} {} ({protocol})", quoted(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(text: &str) -> Vec<String> {
        let config = Config::read(text).unwrap_or_else(|problems| panic!("{problems:?}"));
        config.warnings().iter().map(ToString::to_string).collect()
    }

    const CLUSTERS: &str = "
clusters:
- {name: tcp, spec: {TCP: {port: 1}}}
- {name: line, spec: {TCP: {port: 2, framing: line}}}
- {name: unix, spec: {UnixDomainSocket: }}
- {name: seqpacket, spec: {UnixDomainSocket: {type: seqpacket}}}
- {name: udp, spec: {UDP: {port: 3}}}
- {name: echo, spec: {Echo: }}
- {name: discard, spec: {Discard: }}
";

    #[test]
    fn a_route_is_walked_hop_by_hop() {
        let table: [(&str, &str, &[&str]); 9] = [
            (
                "{UDP: {port: 1}}",
                "{destination: tcp}",
                &["destination: listener \"in\" (UDP) -> cluster \"tcp\" (TCP)"],
            ),
            ("{TCP: {port: 1}}", "{destination: tcp}", &[]),
            (
                "{TCP: {port: 1, framing: u16be}}",
                "{destination: unix}",
                &["destination: listener \"in\" (framing u16be) -> cluster \"unix\" (Unix stream)"],
            ),
            ("{UDP: {port: 1}}", "{destination: line, ingress: [seqpacket, udp]}", &[]),
            (
                "{UDP: {port: 1}}",
                "{destination: tcp, ingress: [unix]}",
                &["ingress[0]: listener \"in\" (UDP) -> cluster \"unix\" (Unix stream)"],
            ),
            (
                "{TCP: {port: 1}}",
                "{destination: tcp, ingress: [udp, echo]}",
                &["destination: cluster \"udp\" (UDP) -> cluster \"tcp\" (TCP)"],
            ),
            (
                "{TCP: {port: 1}}",
                "{destination: seqpacket, egress: [unix]}",
                &["egress[0]: cluster \"seqpacket\" (Unix seqpacket) -> cluster \"unix\" (Unix stream)"],
            ),
            ("{UDP: {port: 1}}", "{destination: discard, egress: [tcp]}", &[]),
            (
                "{UDP: {port: 1}}",
                "{destination: {spec: {TCP: {port: 1}}}}",
                &["destination: listener \"in\" (UDP) -> an inline cluster (TCP)"],
            ),
        ];
        for (spec, route, expected) in table {
            let text =
                format!("listeners: [{{name: in, spec: {spec}, rules: [{{action: {{route: {route}}}}}]}}]{CLUSTERS}");
            let expected: Vec<String> = expected
                .iter()
                .map(|line| {
                    let (stage, hops) = line.split_once(": ").expect("stage: hops");
                    let (from, to) = hops.split_once(" -> ").expect("from -> to");
                    format!(
                        "listeners[0].rules[0].action.route.{stage}: messages of {from} lose their boundaries on {to}: \
                         set its framing to line, u16be or u32be"
                    )
                })
                .collect();
            assert_eq!(warnings(&text), expected, "{spec} {route}");
        }
    }

    #[test]
    fn a_named_route_is_warned_about_once_however_it_is_reached() {
        let text = format!(
            "
listeners:
- {{name: stream, spec: {{TCP: {{port: 1}}}}, rules: first}}
- {{name: datagrams, spec: {{UDP: {{port: 1}}}}, rules: first}}
- {{name: more, spec: {{WebSocket: {{port: 2}}}}, rules: [named]}}
rulelists:
- {{name: first, rules: [{{action: {{apply: second}}}}]}}
- {{name: second, rules: [named]}}
rules: [{{name: named, action: {{route: chain}}}}]
routes: [{{name: chain, destination: tcp}}]{CLUSTERS}"
        );
        let warnings = warnings(&text);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].starts_with("routes[0].destination: messages of listener \"datagrams\" (UDP)"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_route_that_no_listener_reaches_is_looked_at_too() {
        let text = format!("routes: [{{name: chain, destination: tcp, ingress: [udp]}}]{CLUSTERS}");
        assert_eq!(warnings(&text).len(), 1);
    }
}
