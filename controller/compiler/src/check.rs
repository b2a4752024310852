//! What can be judged from one object alone, beyond its shape.
//!
//! An object with a problem is reported and left out; nothing else suffers for it. What needs other
//! objects (references, ports) is judged by [`crate::compile`].

use l7mp_api::Problem;
use l7mp_crds::{
    API_VERSION, Action, ChainItem, Cluster, ClusterSpec, InlineRule, Listener, ListenerSpec, Operator, Requirement,
    RouteSpec, Selector, TargetSpec,
};

use crate::object::{Object, is_name};
use crate::selector::FIELDS;

/// Everything that is wrong with an object by itself; paths are in the object (`spec.listener.rules[0].action`).
pub fn check(object: &Object) -> Vec<Problem> {
    let mut found = Problems::default();
    let meta = object.meta();
    if !is_name(&meta.name) {
        found.add("metadata.name", format!("\"{}\" is not a name: lower-case letters, digits, - and .", meta.name));
    }
    if !is_name(meta.namespace()) {
        found.add("metadata.namespace", format!("\"{}\" is not a namespace", meta.namespace()));
    }
    match object {
        Object::VirtualService(object) => {
            found.api_version(&object.api_version);
            match &object.spec.selector {
                Some(selector) => found.selector("spec.selector", selector),
                None => found.add(
                    "spec.selector",
                    "is needed: it says which pods get the listener ({} is every pod of the namespace)",
                ),
            }
            found.listener("spec.listener", &object.spec.listener);
        }
        Object::Target(object) => {
            found.api_version(&object.api_version);
            found.target(&object.spec);
        }
        Object::Route(object) => {
            found.api_version(&object.api_version);
            found.route("spec", &object.spec);
        }
        Object::Rule(object) => {
            found.api_version(&object.api_version);
            if let Some(selector) = &object.spec.selector {
                found.selector("spec.selector", selector);
            }
            found.list_name("spec.rulelist", &object.spec.rulelist);
            found.rule("spec.rule", &object.spec.rule);
        }
        Object::Pod(_) | Object::Service(_) | Object::EndpointSlice(_) => {}
    }
    found.0
}

