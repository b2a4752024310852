//! Plain Services as clusters: their protocol from the port, their endpoints from the EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use l7mp_api::config::{self as api, ClusterSpec, EndpointAt};
use l7mp_crds::{Endpoint, EndpointSlice, Service, ServicePort};

use super::Build;
use super::endpoint::{Candidate, State};
use crate::dependencies::Key;
use crate::object::{Kind, Object, ObjectId, PodName};
use crate::resolve::WEBSOCKET;

/// What a cluster that dials a Service comes from.
pub(super) const PORTS: &str = "spec.ports";

impl<'w> Build<'w> {
    /// The protocol of a Service's port, and the addresses behind it.
    pub(super) fn service_cluster(
        &mut self,
        id: &ObjectId,
        service: &Service,
        port: &ServicePort,
    ) -> (ClusterSpec, Vec<Candidate<'w>>) {
        self.resolver.keys.insert(Key::Slices { service: id.clone() });
        let world = self.world;
        let slices: Vec<&EndpointSlice> = world.slices(id).collect();
        let family = family(service, &slices);
        let mut default = None;
        let mut candidates = Vec::new();
        let mut seen: BTreeSet<PodName> = BTreeSet::new();
        for slice in slices.iter().filter(|slice| slice.address_type == family || slice.address_type == "FQDN") {
            let Some(number) = target_port(slice, port) else { continue };
            let common = *default.get_or_insert(number);
            for endpoint in &slice.endpoints {
                let pod = pod_of(id, endpoint);
                // While a slice is split, an endpoint may stand in two.
                if pod.as_ref().is_some_and(|pod| !seen.insert(pod.clone())) {
                    continue;
                }
                let port = (number != common).then_some(number);
                candidates.extend(self.slice_candidate(endpoint, pod, port));
            }
        }
        candidates.sort_by(|a, b| a.called.cmp(&b.called));
        let number = default.or_else(|| numeric_target(port));
        let spec = match port.protocol.as_deref() {
            Some("UDP") => ClusterSpec::Udp(api::UdpCluster { port: number, bind: None, gro: true }),
            _ if port.app_protocol.as_deref() == Some(WEBSOCKET) => ClusterSpec::WebSocket(api::WebSocketCluster {
                port: number,
                path: None,
                host: None,
                subprotocol: None,
                payload: api::WebSocketPayload::default(),
            }),
            _ => ClusterSpec::Tcp(api::TcpCluster { port: number, bind: None, framing: api::Framing::Raw }),
        };
        (spec, candidates)
    }

    fn slice_candidate(
        &mut self,
        endpoint: &Endpoint,
        pod: Option<PodName>,
        port: Option<u16>,
    ) -> Option<Candidate<'w>> {
        let address = endpoint.addresses.first()?;
        // A slice of DNS names has nothing else; what is neither would make the document a bad one.
        let address = match address.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) if crate::object::is_name(address) => address.clone(),
            Err(_) => return None,
        };
        let state = match endpoint.conditions {
            conditions if conditions.is_terminating() => State::Terminating,
            conditions if conditions.is_ready() => State::Ready,
            _ => State::Unready,
        };
        let name = pod.as_ref().map(ToString::to_string);
        Some(Candidate {
            called: name.clone().unwrap_or_else(|| address.clone()),
            name,
            at: EndpointAt::Address { address, port },
            weight: 1,
            state,
            pod: pod.and_then(|pod| self.resolver.get(&pod.id())).and_then(Object::as_pod),
            path: PORTS.to_owned(),
            linked: false,
        })
    }
}

/// The one family of addresses that is used: that of the Service's own address, else IPv4, else what there is.
fn family(service: &Service, slices: &[&EndpointSlice]) -> &'static str {
    let own = service.spec.cluster_ip.as_deref().and_then(|address| address.parse::<IpAddr>().ok());
    let has = |family: &str| slices.iter().any(|slice| slice.address_type == family);
    match own {
        Some(IpAddr::V6(_)) if has("IPv6") => "IPv6",
        _ if has("IPv4") => "IPv4",
        _ => "IPv6",
    }
}

/// The port of a slice's endpoints that is behind a Service's port.
fn target_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    fn text(text: Option<&String>) -> &str {
        text.map_or("", String::as_str)
    }
    let found = slice.ports.iter().find(|found| text(found.name.as_ref()) == text(port.name.as_ref()))?;
    found.port.or_else(|| numeric_target(port)).filter(|number| *number != 0)
}

/// The port of the pods as far as the Service alone says it.
fn numeric_target(port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        None => Some(port.port),
        Some(value) => value.as_u64().and_then(|number| u16::try_from(number).ok()),
    }
}

fn pod_of(service: &ObjectId, endpoint: &Endpoint) -> Option<PodName> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind == Kind::Pod.as_str())?;
    let namespace = target.namespace.as_deref().unwrap_or(&service.namespace).to_owned();
    Some(PodName { namespace, name: target.name.clone() })
}
