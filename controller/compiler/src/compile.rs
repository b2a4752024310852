//! One proxy's whole configuration, out of all objects. Pure: objects in, document out.
//!
//! An object that cannot be used as written costs as little as can be: a dangling reference turns its
//! rule into a `refuse`, a listener whose port is taken is left out. Every such loss is a [`Report`].
//!
//! Names in the document are `namespace/name` of the object; a cluster that was written inline gets the
//! name of its object and a hash of its protocol and endpoints (`default/gateway-vsvc/inline-1a2b3c4d`; the one
//! destination of a Rule or a Route `namespace/name/rule/destination` or `namespace/name/route/destination`), one that
//! dials a VirtualService `namespace/name/listener`, one that dials a Service `namespace/name:port`. A listener that
//! lingers beside a newer one of its object has `~old` behind its name.

mod chain;
mod cluster;
mod endpoint;
mod inline;
mod listener;
mod lower;
mod origin;
mod port;
mod report;
mod route;
mod rule;
mod service;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use l7mp_api::config::{Cluster, Config, Listener, Ref, Route, Rule, RuleList};
use l7mp_crds::{Pod, Selector};
use thiserror::Error;

use self::chain::Chains;
use crate::consent::advice;
use crate::dependencies::{Dependencies, Key, ListId};
use crate::nearest::nearest;
use crate::object::{Object, ObjectId, PodName};
use crate::resolve::{Fault, Pick, Resolver};
use crate::world::World;

pub use origin::{Origin, Origins};
pub use report::{Reason, Report};
pub use view::{Port, Serving, Transport, Use, View};

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
    /// All that was read, so that an index can say which proxies a change touches.
    pub dependencies: Dependencies,
    /// Endpoints that are left out until that pod's proxy has acknowledged one of its VirtualServices on the port.
    pub waits: BTreeSet<Use>,
    /// Endpoints of the document that are listeners of other proxies.
    pub uses: BTreeSet<Use>,
    /// VirtualServices, Targets, Rules and Routes that are, or should be, in this proxy's document: those that
    /// are held back or have a fault too.
    pub selected: BTreeSet<ObjectId>,
}

/// The proxy's Pod is not among the objects: without its labels nobody knows what its proxy should have.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("there is no Pod {pod}, and its Pod object must be among the manifests{}", meant(nearest.as_ref()))]
pub struct UnknownPod {
    /// The pod.
    pub pod: PodName,
    /// The one that was probably meant.
    pub nearest: Option<PodName>,
}

impl UnknownPod {
    fn new(world: &World, pod: &PodName) -> UnknownPod {
        let known: Vec<PodName> = world.all_pods().map(|pod| PodName::of(&pod.metadata)).collect();
        let elsewhere = || known.iter().find(|known| known.name == pod.name);
        let here = known.iter().filter(|known| known.namespace == pod.namespace);
        let typo = nearest(&pod.name, here.map(|known| known.name.as_str()));
        let nearest = match typo {
            Some(name) => Some(PodName { namespace: pod.namespace.clone(), name: name.to_owned() }),
            None => elsewhere().cloned(),
        };
        UnknownPod { pod: pod.clone(), nearest }
    }
}

fn meant(nearest: Option<&PodName>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; is {nearest} meant?"))
}

/// Compiles the configuration of the proxy of one pod; whether its containers say that it has one is not asked.
///
/// # Errors
/// When the pod is not among the objects. That is no empty configuration: a proxy that has one keeps it.
pub fn compile(world: &World, proxy: &PodName, view: &View<'_>) -> Result<Compiled, UnknownPod> {
    let unknown = || UnknownPod::new(world, proxy);
    let own = world.get(&proxy.id()).ok_or_else(unknown)?;
    let pod = own.as_pod().ok_or_else(unknown)?;
    let mut build = Build::new(world, pod, proxy, view);
    build.selected_targets();
    build.listeners();
    Ok(build.finish(Arc::clone(own)))
}

