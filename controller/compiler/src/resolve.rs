//! From names to objects. Every look is noted as a dependency, whether it found something or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use l7mp_crds::{ListenerSpec, ObjectMeta, Pod, Route, Selector, Service, ServicePort, Target, VirtualService};

use crate::compile::{Port, Reason};
use crate::consent::{accepts, advice};
use crate::dependencies::{Key, ListId};
use crate::object::{Kind, Object, ObjectId};
use crate::reference::{self, ClusterReference};
use crate::selector::{self, Selection};
use crate::world::World;

/// Why a reference or a selector cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Fault {
        Fault { reason, message: message.into() }
    }

    /// As a report says it of a stage of a route.
    pub(crate) fn in_route(&self) -> String {
        format!("{}: rules that use this route refuse their sessions", self.message)
    }

    /// As a report says it of what a rule does.
    pub(crate) fn in_rule(&self) -> String {
        format!("{}: the rule refuses its sessions", self.message)
    }

    /// Of a Route, since one of its stages is not usable.
    pub(crate) fn not_usable(route: &ObjectId, message: &str) -> Fault {
        Fault::new(Reason::RefNotUsable, format!("{route} is not usable: {message}"))
    }

    fn missing(id: &ObjectId) -> Fault {
        Fault::new(Reason::RefNotFound, format!("there is no {id}"))
    }
}

/// What a `destinationRef` or `clusterRef` names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'w> {
    Target(&'w Target),
    VirtualService(&'w VirtualService),
    Service(&'w Service, &'w ServicePort),
}

/// Whether a selector picks a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    Yes,
    No,
    /// It would, but the pod does not accept the namespace of the selector.
    NoConsent,
}

/// The world, and what was looked at in it.
#[derive(Debug)]
pub(crate) struct Resolver<'w> {
    pub(crate) world: &'w World,
    pub(crate) keys: BTreeSet<Key>,
}

impl<'w> Resolver<'w> {
    pub(crate) fn new(world: &'w World) -> Resolver<'w> {
        Resolver { world, keys: BTreeSet::new() }
    }

    pub(crate) fn get(&mut self, id: &ObjectId) -> Option<&'w Object> {
        self.keys.insert(Key::Object(id.clone()));
        self.world.get(id).map(|object| &**object)
    }

