//! The metadata of a session, in the original's shape; rewrites; and the balancing key that is read from it.
//!
//! It is built only when somebody asks: a rule that rewrites, a cluster that balances by a path, or the admin API.

use std::net::IpAddr;

use l7mp_api::config::Rewrite;
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use crate::session::{Session, Source};
use crate::snapshot::ListenerProtocol;
use crate::verdict::Downstream;

/// The metadata of a session after the rewrites of its rule.
pub fn of(session: &Session) -> Value {
    let mut value = base(session);
    if let Some((rule, _)) = &session.decided {
        rewrite(&mut value, &rule.rewrite);
    }
    value
}

/// The metadata before any rewrite.
fn base(session: &Session) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), session.name().into());
    match &session.source {
        Source::Udp(downstream) => addresses(&mut map, "UDP", downstream),
        Source::Stream(downstream) => addresses(&mut map, "TCP", downstream),
        Source::Unix => {
            map.insert("UNIX".into(), json!({ "listener": &*session.listener.name }));
        }
        Source::UnixDgram(peer) => {
            map.insert("UNIX".into(), json!({ "listener": &*session.listener.name, "filename": peer.to_string() }));
        }
    }
    if let (Some(request), ListenerProtocol::WebSocket { .. }) = (&session.request, &session.listener.protocol) {
        let headers: Map<String, Value> =
            request.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        let (path, query) = (request.path(), request.query());
        map.insert(
            "HTTP".into(),
            json!({
                "version": "1.1",
                "method": "GET",
                "url": {
                    "url": request.target,
                    "protocol": "ws",
                    "host": request.host,
                    "path": path,
                    "query": query,
                },
                "headers": headers,
            }),
        );
    }
    Value::Object(map)
}

fn addresses(map: &mut Map<String, Value>, transport: &str, downstream: &Downstream) {
    let (peer, local) = (downstream.peer.socket_addr(), downstream.local.socket_addr());
    map.insert("IP".into(), json!({ "src_addr": peer.ip().to_string(), "dst_addr": local.ip().to_string() }));
    map.insert(transport.into(), json!({ "src_port": peer.port(), "dst_port": local.port() }));
}

/// Segments of a path; leading and trailing slash are optional.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The value at a path.
pub fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    segments(path).try_fold(value, |value, segment| match value {
        Value::Object(map) => map.get(segment),
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// Applies rewrites in order; what a path lacks on the way is created, and what is not an object there is replaced.
pub fn rewrite(value: &mut Value, rewrites: &[Rewrite]) {
    for rewrite in rewrites {
        let target = segments(&rewrite.path).fold(&mut *value, |value, segment| enter(value, segment));
        *target = rewrite.value.clone();
    }
}

/// The place of one segment, made when it is not there.
fn enter<'a>(value: &'a mut Value, segment: &str) -> &'a mut Value {
    if let Some(index) = array_index(value, segment) {
        let Value::Array(items) = value else { return value };
        if items.len() <= index {
            items.resize(index + 1, Value::Null);
        }
        return &mut items[index];
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map.entry(segment).or_insert(Value::Null),
        other => other,
    }
}

/// An index into an array that is there, or that a numeric segment makes out of nothing.
fn array_index(value: &mut Value, segment: &str) -> Option<usize> {
    /// A rewrite may make an array this long.
    const INDEX_MAX: usize = 1024;
    let index = segment.parse::<usize>().ok().filter(|&index| index <= INDEX_MAX)?;
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.is_array().then_some(index)
}

/// A balancing key.
pub type Key = SmallVec<[u8; 32]>;

/// A session's balancing key: the value at `path`, or source address and port where there is none.
pub fn key(session: &Session, path: Option<&str>) -> Key {
    let Some(path) = path else { return default_key(session) };
    let metadata = of(session);
    match lookup(&metadata, path) {
        Some(Value::String(text)) => Key::from_slice(text.as_bytes()),
        Some(Value::Null) | None => default_key(session),
        Some(other) => Key::from_slice(other.to_string().as_bytes()),
    }
}

/// Source address (4 or 16 bytes) and port (2 bytes, big endian); for a Unix peer, which has neither, its name or
/// its session's.
fn default_key(session: &Session) -> Key {
    match &session.source {
        Source::Udp(downstream) | Source::Stream(downstream) => {
            let peer = downstream.peer.socket_addr();
            let mut key = Key::new();
            match peer.ip() {
                IpAddr::V4(ip) => key.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => key.extend_from_slice(&ip.octets()),
            }
            key.extend_from_slice(&peer.port().to_be_bytes());
            key
        }
        Source::UnixDgram(name) => Key::from_slice(name.to_string().as_bytes()),
        Source::Unix => Key::from_slice(session.name().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(path: &str, value: Value) -> Rewrite {
        Rewrite { path: path.into(), value }
    }

    #[test]
    fn rewrites_make_what_is_missing() {
        let mut value = json!({ "IP": { "src_addr": "127.0.0.1" } });
        rewrite(
            &mut value,
            &[constant("/labels/a/1", json!("x")), constant("IP/src_addr/", json!(5)), constant("/b/c", json!({}))],
        );
        assert_eq!(value, json!({ "IP": { "src_addr": 5 }, "labels": { "a": [null, "x"] }, "b": { "c": {} } }));
    }

    #[test]
    fn a_rewrite_of_the_root_replaces_everything() {
        let mut value = json!({ "a": 1 });
        rewrite(&mut value, &[constant("/", json!({ "b": 2 }))]);
        assert_eq!(value, json!({ "b": 2 }));
    }

    #[test]
    fn a_huge_index_is_a_name() {
        let mut value = json!({});
        rewrite(&mut value, &[constant("/a/99999999999", json!(1))]);
        assert_eq!(value, json!({ "a": { "99999999999": 1 } }));
    }

    #[test]
    fn lookups() {
        let value = json!({ "a": [ { "b": "c" } ] });
        assert_eq!(lookup(&value, "/a/0/b"), Some(&json!("c")));
        assert_eq!(lookup(&value, "a/0/b/"), Some(&json!("c")));
        assert_eq!(lookup(&value, "/a/1/b"), None);
        assert_eq!(lookup(&value, "/a/0/b/c"), None);
    }
}
