//! How one object names another.

use thiserror::Error;

use crate::object::{Kind, ObjectId, is_name};

/// A text that does not name an object of the wanted kind.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// None of the four forms.
    #[error(
        "\"{text}\" does not name a {kind}; write NAME, NAMESPACE/NAME, /l7mp.io/v1/{kind}/NAMESPACE/NAME or \
         /apis/l7mp.io/v1/namespaces/NAMESPACE/{}/NAME",
        .kind.plural()
    )]
    Form {
        /// What was written.
        text: String,
        /// What it should name.
        kind: Kind,
    },
    /// A path of another kind.
    #[error("\"{text}\" names one of \"{found}\" where a {kind} is needed")]
    Kind {
        /// What was written.
        text: String,
        /// The kind that it names.
        found: String,
        /// The kind that is needed.
        kind: Kind,
    },
}

/// Reads a reference to an object of `kind` that stands in an object of `namespace`.
///
/// Forms: `/apis/l7mp.io/v1/namespaces/NAMESPACE/targets/NAME`, `/l7mp.io/v1/Target/NAMESPACE/NAME`,
/// `NAMESPACE/NAME`, `NAME`.
///
/// # Errors
/// When the text has none of these forms, or is the path of another kind.
pub fn parse(text: &str, kind: Kind, namespace: &str) -> Result<ObjectId, ReferenceError> {
    let parts: Vec<&str> = text.split('/').collect();
    let (found, namespace, name) = match parts[..] {
        ["", "apis", "l7mp.io", "v1", "namespaces", namespace, plural, name] => {
            ((plural != kind.plural()).then_some(plural), namespace, name)
        }
        ["", "l7mp.io", "v1", found, namespace, name] => ((found != kind.as_str()).then_some(found), namespace, name),
        [namespace, name] => (None, namespace, name),
        [name] => (None, namespace, name),
        _ => return Err(ReferenceError::Form { text: text.to_owned(), kind }),
    };
    if let Some(found) = found {
        return Err(ReferenceError::Kind { text: text.to_owned(), found: found.to_owned(), kind });
    }
    if !is_name(namespace) || !is_name(name) {
        return Err(ReferenceError::Form { text: text.to_owned(), kind });
    }
    Ok(ObjectId::new(kind, namespace, name))
}

/// What a `destinationRef` or `clusterRef` may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterReference {
    /// The kind that a path names; a name alone may be a Target, a VirtualService or a Service, in this order.
    pub kind: Option<Kind>,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The port of a Service, by number or name.
    pub port: Option<String>,
}

/// A text that names neither a Target, a VirtualService nor a Service.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "\"{0}\" does not name a Target, a VirtualService or a Service; write NAME, NAMESPACE/NAME, \
     /apis/l7mp.io/v1/namespaces/NAMESPACE/targets/NAME, /l7mp.io/v1/Target/NAMESPACE/NAME, or for a Service \
     SERVICE:PORT or /api/v1/namespaces/NAMESPACE/services/SERVICE:PORT"
)]
pub struct ClusterReferenceError(String);

