//! Keeps the proxies of a cluster at its custom resources.
//!
//! ```text
//! watch (a task per kind)  --Change-->            --News-->       status writer --> Events
//! agents' port (l7mp-link) --FromAgent-->   run   --Sender-->     each agent
//! lease                    --Standing-->  (Fleet) --Leadership--> agents' port
//! http /healthz            --Tick-->              --Pods-->       trust: tokens, certificates, ConfigMaps
//! ```
//!
//! One task owns the fleet ([`run`]); the others only carry. Every replica watches and is ready when its caches are
//! filled; the holder of the Lease ([`lease`]) compiles, serves agents and writes.
//!
//! # Rights
//!
//! What the operator asks of the API server, besides what [`trust`] says of itself, and nothing else:
//!
//! | role | group, resource | names | verbs |
//! |---|---|---|---|
//! | ClusterRole | `l7mp.io` `virtualservices`, `targets`, `routes`, `rules` | | `list`, `watch` |
//! | ClusterRole | `l7mp.io` `virtualservices/status`, `targets/status`, `routes/status`, `rules/status` | | `patch` |
//! | ClusterRole | (core) `pods`, `services` | | `list`, `watch` |
//! | ClusterRole | `discovery.k8s.io` `endpointslices` | | `list`, `watch` |
//! | ClusterRole | `events.k8s.io` `events` | | `create` |
//! | Role of its namespace | `coordination.k8s.io` `leases` | `l7mp-operator` | `get`, `update` |
//! | Role of its namespace | `coordination.k8s.io` `leases` | | `create` |
//!
//! `create` of a Lease cannot be granted by name: the request does not carry one.

pub mod cli;
pub mod events;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod pods;
pub mod read;
pub mod run;
pub mod status;
pub mod trust;
pub mod watch;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use l7mp_fleet::Fleet;
use l7mp_link::server::{Authority, Counters, FromAgent, Leadership};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch as cell};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use cli::Cli;
use events::Events;
use http::Pages;
use lease::{Candidate, Standing};
use metrics::Metrics;
use pods::Pods;
use run::{Inputs, Operator, Outputs};

/// Changes of the cluster that wait for the loop; the watches wait when there are more.
const CHANGES_MAX: usize = 1_024;

/// What agents said and the loop has not heard yet; their streams wait when there is more.
const SAID_MAX: usize = 1_024;

/// The first connection to the API server is waited for so long before another is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits of the fleet.
const FLEET_TIMING: l7mp_fleet::Timing = l7mp_fleet::Timing {
    debounce: Duration::from_millis(50),
    linger: Duration::from_secs(10),
    grace: Duration::from_secs(30),
};

/// The longest end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Works until `stop` is true.
///
/// # Errors
/// When a port is taken, there is no API server to be found, or a part of the operator has ended unasked.
pub async fn run(cli: &Cli, stop: cell::Receiver<bool>) -> anyhow::Result<()> {
    let client = client().await?;
    let agents_port = listen(cli.listen).await.context("--listen")?;
    let http_port = listen(cli.http).await.context("--http")?;
    let identity = cli.identity(agents_port.local_addr()?.port());
    tracing::info!("{identity}: agents at {}, metrics at {}", agents_port.local_addr()?, http_port.local_addr()?);

    let metrics = Arc::<Metrics>::default();
    let pods = Pods::default();
    let (changes_sender, changes) = mpsc::channel(CHANGES_MAX);
    let (said_sender, agents) = mpsc::channel(SAID_MAX);
    let (news_sender, news) = mpsc::unbounded_channel();
    let (ticks_sender, ticks) = mpsc::channel(1);
    let leadership = cell::Sender::new(Leadership::Nobody);
    let synced = cell::Sender::new(false);

    let leases: Api<Lease> = Api::namespaced(client.clone(), &cli.namespace);
    let candidate = Candidate::new(leases, &cli.lease, &identity, lease::Timing::default(), Arc::clone(&metrics))
        .owned_by(Api::namespaced(client.clone(), &cli.namespace));
    let (standing, overtaken) = (candidate.standing(), candidate.overtaken());
    let trust =
        trust::start(&client, trust_settings(cli), leads(standing.clone()), pods.namespaces(), Arc::new(pods.clone()))?;
    let link = Arc::<Counters>::default();

    let mut parts = Parts::default();
    let watches = watch::start(&client, &changes_sender, &metrics);
    drop(changes_sender);
    parts.start("a watch", async move { drop(watches.join_all().await) });
    let pages = Pages {
        metrics: Arc::clone(&metrics),
        link: Arc::clone(&link),
        synced: synced.subscribe(),
        ticks: ticks_sender,
    };
    parts.start("the HTTP port", http::serve(http_port, pages));
    let events = Events::start(client.clone(), &cli.pod, Arc::clone(&metrics));
    parts.start("the writer of status", status::run(client, news, standing.clone(), events, Arc::clone(&metrics)));
    let agents_port = AgentsPort { listener: agents_port, leadership: leadership.subscribe(), said: said_sender, link };
    let elected = parts.elect(candidate, synced.subscribe(), stop.clone());
    let outputs = Outputs { pods, news: news_sender, leadership, overtaken, synced, metrics };
    let operator = Operator::new(Fleet::new(FLEET_TIMING), outputs);
    parts.start("the loop", operator.run(Inputs { changes, agents, standing, ticks }));
    parts.start("the agents' port", async move {
        match trust.tls().await {
            Some(tls) => agents_port.serve(trust.authority(), tls).await,
            None => tracing::error!("there is no certificate to show"),
        }
    });
    parts.wait(stop, elected).await
}

