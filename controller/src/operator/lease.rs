//! Who of the replicas serves agents and writes status: the holder of a Lease (`coordination.k8s.io`).
//!
//! The clocks of the replicas are not compared: a Lease has expired when it did not change for its duration, by the
//! clock of the one who looks; time in which the API server could not be asked does not count, so that an outage of
//! it moves no leadership. Every acquisition counts `leaseTransitions` up, also one by the holder of before
//! (a process that was started again): configurations of different leaders are ordered by it.

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use l7mp_link::Version;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::operator::metrics::Metrics;
use crate::operator::watch::chain;

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
        }
    }

    /// Where this replica stands, from now on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Takes part until `stop` is true or its sender is gone, then hands the Lease back if it was held.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut failed = false;
        loop {
            let turn = tokio::select! {
                turn = self.turn() => turn,
                _ = stop.wait_for(|stop| *stop) => break,
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
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        self.release().await;
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
                epoch: Version::epoch_of(lease.metadata.uid.as_deref().unwrap_or_default()),
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
        if let Some((lease, _)) = &self.held {
            let began = Instant::now();
            let mut renewed = lease.clone();
            renewed.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
            match self.replace(&renewed).await {
                Ok(lease) => {
                    self.held = Some((lease, began));
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
                self.held = Some((found, *since));
                return Ok(Look::Held);
            }
            self.held = None;
        }
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
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            acquire_time: Some(now.clone()),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            lease_transitions: Some(found.as_ref().map_or(0, |lease| next_term(transitions(lease)))),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let result = match found {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.replace(&lease).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                self.bounded(self.api.create(&PostParams::default(), &lease)).await
            }
        };
        match result {
            Ok(lease) => {
                self.held = Some((lease, began));
                Ok(Look::Held)
            }
            // Another replica was faster; the next look shows it.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Look::NotHeld),
            Err(error) => Err(error),
        }
    }

    /// Hands the Lease back, so that the next holder need not wait for its end.
    async fn release(mut self) {
        let Some((mut lease, _)) = self.held.take() else { return };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        match self.replace(&lease).await {
            Ok(_) => tracing::info!("Lease {}: handed back", self.name),
            Err(error) => tracing::warn!("Lease {}: cannot be handed back: {}", self.name, chain(&error)),
        }
        self.standing.send_replace(Standing::Nobody);
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

fn transitions(lease: &Lease) -> u64 {
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
    u64::try_from(transitions).unwrap_or_default()
}

fn next_term(term: u64) -> i32 {
    i32::try_from(term + 1).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