    /// The object of a reference, which must accept the namespace that it is referred to from.
    fn accepted(&mut self, id: &ObjectId, from: &str) -> Result<&'w Object, Fault> {
        let object = self.get(id).ok_or_else(|| Fault::missing(id))?;
        consent(id, object.meta(), from)?;
        Ok(object)
    }

    pub(crate) fn route(&mut self, text: &str, from: &str) -> Result<(ObjectId, &'w Route), Fault> {
        let id = parse(text, Kind::Route, from)?;
        match self.accepted(&id, from)? {
            Object::Route(route) => Ok((id, route)),
            _ => Err(Fault::missing(&id)),
        }
    }

    /// What is wrong with a reference to a rule list.
    pub(crate) fn missing_list(&mut self, list: &ListId) -> Option<Fault> {
        self.keys.insert(Key::List(list.clone()));
        let message = || format!("no Rule of namespace {} has rulelist \"{}\"", list.namespace, list.name);
        self.world.list(list).next().is_none().then(|| Fault::new(Reason::RefNotFound, message()))
    }

    /// The VirtualService that a Target links to; `None` for a Target that has a cluster.
    pub(crate) fn linked(&mut self, target: &Target) -> Result<Option<(ObjectId, &'w VirtualService)>, Fault> {
        let Some(text) = &target.spec.linked_virtual_service else { return Ok(None) };
        let from = target.metadata.namespace();
        let id = parse(text, Kind::VirtualService, from)?;
        let Some(Object::VirtualService(service)) = self.get(&id) else {
            let message = format!("Target {from}/{} links to {id}, which does not exist", target.metadata.name);
            return Err(Fault::new(Reason::RefNotFound, message));
        };
        consent(&id, &service.metadata, from)?;
        dialable(&id, service)?;
        Ok(Some((id, service)))
    }

    /// What a `destinationRef` or `clusterRef` of an object names. What a Target links to is not looked at.
    pub(crate) fn stage(&mut self, text: &str, object: &ObjectId) -> Result<(ObjectId, Found<'w>), Fault> {
        let (id, found) = self.cluster(text, &object.namespace)?;
        if id == *object {
            let message = format!("{id} would send its sessions to itself; there is no Target of that name");
            return Err(Fault::new(Reason::InvalidReference, message));
        }
        if let Found::VirtualService(service) = found {
            dialable(&id, service)?;
        }
        Ok((id, found))
    }

    /// What a `destinationRef` or `clusterRef` names: a Target, else a VirtualService, else a Service.
    fn cluster(&mut self, text: &str, from: &str) -> Result<(ObjectId, Found<'w>), Fault> {
        let wanted = reference::parse_cluster(text, from)
            .map_err(|error| Fault::new(Reason::InvalidReference, error.to_string()))?;
        let kinds = [Kind::Target, Kind::VirtualService, Kind::Service];
        for kind in kinds.into_iter().filter(|kind| wanted.kind.is_none_or(|wanted| wanted == *kind)) {
            let id = ObjectId::new(kind, &wanted.namespace, &wanted.name);
            let Some(object) = self.get(&id) else { continue };
            consent(&id, object.meta(), from)?;
            let found = match object {
                Object::Target(target) => Found::Target(target),
                Object::VirtualService(service) => Found::VirtualService(service),
                Object::Service(service) => Found::Service(service, port(&id, service, wanted.port.as_deref())?),
                _ => continue,
            };
            return Ok((id, found));
        }
        let ClusterReference { kind, namespace, name, .. } = wanted;
        let what = kind.map_or("Target, VirtualService or Service", Kind::as_str);
        Err(Fault::new(Reason::RefNotFound, format!("there is no {what} {namespace}/{name}")))
    }

    /// The labels that a selector's `matchService` stands for.
    fn service_labels(
        &mut self,
        selector: &Selector,
        from: &str,
    ) -> Result<Option<&'w BTreeMap<String, String>>, Fault> {
        let Some(id) = selector::service(selector, from) else { return Ok(None) };
        let Some(Object::Service(service)) = self.get(&id) else { return Err(Fault::missing(&id)) };
        if service.spec.selector.is_empty() {
            let message = format!("{id} has no selector, so it stands for no pods: use labels here");
            return Err(Fault::new(Reason::UnsupportedService, message));
        }
        Ok(Some(&service.spec.selector))
    }

    /// Whether a selector in an object of `from` picks a pod; a Service that is not there picks none.
    pub(crate) fn picks(&mut self, selector: &Selector, from: &str, pod: &Pod) -> Result<Pick, Fault> {
        if !selector::matches(selector, from, pod) {
            return Ok(Pick::No);
        }
        let labels = self.service_labels(selector, from)?;
        if labels.is_some_and(|labels| labels.iter().any(|(key, value)| pod.metadata.labels.get(key) != Some(value))) {
            return Ok(Pick::No);
        }
        Ok(if accepts(&pod.metadata, from) { Pick::Yes } else { Pick::NoConsent })
    }

    /// The pods that a selector in an object of `from` picks, by name, with their consent or without.
    pub(crate) fn picked(&mut self, selector: &Selector, from: &str) -> Result<Vec<&'w Pod>, Fault> {
        let labels = self.service_labels(selector, from)?;
        let selection = Selection::new(selector, from, labels);
        let pods = self.world.picked(&selection);
        self.keys.insert(Key::Pods(Arc::new(selection)));
        Ok(pods)
    }
}

/// What is wrong when pods that a selector of `from` picks do not accept it; `None` when all do.
pub(crate) fn refusal(pods: &[&Pod], from: &str) -> Option<Fault> {
    let mut refusing = pods.iter().filter(|pod| !accepts(&pod.metadata, from));
    let first = refusing.next()?;
    let path = format!("{}/{}", first.metadata.namespace(), first.metadata.name);
    let message = match refusing.count() {
        0 => format!("Pod {path} does not accept namespace {from}: left out; {}", advice("it", from)),
        more => {
            let whom = format!("Pod {path} and {more} more do not accept namespace {from}");
            format!("{whom}: left out; {}", advice("them", from))
        }
    };
    Some(Fault::new(Reason::NoConsent, message))
}

