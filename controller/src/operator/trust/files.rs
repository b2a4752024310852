//! Certificates of your own, from files that are read again when they change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use l7mp_link::certificates::Pair;

use super::certificates::Clock;
use super::shown::Shown;
use super::verify::{self, Fault};

/// The files are read so often: a mounted Secret changes without notice.
const POLL: Duration = Duration::from_secs(10);

/// Where certificates of your own are; all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The serving certificate, then its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA or CAs that agents are to trust.
    pub ca: PathBuf,
}

/// Keeps [`Shown`] at what the files hold.
pub(super) struct Reader {
    files: Files,
    names: Vec<String>,
    clock: Clock,
    shown: Shown,
    trouble: Option<Fault>,
}

impl Reader {
    /// Reads the files once.
    ///
    /// # Errors
    /// When a file cannot be read, or agents would not accept the certificate.
    pub(super) fn new(files: Files, names: Vec<String>, clock: Clock, shown: Shown) -> Result<Reader, Fault> {
        let mut reader = Reader { files, names, clock, shown, trouble: None };
        reader.read()?;
        Ok(reader)
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(POLL).await;
            self.turn();
        }
    }

    /// Reads the files again; what was shown stays while they are bad.
    pub(super) fn turn(&mut self) {
        let trouble = self.read().err();
        if let Some(fault) = trouble.as_ref().filter(|fault| self.trouble.as_ref() != Some(fault)) {
            tracing::error!("the certificate files are not used, those read before are: {fault}");
        }
        self.trouble = trouble;
    }

    fn read(&mut self) -> Result<(), Fault> {
        let certificate = text(&self.files.certificate)?;
        let key = text(&self.files.key)?;
        let ca = text(&self.files.ca)?;
        verify::accepts(&ca, &certificate, &self.names, (self.clock)())
            .map_err(|fault| Fault::Unusable(format!("{}: {fault}", self.files.certificate.display())))?;
        self.shown.show(&Pair { certificate, key }, &ca)
    }
}

fn text(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|error| Fault::Unusable(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
