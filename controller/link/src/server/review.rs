//! The reviews of one stream's tokens: at its start, for each fresh one, and for the last when it has expired.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::time::Instant;

use super::service::Shared;
use super::{BoxFuture, Denied, Identity, Reason};
use crate::limits::TOKEN_BYTES_MAX;

/// One review, at most as long as the server has patience for.
pub(super) async fn review(shared: &Shared, token: String, peer: IpAddr) -> Result<Identity, Denied> {
    let refused = |reason, message: &str| Err(Denied::Refused { reason, message: message.to_owned() });
    if token.is_empty() {
        return refused(Reason::Absent, "there is no token");
    }
    if token.len() > TOKEN_BYTES_MAX {
        return refused(Reason::TooLong, "the token is longer than 16 KiB");
    }
    shared.counters.reviews.fetch_add(1, Ordering::Relaxed);
    let review = shared.authority.review(token, peer);
    match tokio::time::timeout(shared.timing.review, review).await {
        Ok(Ok(identity)) if identity.expires.is_some_and(|expires| expires <= SystemTime::now()) => {
            refused(Reason::Expired, "the token has expired")
        }
        Ok(result) => result,
        Err(_) => Err(Denied::Unavailable("the review took too long".to_owned())),
    }
}

/// What a live stream's token is worth, and what is being done about it.
pub(super) struct Standing {
    shared: Arc<Shared>,
    peer: IpAddr,
    token: String,
    expires: Option<SystemTime>,
    last: Instant,
    under_way: Option<BoxFuture<'static, Result<Identity, (Reason, String)>>>,
}

impl Standing {
    /// After the first review.
    pub(super) fn new(shared: Arc<Shared>, peer: IpAddr, token: String, expires: Option<SystemTime>) -> Standing {
        Standing { shared, peer, token, expires, last: Instant::now(), under_way: None }
    }

    /// A fresh token has come: the newest counts.
    pub(super) fn fresh(&mut self, token: String) {
        if token != self.token {
            self.token = token;
            self.begin();
        }
    }

    /// Returns the identity of a token that was reviewed again, or why it is refused. Waits for a fresh token or
    /// for the last one's end, which only a review can tell: nobody can renew a token while the API server is
    /// away. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Identity, (Reason, String)> {
        if self.under_way.is_none() {
            match self.expires {
                Some(expires) => until(expires).await,
                None => std::future::pending().await,
            }
            self.begin();
        }
        let result = match &mut self.under_way {
            Some(review) => review.await,
            None => return std::future::pending().await,
        };
        self.under_way = None;
        self.last = Instant::now();
        if let Ok(identity) = &result {
            self.expires = identity.expires;
        }
        result
    }

    fn begin(&mut self) {
        let (shared, token, peer) = (Arc::clone(&self.shared), self.token.clone(), self.peer);
        let (pause, longer) = shared.timing.review_pauses;
        let first = self.last + pause;
        self.under_way = Some(Box::pin(async move {
            tokio::time::sleep_until(first).await;
            loop {
                match review(&shared, token.clone(), peer).await {
                    Ok(identity) => return Ok(identity),
                    Err(Denied::Refused { reason, message }) => return Err((reason, message)),
                    Err(Denied::Unavailable(message)) => {
                        tracing::warn!(%peer, "a live stream's token cannot be reviewed, it goes on: {message}");
                        tokio::time::sleep(longer).await;
                    }
                }
            }
        }));
    }
}

/// Waits for a time of day; looks at the clock again now and then, which may be set.
async fn until(time: SystemTime) {
    const LOOK: std::time::Duration = std::time::Duration::from_secs(10);
    while let Ok(left) = time.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
