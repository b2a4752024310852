//! Who of the replicas serves agents and writes status: the holder of a Lease (`coordination.k8s.io`).
//!
//! The clocks of the replicas are not compared: a Lease has expired when it did not change for its duration, by the
//! clock of the one who looks; time in which the API server could not be asked does not count, so that an outage of
//! it moves no leadership. Every acquisition counts `leaseTransitions` up, also one by the holder of before
//! (a process that was started again): configurations of different leaders are ordered by it.
//!
//! A Lease that was restored from a backup counts less than agents hold. Its holder counts it up as soon as an agent
//! says so ([`Candidate::overtaken`]), at most 10,000 at once and once a minute, since what one pod says is no more than
//! that. An agent that is further ahead is named in the log; who deletes the Lease begins a new count.

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use l7mp_compiler::held::Pauses;
use l7mp_link::Version;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::operator::metrics::Metrics;
use crate::operator::trust::{OPERATOR, owner};
use crate::operator::watch::chain;

/// A term is raised above what an agent holds by at most so much.
pub(crate) const RAISE_MAX: u64 = 10_000;

/// The shortest time between two raises.
const RAISE_PAUSES: Pauses = Pauses { first: Duration::from_secs(60), max: Duration::from_secs(3_600) };

/// After so long without a raise the pauses begin anew.
const RAISE_CALM: Duration = Duration::from_secs(12 * 3_600);

/// How often handing the Lease back is tried while it changes.
const RELEASES_MAX: u32 = 3;

/// Waits of the election.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Others take the Lease when it was not renewed for so long (15 s).
    pub duration: Duration,
    /// A holder that could not renew for so long writes nothing any more (10 s; less than `duration` by a request).
    pub deadline: Duration,
    /// The pause between renewals (2 s).
    pub renew: Duration,
    /// The pause between looks at another's Lease (1 s).
    pub look: Duration,
    /// The most time of one request (4 s).
    pub request: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let s = Duration::from_secs;
        Timing { duration: s(15), deadline: s(10), renew: s(2), look: s(1), request: s(4) }
    }
}

/// Where this replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody holds the Lease, or it is not known who.
    Nobody,
    /// Another replica holds it.
    Other {
        /// `POD@ADDRESS:PORT`
        identity: String,
    },
    /// This replica holds it. Another epoch or term is another acquisition.
    Mine {
        /// Which Lease, see [`Version::epoch_of`].
        epoch: u64,
        /// `leaseTransitions`
        term: u64,
        /// It is renewed in time. Where not, another replica may lead by now: nothing is to be written.
        renewed: bool,
    },
}

impl Standing {
    /// The address of the gRPC port of the holder, if that is another replica that says it.
    pub fn address(&self) -> Option<&str> {
        match self {
            Standing::Other { identity } => identity.split_once('@').map(|(_, address)| address),
            Standing::Nobody | Standing::Mine { .. } => None,
        }
    }
}

/// Takes part in the election for one Lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    standing: watch::Sender<Standing>,
    metrics: Arc<Metrics>,
    /// The Lease as this replica acquired or renewed it, and when that request began.
    held: Option<(Lease, Instant)>,
    /// The Lease as seen last, and since when it is so, but for the time in which nobody could look.
    seen: Option<(Lease, Instant)>,
    /// When it was looked at last.
    looked: Option<Instant>,
    /// It could not be looked at since.
    missed: bool,
    /// The highest term that was seen of a Lease, with its epoch.
    known: Option<(u64, u64)>,
    /// What an agent holds that this leadership has not made.
    overtaken: watch::Sender<Option<Version>>,
    /// When the term was raised because an agent asked for it, and how often in a row.
    raised: Option<(Instant, u32)>,
    /// Whom the Lease goes away with.
    owners: Option<Api<Deployment>>,
    owner: Option<OwnerReference>,
}

/// What one look at the Lease came to.
#[derive(Debug)]
enum Look {
    Held,
    NotHeld,
}

