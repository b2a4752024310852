//! The endpoints of a cluster: who takes sessions, who drains, and who is waited for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use l7mp_api::config::{ClusterSpec, Endpoint, EndpointAt};
use l7mp_crds::{EndpointSpec, Pod};

use super::view::{Port, Transport, Use};
use super::{Build, Origin, Reason};
use crate::dependencies::Key;
use crate::object::{Kind, ObjectId, PodName};
use crate::resolve::Pick;

/// The share of an endpoint that names none.
const WEIGHT_DEFAULT: u32 = 1;

/// Whether an endpoint takes sessions; the better, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It does.
    Ready,
    /// It keeps those that it has.
    Unready,
    /// It keeps those that it has until it is gone.
    Terminating,
}

impl State {
    /// The state of a pod; `None` when it has ended.
    fn of(pod: &Pod) -> Option<State> {
        match pod {
            pod if pod.is_finished() => None,
            pod if pod.is_terminating() => Some(State::Terminating),
            pod if pod.is_ready() => Some(State::Ready),
            _ => Some(State::Unready),
        }
    }
}

/// What may become an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'w> {
    /// Where it stands, for reports.
    pub(super) path: String,
    /// For reports: its name, else where it stands.
    pub(super) called: String,
    pub(super) name: Option<String>,
    pub(super) at: EndpointAt,
    pub(super) weight: u32,
    pub(super) state: State,
    /// The pod behind it, as far as it is known.
    pub(super) pod: Option<&'w Pod>,
    /// Whether it is the listener of a VirtualService that is meant, and not whatever has the port.
    pub(super) linked: bool,
}

impl<'w> Candidate<'w> {
    /// A fixed endpoint, which is taken to be ready.
    pub(super) fn fixed(at: &Origin, name: Option<String>, spec: &EndpointSpec, remote: bool) -> Candidate<'w> {
        let place = match (&spec.filename, &spec.address) {
            (Some(filename), _) => EndpointAt::Filename(filename.clone()),
            // The original wrote the path of a socket as its address.
            (None, Some(address)) if !remote => EndpointAt::Filename(address.clone()),
            (None, address) => EndpointAt::Address { address: address.clone().unwrap_or_default(), port: spec.port },
        };
        let weight = spec.weight.unwrap_or(WEIGHT_DEFAULT);
        let called = name.clone().unwrap_or_else(|| at.path.rsplit('.').next().unwrap_or_default().to_owned());
        Candidate {
            path: at.path.clone(),
            called,
            name,
            at: place,
            weight,
            state: State::Ready,
            pod: None,
            linked: false,
        }
    }

    /// A Unix socket.
    pub(super) fn file(at: &Origin, filename: String) -> Candidate<'w> {
        let spec = EndpointSpec { filename: Some(filename), ..EndpointSpec::default() };
        Candidate::fixed(at, None, &spec, false)
    }

    /// A pod at the first of its addresses; `None` when it has none, or has ended.
    pub(super) fn pod(at: &Origin, pod: &'w Pod) -> Option<Candidate<'w>> {
        let address: IpAddr = pod.addresses().next()?.parse().ok()?;
        let called = PodName::of(&pod.metadata).to_string();
        Some(Candidate {
            path: at.path.clone(),
            name: Some(called.clone()),
            called,
            at: EndpointAt::Address { address: address.to_string(), port: None },
            weight: WEIGHT_DEFAULT,
            state: State::of(pod)?,
            pod: Some(pod),
            linked: false,
        })
    }
}

impl<'w> Build<'w> {
    /// The endpoints of a cluster, in the order of the candidates, and what to say when none of them is ready. Of
    /// two with one address and port proxies take one only: the one in the better state, else the first.
    pub(super) fn endpoints(
        &mut self,
        object: &ObjectId,
        spec: &ClusterSpec,
        candidates: Vec<Candidate<'w>>,
    ) -> (Vec<Endpoint>, Option<String>) {
        let kept = self.without_twins(object, spec.port(), candidates);
        let best = kept.iter().map(|candidate| candidate.state).min();
        let count = kept.iter().filter(|candidate| Some(candidate.state) == best).count();
        let degraded = match best {
            Some(State::Ready) => None,
            None => Some("there is no endpoint: sessions cannot be opened until there is one".to_owned()),
            Some(State::Unready) => Some(format!("no endpoint is ready: those that are not take sessions ({count})")),
            Some(State::Terminating) => {
                Some(format!("no endpoint is left but those that are ending, which take sessions ({count})"))
            }
        };
        let mut endpoints = Vec::new();
        for candidate in kept {
            if self.is_served(spec, &candidate) {
                if let Some(pod) = candidate.pod {
                    self.sources.insert(PodName::of(&pod.metadata).id());
                }
                let Candidate { name, at, weight, state, .. } = candidate;
                // When none is ready the proxy gives sessions to those that are not, and then to those that are ending.
                let (ready, draining) = (state != State::Unready, state == State::Terminating);
                endpoints.push(Endpoint { name, at, weight, ready, draining });
            }
        }
        (endpoints, degraded)
    }