fn trust_settings(cli: &Cli) -> trust::Settings {
    let files = match (&cli.tls_cert, &cli.tls_key, &cli.tls_ca) {
        (Some(certificate), Some(key), Some(ca)) => {
            Some(trust::Files { certificate: certificate.clone(), key: key.clone(), ca: ca.clone() })
        }
        _ => None,
    };
    let check_address = cli.check_agent_address;
    trust::Settings { files, check_address, ..trust::Settings::new(&cli.namespace) }
}

/// The API server of the pod's service account or of the kubeconfig. Requests are not tried again below us: each
/// caller knows better for how long, and after which pause.
async fn client() -> anyhow::Result<kube::Client> {
    let mut config =
        kube::Config::infer().await.context("no API server: neither a service account nor a kubeconfig")?;
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    tracing::info!("API server {}", config.cluster_url);
    kube::Client::try_from(config).context("no client for the API server")
}

/// Listens; on a machine without IPv6, `[::]` means `0.0.0.0`.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && is_without_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen at {address}"))
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
}

/// Whether this replica may write.
fn leads(mut standing: cell::Receiver<Standing>) -> cell::Receiver<bool> {
    let may_write = |standing: &Standing| matches!(standing, Standing::Mine { renewed: true, .. });
    let leads = cell::Sender::new(may_write(&standing.borrow_and_update()));
    let receiver = leads.subscribe();
    tokio::spawn(async move {
        while standing.changed().await.is_ok() {
            leads.send_replace(may_write(&standing.borrow_and_update()));
        }
    });
    receiver
}

/// The port of the agents, before it is served.
struct AgentsPort {
    listener: TcpListener,
    leadership: cell::Receiver<Leadership>,
    said: mpsc::Sender<FromAgent>,
    link: Arc<Counters>,
}

impl AgentsPort {
    async fn serve(self, authority: Arc<dyn Authority>, tls: cell::Receiver<Arc<rustls::ServerConfig>>) {
        let AgentsPort { listener, leadership, said, link } = self;
        if let Err(error) = l7mp_link::server::serve(listener, tls, authority, leadership, said, link).await {
            tracing::error!("the agents' port: {error}");
        }
    }
}

/// The tasks of the operator. None of them ends by itself: a process without one of them would look alive.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<&'static str>,
}

impl Parts {
    fn start(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Takes part in the election once the caches are filled: a leader without objects would take everything down.
    fn elect(
        &self,
        candidate: Candidate,
        mut synced: cell::Receiver<bool>,
        stop: cell::Receiver<bool>,
    ) -> JoinHandle<()> {
        let mut stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                filled = synced.wait_for(|synced| *synced) => if filled.is_err() { return },
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            candidate.run(stop).await;
        })
    }

    async fn wait(mut self, stop: cell::Receiver<bool>, mut elected: JoinHandle<()>) -> anyhow::Result<()> {
        let mut stopped = stop.clone();
        tokio::select! {
            ended = self.tasks.join_next() => match ended {
                Some(Ok(name)) => bail!("{name} has ended; this is a fault of the operator"),
                Some(Err(error)) => bail!("a part of the operator has failed: {error}"),
                None => bail!("the operator has no parts"),
            },
            result = &mut elected => match result {
                Ok(()) if *stop.borrow() => {}
                Ok(()) => bail!("the election has ended; this is a fault of the operator"),
                Err(error) => bail!("the election has failed: {error}"),
            },
            _ = stopped.wait_for(|stop| *stop) => {
                tracing::info!("stopping");
                // The Lease goes back first, so that another replica is there when the agents look for one.
                if timeout(STOP_MAX, elected).await.is_err() {
                    tracing::warn!("the Lease was not handed back in time");
                }
            }
        }
        self.tasks.shutdown().await;
        Ok(())
    }
}
