//! Names of clusters that are written inline.
//!
//! Live sessions know their cluster by its name, so what stands before a cluster must not be part of it: the name says
//! what the cluster is (protocol and endpoints), not where. How sessions are shared out and how long they may stay
//! (balancing, weights, `drainTimeout`, names) may be changed under them.

use std::collections::BTreeSet;

use l7mp_crds::{Cluster, EndpointSpec};
use serde_json::json;
use siphasher::sip::SipHasher24;

use super::{Build, Origin};
use crate::object::Kind;

impl<'w> Build<'w> {
    /// Makes an inline cluster part of the document; gives its name there. Those of one object that are the same
    /// are one.
    pub(super) fn add_inline_cluster(&mut self, origin: Origin, cluster: &'w Cluster) -> String {
        let name = self.inline_name(&origin, cluster);
        self.add_cluster(name.clone(), origin, cluster);
        name
    }

    fn inline_name(&mut self, origin: &Origin, cluster: &Cluster) -> String {
        let object = origin.object.path();
        // Objects of several kinds may share one name.
        let owner = match origin.object.kind {
            Kind::Rule => format!("{object}/rule"),
            Kind::Route => format!("{object}/route"),
            _ => object,
        };
        // Of a Rule and of a Route there is one destination, which nothing can stand before.
        if !origin.path.contains('[') {
            return format!("{owner}/destination");
        }
        let whole = whole(cluster);
        let mut name = format!("{owner}/inline-{}", print(&essence(cluster)));
        // The first has the short name. The others have its endpoints, so that its sessions lose nothing when it
        // becomes the name of one of them.
        if self.is_of_another(&name, &whole) {
            name = format!("{name}-{}", print(&whole));
        }
        while self.is_of_another(&name, &whole) {
            name.push('+');
        }
        self.inline.insert(name.clone(), whole);
        name
    }

    fn is_of_another(&self, name: &str, whole: &str) -> bool {
        self.inline.get(name).is_some_and(|known| known != whole)
    }
}

/// What makes a cluster the one that it is: the same text as long as its sessions are well where they are.
fn essence(cluster: &Cluster) -> String {
    let endpoints: BTreeSet<String> = cluster
        .endpoints
        .iter()
        .map(|endpoint| match &endpoint.spec {
            Some(spec) => json!(EndpointSpec { weight: None, ..spec.clone() }).to_string(),
            None => json!(endpoint.selector).to_string(),
        })
        .collect();
    json!([cluster.spec, endpoints]).to_string()
}

/// All that a proxy is told of a cluster, apart from its name.
fn whole(cluster: &Cluster) -> String {
    json!(Cluster { name: None, ..cluster.clone() }).to_string()
}

/// A short hash that is the same in every process and every version.
fn print(text: &str) -> String {
    format!("{:08x}", SipHasher24::new().hash(text.as_bytes()) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> Cluster {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn a_cluster_is_its_protocol_and_its_endpoints() {
        let one = "{spec: {UDP: {port: 1}}, endpoints: [{spec: {address: a}}, {selector: {matchLabels: {x: y}}}]}";
        let tuned = "{name: n, spec: {UDP: {port: 1}}, loadbalancer: {policy: RoundRobin}, drainTimeout: 5s, \
                     endpoints: [{selector: {matchLabels: {x: y}}}, {name: e, spec: {address: a, weight: 7}}]}";
        assert_eq!(essence(&cluster(one)), essence(&cluster(tuned)));
        assert_ne!(whole(&cluster(one)), whole(&cluster(tuned)));
        for (from, to) in [("port: 1", "port: 2"), ("UDP", "TCP"), ("address: a", "address: b"), ("x: y", "x: z")] {
            let other = one.replace(from, to);
            assert_ne!(essence(&cluster(one)), essence(&cluster(&other)), "{other}");
        }
    }

    #[test]
    fn a_new_version_of_the_operator_renames_nothing() {
        let text = essence(&cluster("{spec: {UDP: {port: 1}}, endpoints: [{spec: {address: a, weight: 2}}]}"));
        assert_eq!(text, r#"[{"UDP":{"port":1}},["{\"address\":\"a\"}"]]"#);
        assert_eq!(print(&text), "e4a028ff");
        let text = essence(&cluster("{spec: {TCP: {port: 1}}, endpoints: [{selector: {}}]}"));
        assert_eq!(text, r#"[{"TCP":{"port":1,"framing":"raw"}},["{}"]]"#);
    }
}