impl Candidate {
    /// Takes part as `identity`, `POD@ADDRESS:PORT`.
    pub fn new(api: Api<Lease>, name: &str, identity: &str, timing: Timing, metrics: Arc<Metrics>) -> Candidate {
        Candidate {
            api,
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
            standing: watch::Sender::new(Standing::Nobody),
            metrics,
            held: None,
            seen: None,
            looked: None,
            missed: false,
            known: None,
            overtaken: watch::Sender::new(None),
            raised: None,
            owners: None,
            owner: None,
        }
    }

    /// The Lease goes away with the operator's Deployment, which is looked for here when the Lease is acquired.
    #[must_use]
    pub fn owned_by(self, deployments: Api<Deployment>) -> Candidate {
        Candidate { owners: Some(deployments), ..self }
    }

    /// Takes the newest version that an agent holds, where that is newer than any that this leadership has made.
    pub fn overtaken(&self) -> watch::Sender<Option<Version>> {
        self.overtaken.clone()
    }

    /// Where this replica stands, from now on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Takes part until `stop` is true or its sender is gone, then hands the Lease back if it was held.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut failed = false;
        let mut overtaken = self.overtaken.subscribe();
        let was_cut = loop {
            let turn = tokio::select! {
                turn = self.turn() => turn,
                _ = stop.wait_for(|stop| *stop) => break true,
            };
            match turn {
                Ok(_) if failed => {
                    failed = false;
                    tracing::info!("Lease {}: reached again", self.name);
                }
                Ok(Look::Held | Look::NotHeld) => {}
                Err(error) => {
                    self.missed = true;
                    self.metrics.lease_errors.fetch_add(1, Relaxed);
                    if !failed {
                        tracing::warn!("Lease {}: {}; trying again", self.name, chain(&error));
                    }
                    failed = true;
                }
            }
            self.publish();
            tokio::select! {
                () = sleep(self.pause()) => {}
                // The sender is our own.
                _ = overtaken.changed() => {}
                _ = stop.wait_for(|stop| *stop) => break false,
            }
        };
        self.release(was_cut).await;
    }

    fn pause(&self) -> Duration {
        let Some((_, since)) = &self.held else { return self.timing.look };
        // The moment at which nothing may be written any more is not slept through.
        let deadline = (*since + self.timing.deadline).saturating_duration_since(Instant::now());
        if deadline.is_zero() { self.timing.renew } else { self.timing.renew.min(deadline) }
    }

    fn publish(&self) {
        let standing = match (&self.held, &self.seen) {
            (Some((lease, since)), _) => Standing::Mine {
                epoch: epoch(lease),
                term: transitions(lease),
                renewed: since.elapsed() < self.timing.deadline,
            },
            (None, Some((lease, since))) => match holder(lease) {
                Some(identity) if identity != self.identity && since.elapsed() <= self.validity(lease) => {
                    Standing::Other { identity: identity.to_owned() }
                }
                _ => Standing::Nobody,
            },
            (None, None) => Standing::Nobody,
        };
        self.standing.send_if_modified(|last| {
            let changed = *last != standing;
            if changed {
                self.log(last, &standing);
            }
            *last = standing;
            changed
        });
    }

    fn log(&self, last: &Standing, now: &Standing) {
        let name = &self.name;
        match (last, now) {
            (Standing::Mine { epoch, term, .. }, Standing::Mine { epoch: e, term: t, renewed })
                if epoch == e && term == t =>
            {
                if *renewed {
                    tracing::info!("Lease {name}: renewed again; status is written again");
                } else {
                    tracing::warn!("Lease {name}: not renewed in time; agents are served on, no status is written");
                }
            }
            (_, Standing::Mine { term, .. }) => tracing::info!("Lease {name}: this replica leads, term {term}"),
            (Standing::Mine { .. }, Standing::Other { identity }) => {
                tracing::warn!("Lease {name}: lost to {identity}; this replica follows");
            }
            (_, Standing::Other { identity }) => tracing::info!("Lease {name}: {identity} leads"),
            (_, Standing::Nobody) => tracing::info!("Lease {name}: nobody leads"),
        }
    }

    /// Renews the Lease, or takes it if it is free.
    async fn turn(&mut self) -> kube::Result<Look> {
        if let Some((mut renewed, _)) = self.held.clone() {
            let began = Instant::now();
            let raise = self.raise(&renewed);
            let spec = renewed.spec.get_or_insert_default();
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            if let Some((_, term)) = raise {
                spec.lease_transitions = Some(next_term(term));
            }
            match self.replace(&renewed).await {
                Ok(lease) => {
                    if let Some((before, term)) = raise {
                        let last = self.raised.filter(|(at, _)| at.elapsed() < RAISE_CALM);
                        self.raised = Some((began, last.map_or(0, |(_, times)| times) + 1));
                        let (name, now) = (&self.name, transitions(&lease));
                        tracing::warn!(
                            "Lease {name}: counts {before}, but an agent holds term {term} of it, as after \
                            a restored backup; now it counts {now}"
                        );
                    }
                    self.hold(lease, began);
                    return Ok(Look::Held);
                }
                // Somebody else has written it, or deleted it: what it is now decides.
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        self.look().await
    }

    async fn look(&mut self) -> kube::Result<Look> {
        let began = Instant::now();
        let found = self.bounded(self.api.get_opt(&self.name)).await?;
        if take(&mut self.missed)
            && let (Some(looked), Some((_, since))) = (self.looked, &mut self.seen)
        {
            *since += began - looked;
        }
        self.looked = Some(began);
        let Some(found) = found else {
            self.held = None;
            self.seen = None;
            return self.take(None, began).await;
        };
        if let Some((held, since)) = &self.held {
            let same = held.metadata.uid == found.metadata.uid && transitions(held) == transitions(&found);
            if same && holder(&found) == Some(&self.identity) {
                // Labels, or the answer to our own renewal was lost.
                let since = *since;
                self.hold(found, since);
                return Ok(Look::Held);
            }
            self.held = None;
        }
        self.know(&found);
        let version = |lease: &Lease| (lease.metadata.uid.clone(), lease.metadata.resource_version.clone());
        if self.seen.as_ref().is_none_or(|(seen, _)| version(seen) != version(&found)) {
            self.seen = Some((found.clone(), began));
        }
        let since = self.seen.as_ref().map_or(began, |(_, since)| *since);
        let free = match holder(&found) {
            None => true,
            // This replica's last process: it is not there any more.
            Some(identity) if identity == self.identity => true,
            Some(_) => since.elapsed() > self.validity(&found),
        };
        if free { self.take(Some(found), began).await } else { Ok(Look::NotHeld) }
    }

    /// Makes the Lease, or takes it over as it was found.
    async fn take(&mut self, found: Option<Lease>, began: Instant) -> kube::Result<Look> {
        self.find_owner().await;
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            acquire_time: Some(now.clone()),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            lease_transitions: Some(found.as_ref().map_or(0, |lease| next_term(self.known_term(lease)))),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let result = match found {
            Some(mut lease) => {
                lease.spec = Some(spec);
                let owners = lease.metadata.owner_references.get_or_insert_default();
                owners.extend(self.owner.clone().filter(|owner| owners.iter().all(|held| held.uid != owner.uid)));
                self.replace(&lease).await
            }
            None => {
                let owner_references = self.owner.clone().map(|owner| vec![owner]);
                let metadata = ObjectMeta { name: Some(self.name.clone()), owner_references, ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                self.bounded(self.api.create(&PostParams::default(), &lease)).await
            }
        };
        match result {
            Ok(lease) => {
                self.hold(lease, began);
                Ok(Look::Held)
            }
            // Another replica was faster; the next look shows it.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Look::NotHeld),
            Err(error) => Err(error),
        }
    }

    fn hold(&mut self, lease: Lease, since: Instant) {
        self.know(&lease);
        self.held = Some((lease, since));
    }

    fn know(&mut self, lease: &Lease) {
        self.known = Some((epoch(lease), self.known_term(lease)));
    }

    /// The highest term that was seen of this Lease: one that was restored from a backup counts less.
    fn known_term(&self, lease: &Lease) -> u64 {
        let known = self.known.filter(|(known, _)| *known == epoch(lease)).map_or(0, |(_, term)| term);
        known.max(transitions(lease))
    }

    /// The term of this Lease and the one of an agent that it is to be raised above, if it is to be now.
    fn raise(&self, lease: &Lease) -> Option<(u64, u64)> {
        let (held, own) = ((*self.overtaken.borrow())?, transitions(lease));
        let asked = held.epoch == epoch(lease) && held.term >= own && held.term - own <= RAISE_MAX;
        let is_early = |(at, times): (Instant, u32)| at.elapsed() < RAISE_PAUSES.after(times);
        if !asked || self.raised.is_some_and(is_early) {
            return None;
        }
        Some((own, held.term))
    }

    /// Looks for the owner. One that was there is never forgotten: a Lease that is made while an uninstallation is
    /// under way would outlive it.
    async fn find_owner(&mut self) {
        let Some(deployments) = &self.owners else { return };
        let message = match timeout(self.timing.request, owner::of(deployments, OPERATOR)).await {
            Ok(Ok(owner)) => {
                self.owner = Some(owner);
                return;
            }
            Ok(Err(message)) => message,
            Err(_) => "the API server does not answer".to_owned(),
        };
        if self.owner.is_none() {
            tracing::warn!("Lease {} outlives an uninstallation: {message}", self.name);
        }
    }

    /// Hands the Lease back, so that the next holder need not wait for its end. The answer to a request that was cut
    /// off is not known: the API server may have done it, or do it meanwhile.
    async fn release(mut self, was_cut: bool) {
        let held = self.held.take().map(|(lease, _)| lease);
        if held.is_none() && !was_cut {
            return;
        }
        let mut known = held.filter(|_| !was_cut);
        for attempt in 1..=RELEASES_MAX {
            match self.hand_back(known.take()).await {
                Ok(true) => {
                    tracing::info!("Lease {}: handed back", self.name);
                    break;
                }
                Ok(false) => break,
                Err(kube::Error::Api(status)) if status.code == 409 && attempt < RELEASES_MAX => {}
                Err(error) => {
                    tracing::warn!("Lease {}: cannot be handed back: {}", self.name, chain(&error));
                    break;
                }
            }
        }
        self.standing.send_replace(Standing::Nobody);
    }

    /// Hands back the Lease, as it is known or as it is found; whether it was ours.
    async fn hand_back(&self, known: Option<Lease>) -> kube::Result<bool> {
        let found = match known {
            Some(lease) => Some(lease),
            None => self.bounded(self.api.get_opt(&self.name)).await?,
        };
        let Some(mut lease) = found.filter(|found| holder(found) == Some(&self.identity)) else { return Ok(false) };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.replace(&lease).await.map(|_| true)
    }

    /// How long a Lease of another is valid after its last change.
    fn validity(&self, lease: &Lease) -> Duration {
        let said = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let said = said.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        said.unwrap_or(self.timing.duration)
    }

    /// Replaces the Lease if it still has the version that it was read with.
    async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
        self.bounded(self.api.replace(&self.name, &PostParams::default(), lease)).await
    }

    async fn bounded<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        let late = |_| kube::Error::Service("the API server did not answer in time".into());
        timeout(self.timing.request, request).await.map_err(late)?
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|identity| !identity.is_empty())
}

/// Which Lease it is.
fn epoch(lease: &Lease) -> u64 {
    Version::epoch_of(lease.metadata.uid.as_deref().unwrap_or_default())
}

fn transitions(lease: &Lease) -> u64 {
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
    u64::try_from(transitions).unwrap_or_default()
}

fn next_term(term: u64) -> i32 {
    i32::try_from(term + 1).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
