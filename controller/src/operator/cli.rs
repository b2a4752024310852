//! The command line of `l7mp-controller operator` and `l7mp-controller crds`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, bail};
use clap::{ArgAction, Args, ValueEnum};
use l7mp_crds::CrdFile;

const EXAMPLES: &str = "\
Examples:
  In a pod (the chart sets the variables from the downward API):

      l7mp-controller operator

  Outside of a cluster that has no operator, with the rights of the kubeconfig: objects get a status. Beside an
  operator it may come to lead, and agents, which cannot reach it, would get nothing new:

      l7mp-controller operator --namespace default --pod laptop --address 127.0.0.1 \\
          --listen 127.0.0.1:7800 --http 127.0.0.1:7801

  Is it well, is it ready, what does it do:

      curl localhost:7801/healthz localhost:7801/readyz localhost:7801/metrics

The API server is that of the pod's service account, or of KUBECONFIG or ~/.kube/config. The log goes to stderr;
RUST_LOG sets its level (default info).";

const CRDS_EXAMPLES: &str = "\
Examples:
  The kinds, for a cluster without Helm:

      l7mp-controller crds | kubectl apply --server-side -f -

  One file for each kind:

      l7mp-controller crds --out /tmp/crds";

/// Keep the proxies of a cluster at its custom resources: watches, compiles, tells the agents beside the proxies,
/// and writes every object's status. Several replicas may run; the holder of a Lease works, the others wait.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Cli {
    /// Where agents connect: gRPC over TLS.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:7800", env = "L7MP_LISTEN")]
    pub listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz are served, without TLS.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:7801", env = "L7MP_HTTP")]
    pub http: SocketAddr,
    /// The operator's namespace: of its Lease, its Secret and its Service.
    #[arg(long, value_name = "NAMESPACE", default_value = "default", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// The name of this replica, unique among them.
    #[arg(long, value_name = "POD", env = "POD_NAME")]
    pub pod: String,
    /// The address of this replica that the others tell agents while it leads.
    #[arg(long, value_name = "ADDRESS", env = "POD_IP")]
    pub address: std::net::IpAddr,
    /// The Lease whose holder leads.
    #[arg(long, value_name = "NAME", default_value = "l7mp-operator", env = "L7MP_LEASE")]
    pub lease: String,
    /// Whether an agent's token is good only from an address of its pod. Only for networks that translate the
    /// addresses between pods: false.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, env = "L7MP_CHECK_AGENT_ADDRESS")]
    pub check_agent_address: bool,
    /// Certificates of your own: the PEM file of the serving certificate, for the DNS name
    /// l7mp-operator.NAMESPACE.svc, with its chain. It is read again when it changes. Absent: the operator makes its
    /// own, and keeps them in the Secret l7mp-operator-tls.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"], env = "L7MP_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The PEM file of the private key of --tls-cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "L7MP_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// The PEM file of the CA that agents are to trust with --tls-cert; it is published to their namespaces.
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "L7MP_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// How the log is written.
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "L7MP_LOG")]
    pub log: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Cli {
    /// What names this replica as the holder of the Lease: `POD@ADDRESS:PORT`.
    pub fn identity(&self, port: u16) -> String {
        format!("{}@{}", self.pod, SocketAddr::new(self.address, port))
    }
}

/// Print the CustomResourceDefinitions of the four kinds, or write them into files.
#[derive(Args, Clone, Debug)]
#[command(after_help = CRDS_EXAMPLES)]
pub struct Crds {
    /// A directory for one file of each kind, made if it is not there; absent: all go to stdout.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// As templates of a Helm chart, with the policy to keep them when the release goes.
    #[arg(long)]
    pub helm: bool,
}

impl Crds {
    /// Prints or writes them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn run(&self) -> anyhow::Result<()> {
        let files = if self.helm { l7mp_crds::helm() } else { l7mp_crds::yaml() };
        match &self.out {
            Some(directory) => write(directory, &files),
            None => {
                for file in files {
                    println!("---\n{}", file.text.trim_end());
                }
                Ok(())
            }
        }
    }
}

fn write(directory: &Path, files: &[CrdFile]) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
    for file in files {
        let path = directory.join(&file.name);
        match fs::read_to_string(&path) {
            Ok(text) if text == file.text => continue,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => bail!("cannot read {}: {error}", path.display()),
        }
        fs::write(&path, &file.text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{} written", path.display());
    }
    Ok(())
}
