//! Certificates and keys of one cluster, made by openssl, and the kubeconfig files that carry them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::clean::tool;
use super::network::{API_SERVICE, Network};
use super::settings::API_PORT;

/// Who speaks to the API server: the name of the kubeconfig file, and the subject of the certificate.
const USERS: [(&str, &str); 6] = [
    ("admin", "/O=system:masters/CN=admin"),
    ("controller-manager", "/CN=system:kube-controller-manager"),
    ("scheduler", "/CN=system:kube-scheduler"),
    ("proxy", "/CN=system:kube-proxy"),
    ("kubelet", "/O=system:nodes/CN=system:node:node1"),
    ("dns", "/O=system:masters/CN=dns"),
];
const DAYS: &str = "3650";

/// Makes all of them in `directory`/pki, and `directory`/USER.kubeconfig.
pub fn make(directory: &Path, network: Network) -> Result<()> {
    let pki = directory.join("pki");
    fs::create_dir_all(&pki)?;
    let path = |name: &str| pki.join(name).display().to_string();
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let (ca_key, ca) = (path("ca.key"), path("ca.crt"));
    let own = ["req", "-x509", "-days", DAYS, "-subj", "/CN=l7mp-cluster", "-keyout", &ca_key, "-out", &ca];
    openssl(&[&own[..], &curve].concat())?;
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &path("service-accounts.key")])?;
    openssl(&["ec", "-in", &path("service-accounts.key"), "-pubout", "-out", &path("service-accounts.pub")])?;
    let sign = |name: &str, subject: &str, extensions: &str| -> Result<()> {
        let file = |end: &str| path(&format!("{name}.{end}"));
        let (key, request, certificate, lines) = (file("key"), file("csr"), file("crt"), file("ext"));
        fs::write(&lines, extensions)?;
        let ask = ["req", "-subj", subject, "-keyout", &key, "-out", &request];
        openssl(&[&ask[..], &curve].concat())?;
        let sign = ["x509", "-req", "-days", DAYS, "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        openssl(&[&sign[..], &["-extfile", &lines, "-out", &certificate]].concat())
    };
    let names = [
        format!("IP:{}", network.node()),
        format!("IP:{API_SERVICE}"),
        format!("IP:{}", Ipv4Addr::LOCALHOST),
        "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc".to_owned(),
        "DNS:kubernetes.default.svc.cluster.local".to_owned(),
    ];
    sign("server", "/CN=kube-apiserver", &format!("subjectAltName={}\n", names.join(",")))?;
    for (user, subject) in USERS {
        sign(user, subject, "extendedKeyUsage=clientAuth\n")?;
        let data = |name: &str| -> Result<String> {
            Ok(STANDARD.encode(fs::read(path(name)).with_context(|| format!("no {name}"))?))
        };
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "l7mp", "cluster": {
                "server": format!("https://{}:{API_PORT}", network.node()),
                "certificate-authority-data": data("ca.crt")?,
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": data(&format!("{user}.crt"))?,
                "client-key-data": data(&format!("{user}.key"))?,
            }}],
            "contexts": [{"name": "l7mp", "context": {"cluster": "l7mp", "user": user}}],
            "current-context": "l7mp",
        });
        // JSON is YAML.
        fs::write(directory.join(format!("{user}.kubeconfig")), serde_json::to_vec_pretty(&config)?)?;
    }
    Ok(())
}

fn openssl(arguments: &[&str]) -> Result<()> {
    tool("openssl", arguments).map(drop)
}
