//! The order across proxies: an endpoint is used once its listener is there, and a listener stays while it is used.

use std::collections::BTreeMap;
use std::sync::Arc;

use l7mp_api::config::{Cluster, Endpoint, EndpointAt};
use l7mp_compiler::compile::{Port, Serving, Transport, Use};
use l7mp_compiler::object::{ObjectId, PodName};

use crate::document::Document;
use crate::facts::Facts;
use crate::proxy::State;

/// A port of a pod where its proxy listens. Whose listener it is does not matter to those that send there: one may
/// follow another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Door {
    pub(crate) pod: PodName,
    pub(crate) port: Port,
}

impl From<Use> for Door {
    fn from(used: Use) -> Door {
        Door { pod: used.pod, port: used.port }
    }
}

/// Which proxies may send to which listeners of others, by every document that they may have.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    users: BTreeMap<Arc<Door>, BTreeMap<Arc<PodName>, u32>>,
}

impl Usage {
    /// The one copy of a door.
    pub(crate) fn intern(&self, door: Door) -> Arc<Door> {
        match self.users.get_key_value(&door) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(door),
        }
    }

    /// A proxy may have this document from now on.
    pub(crate) fn add(&mut self, proxy: &Arc<PodName>, document: &Document) {
        for used in &document.uses {
            *self.users.entry(Arc::clone(used)).or_default().entry(Arc::clone(proxy)).or_default() += 1;
        }
    }

    /// A proxy has it no longer. Gives the listeners that it does not use any more.
    pub(crate) fn remove(&mut self, proxy: &PodName, document: &Document) -> Vec<Arc<Door>> {
        let mut released = Vec::new();
        for used in &document.uses {
            let Some(users) = self.users.get_mut(used) else { continue };
            let Some(count) = users.get_mut(proxy) else { continue };
            *count -= 1;
            if *count == 0 {
                users.remove(proxy);
                released.push(Arc::clone(used));
            }
            if users.is_empty() {
                self.users.remove(used);
            }
        }
        released
    }

    /// The proxies that may send to a listener.
    pub(crate) fn users(&self, used: &Door) -> impl Iterator<Item = &Arc<PodName>> {
        self.users.get(used).into_iter().flat_map(BTreeMap::keys)
    }

    /// The listeners of a pod that are used, each with its users.
    pub(crate) fn of_pod<'a>(
        &'a self,
        pod: &'a PodName,
    ) -> impl Iterator<Item = (&'a Door, impl Iterator<Item = &'a Arc<PodName>>)> {
        let from = Door { pod: pod.clone(), port: Port { transport: Transport::Udp, number: 0 } };
        self.users
            .range::<Door, _>(from..)
            .take_while(move |(used, _)| used.pod == *pod)
            .map(|(used, users)| (&**used, users.keys()))
    }
}

/// Which listeners are there, as far as their proxies have said.
#[derive(Clone, Copy)]
pub(crate) struct Acknowledged<'a> {
    pub(crate) proxies: &'a BTreeMap<Arc<PodName>, State>,
    pub(crate) facts: &'a BTreeMap<ObjectId, Facts>,
    /// The state of the world that this term found, while it is trusted.
    pub(crate) trusted: Option<u64>,
}

impl Serving for Acknowledged<'_> {
    fn serves(&self, pod: &PodName, service: &ObjectId, port: Port) -> bool {
        let Some(state) = self.proxies.get(pod) else { return false };
        match (&state.acknowledged, self.trusted) {
            (Some(told), _) => told.document.listens_on(service, port),
            (None, Some(found)) => {
                state.since <= found && self.facts.get(service).is_some_and(|facts| facts.since <= found)
            }
            (None, None) => false,
        }
    }

    fn is_taken(&self, pod: &PodName, service: &ObjectId) -> bool {
        // The words of the kernel, as every libc has them.
        self.proxies
            .get(pod)
            .and_then(|state| state.quarantine.said(service))
            .is_some_and(|said| said.contains("in use"))
    }

    fn sends_to(&self, proxy: &PodName, pod: &PodName, address: &str, port: Port) -> bool {
        let Some(told) = self.proxies.get(proxy).and_then(State::last) else { return false };
        let is_there = |cluster: &Cluster| {
            let of = |endpoint: &Endpoint| match &endpoint.at {
                EndpointAt::Address { address: at, port: own } => {
                    at == address && own.or(cluster.spec.port()) == Some(port.number)
                }
                EndpointAt::Filename(_) => false,
            };
            cluster.endpoints.iter().any(of)
        };
        let is_door = told.document.uses_of(pod).iter().any(|used| used.port == port);
        !is_door && told.document.config.clusters.iter().any(is_there)
    }
}
