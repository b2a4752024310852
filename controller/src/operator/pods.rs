//! Where the pods of the cluster are, for whoever judges tokens and publishes the CA.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem::take;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use l7mp_compiler::object::PodName;
use l7mp_crds::Pod;
use tokio::sync::watch;

use crate::operator::trust::{self, PodAddresses};

/// The most pods that are remembered after they have gone.
const GONE_MAX: usize = 4_096;

/// The pods of the cluster, as the watch last said. Clones share one index.
#[derive(Clone, Debug)]
pub struct Pods {
    index: Arc<RwLock<Index>>,
    namespaces: watch::Sender<BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Index {
    pods: BTreeMap<PodName, Known>,
    /// How many living pods with a network of their own have an address.
    owners: HashMap<IpAddr, usize>,
    /// How many pods of a namespace have a proxy.
    with_proxy: BTreeMap<String, usize>,
    gone: HashMap<PodName, String>,
    gone_order: VecDeque<PodName>,
}

#[derive(Debug)]
struct Known {
    at: PodAddresses,
    has_proxy: bool,
    is_finished: bool,
}

impl Known {
    fn of(pod: &Pod) -> Known {
        let mut addresses: Vec<IpAddr> = pod.addresses().filter_map(|address| address.parse().ok()).collect();
        let host_network = pod.spec.host_network;
        let node = pod.status.host_ip.as_deref().and_then(|address| address.parse().ok());
        addresses.extend(node.filter(|node| host_network && !addresses.contains(node)));
        let at =
            PodAddresses { uid: pod.metadata.uid.clone().unwrap_or_default(), addresses, host_network, deleted: false };
        Known { at, has_proxy: pod.has_proxy(), is_finished: pod.is_finished() }
    }

    /// The addresses that nobody else has.
    fn owned(&self) -> &[IpAddr] {
        if self.at.host_network || self.is_finished { &[] } else { &self.at.addresses }
    }
}

impl Index {
    fn apply(&mut self, pod: &Pod) {
        let name = PodName::of(&pod.metadata);
        self.take(&name);
        self.gone.remove(&name);
        let known = Known::of(pod);
        for address in known.owned() {
            *self.owners.entry(*address).or_default() += 1;
        }
        if known.has_proxy {
            *self.with_proxy.entry(name.namespace.clone()).or_default() += 1;
        }
        self.pods.insert(name, known);
    }

    fn take(&mut self, name: &PodName) -> Option<Known> {
        let known = self.pods.remove(name)?;
        for address in known.owned() {
            if let Some(owners) = self.owners.get_mut(address) {
                *owners -= 1;
                if *owners == 0 {
                    self.owners.remove(address);
                }
            }
        }
        if known.has_proxy
            && let Some(pods) = self.with_proxy.get_mut(&name.namespace)
        {
            *pods -= 1;
            if *pods == 0 {
                self.with_proxy.remove(&name.namespace);
            }
        }
        Some(known)
    }

    fn delete(&mut self, name: &PodName) {
        let Some(known) = self.take(name) else { return };
        if self.gone.insert(name.clone(), known.at.uid).is_none() {
            self.gone_order.push_back(name.clone());
        }
        while self.gone_order.len() > GONE_MAX {
            if let Some(oldest) = self.gone_order.pop_front() {
                self.gone.remove(&oldest);
            }
        }
    }
}

impl Default for Pods {
    fn default() -> Pods {
        Pods { index: Arc::default(), namespaces: watch::Sender::new(BTreeSet::new()) }
    }
}

impl Pods {
    /// The namespaces that have a pod with a proxy, whatever its phase; changes only when the set does.
    pub fn namespaces(&self) -> watch::Receiver<BTreeSet<String>> {
        self.namespaces.subscribe()
    }

    /// A pod is there, or has changed.
    pub fn apply(&self, pod: &Pod) {
        self.change(|index| index.apply(pod));
    }

    /// A pod is gone.
    pub fn delete(&self, pod: &PodName) {
        self.change(|index| index.delete(pod));
    }

    /// All pods: what is not among them is gone.
    pub fn reset<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) {
        self.change(|index| {
            let mut gone: BTreeSet<PodName> = index.pods.keys().cloned().collect();
            for pod in pods {
                gone.remove(&PodName::of(&pod.metadata));
                index.apply(pod);
            }
            for name in gone {
                index.delete(&name);
            }
        });
    }

    fn change(&self, edit: impl FnOnce(&mut Index)) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        edit(&mut index);
        self.namespaces.send_if_modified(|last| {
            if last.len() == index.with_proxy.len() && last.iter().eq(index.with_proxy.keys()) {
                return false;
            }
            drop(take(last));
            *last = index.with_proxy.keys().cloned().collect();
            true
        });
    }
}