/// A compilation under way: the parts of the document by name, each with its origin.
struct Build<'w> {
    world: &'w World,
    resolver: Resolver<'w>,
    proxy: &'w PodName,
    pod: &'w Pod,
    view: View<'w>,
    listeners: BTreeMap<String, (Listener, Origin)>,
    clusters: BTreeMap<String, (Cluster, Origin)>,
    /// What is wrong with clusters that are not of an object of ours, for those that refer to them.
    degraded: BTreeMap<String, String>,
    /// A route that is not usable is kept as the message that its rules give.
    routes: BTreeMap<ObjectId, Result<Route, String>>,
    rules: BTreeMap<ObjectId, Rule>,
    rulelists: BTreeMap<ListId, Vec<ObjectId>>,
    /// Rule lists that something refers to and that are not built yet.
    pending: BTreeSet<ListId>,
    /// The lists that were looked at, with their rules in order.
    lists: BTreeMap<ListId, Vec<&'w l7mp_crds::Rule>>,
    /// How those lists apply one another.
    chains: Chains,
    /// The content of inline clusters by the names that come from it.
    inline: BTreeMap<String, String>,
    /// What the name of the listener at hand has behind that of its object.
    suffix: String,
    /// Listeners that linger are at hand, of which nothing is reported.
    quiet: bool,
    reports: BTreeSet<Report>,
    sources: BTreeSet<ObjectId>,
    selected: BTreeSet<ObjectId>,
    waits: BTreeSet<Use>,
    uses: BTreeSet<Use>,
}

impl<'w> Build<'w> {
    fn new(world: &'w World, pod: &'w Pod, proxy: &'w PodName, view: &View<'w>) -> Build<'w> {
        let mut resolver = Resolver::new(world);
        resolver.keys.insert(Key::Object(proxy.id()));
        Build {
            world,
            resolver,
            proxy,
            pod,
            view: *view,
            listeners: BTreeMap::new(),
            clusters: BTreeMap::new(),
            degraded: BTreeMap::new(),
            routes: BTreeMap::new(),
            rules: BTreeMap::new(),
            rulelists: BTreeMap::new(),
            pending: BTreeSet::new(),
            lists: BTreeMap::new(),
            chains: Chains::default(),
            inline: BTreeMap::new(),
            suffix: String::new(),
            quiet: false,
            reports: BTreeSet::new(),
            sources: BTreeSet::from([proxy.id()]),
            selected: BTreeSet::new(),
            waits: BTreeSet::new(),
            uses: BTreeSet::new(),
        }
    }

    /// Whether an object goes to this pod by its own selector; what is wrong with the selector is reported.
    fn is_here(&mut self, id: &ObjectId, selector: &Selector) -> bool {
        let fault = match self.resolver.picks(selector, &id.namespace, self.pod) {
            Ok(Pick::Yes) => return true,
            Ok(Pick::No) => return false,
            Ok(Pick::NoConsent) => no_consent(self.proxy, &id.namespace),
            Err(fault) => fault,
        };
        let path = if fault.reason == Reason::NoConsent { "spec.selector" } else { "spec.selector.matchService" };
        self.report(&Origin::new(id.clone(), path), fault.reason, fault.message);
        false
    }

    fn report(&mut self, at: &Origin, reason: Reason, message: impl Into<String>) {
        if self.quiet {
            return;
        }
        let report = Report { object: at.object.clone(), path: at.path.clone(), reason, message: message.into() };
        self.reports.insert(report);
    }

    /// Lays the parts into the document, and notes where each came to lie.
    fn finish(self, own: Arc<Object>) -> Compiled {
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
        Compiled {
            config,
            reports: self.reports.into_iter().collect(),
            origins,
            sources: self.sources,
            dependencies: Dependencies::new(own, self.resolver.keys),
            waits: self.waits,
            uses: self.uses,
            selected: self.selected,
        }
    }
}

/// What is wrong when a selector of `from` picks a pod that does not accept it.
fn no_consent(pod: &PodName, from: &str) -> Fault {
    let message = format!("picks Pod {pod}, which does not accept namespace {from}: not there; {}", advice("it", from));
    Fault::new(Reason::NoConsent, message)
}