    fn without_twins(
        &mut self,
        object: &ObjectId,
        port: Option<u16>,
        candidates: Vec<Candidate<'w>>,
    ) -> Vec<Candidate<'w>> {
        let mut kept: Vec<Candidate<'w>> = Vec::new();
        let mut taken: BTreeMap<Identity, usize> = BTreeMap::new();
        for candidate in candidates {
            let identity = Identity::of(&candidate.at, port);
            let Some(&index) = taken.get(&identity) else {
                taken.insert(identity, kept.len());
                kept.push(candidate);
                continue;
            };
            let first = &mut kept[index];
            // A pod that ends on the host's network has the address of the one that replaces it.
            if candidate.state < first.state {
                *first = candidate;
            } else if candidate.state == first.state && candidate.called != first.called {
                // Two selectors may well pick one pod; two pods at one address are worth a word.
                let message = format!("{} has the address and port of {}: left out", candidate.called, first.called);
                self.report(&Origin::new(object.clone(), candidate.path), Reason::DuplicateEndpoint, message);
            }
        }
        kept
    }

    /// Whether an endpoint may be used: where the pod's own proxy is to listen on that port, it must have said
    /// that it does, or something else has the port.
    fn is_served(&mut self, spec: &ClusterSpec, candidate: &Candidate<'w>) -> bool {
        let (Some(pod), EndpointAt::Address { address, port }) = (candidate.pod, &candidate.at) else { return true };
        let Some(number) = port.or(spec.port()) else { return true };
        let transport = match spec {
            ClusterSpec::Udp(_) => Transport::Udp,
            ClusterSpec::Tcp(_) | ClusterSpec::WebSocket(_) => Transport::Tcp,
            ClusterSpec::UnixDomainSocket(_) | ClusterSpec::Echo | ClusterSpec::Discard => return true,
        };
        let port = Port { transport, number };
        let name = PodName::of(&pod.metadata);
        // The proxy's own listeners come with this document.
        if name == *self.proxy || !self.world.has_proxy(pod) {
            return true;
        }
        let listening: Vec<Use> =
            self.listening(pod, port).into_iter().map(|service| Use { pod: name.clone(), service, port }).collect();
        let Some(serving) = self.view.serving else {
            self.uses.extend(listening);
            return true;
        };
        let (served, others): (Vec<Use>, Vec<Use>) =
            listening.into_iter().partition(|used| serving.serves(&used.pod, &used.service, used.port));
        if served.is_empty() && !others.is_empty() {
            let is_taken = others.iter().all(|used| serving.is_taken(&used.pod, &used.service));
            self.waits.extend(others);
            // An app that has the port keeps its sessions, whoever would like to listen there.
            return !candidate.linked && (is_taken || serving.sends_to(self.proxy, &name, address, port));
        }
        self.uses.extend(served);
        true
    }

    /// The VirtualServices that make a pod's proxy listen on a port. Of several it takes one; which one is seen
    /// from what it acknowledges.
    fn listening(&mut self, pod: &Pod, port: Port) -> Vec<ObjectId> {
        let (world, namespace) = (self.world, pod.metadata.namespace());
        self.resolver.keys.insert(Key::Listeners { namespace: namespace.to_owned(), port });
        let mut services = Vec::new();
        for service in world.listeners(namespace, port) {
            let (from, selector) = (service.metadata.namespace(), service.spec.selector.as_ref());
            if selector.is_some_and(|selector| self.resolver.picks(selector, from, pod) == Ok(Pick::Yes)) {
                services.push(ObjectId::new(Kind::VirtualService, from, &service.metadata.name));
            }
        }
        services
    }
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
