//! Whether agents will accept a certificate: the same verification that theirs is.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;

/// Why certificates are of no use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// It cannot be read, or has no parts.
    #[error("{0}")]
    Unusable(String),
    /// An agent would not accept the serving certificate for a name of the operator.
    #[error("agents would not accept the certificate for {name}: {message}")]
    Refused {
        /// The name that agents know the operator by.
        name: String,
        /// Why.
        message: String,
    },
    /// It begins to be valid later than now: it is good, and a clock is wrong.
    #[error("the certificate is not valid yet: the clock of this node, or of the one that made it, is wrong")]
    NotYetValid,
}

/// That this is PEM with at least one certificate in it; `what` names it.
pub(super) fn is_pem(text: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Fault::Unusable(format!("{what} is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(Fault::Unusable(format!("{what} holds no certificate (BEGIN CERTIFICATE ... in PEM)")));
    }
    Ok(certificates)
}

/// That a client that trusts `bundle` accepts `serving` (certificate, then its chain) for every name at `now`.
pub(super) fn accepts(bundle: &str, serving: &str, names: &[String], now: SystemTime) -> Result<(), Fault> {
    let mut roots = RootCertStore::empty();
    for root in is_pem(bundle, "the CA")? {
        roots.add(root).map_err(|error| Fault::Unusable(format!("the CA is no CA certificate: {error}")))?;
    }
    let chain = is_pem(serving, "the serving certificate")?;
    let (first, rest) = chain.split_first().expect("at least one certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Fault::Unusable(format!("the CA is unusable: {error}")))?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
    for name in names {
        let refused = |message: String| Fault::Refused { name: name.clone(), message };
        let server = ServerName::try_from(name.clone()).map_err(|error| refused(error.to_string()))?;
        match verifier.verify_server_cert(first, rest, &server, &[], now) {
            Ok(_) => {}
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidYet | rustls::CertificateError::NotValidYetContext { .. },
            )) => return Err(Fault::NotYetValid),
            Err(error) => return Err(refused(error.to_string())),
        }
    }
    Ok(())
}
