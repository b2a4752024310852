//! The files that others write for the agent: its token (the kubelet), and whom to trust (the operator, by way of
//! the kubelet). Both are replaced while it runs, and may be missing at first.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use l7mp_link::client::{ClientConfig, LinkError, tls_config};
use l7mp_link::limits::TOKEN_BYTES_MAX;

/// Bytes of a CA file: two certificates are 2 KiB.
const CA_BYTES_MAX: usize = 256 << 10;

/// Why a file cannot be used; it may come to be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {what} {}: {source}{}", path.display(), hint(source))]
    Unreadable {
        /// The flag.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{what} {}: {message}", path.display())]
    Unusable {
        /// The flag.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; it is waited for",
        _ => "",
    }
}

/// The token, as the file has it now.
///
/// # Errors
/// When there is none in it.
pub fn token(path: &Path) -> Result<String, FileError> {
    let unusable = |message: &str| FileError::Unusable { what: "--token", path: path.into(), message: message.into() };
    let bytes = read("--token", path, TOKEN_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| unusable("it is not text"))?;
    match text.trim() {
        "" => Err(unusable("it is empty")),
        token => Ok(token.to_owned()),
    }
}

/// Whom to trust; what was read last is kept while the file is the same.
#[derive(Debug)]
pub struct Trust {
    path: PathBuf,
    last: Option<(Vec<u8>, Arc<ClientConfig>)>,
}

impl Trust {
    /// Names the file; nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Trust {
        Trust { path: path.into(), last: None }
    }

    /// As the file is now.
    ///
    /// # Errors
    /// When no certificate can be read from it.
    pub fn read(&mut self) -> Result<Arc<ClientConfig>, FileError> {
        let bytes = read("--ca", &self.path, CA_BYTES_MAX)?;
        match &self.last {
            Some((last, config)) if *last == bytes => Ok(Arc::clone(config)),
            _ => {
                let config = tls_config(&bytes).map_err(|error: LinkError| FileError::Unusable {
                    what: "--ca",
                    path: self.path.clone(),
                    message: error.to_string(),
                })?;
                self.last = Some((bytes, Arc::clone(&config)));
                Ok(config)
            }
        }
    }
}

fn read(what: &'static str, path: &Path, bytes_max: usize) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| FileError::Unreadable { what, path: path.into(), source })?;
    if bytes.len() > bytes_max {
        let message = format!("it is longer than {bytes_max} bytes");
        return Err(FileError::Unusable { what, path: path.into(), message });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("token");
        assert!(token(&path).unwrap_err().to_string().ends_with("it is waited for"));
        for (bytes, said) in [(&b" \n"[..], "it is empty"), (b"\xff", "it is not text"), (&[b'x'; 20_000], "longer")] {
            std::fs::write(&path, bytes).unwrap();
            assert!(token(&path).unwrap_err().to_string().contains(said));
        }
        std::fs::write(&path, "a.b.c\n").unwrap();
        assert_eq!(token(&path).unwrap(), "a.b.c");
        let mut trust = Trust::new(&path);
        assert!(trust.read().unwrap_err().to_string().contains("there is no certificate in it"));
    }
}
