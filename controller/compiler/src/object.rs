//! The objects that the controller knows, and their names.

use std::fmt;
use std::str::FromStr;

use l7mp_crds::{EndpointSlice, ObjectMeta, Pod, Route, Rule, Service, Target, VirtualService};
use thiserror::Error;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `l7mp.io/v1`
    VirtualService,
    /// `l7mp.io/v1`
    Target,
    /// `l7mp.io/v1`
    Route,
    /// `l7mp.io/v1`
    Rule,
    /// `v1`
    Pod,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
}

impl Kind {
    /// Whether it is one of the kinds of `l7mp.io/v1`.
    pub const fn is_ours(self) -> bool {
        match self {
            Kind::VirtualService | Kind::Target | Kind::Route | Kind::Rule => true,
            Kind::Pod | Kind::Service | Kind::EndpointSlice => false,
        }
    }

    /// As manifests spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::VirtualService => "VirtualService",
            Kind::Target => "Target",
            Kind::Route => "Route",
            Kind::Rule => "Rule",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
        }
    }

    /// As API paths spell it.
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::VirtualService => "virtualservices",
            Kind::Target => "targets",
            Kind::Route => "routes",
            Kind::Rule => "rules",
            Kind::Pod => "pods",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What names one object. Ordered by kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectId {
    /// Names one object.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> ObjectId {
        ObjectId { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// `namespace/name`, as documents name what comes from the object.
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The pod that a proxy belongs to, written `NAMESPACE/POD`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PodName {
    /// The name in a Pod's metadata.
    pub fn of(meta: &ObjectMeta) -> PodName {
        PodName { namespace: meta.namespace().to_owned(), name: meta.name.clone() }
    }

    /// The pod as an object.
    pub fn id(&self) -> ObjectId {
        ObjectId::new(Kind::Pod, &self.namespace, &self.name)
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A text that is not `NAMESPACE/POD`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" does not name a pod; write NAMESPACE/POD, for example default/gateway")]
pub struct PodNameError(String);

impl FromStr for PodName {
    type Err = PodNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(PodNameError(text.to_owned())),
        }
    }
}

/// Whether a text may name an object: lower-case letters, digits, `-` and `.`, at most 253 of them,
/// beginning and ending with a letter or a digit (a DNS subdomain, as Kubernetes asks).
pub fn is_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.len() <= 253
        && edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.')
}

/// One object.
#[expect(clippy::large_enum_variant, reason = "the world keeps every object behind an Arc")]
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// Where sessions enter.
    VirtualService(VirtualService),
    /// Where messages can be sent.
    Target(Target),
    /// A chain of Targets.
    Route(Route),
    /// One rule of a rule list.
    Rule(Rule),
    /// A pod.
    Pod(Pod),
    /// A service.
    Service(Service),
    /// Where a service's pods are.
    EndpointSlice(EndpointSlice),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::VirtualService(_) => Kind::VirtualService,
            Object::Target(_) => Kind::Target,
            Object::Route(_) => Kind::Route,
            Object::Rule(_) => Kind::Rule,
            Object::Pod(_) => Kind::Pod,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Object::VirtualService(object) => &object.metadata,
            Object::Target(object) => &object.metadata,
            Object::Route(object) => &object.metadata,
            Object::Rule(object) => &object.metadata,
            Object::Pod(object) => &object.metadata,
            Object::Service(object) => &object.metadata,
            Object::EndpointSlice(object) => &object.metadata,
        }
    }

    /// The pod that it is.
    pub fn as_pod(&self) -> Option<&Pod> {
        match self {
            Object::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    /// What names it.
    pub fn id(&self) -> ObjectId {
        ObjectId::new(self.kind(), self.meta().namespace(), &self.meta().name)
    }
}

/// When the API server made an object; an empty text is as good as none.
pub fn created(meta: &ObjectMeta) -> Option<&str> {
    meta.creation_timestamp.as_deref().filter(|created| !created.is_empty())
}

/// Orders objects by age: creationTimestamp (absent sorts last), then namespace and name.
///
/// Timestamps are compared as texts: API servers print RFC 3339 in UTC with whole seconds.
pub fn age(meta: &ObjectMeta) -> (bool, &str, &str, &str) {
    let created = created(meta);
    (created.is_none(), created.unwrap_or_default(), meta.namespace(), &meta.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(name: &str, created: Option<&str>) -> ObjectMeta {
        ObjectMeta { name: name.to_owned(), creation_timestamp: created.map(str::to_owned), ..ObjectMeta::default() }
    }

    #[test]
    fn the_older_object_sorts_first_and_one_without_a_timestamp_last() {
        let mut metas = [
            meta("a", None),
            meta("c", Some("2026-01-02T00:00:00Z")),
            meta("b", Some("2026-01-02T00:00:00Z")),
            meta("z", Some("2025-12-31T23:59:59Z")),
            meta("0", None),
        ];
        metas.sort_by(|x, y| age(x).cmp(&age(y)));
        assert_eq!(metas.map(|meta| meta.name), ["z", "b", "c", "0", "a"]);
    }

    #[test]
    fn accepts_and_rejects_names() {
        for good in ["a", "gateway-vsvc", "pod-6bfdf5584c-97dgn", "0a.b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "a b", "a_b", &"x".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!("default".parse::<PodName>().is_err());
        assert!("a/b/c".parse::<PodName>().is_err());
    }
}
