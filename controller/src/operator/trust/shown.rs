//! What the operator shows on its port, and what agents are to trust: the same material, handed to two readers.

use std::sync::Arc;

use l7mp_link::certificates::{self, Pair};
use rustls::ServerConfig;
use tokio::sync::watch;

use super::verify::{self, Fault};

/// Where the material in use is kept. Nobody is woken by material that is the same.
#[derive(Debug)]
pub(super) struct Shown {
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    bundle: watch::Sender<Option<Arc<str>>>,
    serving: Option<Pair>,
}

impl Shown {
    pub(super) fn new() -> Shown {
        Shown { tls: watch::Sender::new(None), bundle: watch::Sender::new(None), serving: None }
    }

    /// What the port shows; `None` until there is something.
    pub(super) fn tls(&self) -> watch::Receiver<Option<Arc<ServerConfig>>> {
        self.tls.subscribe()
    }

    /// What agents are to trust (PEM); `None` until there is something.
    pub(super) fn bundle(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.bundle.subscribe()
    }

    /// Whether anything is shown.
    pub(super) fn is_empty(&self) -> bool {
        self.serving.is_none()
    }

    /// Shows this from now on: new connections get `serving`, agents are to trust `bundle` (PEM).
    ///
    /// # Errors
    /// When the two are not usable together; what was shown stays.
    pub(super) fn show(&mut self, serving: &Pair, bundle: &str) -> Result<(), Fault> {
        verify::is_pem(bundle, "the CA")?;
        if self.serving.as_ref() != Some(serving) {
            let config = certificates::server_config(serving).map_err(|error| Fault::Unusable(error.to_string()))?;
            self.tls.send_replace(Some(config));
            self.serving = Some(serving.clone());
        }
        self.bundle.send_if_modified(|shown| {
            let is_new = shown.as_deref() != Some(bundle);
            if is_new {
                *shown = Some(Arc::from(bundle));
            }
            is_new
        });
        Ok(())
    }
}
