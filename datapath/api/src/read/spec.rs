//! `spec` in its two spellings: `{UDP: {port: 9001}}` and `{protocol: UDP, port: 9001}`.

use serde_json::Value;

use super::fields::Fields;
use super::{quoted_list, scalars};
use crate::path::Path;
use crate::problem::{Problems, quoted};
use crate::suggest::did_you_mean;

/// Kinds of the original that a later version will have.
const LATER: [&str; 12] = [
    "HTTP",
    "JSONSocket",
    "Stdio",
    "Logger",
    "JSONEncap",
    "JSONDecap",
    "Sync",
    "L7mpController",
    "Prometheus",
    "Metric",
    "Test",
    "STDIO-fork",
];

/// Finds the protocol and has its fields read. `None`: there is none, or not a known one, or its fields are no object.
pub(crate) fn spec<T>(
    value: &Value,
    at: &Path<'_>,
    problems: &mut Problems,
    kinds: &[&'static str],
    read: impl FnOnce(&'static str, &mut Fields<'_>) -> T,
) -> Option<T> {
    let Value::Object(map) = value else {
        problems.push(at, format!("expected an object, not {}", scalars::kind(value)));
        return None;
    };
    if let Some(protocol) = map.get("protocol") {
        let at_protocol = at.key("protocol");
        let protocol = scalars::text(protocol, &at_protocol, problems)?;
        let kind = known(protocol, &at_protocol, problems, kinds)?;
        let mut fields = Fields::open(value, at, problems)?;
        fields.ignore("protocol");
        let spec = read(kind, &mut fields);
        fields.finish();
        return Some(spec);
    }
    let mut entries = map.iter();
    let (Some((protocol, body)), None) = (entries.next(), entries.next()) else {
        let found = if map.is_empty() {
            "it is empty".to_owned()
        } else {
            format!("it has {}", quoted_list(map.keys().take(8).map(String::as_str)))
        };
        problems.push(at, format!("expected exactly one protocol, as in {{{}: {{...}}}}, but {found}", kinds[0]));
        return None;
    };
    let at_body = at.key(protocol);
    let kind = known(protocol, &at_body, problems, kinds)?;
    let mut fields = Fields::open_or_null(body, &at_body, problems)?;
    let spec = read(kind, &mut fields);
    fields.finish();
    Some(spec)
}

fn known(protocol: &str, at: &Path<'_>, problems: &mut Problems, kinds: &[&'static str]) -> Option<&'static str> {
    if let Some(kind) = kinds.iter().find(|kind| **kind == protocol) {
        return Some(kind);
    }
    if LATER.contains(&protocol) {
        problems.push(at, format!("{protocol} is not supported yet"));
        return None;
    }
    let mut hint = did_you_mean(problems, protocol, kinds.iter().copied());
    if hint.is_empty() {
        hint = format!("; known are {}", kinds.join(", "));
    }
    problems.push(at, format!("no protocol {}{hint}", quoted(protocol)));
    None
}
