//! The file that `l7mp-agent` keeps: as much of it as is told.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// The shape that this program reads.
const FORMAT: u64 = 1;
/// Bytes of the file: a document and its origins are at most 12 MiB.
const BYTES_MAX: u64 = 32 << 20;

/// What the operator told the proxy.
#[derive(Debug, Deserialize)]
pub(super) struct Saved {
    pub(super) version: Version,
    pub(super) pod: Pod,
    #[serde(default)]
    pub(super) drain: bool,
    #[serde(default)]
    origins: Vec<Origin>,
    pub(super) document: Value,
}

/// The operator's version.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Version {
    /// Counts leaders.
    term: u64,
    /// Counts a leader's configurations.
    sequence: u64,
}

/// Whose proxy.
#[derive(Debug, Deserialize)]
pub(super) struct Pod {
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Origin {
    path: String,
    object: String,
    at: String,
}

/// Where a part comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct From {
    /// `VirtualService default/gateway-vsvc`
    pub(super) object: String,
    /// Path in the object.
    pub(super) path: String,
}

impl Saved {
    /// Reads the file, or says what its absence means.
    pub(super) fn read(file: &Path) -> Result<Saved, Error> {
        let path = file.display();
        let failed = |source| Error::File { path: file.to_owned(), source };
        let opened = match std::fs::File::open(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::Usage(format!(
                    "there is no {path}: no l7mp-agent keeps this proxy, or it has acknowledged nothing yet; \
                     l7mpctl get config prints what the proxy has, --saved FILE names another file"
                )));
            }
            opened => opened.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        opened.take(BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let wrong = |what: String| Error::Usage(format!("{path} is not what l7mp-agent writes: {what}"));
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if value["format"] != FORMAT {
            return Err(wrong(format!("its format is {}, not {FORMAT}", value["format"])));
        }
        serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
    }

    /// The parts of one kind, each with its path in the document.
    pub(super) fn parts<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (String, &'a Value)> {
        let parts = self.document[kind].as_array().map(Vec::as_slice).unwrap_or_default();
        parts.iter().enumerate().map(move |(index, part)| (format!("{kind}[{index}]"), part))
    }

    /// Where a path of the document comes from: the innermost part that contains it.
    pub(super) fn from(&self, path: &str) -> Option<From> {
        let below =
            |prefix: &str| path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        let found = self.origins.iter().filter_map(|origin| below(&origin.path).map(|rest| (rest, origin)));
        let (rest, origin) = found.min_by_key(|(rest, _)| rest.len())?;
        Some(From { object: origin.object.clone(), path: format!("{}{rest}", origin.at) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.sequence)
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
