//! Which pod an agent's token belongs to: the API server says so (TokenReview), and the pod's addresses say whether
//! it is the pod that uses it.
//!
//! A token is good for the pod that it is bound to and for nothing else: an unbound one is refused, and so is one
//! that comes from an address of another pod. The API server answers from a cache of 10 s for tokens that it found
//! good, so a pod that has just gone may still pass the review; what the operator's own cache knows decides then.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use l7mp_link::server::{Authority, BoxFuture, Denied, Identity, Reason};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// The audience that agents' tokens are for.
pub const AUDIENCE: &str = "l7mp-operator";

/// A token longer than this (bytes) is none; those of the API server have about 1,200.
const TOKEN_MAX: usize = 16 * 1024;
/// Reviews under way at once: a reconnection of every agent must not flood the API server.
const REVIEWS_MAX: usize = 16;
/// A review that takes longer, its wait for its turn included, could not be made.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// A token that was refused is not reviewed again for the same address so soon.
const PENALTY: Duration = Duration::from_secs(1);
/// An address with so many tokens under a penalty waits with every other token, too: behind a network that translates
/// addresses, or on a node's own, one bad pod delays no other, and who makes up tokens has few reviews made.
const PENALTIES_OF_ADDRESS_MAX: usize = 8;
/// Addresses with a penalty that are remembered.
const PENALISED_MAX: usize = 4_096;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// What the operator knows of a pod, as far as its agent's identity goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAddresses {
    /// Its `metadata.uid`.
    pub uid: String,
    /// `status.podIPs`; with the network of its node also `status.hostIPs`. Empty until the kubelet has said them.
    pub addresses: Vec<IpAddr>,
    /// It has its node's network. A node has addresses that no pod's status names (its bridge's, its overlay's),
    /// so such a pod may come from any address that is not another pod's own.
    pub host_network: bool,
    /// It is gone from the API server: such a pod is remembered only to be told from one not seen yet. A pod that
    /// is being deleted (`deletionTimestamp`) is not gone: its proxy is told to drain.
    pub deleted: bool,
}

/// The operator's cache of pods.
pub trait Pods: Send + Sync + 'static {
    /// The pod of this name, `None` when none was seen.
    fn pod(&self, namespace: &str, name: &str) -> Option<PodAddresses>;
    /// Whether a living pod with a network of its own (not its node's) has this address. Asked only for pods with
    /// their node's network that come from an address that is not in their status.
    fn is_pod_address(&self, address: IpAddr) -> bool;
}

/// Judges agents' tokens; see the module's documentation.
pub struct Review {
    reviews: Api<TokenReview>,
    pods: Arc<dyn Pods>,
    check_address: bool,
    turns: Semaphore,
    penalties: Mutex<HashMap<IpAddr, Vec<Penalty>>>,
    hashes: RandomState,
}

/// A token that was refused a moment ago.
#[derive(Clone, Copy, Debug)]
struct Penalty {
    /// The token is not kept, only a keyed hash of it.
    token: u64,
    until: Instant,
}

/// What is read of the payload of a token that was found to be good.
#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970.
    exp: u64,
}

/// A pod as the API server reads it out of a token.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    namespace: String,
    pod: String,
    uid: String,
}

impl Review {
    /// Asks this API server. Without `check_address` a token is good from anywhere: only for networks that
    /// translate the addresses between pods and operator.
    pub fn new(client: kube::Client, pods: Arc<dyn Pods>, check_address: bool) -> Review {
        Review {
            reviews: Api::all(client),
            pods,
            check_address,
            turns: Semaphore::new(REVIEWS_MAX),
            penalties: Mutex::default(),
            hashes: RandomState::new(),
        }
    }

    async fn judge(&self, token: String, peer: IpAddr) -> Result<Identity, Denied> {
        let peer = peer.to_canonical();
        let hash = self.hashes.hash_one(&token);
        if let Some(why) = self.penalty(peer, hash) {
            return Err(unavailable(why));
        }
        let result = self.judge_token(token, peer).await;
        match &result {
            Ok(identity) => {
                tracing::debug!(%peer, pod = %format_args!("{}/{}", identity.namespace, identity.pod), "agent known");
            }
            Err(Denied::Refused { reason, message }) => {
                self.penalise(peer, hash);
                // The stream's server says it, once in a while.
                tracing::debug!(%peer, ?reason, "agent refused: {message}");
            }
            Err(Denied::Unavailable(message)) => tracing::info!(%peer, "agent is to try again: {message}"),
        }
        result
    }

