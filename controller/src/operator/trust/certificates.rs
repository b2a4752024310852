//! The operator's certificates in a Secret: the leader makes and renews them, every replica shows them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use l7mp_link::certificates::{self, Lifetimes, Material};
use tokio::sync::watch;
use tokio::time::timeout;

use super::owner;
use super::secret;
use super::shown::Shown;
use super::verify::{self, Fault};
use super::{FIELD_MANAGER, OPERATOR, REQUEST_TIMEOUT};

/// The Secret is read so often.
const POLL: Duration = Duration::from_secs(10);
/// ... and so often while there is nothing to show.
const POLL_WITHOUT: Duration = Duration::from_secs(1);

/// Tells the time; tests have their own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Keeps [`Shown`] at what the Secret holds, and as the leader the Secret at what is due.
pub(super) struct Keeper {
    namespace: String,
    secrets: Api<Secret>,
    deployments: Api<Deployment>,
    names: Vec<String>,
    lifetimes: Lifetimes,
    clock: Clock,
    shown: Shown,
    /// The Deployment; asked for until it is found.
    owner: Option<OwnerReference>,
    owner_is_asked: bool,
    /// What was logged last, so that nothing is logged every 10 s.
    trouble: Option<String>,
}

/// What one look at the Secret came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was as it should be, or nobody's to write.
    Read,
    /// It was written.
    Written,
    /// The API server did not take part, or another leader wrote meanwhile.
    Failed,
}

impl Keeper {
    pub(super) fn new(
        client: &kube::Client,
        namespace: &str,
        names: Vec<String>,
        lifetimes: Lifetimes,
        clock: Clock,
        shown: Shown,
    ) -> Keeper {
        Keeper {
            namespace: namespace.to_owned(),
            secrets: Api::namespaced(client.clone(), namespace),
            deployments: Api::namespaced(client.clone(), namespace),
            names,
            lifetimes,
            clock,
            shown,
            owner: None,
            owner_is_asked: false,
            trouble: None,
        }
    }

