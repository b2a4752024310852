//! Writes the status of objects: only what differs from what the API server has, and not too often.

mod desk;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams, Request};
use l7mp_compiler::object::ObjectId;
use l7mp_crds::API_VERSION;
use l7mp_fleet::StatusUpdate;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::operator::events::Events;
use crate::operator::lease::Standing;
use crate::operator::metrics::Metrics;
use crate::operator::read::Present;
use crate::operator::watch::chain;
pub(crate) use desk::condition;
pub use desk::{Desk, Outcome, Timing, Write};

/// The field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "l7mp-controller";

/// Writes that are under way at once.
const WRITES_MAX: usize = 8;

/// A write that takes longer has failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// What the writer is told.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// The API server has this object, with this status.
    Present(ObjectId, Present),
    /// The object is gone.
    Gone(ObjectId),
    /// The object's status is to be this one.
    Desired(StatusUpdate),
    /// Another leadership begins: what was desired before waits until it can be corrected.
    Restart,
}

/// Writes until the sender of news is gone; while this replica does not lead, or cannot renew its Lease, it only
/// keeps what is to be written.
pub async fn run(
    client: kube::Client,
    mut news: mpsc::UnboundedReceiver<News>,
    mut standing: watch::Receiver<Standing>,
    mut events: Events,
    metrics: Arc<Metrics>,
) {
    let mut desk = Desk::new(Timing::default());
    let mut writes: JoinSet<(Write, Outcome)> = JoinSet::new();
    loop {
        let may_write = matches!(*standing.borrow_and_update(), Standing::Mine { renewed: true, .. });
        if may_write {
            let room = WRITES_MAX - writes.len();
            for write in desk.take(room, Instant::now(), &wall_clock()) {
                let client = client.clone();
                writes.spawn(async move {
                    let outcome = send(&client, &write).await;
                    (write, outcome)
                });
            }
        }
        metrics.gauge(|gauges| gauges.unwritten = desk.unwritten());
        let next = desk.next().filter(|_| may_write && writes.len() < WRITES_MAX);
        tokio::select! {
            biased;
            Some(done) = writes.join_next() => {
                let Ok((write, outcome)) = done else { continue };
                count(&metrics, &write, &outcome);
                if matches!(outcome, Outcome::Written(_)) {
                    events.report(&write.id, write.uid.as_deref(), write.before.as_ref(), &write.status);
                }
                desk.done(&write, &outcome, Instant::now());
            }
            said = news.recv() => match said {
                Some(said) => {
                    let now = Instant::now();
                    desk.hear(said, now);
                    while let Ok(said) = news.try_recv() {
                        desk.hear(said, now);
                    }
                }
                None => return,
            },
            changed = standing.changed() => if changed.is_err() { return },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// RFC 3339, UTC, whole seconds, as Kubernetes writes times.
fn wall_clock() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn count(metrics: &Metrics, write: &Write, outcome: &Outcome) {
    let id = &write.id;
    match outcome {
        Outcome::Written(_) => {
            metrics.status_writes.add(["written"]);
            tracing::debug!(object = %id, "status written");
        }
        Outcome::Outdated => {
            metrics.status_writes.add(["outdated"]);
            tracing::debug!(object = %id, "has changed before its status was written");
        }
        Outcome::Refused(error) => {
            metrics.status_writes.add(["refused"]);
            tracing::error!(object = %id, "the API server refuses its status: {error}");
        }
        Outcome::Failed(error) => {
            metrics.status_writes.add(["failed"]);
            tracing::warn!(object = %id, "status not written: {error}; trying again");
        }
    }
}

/// Server-side apply on the status subresource. The version makes it fail for an object that has changed, and for
/// another of the same name (there the API server does not look at a UID).
async fn send(client: &kube::Client, write: &Write) -> Outcome {
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(document(write));
    let collection = format!("/apis/{API_VERSION}/namespaces/{}/{}", write.id.namespace, write.id.kind.plural());
    let request = match Request::new(collection).patch_subresource("status", &write.id.name, &params, &patch) {
        Ok(request) => request,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    match timeout(WRITE_TIMEOUT, client.request::<Value>(request)).await {
        Ok(Ok(object)) => Outcome::Written(object["metadata"]["resourceVersion"].as_str().map(str::to_owned)),
        Ok(Err(kube::Error::Api(status))) => match status.code {
            404 | 409 => Outcome::Outdated,
            400 | 413 | 422 => Outcome::Refused(status.message),
            _ => Outcome::Failed(status.message),
        },
        Ok(Err(error)) => Outcome::Failed(chain(&error)),
        Err(_) => Outcome::Failed("the API server did not answer in time".to_owned()),
    }
}

fn document(write: &Write) -> Value {
    let id = &write.id;
    let mut metadata = json!({"name": id.name, "namespace": id.namespace});
    if let Some(version) = &write.version {
        metadata["resourceVersion"] = json!(version);
    }
    json!({"apiVersion": API_VERSION, "kind": id.kind.as_str(), "metadata": metadata, "status": write.status})
}

#[cfg(test)]
mod tests;