    async fn judge_token(&self, token: String, peer: IpAddr) -> Result<Identity, Denied> {
        if token.is_empty() {
            return Err(refused(Reason::Absent, "there is no token"));
        }
        if token.len() > TOKEN_MAX {
            let message = format!("the token has {} bytes; no token has more than {TOKEN_MAX}", token.len());
            return Err(refused(Reason::TooLong, message));
        }
        // Read before the review, so that what is no token costs none; believed only after it.
        let Some(claims) = claims(&token) else {
            return Err(refused(Reason::Invalid, "it is not a service-account token"));
        };
        let status = self.ask(token).await?;
        let bound = bound_pod(&status)?;
        self.judge_pod(&bound, peer)?;
        let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp));
        Ok(Identity { namespace: bound.namespace, pod: bound.pod, uid: bound.uid, expires })
    }

    /// One TokenReview.
    async fn ask(&self, token: String) -> Result<TokenReviewStatus, Denied> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token), audiences: Some(vec![AUDIENCE.to_owned()]) },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let asked = timeout(REVIEW_TIMEOUT, async {
            let _turn = self.turns.acquire().await;
            self.reviews.create(&params, &review).await
        });
        match asked.await {
            Ok(Ok(review)) => review.status.ok_or_else(|| unavailable("the API server's TokenReview has no status")),
            // The message of an error of the client never holds what was sent.
            Ok(Err(error)) => Err(unavailable(format!("the API server makes no TokenReview: {error}"))),
            Err(_) => Err(unavailable(format!("the API server made no TokenReview within {REVIEW_TIMEOUT:?}"))),
        }
    }

    fn judge_pod(&self, bound: &Bound, peer: IpAddr) -> Result<(), Denied> {
        let Bound { namespace, pod: name, uid } = bound;
        let Some(known) = self.pods.pod(namespace, name) else {
            return Err(unavailable(format!("pod {namespace}/{name} is not known yet")));
        };
        if known.uid != *uid {
            // Either its successor is not seen yet or it is gone: the API server refuses the token in 10 s then.
            let message = format!("pod {namespace}/{name} is known with UID {}, not yet with {uid}", known.uid);
            return Err(unavailable(message));
        }
        if known.deleted {
            return Err(refused(Reason::PodGone, format!("pod {namespace}/{name} is gone")));
        }
        if !self.check_address || known.addresses.iter().any(|address| address.to_canonical() == peer) {
            return Ok(());
        }
        if known.addresses.is_empty() {
            return Err(unavailable(format!("pod {namespace}/{name} has no address in its status yet")));
        }
        if known.host_network && !self.pods.is_pod_address(peer) {
            return Ok(());
        }
        let addresses = known.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        let message = format!(
            "the token of pod {namespace}/{name} was used from {peer}, but the pod has {addresses}; where a network \
             translates addresses, start the operator with --check-agent-address=false"
        );
        Err(refused(Reason::Address, message))
    }

    /// Why a token is not reviewed now.
    fn penalty(&self, peer: IpAddr, token: u64) -> Option<&'static str> {
        let now = Instant::now();
        let penalties = self.penalties.lock().unwrap_or_else(PoisonError::into_inner);
        let live = penalties.get(&peer)?.iter().filter(|penalty| now < penalty.until);
        if live.clone().any(|penalty| penalty.token == token) {
            return Some("this token was refused within the last second");
        }
        let is_full = live.count() >= PENALTIES_OF_ADDRESS_MAX;
        is_full.then_some("other tokens from this address were refused within the last second")
    }

    /// Where addresses are translated many agents share one: nobody pays for another there.
    fn penalise(&self, peer: IpAddr, token: u64) {
        if !self.check_address {
            return;
        }
        let now = Instant::now();
        let mut penalties = self.penalties.lock().unwrap_or_else(PoisonError::into_inner);
        if penalties.len() >= PENALISED_MAX {
            penalties.retain(|_, of_address| of_address.iter().any(|penalty| now < penalty.until));
        }
        if penalties.len() < PENALISED_MAX || penalties.contains_key(&peer) {
            let of_address = penalties.entry(peer).or_default();
            of_address.retain(|penalty| now < penalty.until && penalty.token != token);
            of_address.push(Penalty { token, until: now + PENALTY });
        }
    }
}

impl Authority for Review {
    fn review(&self, token: String, peer: IpAddr) -> BoxFuture<'_, Result<Identity, Denied>> {
        Box::pin(self.judge(token, peer))
    }
}

fn refused(reason: Reason, message: impl Into<String>) -> Denied {
    Denied::Refused { reason, message: message.into() }
}

fn unavailable(message: impl Into<String>) -> Denied {
    Denied::Unavailable(message.into())
}

/// The payload of a token, unverified.
fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// The pod that a reviewed token is bound to.
fn bound_pod(status: &TokenReviewStatus) -> Result<Bound, Denied> {
    if status.authenticated != Some(true) {
        let error = status.error.as_deref().unwrap_or("the API server does not say why");
        return Err(refused(reason_of(error), error));
    }
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        // An authenticator that knows nothing of audiences says yes to a token for anybody.
        return Err(refused(Reason::Audience, format!("the API server does not confirm the audience {AUDIENCE}")));
    }
    let user = status.user.clone().unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let account = username.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    let Some((namespace, _)) = account.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty()) else {
        return Err(refused(Reason::NotOfPod, format!("it is of {username:?}, which is no service account")));
    };
    let extra = user.extra.unwrap_or_default();
    let only = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    match (only(POD_NAME), only(POD_UID)) {
        (Some(pod), Some(uid)) => Ok(Bound { namespace: namespace.to_owned(), pod, uid }),
        _ => Err(refused(
            Reason::NotOfPod,
            format!("the token of {username} is bound to no pod; mount it as a projected volume"),
        )),
    }
}

/// What the API server found fault with, in its words (Kubernetes 1.33 to 1.36); only for counting.
fn reason_of(error: &str) -> Reason {
    if error.contains("has expired") {
        Reason::Expired
    } else if error.contains("audiences") {
        Reason::Audience
    } else if error.contains("has been invalidated") || error.contains("pod UID") {
        Reason::PodGone
    } else {
        Reason::Invalid
    }
}

#[cfg(test)]
mod tests;
