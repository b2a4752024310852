//! What a request's path and query mean.

use std::collections::HashMap;

use hyper::Method;
use percent_encoding::percent_decode_str;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `/api/v1/config`
    Config,
    /// `/api/v1/listeners` and its like; with a name, one of them.
    Objects(Kind, Option<String>),
    /// `/api/v1/sessions`
    Sessions,
    /// `/api/v1/sessions/{name}`
    Session(String),
    /// `/api/v1/info`
    Info,
    /// `/api/v1/drain`
    Drain,
    /// `/metrics`
    Metrics,
    /// `/healthz`
    Health,
    /// `/readyz`
    Ready,
}

/// Kinds of objects that a document has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Listener,
    Cluster,
    Route,
    Rule,
    RuleList,
}

impl Kind {
    /// As messages say it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Listener => "listener",
            Kind::Cluster => "cluster",
            Kind::Route => "route",
            Kind::Rule => "rule",
            Kind::RuleList => "rule list",
        }
    }
}

/// Who asks: the admin socket's owner, or anyone who reaches `--http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Unix,
    Tcp,
}

impl Place {
    /// The place that a path names; `None`: there is none. Names are percent-decoded as a whole and may hold slashes.
    pub(super) fn parse(path: &str, door: Door) -> Option<Place> {
        match path {
            "/metrics" => return Some(Place::Metrics),
            "/healthz" => return Some(Place::Health),
            "/readyz" => return Some(Place::Ready),
            _ if door == Door::Tcp => return None,
            _ => {}
        }
        let rest = path.strip_prefix("/api/v1/")?;
        let (collection, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = percent_decode_str(name).decode_utf8().ok()?.into_owned();
        let name = Some(name).filter(|name| !name.is_empty());
        match (collection, name) {
            ("config", None) => Some(Place::Config),
            ("info", None) => Some(Place::Info),
            ("drain", None) => Some(Place::Drain),
            ("sessions", None) => Some(Place::Sessions),
            ("sessions", Some(name)) => Some(Place::Session(name)),
            ("listeners", name) => Some(Place::Objects(Kind::Listener, name)),
            ("clusters", name) => Some(Place::Objects(Kind::Cluster, name)),
            ("routes", name) => Some(Place::Objects(Kind::Route, name)),
            ("rules", name) => Some(Place::Objects(Kind::Rule, name)),
            ("rulelists", name) => Some(Place::Objects(Kind::RuleList, name)),
            _ => None,
        }
    }

    /// What may be done there.
    pub(super) fn methods(&self) -> &'static [Method] {
        match self {
            Place::Config => &[Method::GET, Method::HEAD, Method::PUT],
            Place::Session(_) => &[Method::GET, Method::HEAD, Method::DELETE],
            Place::Drain => &[Method::POST],
            Place::Objects(..) | Place::Sessions | Place::Info | Place::Metrics | Place::Health | Place::Ready => {
                &[Method::GET, Method::HEAD]
            }
        }
    }
}

/// The parameters of a query by name.
///
/// # Errors
///
/// What to tell the client: a parameter that is not `known`, or given twice.
pub(super) fn parameters(query: Option<&str>, known: &[&'static str]) -> Result<HashMap<&'static str, String>, String> {
    let mut parameters = HashMap::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(&name) = known.iter().find(|known| **known == name) else {
            return Err(match known {
                [] => format!("unknown parameter {name:?}: none is known here"),
                _ => format!("unknown parameter {name:?}: known are {}", known.join(", ")),
            });
        };
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{name} is not UTF-8"))?;
        if parameters.insert(name, value.into_owned()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_places() {
        let named = |kind, name: &str| Some(Place::Objects(kind, Some(name.to_owned())));
        let table = [
            ("/api/v1/config", Some(Place::Config)),
            ("/api/v1/listeners", Some(Place::Objects(Kind::Listener, None))),
            ("/api/v1/listeners/", Some(Place::Objects(Kind::Listener, None))),
            ("/api/v1/clusters/a%2Fb", named(Kind::Cluster, "a/b")),
            ("/api/v1/clusters/a/b", named(Kind::Cluster, "a/b")),
            ("/api/v1/routes//apis/l7mp.io/v1/x", named(Kind::Route, "/apis/l7mp.io/v1/x")),
            ("/api/v1/rules/%e2%82%ac", named(Kind::Rule, "\u{20ac}")),
            ("/api/v1/rulelists/x", named(Kind::RuleList, "x")),
            ("/api/v1/sessions", Some(Place::Sessions)),
            ("/api/v1/sessions/UDP:[::1]:5-[::]:6-1", Some(Place::Session("UDP:[::1]:5-[::]:6-1".to_owned()))),
            ("/api/v1/sessions/UDP:%5B::1%5D:5-x-1", Some(Place::Session("UDP:[::1]:5-x-1".to_owned()))),
            ("/api/v1/rules/%ff", None),
            ("/api/v1/config/x", None),
            ("/api/v1/endpoints", None),
            ("/api/v2/config", None),
            ("/", None),
            ("", None),
        ];
        for (path, place) in table {
            assert_eq!(Place::parse(path, Door::Unix), place, "{path}");
        }
    }

    #[test]
    fn tcp_sees_metrics_health_and_readiness_only() {
        for path in ["/metrics", "/healthz", "/readyz"] {
            let place = Place::parse(path, Door::Tcp).unwrap();
            assert_eq!(place.methods(), [Method::GET, Method::HEAD]);
        }
        for path in ["/api/v1/config", "/api/v1/info", "/api/v1/sessions", "/api/v1/drain", "/metrics/"] {
            assert_eq!(Place::parse(path, Door::Tcp), None, "{path}");
        }
    }

    #[test]
    fn queries_are_checked() {
        let known = &["listener", "limit"];
        let read = parameters(Some("listener=a%2Fb&limit=5&"), known).unwrap();
        assert_eq!((read["listener"].as_str(), read["limit"].as_str()), ("a/b", "5"));
        assert!(parameters(None, known).unwrap().is_empty());
        assert_eq!(
            parameters(Some("page=1"), known).unwrap_err(),
            r#"unknown parameter "page": known are listener, limit"#
        );
        assert_eq!(parameters(Some("limit=1&limit=2"), known).unwrap_err(), "limit is given twice");
    }
}
