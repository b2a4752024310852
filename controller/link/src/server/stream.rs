//! One agent's stream, from `Connected` to `Disconnected`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::review::Standing;
use super::service::{Out, Shared, elsewhere};
use super::{FromAgent, Identity, Leadership, Reason, Sender, StreamId, Turned};
use crate::limits::DOCUMENT_BYTES_MAX;
use crate::wire::proto::{self, from_agent, from_operator};
use crate::wire::report_from_wire;
use crate::{Configuration, Report, Version};
use l7mp_api::Problem;

/// Between two things that an agent says: one that talks without end is not to be the only one who is heard.
const REPORT_PAUSE: Duration = Duration::from_millis(5);
/// How long the last word may take to leave.
const LAST_WORD: Duration = Duration::from_secs(1);

/// One agent's stream.
pub(super) struct Stream {
    pub(super) shared: Arc<Shared>,
    pub(super) stream: StreamId,
    pub(super) identity: Identity,
    pub(super) peer: IpAddr,
    pub(super) inbound: Streaming<proto::FromAgent>,
    pub(super) out: mpsc::Sender<Out>,
    pub(super) standing: Standing,
}

/// Why a stream ends.
enum End {
    /// The agent has gone.
    Gone(String),
    /// The agent is told this.
    Told(Out),
    /// The operator wants no more of it.
    Closed,
}

/// What happens next on a stream; of a channel, whether it is open still.
enum Next {
    Said(Result<Option<proto::FromAgent>, Status>),
    Configured(bool),
    Room(bool),
    Reviewed(Result<Identity, (Reason, String)>),
    Led(bool),
    Replaced,
}

impl Stream {
    /// Until the stream ends.
    pub(super) async fn run(mut self, holds: Option<Version>) {
        let mut seat = self.shared.pods.take(&self.identity.uid, self.stream).await;
        let counters = Arc::clone(&self.shared.counters);
        let (sender, latest) = watch::channel(None);
        let sender = Sender { latest: sender };
        let connected = FromAgent::Connected { stream: self.stream, identity: self.identity.clone(), holds, sender };
        if self.shared.events.send(connected).await.is_err() {
            return;
        }
        counters.streams.fetch_add(1, Ordering::Relaxed);
        counters.live.fetch_add(1, Ordering::Relaxed);
        let (pod, stream) = (self.pod(), self.stream.0);
        tracing::info!(pod, stream, peer = %self.peer, "agent connected, holds {}", shown(holds));
        match self.converse(latest, &mut seat.replaced).await {
            End::Gone(why) => tracing::info!(pod, stream, "agent's stream ended: {why}"),
            End::Closed => tracing::info!(pod, stream, "agent's stream closed"),
            End::Told(last) => {
                let why = match &last {
                    Ok(_) => "another replica leads".to_owned(),
                    Err(status) => status.message().to_owned(),
                };
                tracing::info!(pod, stream, "agent's stream ended: {why}");
                // An agent that does not read is not told.
                let _ = self.out.send_timeout(last, LAST_WORD).await;
            }
        }
        counters.live.fetch_sub(1, Ordering::Relaxed);
        let disconnected = FromAgent::Disconnected { stream: self.stream, identity: self.identity };
        // Nobody is left to be told.
        let _ = self.shared.events.send(disconnected).await;
        drop(seat);
    }