/// The permissions of a socket file, from their octal text.
pub fn parse_mode(text: &str) -> Option<u32> {
    let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777)
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { path: path.into(), message: message.into() });
    }

    fn api_version(&mut self, version: &str) {
        if version != API_VERSION {
            self.add("apiVersion", format!("\"{version}\" is not known; write {API_VERSION}"));
        }
    }

    fn list_name(&mut self, path: &str, name: &str) {
        if name.is_empty() || name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
            self.add(path, format!("\"{name}\" is not the name of a rule list: no slash, no white space"));
        }
    }

    fn selector(&mut self, path: &str, selector: &Selector) {
        if let Some(namespace) = &selector.match_namespace
            && !is_name(namespace)
        {
            self.add(format!("{path}.matchNamespace"), format!("\"{namespace}\" is not a namespace"));
        }
        if let Some(service) = selector.match_service.as_deref().filter(|service| !is_name(service)) {
            let message = format!("\"{service}\" is not the name of a Service; its namespace goes into matchNamespace");
            self.add(format!("{path}.matchService"), message);
        }
        for (index, term) in selector.match_expressions.iter().enumerate() {
            self.requirement(&format!("{path}.matchExpressions[{index}]"), term);
        }
        for (index, term) in selector.match_fields.iter().enumerate() {
            let path = format!("{path}.matchFields[{index}]");
            if !FIELDS.contains(&term.key.as_str()) {
                let fields = FIELDS.join(", ");
                self.add(format!("{path}.key"), format!("\"{}\" is not one of {fields}", term.key));
            }
            self.requirement(&path, term);
        }
    }

    fn requirement(&mut self, path: &str, term: &Requirement) {
        match (term.operator, term.values.is_empty()) {
            (Operator::In | Operator::NotIn, true) => {
                self.add(format!("{path}.values"), format!("{:?} needs at least one value", term.operator));
            }
            (Operator::Exists | Operator::DoesNotExist, false) => {
                self.add(format!("{path}.values"), format!("{:?} takes no values", term.operator));
            }
            (Operator::In | Operator::NotIn, false) | (Operator::Exists | Operator::DoesNotExist, true) => {}
        }
    }

    fn listener(&mut self, path: &str, listener: &Listener) {
        if let ListenerSpec::UnixDomainSocket(unix) = &listener.spec {
            if let Some(mode) = unix.mode.as_deref().filter(|mode| parse_mode(mode).is_none()) {
                self.add(
                    format!("{path}.spec.UnixDomainSocket.mode"),
                    format!("\"{mode}\" is not an octal mode such as \"0660\""),
                );
            }
            if unix.filename.is_empty() {
                self.add(format!("{path}.spec.UnixDomainSocket.filename"), "is empty; write the path of the socket");
            }
        }
        if let Some(list) = &listener.rules_ref {
            self.list_name(&format!("{path}.rulesRef"), list);
        }
        for (index, rule) in listener.rules.iter().enumerate() {
            self.rule(&format!("{path}.rules[{index}]"), rule);
        }
    }

    fn rule(&mut self, path: &str, rule: &InlineRule) {
        let path = format!("{path}.action");
        let Action { rewrite: _, route_ref, route, apply, refuse } = &rule.action;
        let given = [route_ref.is_some(), route.is_some(), apply.is_some(), refuse.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            self.add(&path, "needs exactly one of route, routeRef, apply and refuse");
        }
        if let Some(route) = route {
            self.route(&format!("{path}.route"), route);
        }
        if let Some(list) = apply {
            self.list_name(&format!("{path}.apply"), list);
        }
    }

    fn route(&mut self, path: &str, route: &RouteSpec) {
        if route.destination.is_some() == route.destination_ref.is_some() {
            self.add(path, "needs exactly one of destination and destinationRef");
        }
        if let Some(cluster) = &route.destination {
            self.cluster(&format!("{path}.destination"), cluster);
        }
        for (chain, items) in [("ingress", &route.ingress), ("egress", &route.egress)] {
            for (index, item) in items.iter().enumerate() {
                self.chain_item(&format!("{path}.{chain}[{index}]"), item);
            }
        }
    }

    fn chain_item(&mut self, path: &str, item: &ChainItem) {
        if item.cluster.is_some() == item.cluster_ref.is_some() {
            self.add(path, "needs exactly one of cluster and clusterRef");
        }
        if let Some(cluster) = &item.cluster {
            self.cluster(&format!("{path}.cluster"), cluster);
        }
    }

    fn target(&mut self, spec: &TargetSpec) {
        if let Some(selector) = &spec.selector {
            self.selector("spec.selector", selector);
        }
        if spec.cluster.is_some() == spec.linked_virtual_service.is_some() {
            self.add("spec", "needs exactly one of cluster and linkedVirtualService");
        }
        if let Some(cluster) = &spec.cluster {
            self.cluster("spec.cluster", cluster);
        }
    }

    fn cluster(&mut self, path: &str, cluster: &Cluster) {
        let (protocol, remote, port) = match &cluster.spec {
            ClusterSpec::Udp(udp) => ("UDP", true, udp.port),
            ClusterSpec::Tcp(tcp) => ("TCP", true, tcp.port),
            ClusterSpec::WebSocket(websocket) => ("WebSocket", true, websocket.port),
            ClusterSpec::UnixDomainSocket(_) => ("UnixDomainSocket", false, None),
            ClusterSpec::Echo(_) | ClusterSpec::Discard(_) => {
                if !cluster.endpoints.is_empty() {
                    self.add(format!("{path}.endpoints"), "Echo and Discard have no endpoints");
                }
                return;
            }
        };
        if remote && port == Some(0) {
            self.add(format!("{path}.spec.{protocol}.port"), "0 cannot be dialled");
        }
        for (index, endpoint) in cluster.endpoints.iter().enumerate() {
            let path = format!("{path}.endpoints[{index}]");
            match (&endpoint.spec, &endpoint.selector) {
                (Some(spec), None) if remote => {
                    if spec.filename.is_some() || spec.address.as_deref().is_none_or(str::is_empty) {
                        self.add(
                            format!("{path}.spec"),
                            format!("a {protocol} endpoint needs an address, no filename"),
                        );
                    }
                    if spec.port.or(port).unwrap_or(0) == 0 {
                        self.add(format!("{path}.spec.port"), "neither the endpoint nor its cluster names a port");
                    }
                }
                (Some(spec), None) => {
                    if spec.filename.is_some() == spec.address.is_some() {
                        self.add(format!("{path}.spec"), "a UnixDomainSocket endpoint needs a filename");
                    }
                }
                (None, Some(selector)) => {
                    self.selector(&format!("{path}.selector"), selector);
                    if !remote {
                        self.add(&path, "a UnixDomainSocket endpoint needs a filename; pods have addresses");
                    } else if port.is_none() {
                        self.add(
                            format!("{path}.selector"),
                            format!("needs the port of the cluster ({protocol}.port)"),
                        );
                    }
                }
                (None, None) | (Some(_), Some(_)) => self.add(&path, "needs exactly one of spec and selector"),
            }
            if let Some(weight) = endpoint.spec.as_ref().and_then(|spec| spec.weight)
                && !(1..=1000).contains(&weight)
            {
                self.add(format!("{path}.spec.weight"), format!("{weight} is not between 1 and 1000"));
            }
        }
    }
}
