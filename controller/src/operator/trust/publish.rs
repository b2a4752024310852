//! The ConfigMap `l7mp-ca` in every namespace that has a pod with a proxy, so that agents know whom to trust.
//!
//! The leader applies it where it is missing or differs, and puts back what others change: one watch of the maps of
//! that one name says so. Maps of namespaces that have no proxy any more stay, and are kept up to date: the next pod
//! there mounts them before anybody could write. They go away with the chart's ClusterRole.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{self, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{FIELD_MANAGER, MANAGED_BY, MANAGER, OPERATOR, REQUEST_TIMEOUT, owner};

/// The ConfigMap's name, in every namespace with a proxy.
pub const NAME: &str = "l7mp-ca";
/// The key of its only entry.
pub const KEY: &str = "ca.crt";

/// While the watch fails, all maps are applied again so often; and the owner is looked for again.
const CHECK: Duration = Duration::from_secs(60);
/// How long the maps that are there are waited for before all are applied.
const LISTED: Duration = Duration::from_secs(3);
/// Requests under way at once.
const REQUESTS_MAX: usize = 4;
/// A namespace whose map cannot be applied is tried again after so long, doubled each time ...
const BACKOFF: Duration = Duration::from_secs(1);
/// ... up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

type Events = Pin<Box<dyn Stream<Item = Result<watcher::Event<ConfigMap>, watcher::Error>> + Send>>;

/// Keeps the maps; see the module's documentation.
pub(super) struct Publisher {
    client: Client,
    bundle: watch::Receiver<Option<Arc<str>>>,
    namespaces: watch::Receiver<BTreeSet<String>>,
    leads: watch::Receiver<bool>,
    owner: Option<OwnerReference>,
    /// The maps that are there, by namespace.
    there: BTreeMap<String, Found>,
    /// The maps of a list that is under way.
    listing: BTreeMap<String, Found>,
    failing: BTreeMap<String, Failing>,
    is_listed: bool,
    watch_fails: bool,
}

/// A map as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    bundle: Option<String>,
    owners: Vec<String>,
    is_ours: bool,
}

/// A namespace whose map cannot be applied now.
#[derive(Clone, Debug)]
struct Failing {
    again: Instant,
    delay: Duration,
    reason: String,
}

impl Publisher {
    pub(super) fn new(
        client: Client,
        bundle: watch::Receiver<Option<Arc<str>>>,
        namespaces: watch::Receiver<BTreeSet<String>>,
        leads: watch::Receiver<bool>,
    ) -> Publisher {
        Publisher {
            client,
            bundle,
            namespaces,
            leads,
            owner: None,
            there: BTreeMap::new(),
            listing: BTreeMap::new(),
            failing: BTreeMap::new(),
            is_listed: false,
            watch_fails: false,
        }
    }

    /// Runs until one of the senders is gone.
    pub(super) async fn run(mut self) {
        loop {
            let ready = async {
                self.leads.wait_for(|leads| *leads).await.map(drop)?;
                self.bundle.wait_for(Option::is_some).await.map(drop)
            };
            if ready.await.is_err() || self.lead().await.is_err() {
                return;
            }
        }
    }

    /// One time of leading.
    async fn lead(&mut self) -> Result<(), watch::error::RecvError> {
        (self.there, self.listing, self.failing) = Default::default();
        (self.is_listed, self.watch_fails) = (false, false);
        self.find_owner(true).await;
        let mut events = self.events();
        let begun = Instant::now();
        let mut check = begun + CHECK;
        loop {
            let now = Instant::now();
            if now >= check {
                check = now + CHECK;
                self.find_owner(false).await;
                if self.watch_fails {
                    self.there.clear();
                }
            }
            let mut wake = check;
            if self.is_listed || now >= begun + LISTED {
                self.reconcile().await;
                wake = self.failing.values().map(|failing| failing.again).fold(check, Instant::min);
            } else {
                wake = wake.min(begun + LISTED);
            }
            tokio::select! {
                event = events.next() => {
                    self.take(event);
                    // A list is one event for each map: all that are here are taken before anything is compared.
                    while let Some(event) = events.next().now_or_never() {
                        self.take(event);
                    }
                }
                changed = self.namespaces.changed() => changed?,
                changed = self.bundle.changed() => changed?,
                changed = self.leads.changed() => changed?,
                () = sleep_until(wake) => {}
            }
            if !*self.leads.borrow_and_update() {
                return Ok(());
            }
        }
    }

    /// The maps of all namespaces; the name in the selector is what the operator's role allows it.
    fn events(&self) -> Events {
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        watcher(maps, config).default_backoff().boxed()
    }

