//! The one method of the service: who asks, and whether there is a stream for them here.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tonic::codegen::async_trait;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::gate::{Busy, Gate};
use super::pods::Pods;
use super::quiet::Quiet;
use super::review::{Standing, review};
use super::stream::Stream;
use super::{Authority, Counters, Denied, FromAgent, Leadership, Reason, StreamId, Timing, Turned};
use crate::wire::proto::operator_server::Operator;
use crate::wire::proto::{self, from_agent, from_operator};

/// What all connections share.
pub(super) struct Shared {
    pub(super) authority: Arc<dyn Authority>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) events: mpsc::Sender<FromAgent>,
    pub(super) counters: Arc<Counters>,
    pub(super) timing: Timing,
    pub(super) pods: Arc<Pods>,
    pub(super) gate: Arc<Gate>,
    pub(super) quiet: Quiet,
    /// Closed when the server ends.
    pub(super) end: watch::Receiver<()>,
    pub(super) streams: AtomicU64,
}

impl Shared {
    /// Counts a token that is refused, and says so in the log.
    pub(super) fn refuse(&self, reason: Reason, message: &str, peer: IpAddr, who: &str) -> Status {
        self.counters.refuse(reason);
        if let Some(left_out) = self.quiet.allows(Instant::now()) {
            tracing::warn!(%peer, reason = reason.name(), left_out, "refused a token{who}: {message}");
        }
        Status::unauthenticated(message)
    }

    /// Counts somebody who is turned away, and says so in the log.
    pub(super) fn turn(&self, why: Turned, peer: IpAddr, message: &str) {
        self.counters.turn(why);
        if let Some(left_out) = self.quiet.allows(Instant::now()) {
            tracing::warn!(%peer, left_out, "turned away: {message}");
        }
    }
}

/// What one client may ask.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: IpAddr,
    pub(super) busy: Arc<Busy>,
}

/// What goes out on a stream.
pub(super) type Out = Result<proto::FromOperator, Status>;

#[async_trait]
impl Operator for Connection {
    type ConnectStream = ReceiverStream<Out>;

    async fn connect(
        &self,
        request: Request<Streaming<proto::FromAgent>>,
    ) -> Result<Response<ReceiverStream<Out>>, Status> {
        let (shared, peer) = (&self.shared, self.peer);
        let work = self.busy.begin();
        let leadership = shared.leadership.borrow().clone();
        match leadership {
            Leadership::Here { .. } => {}
            Leadership::There { address } => {
                shared.counters.turn(Turned::Elsewhere);
                return Ok(Response::new(only(elsewhere(address))));
            }
            Leadership::Nobody => {
                shared.counters.turn(Turned::NoLeader);
                return Err(Status::unavailable("no replica of the operator leads at the moment"));
            }
        }
        let token = token_of(&request);
        let identity = match review(shared, token.clone(), peer).await {
            Ok(identity) => identity,
            Err(denied) => {
                let status = self.denied(denied);
                if status.code() == tonic::Code::Unauthenticated {
                    // Each review is a request to the API server: those who are refused do not get many.
                    tokio::time::sleep(shared.timing.review_pauses.0).await;
                }
                return Err(status);
            }
        };
        work.known();
        let mut inbound = request.into_inner();
        let holds = self.hello(&mut inbound).await?;
        let (out, body) = mpsc::channel(1);
        let standing = Standing::new(Arc::clone(shared), peer, token, identity.expires);
        let stream = StreamId(shared.streams.fetch_add(1, Ordering::Relaxed) + 1);
        let stream = Stream { shared: Arc::clone(shared), stream, identity, peer, inbound, out, standing };
        tokio::spawn(async move {
            stream.run(holds).await;
            drop(work);
        });
        Ok(Response::new(ReceiverStream::new(body)))
    }
}

impl Connection {
    fn denied(&self, denied: Denied) -> Status {
        match denied {
            Denied::Refused { reason, message } => self.shared.refuse(reason, &message, self.peer, ""),
            Denied::Unavailable(message) => {
                let said = format!("its token cannot be reviewed now: {message}");
                self.shared.turn(Turned::Unavailable, self.peer, &said);
                Status::unavailable(message)
            }
        }
    }

    /// The agent's first message: what its proxy has.
    async fn hello(&self, inbound: &mut Streaming<proto::FromAgent>) -> Result<Option<crate::Version>, Status> {
        let first = tokio::time::timeout(self.shared.timing.patience, inbound.message());
        let wrong = |message: &str| {
            self.shared.turn(Turned::Protocol, self.peer, message);
            Status::invalid_argument(message.to_owned())
        };
        match first.await {
            Ok(Ok(Some(proto::FromAgent { message: Some(from_agent::Message::Hello(hello)) }))) => {
                Ok(hello.holds.map(Into::into))
            }
            Ok(Ok(_)) => Err(wrong("the first message of an agent is Hello")),
            Ok(Err(status)) => Err(status),
            Err(_) => {
                self.shared.turn(Turned::TooSlow, self.peer, "no Hello came in time");
                Err(Status::deadline_exceeded("no Hello came in time"))
            }
        }
    }
}

/// Empty: there is none.
fn token_of<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    token.map(|(_, token)| token.trim().to_owned()).unwrap_or_default()
}

pub(super) fn elsewhere(address: String) -> proto::FromOperator {
    let message = from_operator::Message::Elsewhere(proto::Elsewhere { address });
    proto::FromOperator { message: Some(message) }
}

/// A stream of one message.
fn only(message: proto::FromOperator) -> ReceiverStream<Out> {
    let (sender, receiver) = mpsc::channel(1);
    // There is room for one.
    let _ = sender.try_send(Ok(message));
    ReceiverStream::new(receiver)
}
