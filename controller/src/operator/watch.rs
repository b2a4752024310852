//! Follows the objects of the cluster. Each kind has a watch of its own, which ends for nothing: it is tried again
//! with growing pauses, and a re-list forgets no object before all are there.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ObjectMeta, Resource};
use kube::runtime::watcher::{self, Event, watcher};
use l7mp_compiler::object::{Kind, ObjectId};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::operator::metrics::Metrics;
use crate::operator::read::{Seen, group_version, read};

/// Objects of one page of a list.
const PAGE: u32 = 250;

/// The pause after the first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// The longest pause between failures: an API server that is back is not long unnoticed.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The API server ends a watch after so long (s), and five more without a word mean that the connection is dead.
const WATCH_S: u32 = 120;

/// What a watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// All objects of a kind: what is not among them is gone.
    Reset(Kind, Vec<Seen>),
    /// An object is there, or has changed.
    Apply(Box<Seen>),
    /// An object is gone.
    Delete(ObjectId),
}

/// Follows every kind until the receiver is gone.
pub fn start(client: &kube::Client, changes: &mpsc::Sender<Change>, metrics: &Arc<Metrics>) -> JoinSet<()> {
    let mut watches = JoinSet::new();
    macro_rules! follow {
        ($($kind:ident)*) => {
            $(watches.spawn(follow::<kinds::$kind>(client.clone(), changes.clone(), Arc::clone(metrics)));)*
        };
    }
    follow!(VirtualService Target Route Rule Pod Service EndpointSlice);
    watches
}

/// A kind, as a type.
pub trait Watch: Clone + fmt::Debug + Send + Sync + 'static {
    /// Which.
    const KIND: Kind;
}

/// The kinds that are followed.
pub mod kinds {
    use super::{Kind, Watch};

    macro_rules! kinds {
        ($($kind:ident)*) => {
            $(
                /// See [`Kind`].
                #[derive(Clone, Debug)]
                pub struct $kind;

                impl Watch for $kind {
                    const KIND: Kind = Kind::$kind;
                }
            )*
        };
    }
    kinds!(VirtualService Target Route Rule Pod Service EndpointSlice);
}

/// An object of the kind `K`. It is trimmed while it is read: lists of whole pods are never held.
#[derive(Clone, Debug)]
pub struct Watched<K> {
    meta: ObjectMeta,
    seen: Seen,
    kind: PhantomData<K>,
}

impl<'de, K: Watch> Deserialize<'de> for Watched<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let resource_version = value["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        let seen = read(K::KIND, value);
        let meta = ObjectMeta { name: Some(seen.id().name), resource_version, ..ObjectMeta::default() };
        Ok(Watched { meta, seen, kind: PhantomData })
    }
}

impl<K: Watch> Resource for Watched<K> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.as_str().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        group_version(K::KIND).0.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        group_version(K::KIND).1.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::KIND.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

async fn follow<K: Watch>(client: kube::Client, changes: mpsc::Sender<Change>, metrics: Arc<Metrics>) {
    let kind = K::KIND;
    let config = watcher::Config::default().page_size(PAGE).timeout(WATCH_S);
    let api = Api::<Watched<K>>::all(client);
    let mut stream = pin!(watcher(api.clone(), config.clone()));
    let mut listed = Vec::new();
    let mut failure = String::new();
    let mut pause = PAUSE_MIN;
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                metrics.watch_errors.add([kind.as_str()]);
                if is_too_old(&error) {
                    // The API server is well; it only asks for a new list.
                    tracing::info!("watch of {}: listed anew, what was missed is not kept any more", kind.plural());
                    sleep(PAUSE_MIN).await;
                    stream.set(watcher(api.clone(), config.clone()));
                    continue;
                }
                let error = describe(&error);
                if error != failure {
                    tracing::warn!("watch of {}: {error}; trying again", kind.plural());
                    failure = error;
                }
                // The kinds do not come back in one moment.
                sleep(pause + pause.mul_f64(f64::from(K::KIND as u8) / 20.0)).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        let change = match event {
            Event::Init => {
                listed.clear();
                continue;
            }
            Event::InitApply(object) => {
                metrics.watch_events.add([kind.as_str(), "init"]);
                listed.push(object.seen);
                continue;
            }
            Event::InitDone => {
                tracing::debug!("{} {} listed", listed.len(), kind.plural());
                Change::Reset(kind, take(&mut listed))
            }
            Event::Apply(object) => {
                metrics.watch_events.add([kind.as_str(), "apply"]);
                Change::Apply(Box::new(object.seen))
            }
            Event::Delete(object) => {
                metrics.watch_events.add([kind.as_str(), "delete"]);
                Change::Delete(object.seen.id())
            }
        };
        if !failure.is_empty() {
            tracing::info!("watch of {}: goes on", kind.plural());
            failure.clear();
        }
        pause = PAUSE_MIN;
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

/// Whether the API server has forgotten the changes since the last one that was received (410 Gone).
fn is_too_old(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// A watcher's error with its cause once; the sources repeat each other.
fn describe(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => format!("cannot list: {}", status.message),
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => format!("cannot watch: {}", status.message),
        watcher::Error::WatchError(status) => format!("the API server ended it: {}", status.message),
        watcher::Error::InitialListFailed(error) => format!("cannot list: {}", chain(error)),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => chain(error),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// An error and its causes, each once.
pub(super) fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