    fn take(&mut self, event: Option<Result<watcher::Event<ConfigMap>, watcher::Error>>) {
        match event {
            Some(Ok(watcher::Event::Init)) => self.listing.clear(),
            Some(Ok(watcher::Event::InitApply(map))) => drop(self.listing.insert(namespace(&map), Found::of(&map))),
            Some(Ok(watcher::Event::InitDone)) => {
                self.there = std::mem::take(&mut self.listing);
                (self.is_listed, self.watch_fails) = (true, false);
            }
            Some(Ok(watcher::Event::Apply(map))) => drop(self.there.insert(namespace(&map), Found::of(&map))),
            Some(Ok(watcher::Event::Delete(map))) => drop(self.there.remove(&namespace(&map))),
            Some(Err(error)) => {
                if !std::mem::replace(&mut self.watch_fails, true) {
                    tracing::warn!(
                        "ConfigMaps {NAME} cannot be watched, all are applied every {CHECK:?} meanwhile: {error}"
                    );
                }
            }
            // A watcher's stream never ends.
            None => self.watch_fails = true,
        }
    }

    /// Applies what is missing or differs.
    async fn reconcile(&mut self) {
        let Some(bundle) = self.bundle.borrow_and_update().clone() else { return };
        let wanted = {
            let mut wanted = self.namespaces.borrow_and_update().clone();
            let ours = self.there.iter().filter(|(_, found)| found.is_ours);
            wanted.extend(ours.map(|(namespace, _)| namespace.clone()));
            wanted
        };
        self.failing.retain(|namespace, _| wanted.contains(namespace));
        let now = Instant::now();
        let owner = self.owner.clone();
        let due: Vec<String> = wanted
            .into_iter()
            .filter(|namespace| !self.there.get(namespace).is_some_and(|found| found.is(&bundle, owner.as_ref())))
            .filter(|namespace| self.failing.get(namespace).is_none_or(|failing| failing.again <= now))
            .collect();
        let (client, leads, owner, bundle) = (&self.client, &self.leads, owner.as_ref(), &*bundle);
        let applied: Vec<_> = stream::iter(due)
            .map(|namespace| async move {
                // Whoever lost the lead meanwhile writes no more.
                let is_leader = *leads.borrow();
                if !is_leader {
                    return None;
                }
                let result = apply(client, &namespace, bundle, owner).await;
                Some((namespace, result))
            })
            .buffer_unordered(REQUESTS_MAX)
            .collect()
            .await;
        for (namespace, result) in applied.into_iter().flatten() {
            self.applied(namespace, result);
        }
    }

    fn applied(&mut self, namespace: String, result: Result<ConfigMap, String>) {
        match result {
            Ok(map) => {
                tracing::info!(%namespace, "ConfigMap {NAME} applied");
                self.failing.remove(&namespace);
                self.there.insert(namespace, Found::of(&map));
            }
            Err(reason) => {
                let last = self.failing.remove(&namespace);
                if last.as_ref().is_none_or(|last| last.reason != reason) {
                    tracing::warn!(%namespace, "ConfigMap {NAME} cannot be applied, agents there cannot connect: {reason}");
                }
                let delay = last.map_or(BACKOFF, |last| (last.delay * 2).min(BACKOFF_MAX));
                self.failing.insert(namespace, Failing { again: Instant::now() + delay, delay, reason });
            }
        }
    }

    /// Looks for the owner. One that was there is never forgotten: maps without an owner would outlive an
    /// uninstallation that is under way.
    async fn find_owner(&mut self, is_first: bool) {
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        let found = timeout(REQUEST_TIMEOUT, owner::of(&roles, OPERATOR)).await;
        let message = match found {
            Ok(Ok(owner)) => {
                self.owner = Some(owner);
                return;
            }
            Ok(Err(message)) => message,
            Err(_) => "the API server does not answer".to_owned(),
        };
        if is_first && self.owner.is_none() {
            tracing::warn!("ConfigMaps {NAME} outlive an uninstallation: {message}");
        }
    }
}

impl Found {
    fn of(map: &ConfigMap) -> Found {
        Found {
            bundle: map.data.as_ref().and_then(|data| data.get(KEY)).cloned(),
            owners: map.owner_references().iter().map(|owner| owner.uid.clone()).collect(),
            is_ours: map.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER),
        }
    }

    fn is(&self, bundle: &str, owner: Option<&OwnerReference>) -> bool {
        self.is_ours
            && self.bundle.as_deref() == Some(bundle)
            && owner.is_none_or(|owner| self.owners.contains(&owner.uid))
    }
}

fn namespace(map: &ConfigMap) -> String {
    map.namespace().unwrap_or_default()
}

async fn apply(
    client: &Client,
    namespace: &str,
    bundle: &str,
    owner: Option<&OwnerReference>,
) -> Result<ConfigMap, String> {
    let mut metadata = json!({ "name": NAME, "namespace": namespace, "labels": { MANAGED_BY: MANAGER } });
    if let Some(owner) = owner {
        metadata["ownerReferences"] = json!([owner]);
    }
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { KEY: bundle } });
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match timeout(REQUEST_TIMEOUT, maps.patch(NAME, &params, &Patch::Apply(body))).await {
        Ok(Ok(map)) => Ok(map),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the API server does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests;
