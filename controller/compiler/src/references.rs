//! What is wrong with one object's references, whatever pod it is on.

use std::collections::BTreeSet;

use l7mp_crds::{Action, Cluster, InlineRule, RouteSpec, Selector};

use crate::compile::Report;
use crate::dependencies::ListId;
use crate::object::{Object, ObjectId};
use crate::resolve::{Fault, Found, Resolver, refusal};
use crate::world::World;

/// What is wrong with an object's references whatever pod it is on, sorted by path: for the status of objects
/// that no pod has. What depends on the pod (a Target that does not select it, a port that is taken) is not
/// among it.
pub fn references(world: &World, object: &Object) -> Vec<Report> {
    let mut look = Look { resolver: Resolver::new(world), id: object.id(), reports: BTreeSet::new() };
    match object {
        Object::VirtualService(service) => {
            look.own_selector(service.spec.selector.as_ref());
            for (index, rule) in service.spec.listener.rules.iter().enumerate() {
                look.rule(&format!("spec.listener.rules[{index}]"), rule);
            }
            if let Some(list) = &service.spec.listener.rules_ref {
                look.list("spec.listener.rulesRef", list);
            }
        }
        Object::Target(target) => {
            look.own_selector(target.spec.selector.as_ref());
            if let Some(cluster) = &target.spec.cluster {
                look.cluster("spec.cluster", cluster);
            }
            if let Err(fault) = look.resolver.linked(target) {
                look.report("spec.linkedVirtualService", &fault, format!("{}: left out", fault.message));
            }
        }
        Object::Route(route) => {
            look.route("spec", &route.spec);
        }
        Object::Rule(rule) => {
            look.own_selector(rule.spec.selector.as_ref());
            look.rule("spec.rule", &rule.spec.rule);
        }
        Object::Pod(_) | Object::Service(_) | Object::EndpointSlice(_) => {}
    }
    look.reports.into_iter().collect()
}

struct Look<'w> {
    resolver: Resolver<'w>,
    id: ObjectId,
    reports: BTreeSet<Report>,
}

impl Look<'_> {
    fn report(&mut self, path: &str, fault: &Fault, message: String) {
        let report = Report { object: self.id.clone(), path: path.to_owned(), reason: fault.reason, message };
        self.reports.insert(report);
    }

    /// A selector of pods with a proxy.
    fn own_selector(&mut self, selector: Option<&Selector>) {
        let Some(selector) = selector else { return };
        match self.resolver.picked(selector, &self.id.namespace) {
            Ok(pods) => {
                let world = self.resolver.world;
                let pods: Vec<_> = pods.into_iter().filter(|pod| world.has_proxy(pod)).collect();
                if let Some(fault) = refusal(&pods, &self.id.namespace) {
                    self.report("spec.selector", &fault, fault.message.clone());
                }
            }
            Err(fault) => self.report("spec.selector.matchService", &fault, fault.message.clone()),
        }
    }

    fn rule(&mut self, path: &str, rule: &InlineRule) {
        let path = format!("{path}.action");
        let Action { rewrite: _, route_ref, route, apply, refuse: _ } = &rule.action;
        if let Some(text) = route_ref {
            self.route_ref(&format!("{path}.routeRef"), text);
        }
        if let Some(route) = route {
            self.route(&format!("{path}.route"), route);
        }
        if let Some(list) = apply {
            self.list(&format!("{path}.apply"), list);
        }
    }

    fn list(&mut self, path: &str, name: &str) {
        let list = ListId { namespace: self.id.namespace.clone(), name: name.to_owned() };
        if let Some(fault) = self.resolver.missing_list(&list) {
            self.report(path, &fault, fault.in_rule());
        }
    }

    fn route_ref(&mut self, path: &str, text: &str) {
        let fault = match self.resolver.route(text, &self.id.namespace) {
            Ok((id, route)) => {
                let mut inner = Look { resolver: Resolver::new(self.resolver.world), id, reports: BTreeSet::new() };
                inner.route("spec", &route.spec).map(|message| Fault::not_usable(&inner.id, &message))
            }
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            self.report(path, &fault, fault.in_rule());
        }
    }

    /// The stages of a route; gives the message of the first that cannot be used.
    fn route(&mut self, path: &str, route: &RouteSpec) -> Option<String> {
        let destination = (format!("{path}.destinationRef"), &route.destination_ref, &route.destination);
        let mut stages = vec![destination];
        for (chain, items) in [("ingress", &route.ingress), ("egress", &route.egress)] {
            stages.extend(items.iter().enumerate().map(|(index, item)| {
                (format!("{path}.{chain}[{index}].clusterRef"), &item.cluster_ref, &item.cluster)
            }));
        }
        let mut first = None;
        for (path, text, inline) in stages {
            if let Some(cluster) = inline {
                self.cluster(path.strip_suffix("Ref").unwrap_or(&path), cluster);
            } else if let Err(fault) = self.stage(text.as_deref().unwrap_or_default()) {
                self.report(&path, &fault, fault.in_route());
                first.get_or_insert(fault.message);
            }
        }
        first
    }

    fn stage(&mut self, text: &str) -> Result<(), Fault> {
        match self.resolver.stage(text, &self.id)? {
            (_, Found::Target(target)) => self.resolver.linked(target).map(|_| ()),
            (_, Found::VirtualService(_) | Found::Service(..)) => Ok(()),
        }
    }

    /// The selectors of a cluster's endpoints.
    fn cluster(&mut self, path: &str, cluster: &Cluster) {
        for (index, endpoint) in cluster.endpoints.iter().enumerate() {
            let Some(selector) = endpoint.selector.as_ref().filter(|_| endpoint.spec.is_none()) else { continue };
            let path = format!("{path}.endpoints[{index}].selector");
            match self.resolver.picked(selector, &self.id.namespace) {
                Ok(pods) => {
                    if let Some(fault) = refusal(&pods, &self.id.namespace) {
                        self.report(&path, &fault, fault.message.clone());
                    }
                }
                Err(fault) => self.report(&format!("{path}.matchService"), &fault, fault.message.clone()),
            }
        }
    }
}
