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
