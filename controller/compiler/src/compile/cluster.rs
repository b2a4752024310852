//! Clusters: of Targets, written inline, and those that dial a VirtualService or a Service.

use l7mp_api::config::{self as api, Cluster};
use l7mp_crds::{ClusterEndpoint, ClusterSpec, Selector, Service, ServicePort, Target, VirtualService};

use super::endpoint::Candidate;
use super::service::PORTS;
use super::{Build, Origin, Reason, lower, no_consent};
use crate::consent::accepts;
use crate::object::{Object, ObjectId};
use crate::resolve::{Fault, Found, Pick, refusal};

impl<'w> Build<'w> {
    /// Targets whose selector picks the pod are part of its configuration, referenced or not.
    pub(super) fn selected_targets(&mut self) {
        let world = self.world;
        for object in world.selecting(self.pod) {
            let (Object::Target(target), id) = (&**object, object.id()) else { continue };
            let Some(selector) = &target.spec.selector else { continue };
            if !self.is_here(&id, selector) {
                continue;
            }
            match self.usable_target(&id, target) {
                Ok(()) => {
                    self.add_target(&id, target);
                }
                Err(_) if self.view.held.contains_key(&id) => {}
                Err(fault) => {
                    let message = format!("{}: left out", fault.message);
                    self.report(&Origin::new(id, "spec.linkedVirtualService"), fault.reason, message);
                }
            }
        }
    }

    /// Whether a route of this pod may use what it names.
    pub(super) fn usable(&mut self, id: &ObjectId, found: &Found<'w>) -> Result<(), Fault> {
        match found {
            Found::Target(target) => self.usable_target(id, target),
            Found::VirtualService(_) | Found::Service(..) => {
                self.sources.insert(id.clone());
                self.free(id)
            }
        }
    }

    fn usable_target(&mut self, id: &ObjectId, target: &'w Target) -> Result<(), Fault> {
        self.sources.insert(id.clone());
        if let Some(selector) = &target.spec.selector {
            match self.resolver.picks(selector, &id.namespace, self.pod)? {
                Pick::Yes => {}
                Pick::No => {
                    let message = format!("{id} has a selector, which does not select Pod {}", self.proxy);
                    return Err(Fault::new(Reason::TargetNotOnPod, message));
                }
                Pick::NoConsent => {
                    let fault = no_consent(self.proxy, &id.namespace);
                    return Err(Fault::new(fault.reason, format!("{id} {}", fault.message)));
                }
            }
        }
        self.selected.insert(id.clone());
        self.free(id)?;
        self.resolver.linked(target).map(|_| ())
    }

    /// Whether the proxy has not refused an object.
    fn free(&self, id: &ObjectId) -> Result<(), Fault> {
        match self.view.held.get(id) {
            None => Ok(()),
            Some(said) => Err(Fault::new(Reason::RefNotUsable, format!("{id} is held back: {said}"))),
        }
    }

    /// Makes a usable Target part of the document; gives its name there.
    pub(super) fn add_target(&mut self, id: &ObjectId, target: &'w Target) -> String {
        let name = id.path();
        if self.clusters.contains_key(&name) {
            return name;
        }
        if let Some(cluster) = &target.spec.cluster {
            self.add_cluster(name.clone(), Origin::new(id.clone(), "spec.cluster"), cluster);
        } else if let Ok(Some((linked, service))) = self.resolver.linked(target) {
            self.sources.insert(linked.clone());
            let origin = Origin::new(id.clone(), "spec.linkedVirtualService");
            let (part, candidates) = self.dialled(name.clone(), &origin, &linked, service);
            if let Some(message) = self.insert(part, origin.clone(), candidates) {
                self.report(&origin, Reason::Degraded, message);
            }
        }
        name
    }

    /// The cluster that dials a VirtualService; gives its name.
    pub(super) fn add_virtual_service(&mut self, id: &ObjectId, service: &'w VirtualService) -> String {
        let name = format!("{}/listener", id.path());
        if !self.clusters.contains_key(&name) {
            let origin = Origin::new(id.clone(), "spec.listener");
            let (part, candidates) = self.dialled(name.clone(), &origin, id, service);
            self.insert_shared(part, origin, candidates);
        }
        name
    }

