//! Targets and inline clusters, with their endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use l7mp_api::config::{Cluster, Endpoint, EndpointAt};
use l7mp_crds::{ClusterEndpoint, ClusterSpec, EndpointSpec, Selector, Target};

use super::report::Fault;
use super::{Build, Origin, Reason, lower};
use crate::object::{Kind, ObjectId};
use crate::{reference, selector};

/// The share of an endpoint that names none.
const WEIGHT_DEFAULT: u32 = 1;

impl Build<'_> {
    /// Targets whose selector picks the pod are part of its configuration, referenced or not.
    pub(super) fn selected_targets(&mut self) {
        for target in self.world.targets().filter(|target| target.spec.selector.is_some()) {
            let id = ObjectId::new(Kind::Target, target.metadata.namespace(), &target.metadata.name);
            if self.usable_target(&id).is_ok() {
                self.add_target(&id);
            } else if let Some(Err(fault)) = self.selects(target).then(|| self.linked(&id, target)) {
                let message = format!("{}: left out", fault.message);
                self.report(&Origin::new(id, "spec.linkedVirtualService"), fault.reason, message);
            }
        }
    }

    fn selects(&self, target: &Target) -> bool {
        let from = target.metadata.namespace();
        target.spec.selector.as_ref().is_none_or(|selector| selector::matches(selector, from, self.pod))
    }

    /// Whether a route of this pod may use a Target.
    pub(super) fn usable_target(&mut self, id: &ObjectId) -> Result<(), Fault> {
        let Some(target) = self.world.target(id) else {
            return Err(Fault::new(Reason::RefNotFound, format!("there is no {id}")));
        };
        self.sources.insert(id.clone());
        if let Some(said) = self.held.get(id) {
            return Err(Fault::new(Reason::RefNotUsable, format!("{id} is held back: {said}")));
        }
        if !self.selects(target) {
            let pod = format!("{}/{}", self.pod.metadata.namespace(), self.pod.metadata.name);
            let message = format!("{id} has a selector, which does not select Pod {pod}");
            return Err(Fault::new(Reason::TargetNotOnPod, message));
        }
        self.linked(id, target)
    }

    /// Whether what a Target links to is there.
    fn linked(&mut self, id: &ObjectId, target: &Target) -> Result<(), Fault> {
        let Some(text) = &target.spec.linked_virtual_service else { return Ok(()) };
        let linked = reference::parse(text, Kind::VirtualService, &id.namespace)
            .map_err(|error| Fault::new(Reason::InvalidReference, error.to_string()))?;
        self.sources.insert(linked.clone());
        match self.world.virtual_service(&linked) {
            Some(_) => Ok(()),
            None => Err(Fault::new(Reason::RefNotFound, format!("{id} links to {linked}, which does not exist"))),
        }
    }

    /// Makes a usable Target part of the document; gives its name there.
    pub(super) fn add_target(&mut self, id: &ObjectId) -> String {
        let name = id.path();
        if self.clusters.contains_key(&name) {
            return name;
        }
        let Some(target) = self.world.target(id) else { return name };
        if let Some(cluster) = &target.spec.cluster {
            self.add_cluster(name.clone(), Origin::new(id.clone(), "spec.cluster"), &id.namespace, cluster);
        } else if let Some(cluster) = self.linked_cluster(id, target) {
            let origin = Origin::new(id.clone(), "spec.linkedVirtualService");
            let namespace = cluster.1;
            self.add_cluster(name.clone(), origin, &namespace, &cluster.0);
        }
        name
    }

    /// The cluster that dials a VirtualService on the pods that it selects, and the namespace of those.
    fn linked_cluster(&self, id: &ObjectId, target: &Target) -> Option<(l7mp_crds::Cluster, String)> {
        let text = target.spec.linked_virtual_service.as_deref()?;
        let linked = reference::parse(text, Kind::VirtualService, &id.namespace).ok()?;
        let object = self.world.virtual_service(&linked)?;
        let spec = lower::dial(&object.spec.listener.spec);
        let endpoint = match &spec {
            ClusterSpec::UnixDomainSocket(unix) => ClusterEndpoint {
                spec: Some(EndpointSpec { filename: unix.filename.clone(), ..EndpointSpec::default() }),
                ..ClusterEndpoint::default()
            },
            ClusterSpec::Udp(_)
            | ClusterSpec::Tcp(_)
            | ClusterSpec::WebSocket(_)
            | ClusterSpec::Echo(_)
            | ClusterSpec::Discard(_) => {
                ClusterEndpoint { selector: object.spec.selector.clone(), ..ClusterEndpoint::default() }
            }
        };
        let cluster = l7mp_crds::Cluster {
            name: None,
            spec,
            endpoints: vec![endpoint],
            loadbalancer: l7mp_crds::LoadBalancer::default(),
            drain_timeout: None,
        };
        Some((cluster, linked.namespace))
    }

    /// Makes an inline cluster part of the document; gives its name there.
    pub(super) fn add_inline_cluster(&mut self, origin: Origin, cluster: &l7mp_crds::Cluster) -> String {
        let way = origin.path.replace(['.', '['], "/").replace(']', "");
        let way: Vec<&str> = way
            .split('/')
            .filter(|part| !matches!(*part, "spec" | "listener" | "action" | "route" | "cluster"))
            .collect();
        let name = format!("{}/{}", origin.object.path(), way.join("/"));
        let namespace = origin.object.namespace.clone();
        self.add_cluster(name.clone(), origin, &namespace, cluster);
        name
    }

    fn add_cluster(&mut self, name: String, origin: Origin, namespace: &str, cluster: &l7mp_crds::Cluster) {
        let part = Cluster {
            name: name.clone(),
            spec: lower::cluster_spec(&cluster.spec),
            endpoints: self.endpoints(&origin, namespace, cluster),
            loadbalancer: lower::load_balancer(&cluster.loadbalancer),
            drain_timeout: cluster.drain_timeout.map(|timeout| timeout.0),
        };
        self.clusters.insert(name, (part, origin));
    }

    /// The endpoints of a cluster, in the order of its list, pods by name. Of two with one address and
    /// port the first is taken: proxies refuse a second one.
    fn endpoints(&mut self, origin: &Origin, namespace: &str, cluster: &l7mp_crds::Cluster) -> Vec<Endpoint> {
        let port = match &cluster.spec {
            ClusterSpec::Udp(udp) => udp.port,
            ClusterSpec::Tcp(tcp) => tcp.port,
            ClusterSpec::WebSocket(websocket) => websocket.port,
            ClusterSpec::UnixDomainSocket(_) | ClusterSpec::Echo(_) | ClusterSpec::Discard(_) => None,
        };
        let remote = !matches!(cluster.spec, ClusterSpec::UnixDomainSocket(_));
        let mut endpoints = Vec::new();
        let mut taken: BTreeMap<Identity, String> = BTreeMap::new();
        for (index, item) in cluster.endpoints.iter().enumerate() {
            let found = match (&item.spec, &item.selector) {
                (Some(spec), _) => vec![fixed(item.name.clone(), spec, remote)],
                (None, Some(selector)) => self.pods(selector, namespace),
                (None, None) => Vec::new(),
            };
            for endpoint in found {
                let called = endpoint.name.clone().unwrap_or_else(|| format!("endpoints[{index}]"));
                let identity = Identity::of(&endpoint.at, port);
                match taken.get(&identity) {
                    None => {
                        taken.insert(identity, called);
                        endpoints.push(endpoint);
                    }
                    // Two selectors may well pick one pod.
                    Some(first) if *first == called => {}
                    Some(first) => {
                        let message = format!("{called} has the address and port of {first}: left out");
                        let at = origin.join(format!("endpoints[{index}]"));
                        self.report(&at, Reason::DuplicateEndpoint, message);
                    }
                }
            }
        }
        endpoints
    }

    /// The pods of a selector that serve: ready ones, and terminating ones as draining.
    fn pods(&mut self, term: &Selector, namespace: &str) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for pod in self.world.pods(selector::namespace(term, namespace)) {
            let address = pod.status.pod_ip.as_deref().and_then(|address| address.parse::<IpAddr>().ok());
            let Some(address) = address.filter(|_| !pod.is_finished() && (pod.is_ready() || pod.is_terminating()))
            else {
                continue;
            };
            if !selector::matches(term, namespace, pod) {
                continue;
            }
            let id = ObjectId::new(Kind::Pod, pod.metadata.namespace(), &pod.metadata.name);
            endpoints.push(Endpoint {
                name: Some(id.path()),
                at: EndpointAt::Address { address: address.to_string(), port: None },
                weight: WEIGHT_DEFAULT,
                draining: pod.is_terminating(),
            });
            self.sources.insert(id);
        }
        endpoints
    }
}

fn fixed(name: Option<String>, spec: &EndpointSpec, remote: bool) -> Endpoint {
    let at = match (&spec.filename, &spec.address) {
        (Some(filename), _) => EndpointAt::Filename(filename.clone()),
        // The original wrote the path of a socket as its address.
        (None, Some(address)) if !remote => EndpointAt::Filename(address.clone()),
        (None, address) => EndpointAt::Address { address: address.clone().unwrap_or_default(), port: spec.port },
    };
    Endpoint { name, at, weight: spec.weight.unwrap_or(WEIGHT_DEFAULT), draining: false }
}

/// What makes two endpoints one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Address(String, Option<u16>),
    File(String),
}

impl Identity {
    fn of(at: &EndpointAt, cluster_port: Option<u16>) -> Identity {
        match at {
            EndpointAt::Address { address, port } => {
                let address = match address.parse::<IpAddr>() {
                    Ok(address) => address.to_canonical().to_string(),
                    Err(_) => address.to_ascii_lowercase(),
                };
                Identity::Address(address, port.or(cluster_port))
            }
            EndpointAt::Filename(path) => Identity::File(path.clone()),
        }
    }
}
