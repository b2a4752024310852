//! `l7mp-controller`: compiles resources for each proxy, and pushes them to its admin socket.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use l7mp_admin::AdminSocket;
use l7mp_compiler::compile::{HeldBack, View, compile};
use l7mp_compiler::object::PodName;
use l7mp_controller::local::{self, Directory};
use l7mp_controller::operator;
use l7mp_controller::operator::cli::{Cli as Operator, Crds, LogFormat};
use l7mp_controller::push::{Pusher, Timing};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples, in a checkout of the repository:
  A directory of manifests. The proxies' Pod objects must be in it too; a cluster's are what
  `kubectl get pods -o yaml` prints:

      mkdir -p /tmp/l7mp/manifests
      cp deploy/examples/first-task/*.yaml /tmp/l7mp/manifests
      cp controller/compiler/tests/golden/first-task/pods.yaml /tmp/l7mp/manifests

  What the gateway would be told, without any proxy:

      l7mp-controller compile --manifests /tmp/l7mp/manifests --proxy default/gateway

  A gateway and a transcoder of this machine, kept at these manifests. Two proxies whose admin sockets
  are the files named here must run, or are waited for:

      l7mp-controller local --manifests /tmp/l7mp/manifests \\
          --proxy default/gateway=/tmp/l7mp/gateway.sock \\
          --proxy default/transcoder=/tmp/l7mp/transcoder.sock

The log goes to stderr; RUST_LOG sets its level (default info). What the client of the API server says
itself is left out unless RUST_LOG names it, as in RUST_LOG=info,kube_client=debug.";

/// Compiles l7mp resources for each proxy, and pushes them to its admin socket.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take the manifests of a directory, and keep the proxies of this machine at them.
    Local(Local),
    /// Print the document that one proxy would get, and what is wrong with the manifests on stderr; exits
    /// with 1 when anything is.
    Compile(Compile),
    Operator(Operator),
    Crds(Crds),
}

#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct Local {
    /// Directory of YAML files (.yaml, .yml, .json; below it too): VirtualServices, Targets, Routes, Rules,
    /// and Pods, Services and EndpointSlices as `kubectl get -o yaml` prints them. The proxies' Pod objects must be
    /// under it. Changes are followed; write a file beside and rename it, so that no half of it is seen.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// A proxy: the Pod that it belongs to and its admin socket. Once for each proxy. The Pod object must be
    /// under DIR, for its labels; until it is, nothing is pushed to the proxy.
    #[arg(long = "proxy", value_name = "NAMESPACE/POD=SOCKET", required = true)]
    proxies: Vec<Proxy>,
    /// End as soon as every proxy has acknowledged its configuration.
    #[arg(long)]
    once: bool,
}

#[derive(Args)]
struct Compile {
    /// Directory of YAML files, as for `local`.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// The Pod that the proxy belongs to; the Pod object must be under DIR.
    #[arg(long, value_name = "NAMESPACE/POD")]
    proxy: PodName,
}

/// A proxy of this machine.
#[derive(Clone)]
struct Proxy {
    pod: PodName,
    socket: PathBuf,
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pod, socket) = text
            .split_once('=')
            .filter(|(_, socket)| !socket.is_empty())
            .ok_or("write NAMESPACE/POD=SOCKET, for example default/gateway=/run/l7mp/admin.sock")?;
        let pod = pod.parse::<PodName>().map_err(|error| error.to_string())?;
        Ok(Proxy { pod, socket: PathBuf::from(socket) })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match &cli.command {
        Command::Operator(operator) => operator.log,
        Command::Local(_) | Command::Compile(_) | Command::Crds(_) => LogFormat::Text,
    };
    start_log(format);
    let result = match cli.command {
        Command::Local(local) => run_local(local),
        Command::Compile(request) => run_compile(&request),
        Command::Operator(operator) => run_operator(&operator),
        Command::Crds(crds) => crds.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    let said = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = EnvFilter::try_new(directives(&said)).unwrap_or_else(|_| EnvFilter::new(directives("")));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// What RUST_LOG says, or `info`; without what the client of the API server says of its connections, unless that is
/// named: the operator says it once, and what follows from it.
fn directives(said: &str) -> String {
    let mut directives = if said.trim().is_empty() { "info".to_owned() } else { said.to_owned() };
    let named: Vec<&str> = said.split(',').filter_map(|said| said.trim().split(['=', '[']).next()).collect();
    for target in ["kube_client", "kube_runtime"] {
        if !named.iter().any(|name| !name.is_empty() && target.starts_with(name)) {
            directives += &format!(",{target}=off");
        }
    }
    directives
}

fn run_operator(request: &Operator) -> anyhow::Result<()> {
    // A long turn of the loop holds one thread; the Lease is renewed on another.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.send_replace(true);
            // Whoever waits looks at the value; the sender stays for the second signal, which ends at once.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
        operator::run(request, stopped).await
    })
}

fn run_compile(request: &Compile) -> anyhow::Result<()> {
    let mut directory = Directory::open(&request.manifests)?;
    directory.give_proxies([request.proxy.clone()]);
    let compiled = compile(directory.world(), &request.proxy, &View::alone(&HeldBack::new()))?;
    for report in &compiled.reports {
        tracing::warn!("{report}");
    }
    println!("{}", serde_json::to_string_pretty(&compiled.config)?);
    match directory.faults().count() + compiled.reports.len() {
        0 => Ok(()),
        1 => bail!("one thing is wrong with the manifests, see above"),
        faults => bail!("{faults} things are wrong with the manifests, see above"),
    }
}

fn run_local(request: Local) -> anyhow::Result<()> {
    for (index, proxy) in request.proxies.iter().enumerate() {
        if let Some(other) =
            request.proxies[..index].iter().find(|other| other.pod == proxy.pod || other.socket == proxy.socket)
        {
            bail!(
                "two proxies share a pod or a socket: {}={} and {}={}",
                other.pod,
                other.socket.display(),
                proxy.pod,
                proxy.socket.display(),
            );
        }
    }
    let mut directory = Directory::open(&request.manifests)?;
    directory.give_proxies(request.proxies.iter().map(|proxy| proxy.pod.clone()));
    if request.once {
        // The directory is read once, so a Pod that is missing now is missing for good.
        for proxy in &request.proxies {
            compile(directory.world(), &proxy.pod, &View::alone(&HeldBack::new()))?;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(serve(request, directory))
}

async fn serve(request: Local, directory: Directory) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let (sender, worlds) = watch::channel(Arc::new(directory.world().clone()));
    let mut pushers = JoinSet::new();
    for proxy in request.proxies {
        let admin = AdminSocket::new(proxy.socket);
        let pusher = Pusher::new(proxy.pod, admin, worlds.clone(), Timing::default());
        if request.once {
            pushers.spawn(pusher.run_once());
        } else {
            pushers.spawn(pusher.run());
        }
    }
    drop(worlds);
    let following = async {
        match request.once {
            true => std::future::pending().await,
            false => local::follow(directory, sender).await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        result = following => result.context("cannot follow the directory"),
        results = pushers.join_all() => {
            drop(results);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_of_the_api_server_is_quiet_unless_it_is_named() {
        for (said, filter) in [
            ("", "info,kube_client=off,kube_runtime=off"),
            ("info", "info,kube_client=off,kube_runtime=off"),
            ("debug,kube_client=warn", "debug,kube_client=warn,kube_runtime=off"),
            ("info, kube_runtime", "info, kube_runtime,kube_client=off"),
            ("kube=trace", "kube=trace"),
            ("l7mp_controller=debug", "l7mp_controller=debug,kube_client=off,kube_runtime=off"),
        ] {
            assert_eq!(directives(said), filter);
            assert!(EnvFilter::try_new(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn what_is_appended_silences_the_client_and_nobody_else() {
        let written = Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        let log = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(directives("info")))
            .with_writer(move || Kept(Arc::clone(&kept)));
        tracing::subscriber::with_default(log.finish(), || {
            tracing::error!(target: "kube_client::client", "of the client");
            tracing::error!(target: "kube_runtime::watcher", "of the client");
            tracing::info!("of ours");
        });
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.contains("of ours") && !text.contains("of the client"), "{text}");
    }

    struct Kept(Arc<std::sync::Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
