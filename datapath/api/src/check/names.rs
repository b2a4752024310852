//! Every name is given once, and every name that is used is given.

use std::collections::HashMap;

use crate::config::{ActionTarget, Cluster, Config, Ref, Route, Rule, Rules};
use crate::path::Path;
use crate::problem::{Problems, quoted};
use crate::suggest::did_you_mean;

pub(crate) fn check(config: &Config, problems: &mut Problems) {
    let root = Path::Root;
    unique(config.listeners.iter().map(|listener| listener.name.as_str()), &root.key("listeners"), problems);
    let mut names = Names {
        clusters: unique(config.clusters.iter().map(|cluster| cluster.name.as_str()), &root.key("clusters"), problems),
        routes: unique(config.routes.iter().map(|route| route.name.as_str()), &root.key("routes"), problems),
        rules: unique(config.rules.iter().map(|rule| rule.name.as_str()), &root.key("rules"), problems),
        rulelists: unique(config.rulelists.iter().map(|list| list.name.as_str()), &root.key("rulelists"), problems),
        config,
        inline_clusters: HashMap::new(),
        problems,
    };
    let at = root.key("listeners");
    for (index, listener) in config.listeners.iter().enumerate() {
        names.listener_rules(&listener.rules, &at.index(index).key("rules"));
    }
    let at = root.key("routes");
    for (index, route) in config.routes.iter().enumerate() {
        names.route(route, &at.index(index));
    }
    let at = root.key("rules");
    for (index, rule) in config.rules.iter().enumerate() {
        names.rule(rule, &at.index(index));
    }
    let at = root.key("rulelists");
    for (index, list) in config.rulelists.iter().enumerate() {
        names.rule_refs(&list.rules, &at.index(index).key("rules"));
    }
}

/// Where each name of one kind is given. Empty names could not be read, which is reported already.
type Given<'c> = HashMap<&'c str, usize>;

fn unique<'c>(names: impl Iterator<Item = &'c str>, at: &Path<'_>, problems: &mut Problems) -> Given<'c> {
    let mut given = HashMap::new();
    for (index, name) in names.enumerate().filter(|(_, name)| !name.is_empty()) {
        let first = *given.entry(name).or_insert(index);
        if first != index {
            problems.push(
                &at.index(index).key("name"),
                format!("{} is the name of {} already", quoted(name), at.index(first)),
            );
        }
    }
    given
}

struct Names<'c, 'p> {
    config: &'c Config,
    clusters: Given<'c>,
    routes: Given<'c>,
    rules: Given<'c>,
    rulelists: Given<'c>,
    /// Inline clusters that have names, and where they stand.
    inline_clusters: HashMap<&'c str, (&'c Cluster, String)>,
    problems: &'p mut Problems,
}

impl<'c> Names<'c, '_> {
    fn listener_rules(&mut self, rules: &'c Rules, at: &Path<'_>) {
        match rules {
            Rules::List(name) => self.known(Kind::RuleList, name, at),
            Rules::Inline(rules) => self.rule_refs(rules, at),
        }
    }

    fn rule_refs(&mut self, rules: &'c [Ref<Rule>], at: &Path<'_>) {
        for (index, rule) in rules.iter().enumerate() {
            match rule {
                Ref::Name(name) => self.known(Kind::Rule, name, &at.index(index)),
                Ref::Inline(rule) => self.rule(rule, &at.index(index)),
            }
        }
    }

    fn rule(&mut self, rule: &'c Rule, at: &Path<'_>) {
        let at = at.key("action");
        match &rule.action.target {
            ActionTarget::Route(Ref::Name(name)) => self.known(Kind::Route, name, &at.key("route")),
            ActionTarget::Route(Ref::Inline(route)) => self.route(route, &at.key("route")),
            ActionTarget::Apply(name) => self.known(Kind::RuleList, name, &at.key("apply")),
            ActionTarget::Refuse(_) => {}
        }
    }

    fn route(&mut self, route: &'c Route, at: &Path<'_>) {
        self.cluster(&route.destination, &at.key("destination"));
        for (stages, key) in [(&route.ingress, "ingress"), (&route.egress, "egress")] {
            let at = at.key(key);
            for (index, cluster) in stages.iter().enumerate() {
                self.cluster(cluster, &at.index(index));
            }
        }
    }

    fn cluster(&mut self, cluster: &'c Ref<Cluster>, at: &Path<'_>) {
        match cluster {
            Ref::Name(name) => self.known(Kind::Cluster, name, at),
            Ref::Inline(cluster) if cluster.name.is_empty() => {}
            Ref::Inline(cluster) => self.inline_cluster(cluster, at),
        }
    }

    /// Two clusters of one name would share their metrics, so they must be one: the same in every field.
    fn inline_cluster(&mut self, cluster: &'c Cluster, at: &Path<'_>) {
        let name = cluster.name.as_str();
        let other = match self.clusters.get(name) {
            Some(index) => Some((&self.config.clusters[*index], format!("clusters[{index}]"))),
            None => self.inline_clusters.get(name).cloned(),
        };
        match other {
            None => {
                self.inline_clusters.insert(name, (cluster, at.to_string()));
            }
            Some((other, _)) if other == cluster => {}
            Some((_, place)) => {
                let message = format!("{} is the name of another cluster, {place}", quoted(name));
                self.problems.push(&at.key("name"), message);
            }
        }
    }

    fn known(&mut self, kind: Kind, name: &str, at: &Path<'_>) {
        let (given, word) = match kind {
            Kind::Cluster => (&self.clusters, "cluster"),
            Kind::Route => (&self.routes, "route"),
            Kind::Rule => (&self.rules, "rule"),
            Kind::RuleList => (&self.rulelists, "rule list"),
        };
        if given.contains_key(name) {
            return;
        }
        // In the order of the document, so that the same document has the same message.
        let config = self.config;
        let hint = match kind {
            Kind::Cluster => did_you_mean(self.problems, name, config.clusters.iter().map(|it| it.name.as_str())),
            Kind::Route => did_you_mean(self.problems, name, config.routes.iter().map(|it| it.name.as_str())),
            Kind::Rule => did_you_mean(self.problems, name, config.rules.iter().map(|it| it.name.as_str())),
            Kind::RuleList => did_you_mean(self.problems, name, config.rulelists.iter().map(|it| it.name.as_str())),
        };
        self.problems.push(at, format!("no {word} {}{hint}", quoted(name)));
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Cluster,
    Route,
    Rule,
    RuleList,
}
