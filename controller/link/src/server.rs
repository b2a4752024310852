//! The operator's half: takes agents' streams, asks an [`Authority`] who they are, and passes on what they say.

mod accept;
mod counters;
mod gate;
mod pods;
mod quiet;
mod review;
mod service;
mod stream;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::{Configuration, Report, Version};
pub use counters::{Counters, Turned};
pub use quiet::Quiet;

/// A future in a box.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Says which pod a token belongs to.
pub trait Authority: Send + Sync + 'static {
    /// Judges a token that came from `peer` (an IPv4 address is one, never an IPv4-mapped IPv6 address). Called at
    /// the start of a stream, for each fresh token, and again for the last one when it has expired.
    fn review(&self, token: String, peer: IpAddr) -> BoxFuture<'_, Result<Identity, Denied>>;
}

/// The pod that a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its `metadata.uid`.
    pub uid: String,
    /// When the token ends (its `exp`, read after it was found to be good). `None`: never.
    pub expires: Option<SystemTime>,
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It never will: the stream ends, `UNAUTHENTICATED`.
    Refused {
        /// For counting.
        reason: Reason,
        /// For the log.
        message: String,
    },
    /// The review could not be made, or the pod is not known yet: try again. Ends no live stream.
    Unavailable(String),
}

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// There is none, or it is no token at all.
    Absent,
    /// Longer than any token.
    TooLong,
    /// Its time is over.
    Expired,
    /// It is for somebody else than the operator.
    Audience,
    /// It is bound to no pod.
    NotOfPod,
    /// Its pod is gone, or another of the same name has taken its place.
    PodGone,
    /// It was used from an address that is not its pod's.
    Address,
    /// A fresh token of a stream is of another pod.
    OtherPod,
    /// Anything else that the API server finds fault with: signature, issuer, service account.
    Invalid,
}

impl Reason {
    /// All of them, in the order of their counters.
    pub const ALL: [Reason; 9] = [
        Reason::Absent,
        Reason::TooLong,
        Reason::Expired,
        Reason::Audience,
        Reason::NotOfPod,
        Reason::PodGone,
        Reason::Address,
        Reason::OtherPod,
        Reason::Invalid,
    ];

    /// As metrics and logs name it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Absent => "absent",
            Reason::TooLong => "too_long",
            Reason::Expired => "expired",
            Reason::Audience => "audience",
            Reason::NotOfPod => "not_of_pod",
            Reason::PodGone => "pod_gone",
            Reason::Address => "address",
            Reason::OtherPod => "other_pod",
            Reason::Invalid => "invalid",
        }
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This replica: it takes streams.
    Here {
        /// The Lease's `leaseTransitions`.
        term: u64,
    },
    /// Another one: streams are told its address, and end.
    There {
        /// `ADDRESS:PORT` of its gRPC.
        address: String,
    },
    /// Nobody knows: streams stay, new ones are answered `UNAVAILABLE`.
    Nobody,
}

/// Names one stream; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What the operator is told. The streams of one pod follow each other: `Disconnected` of the older comes before
/// `Connected` of the newer. Reports stand between the two of their stream.
#[derive(Debug)]
pub enum FromAgent {
    /// A stream has begun.
    Connected {
        /// Its name.
        stream: StreamId,
        /// Whose it is.
        identity: Identity,
        /// What its proxy acknowledged last, of whichever leader.
        holds: Option<Version>,
        /// Where its configurations go.
        sender: Sender,
    },
    /// The agent says something.
    Report {
        /// Which stream.
        stream: StreamId,
        /// Whose it is.
        identity: Identity,
        /// What it says.
        report: Report,
    },
    /// The stream has ended, for whichever reason; once for each `Connected`.
    Disconnected {
        /// Which stream.
        stream: StreamId,
        /// Whose it was.
        identity: Identity,
    },
}

/// Takes an agent's configurations. Dropping the last clone ends the stream.
#[derive(Clone, Debug)]
pub struct Sender {
    latest: watch::Sender<Option<Arc<Configuration>>>,
}

/// The stream has ended; `Disconnected` says so too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent's stream has ended")]
pub struct Ended;

impl Sender {
    /// Hands over a configuration. Never waits: one that the agent has not read yet is replaced.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn try_send(&self, configuration: Configuration) -> Result<(), Ended> {
        self.latest.send(Some(Arc::new(configuration))).map_err(|_| Ended)
    }
}

/// Waits of the server.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a TLS handshake, a request, or an agent's first message may take (5 s).
    pub patience: Duration,
    /// How long one review may take; after that it could not be made (10 s).
    pub review: Duration,
    /// Between two reviews of one stream (1 s), and after one that could not be made (5 s).
    pub review_pauses: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            patience: Duration::from_secs(5),
            review: Duration::from_secs(10),
            review_pauses: (Duration::from_secs(1), Duration::from_secs(5)),
        }
    }
}

/// What a server stands on.
pub struct Server {
    /// What is shown to new connections; a new value ends no stream.
    pub tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    /// Who judges tokens.
    pub authority: Arc<dyn Authority>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Who is told.
    pub events: mpsc::Sender<FromAgent>,
    /// Where everything is counted.
    pub counters: Arc<Counters>,
    /// Waits.
    pub timing: Timing,
}

impl Server {
    /// Serves agents until `events` is closed. Dropping the future ends every stream.
    ///
    /// # Errors
    /// None today: what `accept` says is logged, and tried again.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        accept::serve(self, listener).await
    }
}

/// [`Server::serve`] with the default [`Timing`].
///
/// # Errors
/// As for [`Server::serve`].
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    authority: Arc<dyn Authority>,
    leadership: watch::Receiver<Leadership>,
    events: mpsc::Sender<FromAgent>,
    counters: Arc<Counters>,
) -> io::Result<()> {
    Server { tls, authority, leadership, events, counters, timing: Timing::default() }.serve(listener).await
}
