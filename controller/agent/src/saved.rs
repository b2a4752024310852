//! The file beside the admin socket: the last configuration that the proxy acknowledged, for a start without an
//! operator, and for `l7mpctl explain`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use l7mp_link::client::Bytes;
use l7mp_link::limits::FROM_OPERATOR_BYTES_MAX;
use l7mp_link::{Origin, Version};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The shape of the file; another one is not read.
const FORMAT: u32 = 1;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Which configuration it is.
    pub version: Version,
    /// The pod that it was for.
    pub pod: Pod,
    /// The proxy that acknowledged it.
    pub proxy: Proxy,
    /// The pod is being deleted.
    pub drain: bool,
    /// Where the document's parts come from.
    pub origins: Vec<Origin>,
    /// JSON.
    pub document: Bytes,
}

/// A pod; a UID is never used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its `metadata.uid`.
    pub uid: String,
}

/// A process, and what it calls its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// Random at each start.
    pub instance: String,
    /// `config_version` of its admin API.
    pub config_version: u64,
}

#[derive(Serialize, Deserialize)]
struct Layout<'a> {
    format: u32,
    version: Version,
    pod: Pod,
    proxy: Proxy,
    drain: bool,
    origins: Vec<Origin>,
    #[serde(borrow)]
    document: &'a RawValue,
}

impl Saved {
    /// Reads the file. `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn read(path: &Path) -> io::Result<Option<Saved>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(2 * FROM_OPERATOR_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        let layout: Layout<'_> = serde_json::from_slice(&bytes)?;
        if layout.format != FORMAT {
            let message = format!("it has format {}, and this program reads format {FORMAT}", layout.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let document = Bytes::copy_from_slice(layout.document.get().as_bytes());
        let Layout { version, pod, proxy, drain, origins, .. } = layout;
        Ok(Some(Saved { version, pod, proxy, drain, origins, document }))
    }

    /// Writes the file: beside, synced, then renamed, so that it is never half of one. Only its owner may read it.
    ///
    /// # Errors
    /// When it cannot be written, or the document is no JSON.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let document: &RawValue = serde_json::from_slice(&self.document)?;
        let layout = Layout {
            format: FORMAT,
            version: self.version,
            pod: self.pod.clone(),
            proxy: self.proxy.clone(),
            drain: self.drain,
            origins: self.origins.clone(),
            document,
        };
        let mut bytes = serde_json::to_vec(&layout)?;
        bytes.push(b'\n');
        let beside = path.with_extension("new");
        // One that a crash left may have another mode.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The name is on the disk once its directory is.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn saved() -> Saved {
        Saved {
            version: Version { epoch: u64::MAX, term: 7, sequence: 42 },
            pod: Pod { namespace: "default".to_owned(), name: "gateway-0".to_owned(), uid: "u-1".to_owned() },
            proxy: Proxy { instance: "a1b2".to_owned(), config_version: 3 },
            drain: false,
            origins: vec![Origin {
                path: "clusters[0]".to_owned(),
                object: "Target default/echo".to_owned(),
                at: "spec.cluster".to_owned(),
            }],
            document: Bytes::from_static(br#"{"clusters":[{"name":"echo","spec":{"Echo":{}}}]}"#),
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_by_its_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("saved.json");
        assert_eq!(Saved::read(&path).unwrap(), None);
        std::fs::write(path.with_extension("new"), "half of").unwrap();
        for drain in [false, true] {
            let saved = Saved { drain, ..saved() };
            saved.write(&path).unwrap();
            assert_eq!(Saved::read(&path).unwrap(), Some(saved));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_something_else_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("saved.json");
        for text in ["", "{", "[]", r#"{"format":2}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(Saved::read(&path).is_err(), "{text}");
        }
        saved().write(&path).unwrap();
        let later = std::fs::read_to_string(&path).unwrap().replace(r#""format":1"#, r#""format":9"#);
        std::fs::write(&path, later).unwrap();
        assert!(Saved::read(&path).unwrap_err().to_string().contains("format 9"));
        let no_json = Saved { document: Bytes::from_static(b"listeners: []"), ..saved() };
        assert!(no_json.write(&path).is_err());
    }

    #[test]
    fn it_is_the_file_that_l7mpctl_explains() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("saved.json");
        let explained = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datapath/ctl/tests/golden/saved.json");
        let saved = Saved::read(Path::new(explained)).unwrap().unwrap();
        saved.write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), std::fs::read_to_string(explained).unwrap());
    }
}