impl trust::Pods for Pods {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodAddresses> {
        let name = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let gone = |uid: &String| PodAddresses { uid: uid.clone(), deleted: true, ..PodAddresses::default() };
        index.pods.get(&name).map(|known| known.at.clone()).or_else(|| index.gone.get(&name).map(gone))
    }

    fn is_pod_address(&self, address: IpAddr) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).owners.contains_key(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::trust::Pods as _;
    use serde_json::{Value, json};

    fn pod(path: &str, container: &str, ips: &[&str]) -> Pod {
        let name: PodName = path.parse().unwrap();
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": name.namespace, "name": name.name, "uid": format!("uid-of-{path}")},
            "spec": {"initContainers": [{"name": container, "restartPolicy": "Always"}]},
            "status": {"podIPs": ips, "hostIP": "192.0.2.1", "phase": "Running"},
        }))
        .unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn namespaces(pods: &Pods) -> Vec<String> {
        pods.namespaces().borrow().iter().cloned().collect()
    }

    #[test]
    fn the_namespaces_are_those_of_pods_with_a_proxy() {
        let pods = Pods::default();
        pods.reset([&pod("a/one", "l7mp", &["10.0.0.1", "fd00::1"]), &pod("b/two", "app", &["10.0.0.2"])]);
        assert_eq!(namespaces(&pods), ["a"]);
        let mut seen = pods.namespaces();
        pods.apply(&pod("a/one", "l7mp", &[]));
        assert!(!seen.has_changed().unwrap(), "the set of namespaces is the same");
        pods.apply(&pod("c/three", "l7mp", &[]));
        assert!(seen.has_changed().unwrap());
        seen.mark_unchanged();
        pods.delete(&"a/one".parse().unwrap());
        assert_eq!(namespaces(&pods), ["c"]);
        pods.reset([]);
        assert_eq!(namespaces(&pods), [""; 0]);
    }

    #[test]
    fn an_address_belongs_to_the_living_pods_that_have_it() {
        let pods = Pods::default();
        pods.apply(&pod("a/one", "l7mp", &["10.0.0.1", "fd00::1"]));
        pods.apply(&pod("b/two", "app", &["10.0.0.2"]));
        assert!(["10.0.0.1", "fd00::1", "10.0.0.2"].iter().all(|address| pods.is_pod_address(ip(address))));
        assert_eq!(pods.pod("a", "one").unwrap().addresses, [ip("10.0.0.1"), ip("fd00::1")]);
        // The address goes from a pod that ends to another before the first one's object is deleted.
        let mut ended = pod("b/two", "app", &["10.0.0.2"]);
        ended.status.phase = Some("Succeeded".to_owned());
        pods.apply(&pod("b/new", "app", &["10.0.0.2"]));
        pods.apply(&ended);
        assert!(pods.is_pod_address(ip("10.0.0.2")));
        pods.delete(&"b/new".parse().unwrap());
        assert!(!pods.is_pod_address(ip("10.0.0.2")));
    }

    #[test]
    fn a_pod_of_its_nodes_network_owns_no_address() {
        let pods = Pods::default();
        let mut gateway = pod("a/gateway", "l7mp", &["192.0.2.1"]);
        gateway.spec.host_network = true;
        gateway.status.pod_ips[0].ip = "192.0.2.2".to_owned();
        pods.apply(&gateway);
        let known = pods.pod("a", "gateway").unwrap();
        assert_eq!((known.addresses, known.host_network), (vec![ip("192.0.2.2"), ip("192.0.2.1")], true));
        assert!(!pods.is_pod_address(ip("192.0.2.1")) && !pods.is_pod_address(ip("192.0.2.2")));
    }

    #[test]
    fn a_pod_that_is_gone_is_told_from_one_that_was_never_seen() {
        let pods = Pods::default();
        pods.apply(&pod("a/one", "l7mp", &["10.0.0.1"]));
        pods.delete(&"a/one".parse().unwrap());
        let gone = pods.pod("a", "one").unwrap();
        assert_eq!((gone.uid.as_str(), gone.deleted), ("uid-of-a/one", true));
        assert_eq!(pods.pod("a", "other"), None);
        pods.apply(&pod("a/one", "l7mp", &["10.0.0.9"]));
        assert!(!pods.pod("a", "one").unwrap().deleted);
    }

    #[test]
    fn only_so_many_gone_pods_are_remembered() {
        let pods = Pods::default();
        for number in 0..=GONE_MAX {
            let path = format!("a/p{number}");
            pods.apply(&pod(&path, "l7mp", &[]));
            pods.delete(&path.parse().unwrap());
        }
        assert_eq!(pods.pod("a", "p0"), None);
        assert!(pods.pod("a", "p1").unwrap().deleted);
    }
}
