//! The operator's CA and serving certificate: made, renewed, and read back. Pure: time in, PEM out.
//!
//! A CA is renewed in steps, so that no agent ever meets a certificate that it cannot verify: the next CA is
//! published beside the one that signs; `publish` later it signs, and the last one stays published as long again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

/// How far a clock may be behind ours.
const SKEW: Duration = Duration::from_secs(3600);

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
        let ca = make_ca(now, lifetimes)?;
        let serving = sign(&ca, names, now, lifetimes)?;
        Ok(Material { ca, next: None, previous: None, serving })
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
        let ca = Facts::read("ca.crt", &self.ca.certificate)?;
        let serving = Facts::read("tls.crt", &self.serving.certificate)?;
        server_config(&self.serving)?;
        let next = self.next.as_ref().map(|next| Facts::read("the next CA", &next.certificate)).transpose()?;
        if let (Some(pair), Some(facts)) = (&self.next, &next)
            && (facts.made() + lifetimes.publish <= now || ca.ends <= now)
        {
            let (serving, previous) = (sign(pair, names, now, lifetimes)?, self.ca.certificate.clone());
            return Ok(Some(Material { ca: pair.clone(), next: None, previous: Some(previous), serving }));
        }
        if self.previous.is_some() && serving.made() + lifetimes.publish <= now {
            return Ok(Some(Material { previous: None, ..self.clone() }));
        }
        if next.is_none() && self.previous.is_none() && ca.renewal() <= now {
            return Ok(Some(Material { next: Some(make_ca(now, lifetimes)?), ..self.clone() }));
        }
        if serving.renewal() <= now || !serving.is_for(names) || !serving.is_signed_by(&ca) {
            // A renewal would begin the time anew for which the last CA stays published; that does no harm.
            return Ok(Some(Material { serving: sign(&self.ca, names, now, lifetimes)?, ..self.clone() }));
        }
        Ok(None)
    }

    /// When [`Material::renew`] will have something to do.
    ///
    /// # Errors
    /// As for [`Material::renew`].
    pub fn due(&self, lifetimes: &Lifetimes) -> Result<SystemTime, CertificateError> {
        let ca = Facts::read("ca.crt", &self.ca.certificate)?;
        let serving = Facts::read("tls.crt", &self.serving.certificate)?;
        let step = match (&self.next, &self.previous) {
            (Some(next), _) => Facts::read("the next CA", &next.certificate)?.made() + lifetimes.publish,
            (None, Some(_)) => serving.made() + lifetimes.publish,
            (None, None) => ca.renewal(),
        };
        Ok(step.min(serving.renewal()))
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
pub fn server_config(serving: &Pair) -> Result<Arc<ServerConfig>, CertificateError> {
    let unusable = |what, message: String| CertificateError::Unusable { what, message };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(serving.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| unusable("tls.crt", error.to_string()))?;
    if chain.is_empty() {
        return Err(unusable("tls.crt", "there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(serving.key.as_bytes())
        .map_err(|error| unusable("tls.key", error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable("tls.crt", error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unusable("tls.key", error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn not_made(error: rcgen::Error) -> CertificateError {
    CertificateError::NotMade(error.to_string())
}

fn make_ca(now: SystemTime, lifetimes: &Lifetimes) -> Result<Pair, CertificateError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(not_made)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(not_made)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.remove(DnType::CommonName);
    // Two CAs are in force at once: each has a name of its own.
    let made = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    params.distinguished_name.push(DnType::CommonName, format!("l7mp-operator CA {made}"));
    (params.not_before, params.not_after) = validity(now, lifetimes.ca);
    let certificate = params.self_signed(&key).map_err(not_made)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

fn sign(ca: &Pair, names: &[String], now: SystemTime, lifetimes: &Lifetimes) -> Result<Pair, CertificateError> {
    let ca_key = KeyPair::from_pem(&ca.key)
        .map_err(|error| CertificateError::Unusable { what: "ca.key", message: error.to_string() })?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key)
        .map_err(|error| CertificateError::Unusable { what: "ca.crt", message: error.to_string() })?;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(not_made)?;
    let mut params = CertificateParams::new(names).map_err(not_made)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, "l7mp-operator");
    // Nothing outlives its CA.
    let left = Facts::read("ca.crt", &ca.certificate)?.ends.duration_since(now).unwrap_or_default();
    (params.not_before, params.not_after) = validity(now, lifetimes.serving.min(left));
    let certificate = params.signed_by(&key, &issuer).map_err(not_made)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

/// From a little before `now`, for clocks that are behind.
fn validity(now: SystemTime, lifetime: Duration) -> (OffsetDateTime, OffsetDateTime) {
    (OffsetDateTime::from(now - SKEW), OffsetDateTime::from(now + lifetime))
}

/// What a certificate says.
struct Facts {
    begins: SystemTime,
    ends: SystemTime,
    names: Vec<String>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    key: Vec<u8>,
    der: CertificateDer<'static>,
}

impl Facts {
    /// The first certificate of a PEM text.
    fn read(what: &'static str, pem: &str) -> Result<Facts, CertificateError> {
        let unusable = |message: String| CertificateError::Unusable { what, message };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| unusable(error.to_string()))?;
        let time = |time: x509_parser::time::ASN1Time| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
        };
        let names = certificate.subject_alternative_name().map_err(|error| unusable(error.to_string()))?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let names = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        Ok(Facts {
            begins: time(certificate.validity().not_before),
            ends: time(certificate.validity().not_after),
            names: names.collect(),
            subject: certificate.subject().as_raw().to_owned(),
            issuer: certificate.issuer().as_raw().to_owned(),
            key: certificate.public_key().subject_public_key.data.to_vec(),
            der: der.clone(),
        })
    }

    /// When it was made.
    fn made(&self) -> SystemTime {
        self.begins + SKEW
    }

    /// After two thirds of its life.
    fn renewal(&self) -> SystemTime {
        self.made() + self.ends.duration_since(self.made()).unwrap_or_default() * 2 / 3
    }

    fn is_for(&self, names: &[String]) -> bool {
        names.len() == self.names.len() && names.iter().all(|name| self.names.contains(name))
    }

    /// By name and by the signature.
    fn is_signed_by(&self, ca: &Facts) -> bool {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&self.der) else { return false };
        let ca_key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &ca.key);
        let signed = certificate.tbs_certificate.as_ref();
        self.issuer == ca.subject && ca_key.verify(signed, &certificate.signature_value.data).is_ok()
    }
}

impl std::fmt::Debug for Pair {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn names() -> Vec<String> {
        ["l7mp-operator.default.svc", "l7mp-operator"].map(str::to_owned).to_vec()
    }

    fn lifetimes() -> Lifetimes {
        Lifetimes { ca: HOUR * 900, serving: HOUR * 90, publish: HOUR * 10 }
    }

    /// Midnight, in whole seconds as certificates have them.
    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// Whether who trusts `bundle` believes what is shown.
    fn is_believed(bundle: &str, shown: &Material) -> bool {
        let leaf = Facts::read("tls.crt", &shown.serving.certificate).unwrap();
        bundle
            .split_inclusive("-----END CERTIFICATE-----")
            .filter(|text| text.contains("BEGIN"))
            .any(|text| Facts::read("ca.crt", text).is_ok_and(|ca| leaf.is_signed_by(&ca)))
    }

    #[test]
    fn nobody_ever_meets_a_certificate_that_the_published_bundle_does_not_cover() {
        let (names, lifetimes) = (names(), lifetimes());
        let mut material = Material::create(&names, start(), &lifetimes).unwrap();
        // What an agent read up to `publish` ago, and what a replica shows that is as far behind.
        let mut history = vec![(start(), material.clone())];
        let (mut rotations, mut signed) = (0, 0);
        for hour in 0..4000 {
            let now = start() + HOUR * hour;
            while let Some(renewed) = material.renew(&names, now, &lifetimes).unwrap() {
                assert!(material.due(&lifetimes).unwrap() <= now);
                rotations += usize::from(renewed.ca != material.ca);
                signed += usize::from(renewed.serving != material.serving);
                assert_ne!(renewed, material);
                material = renewed;
                history.push((now, material.clone()));
            }
            assert!(material.due(&lifetimes).unwrap() > now, "hour {hour}");
            let behind = now - (lifetimes.publish - HOUR);
            let old = history.iter().rev().find(|(at, _)| *at <= behind).unwrap_or(&history[0]);
            for (bundle, shown) in [(&material, &material), (&old.1, &material), (&material, &old.1)] {
                assert!(is_believed(&bundle.bundle(), shown), "hour {hour}");
            }
            assert!(material.bundle().matches("BEGIN").count() <= 2);
            let leaf = Facts::read("tls.crt", &material.serving.certificate).unwrap();
            assert!(leaf.begins <= now && leaf.ends > now + HOUR, "hour {hour}");
        }
        assert!(rotations >= 5 && signed > rotations * 5, "{rotations} {signed}");
    }

    #[test]
    fn a_serving_certificate_of_other_names_or_of_another_ca_is_made_anew() {
        let (names, lifetimes) = (names(), lifetimes());
        let material = Material::create(&names, start(), &lifetimes).unwrap();
        assert_eq!(material.renew(&names, start(), &lifetimes), Ok(None));
        let other = vec!["l7mp-operator.elsewhere.svc".to_owned()];
        let renewed = material.renew(&other, start(), &lifetimes).unwrap().unwrap();
        assert_eq!((&renewed.ca, renewed.serving == material.serving), (&material.ca, false));
        let stranger = Material::create(&names, start(), &lifetimes).unwrap();
        let mixed = Material { serving: stranger.serving, ..material.clone() };
        assert!(!is_believed(&mixed.bundle(), &mixed));
        let renewed = mixed.renew(&names, start(), &lifetimes).unwrap().unwrap();
        assert!(is_believed(&renewed.bundle(), &renewed));
    }

    #[test]
    fn an_operator_that_slept_through_everything_recovers_step_by_step() {
        let (names, lifetimes) = (names(), lifetimes());
        let mut material = Material::create(&names, start(), &lifetimes).unwrap();
        let now = start() + lifetimes.ca * 2;
        let mut steps = 0;
        while let Some(renewed) = material.renew(&names, now, &lifetimes).unwrap() {
            (material, steps) = (renewed, steps + 1);
            assert!(steps < 10);
        }
        let ca = Facts::read("ca.crt", &material.ca.certificate).unwrap();
        let leaf = Facts::read("tls.crt", &material.serving.certificate).unwrap();
        assert!(ca.ends > now && leaf.ends > now && leaf.is_signed_by(&ca));
    }

    #[test]
    fn what_is_no_certificate_is_told_by_its_name() {
        let material = Material::create(&names(), start(), &lifetimes()).unwrap();
        let wrong = |pair: Pair| server_config(&pair).unwrap_err().to_string();
        let serving = || material.serving.clone();
        assert!(wrong(Pair { certificate: String::new(), ..serving() }).starts_with("tls.crt is unusable"));
        assert!(wrong(Pair { key: "x".to_owned(), ..serving() }).starts_with("tls.key is unusable"));
        assert!(wrong(Pair { key: material.ca.key.clone(), ..serving() }).starts_with("tls.key is unusable"));
        assert!(server_config(&serving()).is_ok());
        let broken = Material { ca: Pair { certificate: "x".to_owned(), key: String::new() }, ..material.clone() };
        assert!(broken.renew(&names(), start(), &lifetimes()).unwrap_err().to_string().starts_with("ca.crt"));
        assert!(Material::create(&["ä ".to_owned()], start(), &lifetimes()).is_err());
        assert!(!format!("{material:?}").contains("PRIVATE"));
    }
}
