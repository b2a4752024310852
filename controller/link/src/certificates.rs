//! The operator's CA and serving certificate: made, renewed, and read back. Pure: time in, PEM out.
//!
//! A CA is renewed in steps, so that no agent ever meets a certificate that it cannot verify: the next CA is
//! published beside the one that signs; `publish` later it signs, and the last one stays published as long again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A certificate and its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate (a serving one may be followed by its chain).
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// All that the operator's Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    /// The CA that signs.
    pub ca: Pair,
    /// The CA that will sign, published already.
    pub next: Option<Pair>,
    /// The certificate of the CA that signed before, published still.
    pub previous: Option<String>,
    /// What the operator shows.
    pub serving: Pair,
}

/// How long things live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A CA certificate; renewed after two thirds.
    pub ca: Duration,
    /// A serving certificate; renewed after two thirds.
    pub serving: Duration,
    /// How long a CA is published before it signs, and after it signed last.
    pub publish: Duration,
}

impl Default for Lifetimes {
    /// Ten years, 90 days, one day.
    fn default() -> Lifetimes {
        const DAY: Duration = Duration::from_secs(86_400);
        Lifetimes { ca: DAY * 3650, serving: DAY * 90, publish: DAY }
    }
}

/// Why certificates cannot be made or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// A PEM text is not what it should be.
    #[error("{what} is unusable: {message}")]
    Unusable {
        /// `ca.crt`, `tls.key`, ...
        what: &'static str,
        /// Why.
        message: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    NotMade(String),
}

impl Material {
    /// A new CA and a serving certificate for these DNS names.
    ///
    /// # Errors
    /// When a name is none, or the system has no randomness.
    pub fn create(names: &[String], now: SystemTime, lifetimes: &Lifetimes) -> Result<Material, CertificateError> {
        let _ = (names, now, lifetimes);
        Err(CertificateError::NotMade("not yet".to_owned()))
    }

    /// The next step that is due at `now`, taken: `None` when nothing is. Takes one step at a time; call it again
    /// after the new material is stored and published.
    ///
    /// # Errors
    /// When the material cannot be read: make new, since no agent can use it either.
    pub fn renew(
        &self,
        names: &[String],
        now: SystemTime,
        lifetimes: &Lifetimes,
    ) -> Result<Option<Material>, CertificateError> {
        let _ = (names, now, lifetimes);
        Ok(None)
    }

    /// When [`Material::renew`] will have something to do.
    ///
    /// # Errors
    /// As for [`Material::renew`].
    pub fn due(&self, lifetimes: &Lifetimes) -> Result<SystemTime, CertificateError> {
        let _ = lifetimes;
        Err(CertificateError::NotMade("not yet".to_owned()))
    }

    /// What agents are to trust: `ca.crt` of the ConfigMaps, one certificate or two.
    pub fn bundle(&self) -> String {
        let others = self.next.iter().map(|next| &next.certificate).chain(&self.previous);
        [&self.ca.certificate].into_iter().chain(others).map(String::as_str).collect()
    }
}

/// What the operator shows on its port: TLS 1.3, HTTP/2. For your own certificates too.
///
/// # Errors
/// When the PEM texts hold no certificate and key, or the two do not belong together.
pub fn server_config(serving: &Pair) -> Result<Arc<rustls::ServerConfig>, CertificateError> {
    let _ = serving;
    Err(CertificateError::NotMade("not yet".to_owned()))
}

impl std::fmt::Debug for Pair {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
