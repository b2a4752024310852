//! Who may connect, and by which certificates.
//!
//! ```text
//! Secret l7mp-operator-tls  <->  Keeper (the leader writes)  ->  Shown: rustls configuration  ->  the port
//!   or files of your own     ->  Reader                      ->         CA bundle             ->  Publisher (the leader)
//!                                                                                                   -> ConfigMaps l7mp-ca
//! an agent's token          ->  Review: TokenReview, the pod's UID and addresses              ->  Identity
//! ```
//!
//! # Rights
//!
//! What this module asks of the API server, and nothing else. Everything is written by server-side apply, whose
//! requests carry the name even where they create: so `create`, too, is granted for one name only.
//!
//! | role | group, resource | names | verbs |
//! |---|---|---|---|
//! | ClusterRole | `authentication.k8s.io` `tokenreviews` | | `create` |
//! | ClusterRole | `configmaps` | `l7mp-ca` | `list`, `watch`, `create`, `patch` |
//! | ClusterRole | `rbac.authorization.k8s.io` `clusterroles` | `l7mp-operator` | `get` |
//! | Role of the operator's namespace | `secrets` | `l7mp-operator-tls` | `get`, `create`, `patch` |
//! | Role of the operator's namespace | `apps` `deployments` | `l7mp-operator` | `get` |
//!
//! With certificates of your own those of the Secret are not needed. The Deployment, which owns it, owns the Lease too.

mod certificates;
mod files;
pub(super) mod owner;
mod publish;
pub mod review;
mod secret;
mod shown;
#[cfg(test)]
mod testing;
mod verify;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use l7mp_link::certificates::Lifetimes;
use l7mp_link::server::Authority;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use certificates::Clock;
pub use files::Files;
pub use publish::{KEY as CA_KEY, NAME as CA_NAME};
pub use review::{AUDIENCE, PodAddresses, Pods, Review};
pub use verify::Fault;

/// The name of the operator's Deployment, Service and ClusterRole.
pub(super) const OPERATOR: &str = "l7mp-operator";
/// Who applies: the owner of the fields that the operator writes.
const FIELD_MANAGER: &str = "l7mp-controller";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "l7mp-operator";
/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const DAY: Duration = Duration::from_secs(86_400);

/// A CA of one year and a serving certificate of 90 days, each renewed after two thirds; both CAs are published for a
/// day before the next one signs, and for a day after that.
pub const LIFETIMES: Lifetimes =
    Lifetimes { ca: DAY.saturating_mul(365), serving: DAY.saturating_mul(90), publish: DAY };

/// What is to be settled before the start.
#[derive(Clone)]
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// Certificates of your own, instead of those that the leader makes.
    pub files: Option<Files>,
    /// Whether a token is good only from its pod's addresses.
    pub check_address: bool,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// The time.
    pub clock: Clock,
}

impl Settings {
    /// For an operator in this namespace, with certificates of its own making and all checks.
    pub fn new(namespace: &str) -> Settings {
        Settings {
            namespace: namespace.to_owned(),
            files: None,
            check_address: true,
            lifetimes: LIFETIMES,
            clock: Arc::new(SystemTime::now),
        }
    }

    /// The names that the operator's certificate is for; agents verify the first.
    pub fn names(&self) -> Vec<String> {
        let namespace = &self.namespace;
        vec![format!("{OPERATOR}.{namespace}.svc"), format!("{OPERATOR}.{namespace}"), OPERATOR.to_owned()]
    }
}

/// What [`start`] started; everything ends when it is dropped.
pub struct Trust {
    authority: Arc<Review>,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    bundle: watch::Receiver<Option<Arc<str>>>,
    tasks: JoinSet<()>,
}

/// Starts what keeps certificates, ConfigMaps and reviews. `leads` is whether this replica may write now;
/// `namespaces` are those that have a pod with a proxy, pending pods included.
///
/// # Errors
/// When certificates of your own are not usable.
pub fn start(
    client: &Client,
    settings: Settings,
    leads: watch::Receiver<bool>,
    namespaces: watch::Receiver<BTreeSet<String>>,
    pods: Arc<dyn Pods>,
) -> Result<Trust, Fault> {
    let authority = Arc::new(Review::new(client.clone(), pods, settings.check_address));
    let names = settings.names();
    let shown = shown::Shown::new();
    let (tls, bundle) = (shown.tls(), shown.bundle());
    let mut tasks = JoinSet::new();
    match settings.files {
        Some(files) => {
            let agents_name = names.into_iter().take(1).collect();
            let reader = files::Reader::new(files, agents_name, settings.clock, shown)?;
            tasks.spawn(reader.run());
        }
        None => {
            let Settings { namespace, lifetimes, clock, .. } = settings;
            let keeper = certificates::Keeper::new(client, &namespace, names, lifetimes, clock, shown);
            tasks.spawn(keeper.run(leads.clone()));
        }
    }
    tasks.spawn(publish::Publisher::new(client.clone(), bundle.clone(), namespaces, leads).run());
    Ok(Trust { authority, tls, bundle, tasks })
}

impl Trust {
    /// Judges agents' tokens.
    pub fn authority(&self) -> Arc<dyn Authority> {
        self.authority.clone()
    }

    /// What the port shows, once there is something: a replica that does not lead waits for the leader's Secret.
    /// `None` when everything here has ended.
    pub async fn tls(&self) -> Option<watch::Receiver<Arc<ServerConfig>>> {
        let mut shown = self.tls.clone();
        let first = shown.wait_for(Option::is_some).await.ok()?.clone()?;
        let (sender, receiver) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = shown.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                if let Some(config) = shown.borrow_and_update().clone() {
                    sender.send_replace(config);
                }
            }
        });
        Some(receiver)
    }

    /// What agents are to trust (PEM, one certificate or more); `None` until there is something.
    pub fn bundle(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.bundle.clone()
    }

    /// Ends everything, and waits until it has ended.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}