    async fn converse(
        &mut self,
        mut latest: watch::Receiver<Option<Arc<Configuration>>>,
        replaced: &mut watch::Receiver<bool>,
    ) -> End {
        let (mut leadership, mut end) = (self.shared.leadership.clone(), self.shared.end.clone());
        let mut listen_after = Instant::now();
        let mut pending = false;
        loop {
            if let Leadership::There { address } = &*leadership.borrow_and_update() {
                return End::Told(Ok(elsewhere(address.clone())));
            }
            let listen = async {
                tokio::time::sleep_until(listen_after).await;
                self.inbound.message().await
            };
            let next = tokio::select! {
                message = listen => Next::Said(message),
                changed = latest.changed(), if !pending => Next::Configured(changed.is_ok()),
                permit = self.out.reserve(), if pending => Next::Room(permit.is_ok()),
                reviewed = self.standing.next() => Next::Reviewed(reviewed),
                changed = leadership.changed() => Next::Led(changed.is_ok()),
                _ = replaced.changed() => Next::Replaced,
                _ = end.changed() => return End::Told(Err(Status::unavailable("the operator ends"))),
                () = self.out.closed() => return End::Gone("the connection has ended".to_owned()),
            };
            let done = match next {
                Next::Said(message) => {
                    listen_after = Instant::now() + REPORT_PAUSE;
                    self.hear(message).await
                }
                Next::Configured(true) => {
                    pending = true;
                    Ok(())
                }
                Next::Room(true) => {
                    pending = false;
                    let configuration = latest.borrow_and_update().clone();
                    self.tell(configuration).await
                }
                Next::Reviewed(reviewed) => self.judge(reviewed),
                Next::Led(true) => Ok(()),
                Next::Configured(false) | Next::Led(false) => Err(End::Closed),
                Next::Room(false) => Err(End::Gone("the connection has ended".to_owned())),
                Next::Replaced => {
                    self.shared.counters.replaced.fetch_add(1, Ordering::Relaxed);
                    Err(End::Told(Err(Status::aborted("a newer stream of this pod has taken its place"))))
                }
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Sends a configuration; there is room for one, and only this task fills it.
    async fn tell(&mut self, configuration: Option<Arc<Configuration>>) -> Result<(), End> {
        let counters = Arc::clone(&self.shared.counters);
        match configuration.map(|configuration| message(&configuration)) {
            None => Ok(()),
            Some(Ok(message)) => {
                counters.configurations.fetch_add(1, Ordering::Relaxed);
                counters.bytes.fetch_add(message.document.len() as u64, Ordering::Relaxed);
                let message = Some(from_operator::Message::Configuration(message));
                let sent = self.out.send(Ok(proto::FromOperator { message })).await;
                sent.map_err(|_| End::Gone("the connection has ended".to_owned()))
            }
            Some(Err(refusal)) => {
                counters.too_long.fetch_add(1, Ordering::Relaxed);
                self.pass_on(refusal).await
            }
        }
    }

    async fn hear(&mut self, message: Result<Option<proto::FromAgent>, Status>) -> Result<(), End> {
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Err(End::Gone("the agent closed it".to_owned())),
            Err(status) => return Err(End::Gone(status.message().to_owned())),
        };
        match message.message {
            Some(from_agent::Message::Token(proto::Token { token })) => {
                self.standing.fresh(token);
                Ok(())
            }
            // An agent of a later version says what this one does not know.
            None => Ok(()),
            Some(message) => match report_from_wire(message) {
                Some(report) => self.pass_on(report).await,
                None => {
                    let message = "a report names no version, or a second Hello came";
                    self.shared.turn(Turned::Protocol, self.peer, message);
                    Err(End::Told(Err(Status::invalid_argument(message))))
                }
            },
        }
    }

    async fn pass_on(&mut self, report: Report) -> Result<(), End> {
        let event = FromAgent::Report { stream: self.stream, identity: self.identity.clone(), report };
        self.shared.events.send(event).await.map_err(|_| End::Closed)
    }

    /// A token was reviewed again.
    fn judge(&mut self, reviewed: Result<Identity, (Reason, String)>) -> Result<(), End> {
        let (reason, message) = match reviewed {
            Ok(identity) if identity.uid == self.identity.uid => {
                tracing::debug!(pod = self.pod(), stream = self.stream.0, "the agent proved again who it is");
                return Ok(());
            }
            Ok(other) => {
                let message = format!("the fresh token is of another pod, {}/{}", other.namespace, other.pod);
                (Reason::OtherPod, message)
            }
            Err(refused) => refused,
        };
        let who = format!(" of {}, whose stream ends", self.pod());
        Err(End::Told(Err(self.shared.refuse(reason, &message, self.peer, &who))))
    }

    fn pod(&self) -> String {
        format!("{}/{}", self.identity.namespace, self.identity.pod)
    }
}

fn shown(holds: Option<Version>) -> String {
    holds.map_or_else(|| "nothing".to_owned(), |version| version.to_string())
}

/// As it goes over the wire; or, when it is too long, what the agent would say of it.
fn message(configuration: &Configuration) -> Result<proto::Configuration, Report> {
    let Configuration { version, config, origins, drain } = configuration;
    let refused =
        |message: String| Report::Refused { version: *version, errors: vec![Problem::new(String::new(), message)] };
    let document = serde_json::to_vec(&**config).map_err(|error| refused(error.to_string()))?;
    if document.len() > DOCUMENT_BYTES_MAX {
        return Err(refused(format!(
            "the document has {} bytes, an agent takes {DOCUMENT_BYTES_MAX}; fewer endpoints or rules are needed",
            document.len()
        )));
    }
    let origins = origins.iter().cloned().map(Into::into).collect();
    Ok(proto::Configuration { version: Some((*version).into()), document: document.into(), origins, drain: *drain })
}