    /// The cluster that dials the port of a Service; gives its name.
    pub(super) fn add_service(&mut self, id: &ObjectId, service: &'w Service, port: &'w ServicePort) -> String {
        let number = port.port.to_string();
        let name = format!("{}:{}", id.path(), port.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&number));
        if !self.clusters.contains_key(&name) {
            let (spec, candidates) = self.service_cluster(id, service, port);
            let origin = Origin::new(id.clone(), PORTS);
            let part = Cluster { loadbalancer: balanced(), ..bare(name.clone(), spec) };
            self.insert_shared(part, origin, candidates);
        }
        name
    }

    pub(super) fn add_cluster(&mut self, name: String, origin: Origin, cluster: &'w l7mp_crds::Cluster) {
        let mut candidates = Vec::new();
        for (index, item) in cluster.endpoints.iter().enumerate() {
            self.listed(&origin.join(format!("endpoints[{index}]")), &cluster.spec, item, &mut candidates);
        }
        let part = Cluster {
            loadbalancer: lower::load_balancer(&cluster.loadbalancer),
            drain_timeout: cluster.drain_timeout.map(|timeout| timeout.0),
            ..bare(name, lower::cluster_spec(&cluster.spec))
        };
        let at = origin.join("endpoints");
        if let Some(message) = self.insert(part, origin, candidates) {
            self.report(&at, Reason::Degraded, message);
        }
    }

    /// The candidates of one item of a cluster's list.
    fn listed(&mut self, at: &Origin, spec: &ClusterSpec, item: &ClusterEndpoint, into: &mut Vec<Candidate<'w>>) {
        let remote = !matches!(spec, ClusterSpec::UnixDomainSocket(_));
        match (&item.spec, &item.selector) {
            (Some(fixed), _) => into.push(Candidate::fixed(at, item.name.clone(), fixed, remote)),
            (None, Some(selector)) => self.selected_pods(at, selector, into),
            (None, None) => {}
        }
    }

    /// The pods that a selector of a cluster's list picks.
    fn selected_pods(&mut self, at: &Origin, selector: &Selector, into: &mut Vec<Candidate<'w>>) {
        let from = at.object.namespace.clone();
        let pods = match self.resolver.picked(selector, &from) {
            Ok(pods) => pods,
            Err(fault) => {
                return self.report(&at.join("selector.matchService"), fault.reason, fault.message);
            }
        };
        if let Some(fault) = refusal(&pods, &from) {
            self.report(&at.join("selector"), fault.reason, fault.message);
        }
        let accepting = pods.into_iter().filter(|pod| accepts(&pod.metadata, &from));
        into.extend(accepting.filter_map(|pod| Candidate::pod(at, pod)));
    }

    /// The cluster that dials a VirtualService on the pods with a proxy that it selects.
    fn dialled(
        &mut self,
        name: String,
        origin: &Origin,
        id: &ObjectId,
        service: &'w VirtualService,
    ) -> (Cluster, Vec<Candidate<'w>>) {
        let spec = lower::dial(&service.spec.listener.spec);
        let mut candidates = Vec::new();
        if let ClusterSpec::UnixDomainSocket(unix) = &spec {
            candidates.push(Candidate::file(origin, unix.filename.clone().unwrap_or_default()));
        } else if let Some(Ok(pods)) =
            service.spec.selector.as_ref().map(|selector| self.resolver.picked(selector, &id.namespace))
        {
            let world = self.world;
            let theirs = pods.into_iter().filter(|pod| world.has_proxy(pod) && accepts(&pod.metadata, &id.namespace));
            let linked = |candidate| Candidate { linked: true, ..candidate };
            candidates.extend(theirs.filter_map(|pod| Candidate::pod(origin, pod)).map(linked));
        }
        (Cluster { loadbalancer: balanced(), ..bare(name, lower::cluster_spec(&spec)) }, candidates)
    }

    /// Makes a cluster part of the document; gives what to say when none of its endpoints is ready.
    fn insert(&mut self, mut part: Cluster, origin: Origin, candidates: Vec<Candidate<'w>>) -> Option<String> {
        let mut degraded = None;
        if !matches!(part.spec, api::ClusterSpec::Echo | api::ClusterSpec::Discard) {
            (part.endpoints, degraded) = self.endpoints(&origin.object, &part.spec, candidates);
        }
        // Of several that are written inline and are the same, the first counts.
        self.clusters.entry(part.name.clone()).or_insert((part, origin));
        degraded
    }

    /// Makes a cluster part of the document that several routes may use, which are told when it is degraded.
    fn insert_shared(&mut self, part: Cluster, origin: Origin, candidates: Vec<Candidate<'w>>) {
        let name = part.name.clone();
        if let Some(message) = self.insert(part, origin, candidates) {
            self.degraded.insert(name, message);
        }
    }
}

/// A cluster of which no more is known.
fn bare(name: String, spec: api::ClusterSpec) -> Cluster {
    let loadbalancer = api::LoadBalancer::default();
    Cluster { name, spec, endpoints: Vec::new(), loadbalancer, drain_timeout: None }
}

/// Of clusters that nobody can set a policy for: each session goes to an endpoint of its own peer's.
fn balanced() -> api::LoadBalancer {
    api::LoadBalancer { policy: api::Policy::ConsistentHash, ..api::LoadBalancer::default() }
}