/// Reads a reference to what can be dialled, which stands in an object of `namespace`.
///
/// Forms: those of [`parse`] for Targets and VirtualServices, `[NAMESPACE/]SERVICE[:PORT]` and
/// `/api/v1/namespaces/NAMESPACE/services/SERVICE[:PORT]`.
///
/// # Errors
/// When the text has none of these forms, or is the path of another kind.
pub fn parse_cluster(text: &str, namespace: &str) -> Result<ClusterReference, ClusterReferenceError> {
    let error = || ClusterReferenceError(text.to_owned());
    let parts: Vec<&str> = text.split('/').collect();
    let dialled = [Kind::Target, Kind::VirtualService];
    let (kind, namespace, name) = match parts[..] {
        ["", "apis", "l7mp.io", "v1", "namespaces", namespace, plural, name] => {
            let kind = dialled.into_iter().find(|kind| kind.plural() == plural);
            (Some(kind.ok_or_else(error)?), namespace, name)
        }
        ["", "l7mp.io", "v1", found, namespace, name] => {
            let kind = dialled.into_iter().find(|kind| kind.as_str() == found);
            (Some(kind.ok_or_else(error)?), namespace, name)
        }
        ["", "api", "v1", "namespaces", namespace, "services", name] => (Some(Kind::Service), namespace, name),
        [namespace, name] => (None, namespace, name),
        [name] => (None, namespace, name),
        _ => return Err(error()),
    };
    let (kind, name, port) = match name.split_once(':') {
        None => (kind, name, None),
        // Only a Service has several ports.
        Some((name, port)) if matches!(kind, None | Some(Kind::Service)) => (Some(Kind::Service), name, Some(port)),
        Some(_) => return Err(error()),
    };
    if !is_name(namespace) || !is_name(name) || port.is_some_and(|port| !is_name(port)) {
        return Err(error());
    }
    let port = port.map(str::to_owned);
    Ok(ClusterReference { kind, namespace: namespace.to_owned(), name: name.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_four_forms() {
        for (text, expected) in [
            ("/apis/l7mp.io/v1/namespaces/default/targets/uds-cluster", "Target default/uds-cluster"),
            ("/l7mp.io/v1/Target/games/udp", "Target games/udp"),
            ("games/udp", "Target games/udp"),
            ("udp", "Target here/udp"),
        ] {
            assert_eq!(parse(text, Kind::Target, "here").unwrap().to_string(), expected, "{text}");
        }
        let route = parse("/apis/l7mp.io/v1/namespaces/a/routes/b", Kind::Route, "here").unwrap();
        assert_eq!(route.to_string(), "Route a/b");
    }

    #[test]
    fn accepts_what_can_be_dialled_in_all_its_forms() {
        for (text, kind, name, port) in [
            ("/apis/l7mp.io/v1/namespaces/a/targets/b", Some(Kind::Target), "a/b", None),
            ("/apis/l7mp.io/v1/namespaces/a/virtualservices/b", Some(Kind::VirtualService), "a/b", None),
            ("/l7mp.io/v1/Target/a/b", Some(Kind::Target), "a/b", None),
            ("/l7mp.io/v1/VirtualService/a/b", Some(Kind::VirtualService), "a/b", None),
            ("/api/v1/namespaces/a/services/b", Some(Kind::Service), "a/b", None),
            ("/api/v1/namespaces/a/services/b:53", Some(Kind::Service), "a/b", Some("53")),
            ("a/b", None, "a/b", None),
            ("b", None, "here/b", None),
            ("b:dns", Some(Kind::Service), "here/b", Some("dns")),
            ("a/b:53", Some(Kind::Service), "a/b", Some("53")),
        ] {
            let read = parse_cluster(text, "here").unwrap();
            let path = format!("{}/{}", read.namespace, read.name);
            assert_eq!((read.kind, path.as_str(), read.port.as_deref()), (kind, name, port), "{text}");
        }
    }

    #[test]
    fn rejects_what_cannot_be_dialled() {
        for text in [
            "",
            "a/",
            "a/b/c",
            "b:",
            ":53",
            "b:53:54",
            "b:5 3",
            "/apis/l7mp.io/v1/namespaces/a/routes/b",
            "/apis/l7mp.io/v1/namespaces/a/targets/b:53",
            "/l7mp.io/v1/Rule/a/b",
            "/api/v1/namespaces/a/pods/b",
        ] {
            assert_eq!(parse_cluster(text, "here"), Err(ClusterReferenceError(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn rejects_other_kinds_and_other_forms() {
        for text in ["/apis/l7mp.io/v1/namespaces/a/routes/b", "/l7mp.io/v1/Rule/a/b"] {
            assert!(matches!(parse(text, Kind::Target, "here"), Err(ReferenceError::Kind { .. })), "{text}");
        }
        for text in [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "Upper",
            "/apis/l7mp.io/v2/namespaces/a/targets/b",
            "/apis/l7mp.io/v1/namespaces//targets/b",
            "/apis/l7mp.io/v1/namespaces/a/targets/b/",
            "/l7mp.io/v1/Target/b",
        ] {
            assert!(matches!(parse(text, Kind::Target, "here"), Err(ReferenceError::Form { .. })), "{text}");
        }
    }
}
