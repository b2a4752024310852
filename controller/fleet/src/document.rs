//! One proxy's configuration as it was compiled, shared between the proxies that have the same.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use l7mp_api::Config;
use l7mp_api::config::{EndpointAt, ListenerSpec};
use l7mp_compiler::compile::{Compiled, HeldBack, Origins, Port, Transport};
use l7mp_compiler::object::{Kind, Object, ObjectId, PodName};

use crate::order::Door;

/// What a compilation made that is needed as long as a proxy may have it.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) config: Arc<Config>,
    pub(crate) origins: Origins,
    /// Objects that are in it, or should be: sorted.
    pub(crate) selected: Box<[ObjectId]>,
    /// Listeners of other proxies that it sends to: sorted.
    pub(crate) uses: Box<[Arc<Door>]>,
    /// Its own listeners that have a port.
    pub(crate) listens: Box<[Listen]>,
}

/// A listener of a document, and the object that it came from as it was then.
#[derive(Debug)]
pub(crate) struct Listen {
    pub(crate) service: ObjectId,
    pub(crate) port: Port,
    pub(crate) object: Arc<Object>,
}

impl PartialEq for Document {
    fn eq(&self, other: &Document) -> bool {
        let same = |(a, b): (&Listen, &Listen)| {
            a.service == b.service && a.port == b.port && Arc::ptr_eq(&a.object, &b.object)
        };
        self.uses == other.uses
            && self.selected == other.selected
            && self.listens.len() == other.listens.len()
            && self.listens.iter().zip(&other.listens).all(same)
            && self.origins == other.origins
            && (Arc::ptr_eq(&self.config, &other.config) || self.config == other.config)
    }
}

impl Document {
    /// Whether the object is in it, or should be.
    pub(crate) fn is_for(&self, id: &ObjectId) -> bool {
        self.selected.binary_search(id).is_ok()
    }

    /// Whether it has the listener of a VirtualService on that port.
    pub(crate) fn listens_on(&self, service: &ObjectId, port: Port) -> bool {
        self.listens.iter().any(|listen| listen.port == port && listen.service == *service)
    }

    /// Whether it listens on that port.
    pub(crate) fn listens_at(&self, port: Port) -> bool {
        self.listens.iter().any(|listen| listen.port == port)
    }

    /// The listeners of a pod that it sends to.
    pub(crate) fn uses_of(&self, pod: &PodName) -> &[Arc<Door>] {
        let start = self.uses.partition_point(|used| used.pod < *pod);
        let count = self.uses[start..].partition_point(|used| used.pod == *pod);
        &self.uses[start..start + count]
    }

    /// Every part that comes from an object: path in the document, object, path in the object.
    pub(crate) fn parts(&self) -> Vec<(String, ObjectId, String)> {
        let Config { listeners, clusters, routes, rules, rulelists, .. } = &*self.config;
        let lists = [
            ("listeners", listeners.len()),
            ("clusters", clusters.len()),
            ("routes", routes.len()),
            ("rules", rules.len()),
        ];
        let named = lists.iter().flat_map(|(name, count)| (0..*count).map(move |index| format!("{name}[{index}]")));
        let members = rulelists.iter().enumerate().flat_map(|(list, members)| {
            (0..members.rules.len()).map(move |index| format!("rulelists[{list}].rules[{index}]"))
        });
        let found = |path: String| {
            let origin = self.origins.find(&path)?;
            Some((path, origin.object, origin.path))
        };
        named.chain(members).filter_map(found).collect()
    }
}

/// A document that a proxy was told, or is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) sequence: u64,
    pub(crate) document: Arc<Document>,
    /// The state of the world that it was compiled from.
    pub(crate) revision: u64,
    /// What was left out of it, since the proxy had refused it.
    pub(crate) held: Arc<HeldBack>,
    pub(crate) drain: bool,
}

/// The port of a listener of a document.
fn port(spec: &ListenerSpec) -> Option<Port> {
    let (transport, number) = match spec {
        ListenerSpec::Udp(udp) => (Transport::Udp, udp.port),
        ListenerSpec::Tcp(tcp) => (Transport::Tcp, tcp.port),
        ListenerSpec::WebSocket(websocket) => (Transport::Tcp, websocket.port),
        ListenerSpec::UnixDomainSocket(_) => return None,
    };
    Some(Port { transport, number })
}

/// The listeners of a compiled document that have a port; `object` finds the VirtualService as it was compiled.
pub(crate) fn listens(compiled: &Compiled, object: impl Fn(&ObjectId, Port) -> Option<Arc<Object>>) -> Box<[Listen]> {
    let listeners = compiled.config.listeners.iter().enumerate();
    let found = listeners.filter_map(|(index, listener)| {
        let port = port(&listener.spec)?;
        let service = compiled.origins.find(&format!("listeners[{index}]"))?.object;
        debug_assert_eq!(service.kind, Kind::VirtualService);
        let object = object(&service, port)?;
        Some(Listen { service, port, object })
    });
    found.collect()
}

/// All documents that some proxy may have, each once.
#[derive(Debug, Default)]
pub(crate) struct Library {
    documents: HashMap<u64, Vec<Weak<Document>>>,
    /// How many entries there were after the last look for those that nobody has any more.
    kept: usize,
}

impl Library {
    /// The document itself, or one that is the same.
    pub(crate) fn share(&mut self, mut document: Document) -> Arc<Document> {
        if self.documents.len() > 2 * self.kept + 64 {
            self.documents.retain(|_, shelf| shelf.iter().any(|known| known.strong_count() > 0));
            self.kept = self.documents.len();
        }
        let shelf = self.documents.entry(print(&document.config)).or_default();
        shelf.retain(|known| known.strong_count() > 0);
        for known in shelf.iter().filter_map(Weak::upgrade) {
            if known.config != document.config {
                continue;
            }
            if *known == document {
                return known;
            }
            document.config = Arc::clone(&known.config);
        }
        let document = Arc::new(document);
        shelf.push(Arc::downgrade(&document));
        document
    }
}

/// The same for equal documents, and hardly ever for others.
fn print(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    for listener in &config.listeners {
        listener.name.hash(&mut hasher);
    }
    for cluster in &config.clusters {
        cluster.name.hash(&mut hasher);
        for endpoint in &cluster.endpoints {
            match &endpoint.at {
                EndpointAt::Address { address, port } => (address, port).hash(&mut hasher),
                EndpointAt::Filename(filename) => filename.hash(&mut hasher),
            }
            (endpoint.ready, endpoint.draining).hash(&mut hasher);
        }
    }
    for name in config.routes.iter().map(|route| &route.name).chain(config.rules.iter().map(|rule| &rule.name)) {
        name.hash(&mut hasher);
    }
    hasher.finish()
}