    /// Runs until `leads` has no sender any more.
    pub(super) async fn run(mut self, mut leads: watch::Receiver<bool>) {
        loop {
            let is_leader = *leads.borrow_and_update();
            self.turn(is_leader).await;
            let pause = if self.shown.is_empty() { POLL_WITHOUT } else { POLL };
            tokio::select! {
                changed = leads.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks at the Secret once; the leader does what is due, one step at a time.
    pub(super) async fn turn(&mut self, is_leader: bool) -> Turn {
        match self.try_turn(is_leader).await {
            Ok(turn) => {
                self.trouble = None;
                turn
            }
            Err(message) => {
                if self.trouble.as_ref() != Some(&message) {
                    tracing::warn!(secret = %format_args!("{}/{}", self.namespace, secret::NAME), "{message}");
                    self.trouble = Some(message);
                }
                Turn::Failed
            }
        }
    }

    async fn try_turn(&mut self, is_leader: bool) -> Result<Turn, String> {
        let stored = timeout(REQUEST_TIMEOUT, self.secrets.get_opt(secret::NAME))
            .await
            .map_err(|_| "the Secret cannot be read: the API server does not answer".to_owned())?
            .map_err(|error| format!("the Secret cannot be read: {error}"))?;
        let held = stored.as_ref().map(secret::read);
        if !is_leader {
            return match held {
                Some(Ok(material)) => self.show(&material).map(|()| Turn::Read),
                Some(Err(fault)) => Err(format!("the Secret is damaged; the leader makes it anew: {fault}")),
                None => Err("the Secret is not there yet; the leader makes it".to_owned()),
            };
        }
        self.find_owner().await;
        match self.due(held, stored.as_ref())? {
            Due::Nothing(material) => self.show(&material).map(|()| Turn::Read),
            Due::Renew { from, to } => {
                if let Err(message) = self.store(&to, stored.as_ref()).await {
                    self.show(&from)?;
                    return Err(message);
                }
                self.show(&to).map(|()| Turn::Written)
            }
            Due::Anew(material) => {
                self.store(&material, stored.as_ref()).await?;
                self.show(&material).map(|()| Turn::Written)
            }
        }
    }

    /// What the leader is to do about what the Secret holds.
    fn due(&self, held: Option<Result<Material, Fault>>, stored: Option<&Secret>) -> Result<Due, String> {
        let now = (self.clock)();
        let secret = format!("{}/{}", self.namespace, secret::NAME);
        let fault = match held {
            None => {
                tracing::info!(%secret, "there is no Secret: a CA and a serving certificate are made");
                return self.anew(now);
            }
            Some(Err(fault)) => fault,
            Some(Ok(material)) => match self.renewed(&material, now) {
                Ok(Some(renewed)) => {
                    tracing::info!(%secret, "{}", step(&material, &renewed));
                    return Ok(Due::Renew { from: material, to: renewed });
                }
                Ok(None) if self.is_owned(stored) => return Ok(Due::Nothing(material)),
                Ok(None) => return Ok(Due::Renew { from: material.clone(), to: material }),
                Err(fault) => fault,
            },
        };
        tracing::error!(
            %secret,
            "the Secret is of no use, all of it is made anew: {fault}; agents that are connected stay so, others \
             connect as soon as their ConfigMap has the new CA"
        );
        self.anew(now)
    }

    /// The next step of a renewal, if one is due.
    ///
    /// # Errors
    /// When the material, or what would come of it, is of no use to agents.
    fn renewed(&self, material: &Material, now: SystemTime) -> Result<Option<Material>, Fault> {
        for (ca, what) in material.next.iter().map(|next| (next, "the next CA")).chain([(&material.ca, "the CA")]) {
            certificates::server_config(ca).map_err(|error| Fault::Unusable(format!("{what}: {error}")))?;
        }
        let renewed =
            material.renew(&self.names, now, &self.lifetimes).map_err(|error| Fault::Unusable(error.to_string()))?;
        let used = renewed.as_ref().unwrap_or(material);
        match verify::accepts(&used.bundle(), &used.serving.certificate, &self.names, now) {
            Ok(()) | Err(Fault::NotYetValid) => Ok(renewed),
            Err(fault) => Err(fault),
        }
    }

    fn anew(&self, now: SystemTime) -> Result<Due, String> {
        Material::create(&self.names, now, &self.lifetimes).map(Due::Anew).map_err(|error| error.to_string())
    }

    /// Whether the Secret goes away with the Deployment that is there now.
    fn is_owned(&self, stored: Option<&Secret>) -> bool {
        let Some(owner) = &self.owner else { return true };
        stored.is_some_and(|secret| secret.owner_references().iter().any(|held| held.uid == owner.uid))
    }

    async fn find_owner(&mut self) {
        if self.owner.is_some() {
            return;
        }
        let found = timeout(REQUEST_TIMEOUT, owner::of(&self.deployments, OPERATOR)).await;
        match found {
            Ok(Ok(owner)) => self.owner = Some(owner),
            _ if self.owner_is_asked => {}
            Ok(Err(message)) => tracing::warn!("the certificates outlive an uninstallation: {message}"),
            Err(_) => tracing::warn!("the certificates outlive an uninstallation: the API server does not answer"),
        }
        self.owner_is_asked = true;
    }

    async fn store(&self, material: &Material, replaces: Option<&Secret>) -> Result<(), String> {
        let version = replaces.and_then(|secret| secret.metadata.resource_version.as_deref());
        let body = secret::write(material, &self.namespace, self.owner.as_ref(), version);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        timeout(REQUEST_TIMEOUT, self.secrets.patch(secret::NAME, &params, &Patch::Apply(body)))
            .await
            .map_err(|_| "the Secret cannot be written: the API server does not answer".to_owned())?
            .map_err(|error| format!("the Secret cannot be written: {error}"))?;
        Ok(())
    }

    fn show(&mut self, material: &Material) -> Result<(), String> {
        self.shown
            .show(&material.serving, &material.bundle())
            .map_err(|fault| format!("the Secret is damaged; the leader makes it anew: {fault}"))
    }
}

/// What is to become of the Secret.
enum Due {
    /// It is good.
    Nothing(Material),
    /// It is good and goes on to be used; this is to take its place.
    Renew {
        /// What is in it.
        from: Material,
        /// What is to be; the same when only the owner changes.
        to: Material,
    },
    /// It is of no use, or not there.
    Anew(Material),
}

/// What a renewal does, for the log.
fn step(from: &Material, to: &Material) -> &'static str {
    if from.ca != to.ca {
        "the next CA signs from now on"
    } else if from.next.is_none() && to.next.is_some() {
        "the next CA is published beside the one that signs"
    } else if from.previous.is_some() && to.previous.is_none() {
        "the last CA is not trusted any more"
    } else {
        "the serving certificate is renewed"
    }
}

#[cfg(test)]
mod tests;
