//! One proxy's whole configuration, out of all objects. Pure: objects in, document out.
//!
//! An object that cannot be used as written costs as little as can be: a dangling reference turns its
//! rule into a `refuse`, a listener whose port is taken is left out. Every such loss is a [`Report`].
//!
//! Names in the document are `namespace/name` of the object; a cluster that was written inline gets the
//! name of its object and the way to it (`default/gateway-vsvc/rules/0/destination`).

mod cluster;
mod listener;
mod lower;
mod origin;
mod port;
mod report;
mod route;
mod rule;

use std::collections::{BTreeMap, BTreeSet};

use l7mp_api::config::{Cluster, Config, Listener, Ref, Route, Rule, RuleList};
use l7mp_crds::Pod;

use crate::object::{ObjectId, PodName};
use crate::world::World;

pub use origin::{Origin, Origins};
pub use report::{Reason, Report};

/// Objects that are left out for now, and what the proxy said against each.
pub type HeldBack = BTreeMap<ObjectId, String>;

/// What [`compile`] makes for one proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// The whole document.
    pub config: Config,
    /// What could not be used as written, sorted by object and path.
    pub reports: Vec<Report>,
    /// Where each part of the document comes from.
    pub origins: Origins,
    /// Every object that had a say in the document.
    pub sources: BTreeSet<ObjectId>,
}

/// Compiles the configuration of the proxy of one pod.
///
/// A pod that is not among the objects is selected by nothing: its configuration is empty.
pub fn compile(world: &World, proxy: &PodName, held: &HeldBack) -> Compiled {
    let id = proxy.id();
    let Some(pod) = world.pod(&id) else {
        let message = "is not among the objects: nothing selects it, and its configuration is empty".to_owned();
        let report = Report { object: id, path: String::new(), reason: Reason::UnknownPod, message };
        return Compiled { reports: vec![report], ..Compiled::default() };
    };
    let mut build = Build::new(world, pod, id, held);
    build.selected_targets();
    build.listeners();
    build.pending_lists();
    build.finish()
}

/// A compilation under way: the parts of the document by name, each with its origin.
struct Build<'w> {
    world: &'w World,
    pod: &'w Pod,
    held: &'w HeldBack,
    listeners: BTreeMap<String, (Listener, Origin)>,
    clusters: BTreeMap<String, (Cluster, Origin)>,
    /// A route that is not usable is kept as the message that its rules give.
    routes: BTreeMap<ObjectId, Result<Route, String>>,
    rules: BTreeMap<ObjectId, Rule>,
    rulelists: BTreeMap<rule::ListId, Vec<ObjectId>>,
    /// Rule lists that something refers to and that are not built yet.
    pending: Vec<rule::ListId>,
    /// All rules by list, in their order, those of other pods and held ones left out.
    lists: BTreeMap<rule::ListId, Vec<&'w l7mp_crds::Rule>>,
    reports: BTreeSet<Report>,
    sources: BTreeSet<ObjectId>,
}

impl<'w> Build<'w> {
    fn new(world: &'w World, pod: &'w Pod, id: ObjectId, held: &'w HeldBack) -> Build<'w> {
        let mut build = Build {
            world,
            pod,
            held,
            listeners: BTreeMap::new(),
            clusters: BTreeMap::new(),
            routes: BTreeMap::new(),
            rules: BTreeMap::new(),
            rulelists: BTreeMap::new(),
            pending: Vec::new(),
            lists: BTreeMap::new(),
            reports: BTreeSet::new(),
            sources: BTreeSet::from([id]),
        };
        build.lists = build.index_lists();
        build
    }

    fn report(&mut self, at: &Origin, reason: Reason, message: impl Into<String>) {
        let report = Report { object: at.object.clone(), path: at.path.clone(), reason, message: message.into() };
        self.reports.insert(report);
    }

    /// Lays the parts into the document, and notes where each came to lie.
    fn finish(self) -> Compiled {
        let mut config = Config::default();
        let mut origins = Origins::default();
        for (index, (listener, origin)) in self.listeners.into_values().enumerate() {
            origins.add(format!("listeners[{index}]"), origin);
            config.listeners.push(listener);
        }
        for (index, (cluster, origin)) in self.clusters.into_values().enumerate() {
            origins.add(format!("clusters[{index}]"), origin);
            config.clusters.push(cluster);
        }
        for (id, route) in self.routes {
            let Ok(route) = route else { continue };
            origins.add(format!("routes[{}]", config.routes.len()), Origin::new(id, "spec"));
            config.routes.push(route);
        }
        for (index, (id, rule)) in self.rules.into_iter().enumerate() {
            origins.add(format!("rules[{index}]"), Origin::new(id, "spec.rule"));
            config.rules.push(rule);
        }
        for (index, (list, rules)) in self.rulelists.into_iter().enumerate() {
            for (position, id) in rules.iter().enumerate() {
                origins.add(format!("rulelists[{index}].rules[{position}]"), Origin::new(id.clone(), "spec.rule"));
            }
            let rules = rules.iter().map(|id| Ref::Name(id.path())).collect();
            config.rulelists.push(RuleList { name: list.path(), rules });
        }
        Compiled { config, reports: self.reports.into_iter().collect(), origins, sources: self.sources }
    }
}