fn consent(id: &ObjectId, meta: &ObjectMeta, from: &str) -> Result<(), Fault> {
    if accepts(meta, from) {
        return Ok(());
    }
    let message = format!("{id} does not accept references from namespace {from}; {}", advice("it", from));
    Err(Fault::new(Reason::NoConsent, message))
}

/// A listener on a port that the kernel chooses has no address that others could know.
fn dialable(id: &ObjectId, service: &VirtualService) -> Result<(), Fault> {
    match &service.spec.listener.spec {
        ListenerSpec::UnixDomainSocket(_) => Ok(()),
        spec if Port::of(spec).is_some() => Ok(()),
        _ => {
            let message = format!("{id} listens on port 0, which the kernel chooses; give it a port");
            Err(Fault::new(Reason::RefNotUsable, message))
        }
    }
}

fn parse(text: &str, kind: Kind, from: &str) -> Result<ObjectId, Fault> {
    reference::parse(text, kind, from).map_err(|error| Fault::new(Reason::InvalidReference, error.to_string()))
}

/// The `appProtocol` of a port that speaks WebSocket.
pub(crate) const WEBSOCKET: &str = "kubernetes.io/ws";
/// The same over TLS.
const WEBSOCKET_TLS: &str = "kubernetes.io/wss";

/// The port of a Service that a reference means, if it can be dialled.
fn port<'w>(id: &ObjectId, service: &'w Service, wanted: Option<&str>) -> Result<&'w ServicePort, Fault> {
    if service.spec.kind.as_deref() == Some("ExternalName") {
        let message = format!("{id} is of type ExternalName, which has no endpoints; write a Target with its DNS name");
        return Err(Fault::new(Reason::UnsupportedService, message));
    }
    let ports = &service.spec.ports;
    let is_wanted = |port: &&ServicePort| {
        wanted.is_none_or(|wanted| port.name.as_deref() == Some(wanted) || wanted.parse() == Ok(port.port))
    };
    let found: Vec<&ServicePort> = ports.iter().filter(is_wanted).collect();
    let all: Vec<String> = ports.iter().map(describe).collect();
    let all = all.join(", ");
    let port = match (found[..].as_ref(), wanted) {
        ([port], _) => *port,
        ([], None) => return Err(Fault::new(Reason::RefNotFound, format!("{id} has no ports"))),
        ([], Some(wanted)) => {
            let message = format!("{id} has no port {wanted}; it has {all}");
            return Err(Fault::new(Reason::RefNotFound, message));
        }
        (_, Some(wanted)) => {
            let message = format!("{id} has several ports {wanted} ({all}): write {}:PORTNAME", id.path());
            return Err(Fault::new(Reason::InvalidReference, message));
        }
        (_, None) => {
            let message = format!("{id} has several ports ({all}): write {}:PORT", id.path());
            return Err(Fault::new(Reason::InvalidReference, message));
        }
    };
    match port.protocol.as_deref() {
        None | Some("" | "TCP" | "UDP") if port.app_protocol.as_deref() == Some(WEBSOCKET_TLS) => {
            let message = format!(
                "port {} of {id} has appProtocol {WEBSOCKET_TLS}, and TLS is not supported yet: let the Service's pods \
                 speak WebSocket without it, on a port with appProtocol {WEBSOCKET}",
                describe(port)
            );
            Err(Fault::new(Reason::UnsupportedService, message))
        }
        None | Some("" | "TCP" | "UDP") => Ok(port),
        Some(protocol) => {
            let message = format!("port {} of {id} is {protocol}, and only UDP and TCP can be dialled", describe(port));
            Err(Fault::new(Reason::UnsupportedService, message))
        }
    }
}

fn describe(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
    match &port.name {
        Some(name) => format!("{name} ({protocol} {})", port.port),
        None => format!("{protocol} {}", port.port),
    }
}
