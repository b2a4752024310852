//! What of a document is other than what the proxy runs.

use std::collections::BTreeMap;
use std::fmt;

use l7mp_api::Config;
use serde::Serialize;
use serde_json::Value;

/// One part that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// `listeners`, `clusters`, ...
    pub(super) kind: String,
    /// Its name; empty for what has none.
    pub(super) name: String,
    /// How.
    pub(super) how: How,
}

/// How a part is not the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    /// The operator sent it, the proxy does not run it.
    NotRun,
    /// The proxy runs it, the operator did not send it.
    NotSent,
    /// The proxy runs another one of the name.
    Other,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            How::NotRun => "was sent and does not run",
            How::NotSent => "runs and was not sent",
            How::Other => "runs otherwise than it was sent",
        };
        write!(f, "{} {}: {how}", self.kind, self.name)
    }
}

/// Compares what was sent with what runs, both in the canonical spelling.
pub(super) fn differences(sent: &Value, running: &Config) -> Vec<Difference> {
    let running = running.to_value();
    let sent = match Config::from_value(sent) {
        Ok(sent) => sent.to_value(),
        // An operator of a later version has sent what this program does not know.
        Err(_) => sent.clone(),
    };
    let (sent, running) = (by_name(&sent), by_name(&running));
    let mut found = Vec::new();
    for ((kind, name), part) in &sent {
        let how = match running.get(&(kind.clone(), name.clone())) {
            Some(other) if other == part => continue,
            Some(_) => How::Other,
            None => How::NotRun,
        };
        found.push(Difference { kind: kind.clone(), name: name.clone(), how });
    }
    for (kind, name) in running.keys().filter(|key| !sent.contains_key(key)) {
        found.push(Difference { kind: kind.clone(), name: name.clone(), how: How::NotSent });
    }
    found
}

/// The parts of a document by kind and name.
fn by_name(document: &Value) -> BTreeMap<(String, String), &Value> {
    let mut parts = BTreeMap::new();
    for (kind, value) in document.as_object().into_iter().flatten() {
        match value.as_array() {
            Some(list) => {
                let named = |part: &Value| part["name"].as_str().unwrap_or_default().to_owned();
                parts.extend(list.iter().map(|part| ((kind.clone(), named(part)), part)));
            }
            None => {
                parts.insert((kind.clone(), String::new()), value);
            }
        }
    }
    parts
}
