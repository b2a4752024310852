use std::fs;
use std::sync::Arc;

use l7mp_link::certificates::Material;
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::testing::Time;
use super::super::{LIFETIMES, Settings};
use super::*;

type Tls = watch::Receiver<Option<Arc<ServerConfig>>>;

struct Mounted {
    dir: TempDir,
    time: Time,
}

impl Mounted {
    fn new() -> Mounted {
        Mounted { dir: TempDir::new().unwrap(), time: Time::new() }
    }

    fn make(&self, namespace: &str) -> Material {
        Material::create(&Settings::new(namespace).names(), self.time.now(), &LIFETIMES).unwrap()
    }

    fn write(&self, certificate: &str, key: &str, ca: &str) {
        fs::write(self.dir.path().join("tls.crt"), certificate).unwrap();
        fs::write(self.dir.path().join("tls.key"), key).unwrap();
        fs::write(self.dir.path().join("ca.crt"), ca).unwrap();
    }

    fn read(&self) -> Result<(Reader, Tls), Fault> {
        let path = |name: &str| self.dir.path().join(name);
        let files = Files { certificate: path("tls.crt"), key: path("tls.key"), ca: path("ca.crt") };
        let shown = Shown::new();
        let tls = shown.tls();
        let names = vec![Settings::new("l7mp").names().remove(0)];
        Ok((Reader::new(files, names, self.time.clock(), shown)?, tls))
    }
}

fn write(mounted: &Mounted, material: &Material) {
    mounted.write(&material.serving.certificate, &material.serving.key, &material.ca.certificate);
}

#[test]
fn accepts_certificates_that_agents_accept() {
    let mounted = Mounted::new();
    let material = mounted.make("l7mp");
    write(&mounted, &material);
    let (reader, tls) = mounted.read().unwrap();
    assert!(tls.borrow().is_some());
    assert_eq!(reader.shown.bundle().borrow().as_deref(), Some(material.ca.certificate.as_str()));
}

#[test]
fn rejects_certificates_that_agents_would_not_accept_and_says_why() {
    let mounted = Mounted::new();
    let (good, other, elsewhere) = (mounted.make("l7mp"), mounted.make("l7mp"), mounted.make("elsewhere"));
    let serving = &good.serving;
    let cases = [
        (serving.certificate.as_str(), other.serving.key.as_str(), good.ca.certificate.as_str(), ""),
        (&serving.certificate, &serving.key, &other.ca.certificate, "agents would not accept"),
        (
            &elsewhere.serving.certificate,
            &elsewhere.serving.key,
            &elsewhere.ca.certificate,
            "agents would not accept the certificate for l7mp-operator.l7mp.svc",
        ),
        (&serving.certificate, &serving.key, "", "the CA holds no certificate"),
        ("", &serving.key, &good.ca.certificate, "the serving certificate holds no certificate"),
        (&serving.certificate, "", &good.ca.certificate, ""),
        (&serving.certificate, &serving.key, "-----BEGIN CERTIFICATE-----\nnot", ""),
    ];
    for (number, (certificate, key, ca, message)) in cases.into_iter().enumerate() {
        mounted.write(certificate, key, ca);
        let fault = mounted.read().err().unwrap_or_else(|| panic!("case {number} is accepted"));
        assert!(fault.to_string().contains(message), "case {number}: {fault}");
    }
    write(&mounted, &good);
    mounted.time.pass(LIFETIMES.serving * 2);
    assert!(mounted.read().err().unwrap().to_string().contains("tls.crt: agents would not accept"));
    fs::remove_file(mounted.dir.path().join("tls.key")).unwrap();
    assert!(mounted.read().err().unwrap().to_string().starts_with("cannot read "));
}

#[test]
fn what_changes_is_read_again_and_what_is_bad_is_not_taken() {
    let mounted = Mounted::new();
    let (first, second) = (mounted.make("l7mp"), mounted.make("l7mp"));
    write(&mounted, &first);
    let (mut reader, mut tls) = mounted.read().unwrap();
    let bundle = reader.shown.bundle();
    tls.mark_unchanged();
    reader.turn();
    assert!(!tls.has_changed().unwrap(), "nothing has changed");

    mounted.write(&second.serving.certificate, &first.serving.key, &second.ca.certificate);
    reader.turn();
    assert!(!tls.has_changed().unwrap(), "half of a change is not taken");
    assert!(reader.trouble.is_some());
    assert_eq!(bundle.borrow().as_deref(), Some(first.ca.certificate.as_str()));

    write(&mounted, &second);
    reader.turn();
    assert!(tls.has_changed().unwrap() && reader.trouble.is_none());
    assert_eq!(bundle.borrow().as_deref(), Some(second.ca.certificate.as_str()));
}
