//! Which stream each pod has: a newer one replaces the older, after the older has said that it is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::StreamId;

/// The streams that live, by the pod's UID.
#[derive(Debug, Default)]
pub(super) struct Pods {
    streams: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    stream: StreamId,
    /// Told when another one takes the place.
    replaced: watch::Sender<bool>,
    /// Closed when the stream is over.
    over: watch::Receiver<()>,
}

/// A stream's place among the pods; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pods: Arc<Pods>,
    uid: String,
    stream: StreamId,
    /// Becomes true when a newer stream takes the place.
    pub(super) replaced: watch::Receiver<bool>,
    _over: watch::Sender<()>,
}

impl Pods {
    /// Takes the place of a pod, from an older stream if there is one; returns when that is over.
    pub(super) async fn take(self: &Arc<Pods>, uid: &str, stream: StreamId) -> Seat {
        let (replaced, on_replaced) = watch::channel(false);
        let (over, on_over) = watch::channel(());
        let entry = Entry { stream, replaced, over: on_over };
        let older = self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), entry);
        let seat = Seat { pods: Arc::clone(self), uid: uid.to_owned(), stream, replaced: on_replaced, _over: over };
        if let Some(mut older) = older {
            older.replaced.send_replace(true);
            while older.over.changed().await.is_ok() {}
        }
        seat
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut streams = self.pods.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.get(&self.uid).is_some_and(|entry| entry.stream == self.stream) {
            streams.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_stream_waits_for_the_end_of_the_older() {
        let pods = Arc::new(Pods::default());
        let mut first = pods.take("a", StreamId(1)).await;
        let _other = pods.take("b", StreamId(2)).await;
        let second = tokio::spawn({
            let pods = Arc::clone(&pods);
            async move { pods.take("a", StreamId(3)).await }
        });
        first.replaced.wait_for(|replaced| *replaced).await.unwrap();
        assert!(!second.is_finished());
        drop(first);
        let second = second.await.unwrap();
        assert!(!*second.replaced.borrow());
        assert_eq!(pods.streams.lock().unwrap().len(), 2);
        drop(second);
        assert_eq!(pods.streams.lock().unwrap().len(), 1);
    }
}
