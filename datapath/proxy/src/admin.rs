//! The admin API: HTTP/1.1 with JSON over a Unix socket, and the part of it that TCP may see.
//!
//! ```text
//! GET PUT    /api/v1/config[?dry_run=true]          the whole document; If-Match: "<version>"
//! GET        /api/v1/listeners[/{name}]             also clusters, routes, rules, rulelists
//! GET        /api/v1/sessions[?listener=&limit=&cursor=]
//! GET DELETE /api/v1/sessions/{name}
//! GET        /api/v1/info
//! POST       /api/v1/drain
//! GET        /metrics  /healthz  /readyz            these three over TCP too
//! ```
//!
//! What the answers hold stands in [`l7mp_api::status`].

mod answer;
mod body;
mod config;
mod health;
mod objects;
mod place;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use l7mp_api::status::{Draining, Info};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::net::unix::UCred;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use crate::control::{Control, PAGE_MAX};
use crate::metrics;
use answer::Answer;
use place::{Door, Place};

pub use socket::{AdminSocket, bind};

/// Connections of one door at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long the head of a request may take, and how long a connection may be idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection over TCP may live: it serves one request.
const TCP_PATIENCE: Duration = Duration::from_secs(30);
/// The wait after an `accept` that failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long sessions outlive a drain when nobody says.
const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The admin API of a proxy. Clones are the same API.
#[derive(Clone)]
pub struct Admin {
    control: Arc<Control>,
    features: Vec<String>,
    drain_timeout: Duration,
    /// Whose connections are answered.
    trusted: Vec<u32>,
    /// The process whose connections are not: a session that was led into the admin socket.
    stranger: Option<i32>,
}

impl Admin {
    /// The API of this process. Only its own user and root are answered on the Unix socket.
    pub fn new(control: Arc<Control>) -> Admin {
        let own = rustix::process::geteuid().as_raw();
        Admin {
            control,
            features: Vec::new(),
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
            trusted: vec![0, own],
            stranger: None,
        }
    }

    /// What the engine found in the kernel, for `info`.
    #[must_use]
    pub fn features(mut self, features: Vec<String>) -> Admin {
        self.features = features;
        self
    }

    /// How long sessions outlive `POST /api/v1/drain`.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Admin {
        self.drain_timeout = timeout;
        self
    }

    /// Answers no connection of this process.
    #[must_use]
    pub fn refuse_process(mut self, process: u32) -> Admin {
        self.stranger = i32::try_from(process).ok();
        self
    }

    /// Serves the whole API on the admin socket, until dropped; that removes the socket's file.
    pub async fn serve(self, socket: AdminSocket) {
        let admin = Arc::new(self);
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Some(permit) = free(&connections).await else { return };
            match socket.listener.accept().await {
                Ok((stream, _)) => {
                    let trusted = stream.peer_cred().is_ok_and(|peer| admin.trusts(&peer));
                    tokio::spawn(Arc::clone(&admin).unix_connection(stream, trusted, permit));
                }
                Err(error) => {
                    warn!("the admin socket takes no connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves `/metrics`, `/healthz` and `/readyz` over TCP, until dropped.
    pub async fn serve_http(self, listener: TcpListener) {
        let admin = Arc::new(self);
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Some(permit) = free(&connections).await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = Arc::clone(&admin).connection(stream, Door::Tcp, true, permit);
                    tokio::spawn(tokio::time::timeout(TCP_PATIENCE, connection));
                }
                Err(error) => {
                    warn!("--http takes no connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn trusts(&self, peer: &UCred) -> bool {
        let session = self.stranger.is_some() && peer.pid() == self.stranger;
        self.trusted.contains(&peer.uid()) && !session
    }

    async fn unix_connection(
        self: Arc<Self>,
        stream: tokio::net::UnixStream,
        trusted: bool,
        permit: OwnedSemaphorePermit,
    ) {
        if !trusted {
            self.control.admin_refused.fetch_add(1, Ordering::Relaxed);
            warn!("a connection of another user, or of a session of this proxy, to the admin socket is refused");
        }
        self.connection(stream, Door::Unix, trusted, permit).await;
    }

    /// One connection, from its first request to its end.
    async fn connection<S>(self: Arc<Self>, stream: S, door: Door, trusted: bool, _permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(|request| {
            let admin = Arc::clone(&self);
            async move {
                let answer = if trusted { admin.answer(request, door).await } else { stranger() };
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .keep_alive(door == Door::Unix)
            .serve_connection(TokioIo::new(stream), service);
        // What breaks a connection is its client's affair.
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>, door: Door) -> Answer {
        let path = request.uri().path();
        let Some(place) = Place::parse(path, door) else {
            return answer::failure(StatusCode::NOT_FOUND, format!("nothing is at {path}"));
        };
        if !place.methods().contains(request.method()) {
            return answer::not_allowed(request.method(), path, place.methods());
        }
        let control = &*self.control;
        match place {
            Place::Config if request.method() == Method::PUT => {
                config::put(&self.control, request).await.unwrap_or_else(|refusal| refusal)
            }
            Place::Config => config::get(control).await,
            Place::Objects(kind, name) => objects::get(control, kind, name.as_deref()).await,
            Place::Sessions => self.sessions(request.uri().query()).await,
            Place::Session(name) if request.method() == Method::DELETE => self.delete_session(&name).await,
            Place::Session(name) => match control.session(&name).await {
                Some(session) => answer::ok(&session),
                None => answer::unknown("session", &name),
            },
            Place::Info => answer::ok(&self.info().await),
            Place::Drain => answer::ok(&self.drain().await),
            Place::Metrics => answer::metrics(metrics::of(control).await),
            Place::Health => health::health(control),
            Place::Ready => health::ready(control),
        }
    }

    async fn sessions(&self, query: Option<&str>) -> Answer {
        let bad_request = |message: String| answer::failure(StatusCode::BAD_REQUEST, message);
        let parameters = match place::parameters(query, &["listener", "limit", "cursor"]) {
            Ok(parameters) => parameters,
            Err(message) => return bad_request(message),
        };
        let limit = match parameters.get("limit").map(|text| text.parse::<usize>()) {
            None => PAGE_MAX,
            Some(Ok(limit)) if (1..=PAGE_MAX).contains(&limit) => limit,
            Some(_) => return bad_request(format!("limit is a number between 1 and {PAGE_MAX}")),
        };
        let cursor = match parameters.get("cursor").map(|text| cursor(text)) {
            None => None,
            Some(Some(cursor)) => Some(cursor),
            Some(None) => return bad_request("cursor is what the page before ended with".to_owned()),
        };
        let listener = parameters.get("listener").map(String::as_str);
        answer::ok(&self.control.sessions(listener, limit, cursor).await)
    }

    async fn delete_session(&self, name: &str) -> Answer {
        if !self.control.delete_session(name).await {
            return answer::unknown("session", name);
        }
        info!("deleted session {name}");
        let mut answer = Answer::default();
        *answer.status_mut() = StatusCode::NO_CONTENT;
        answer
    }

    async fn info(&self) -> Info {
        let adopted = self.control.adopted();
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.control.instance.clone(),
            config_version: adopted.version,
            config_source: adopted.source,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            features: self.features.clone(),
            workers: self.control.workers.len(),
            limits: limits(),
            draining: self.control.is_draining(),
            pid: std::process::id(),
            uptime_seconds: self.control.started.elapsed().as_secs(),
            sessions: self.control.session_count(),
            failing: self.control.failing(),
        }
    }

    /// Begins to drain; the sessions that outstay the timeout are ended. Asking again changes nothing.
    async fn drain(&self) -> Draining {
        let first = !self.control.is_draining();
        let sessions = self.control.drain().await;
        if first {
            info!(sessions, "draining, as the admin API asks");
            let (control, timeout) = (Arc::clone(&self.control), self.drain_timeout);
            tokio::spawn(async move {
                tokio::time::sleep(timeout).await;
                control.end_drained().await;
            });
        }
        Draining { sessions }
    }
}

/// A place for one more connection. `None` never: the semaphore is not closed.
async fn free(connections: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(connections).acquire_owned().await.ok()
}

/// 403 for who is neither this user nor root.
fn stranger() -> Answer {
    let message = "the admin socket answers its proxy's own user and root only, and no session of the proxy";
    answer::last(answer::failure(StatusCode::FORBIDDEN, message))
}

/// `<worker>.<slot>`
fn cursor(text: &str) -> Option<(usize, usize)> {
    let (worker, slot) = text.split_once('.')?;
    Some((worker.parse().ok()?, slot.parse().ok()?))
}

/// Bounds of every proxy.
fn limits() -> BTreeMap<String, u64> {
    use l7mp_api::limits as document;
    use l7mp_forwarder::limits as forwarder;
    let engine = l7mp_engine::Settings::default();
    let limits = [
        ("admin_connections", CONNECTIONS_MAX),
        ("clusters", document::CLUSTERS_MAX),
        ("document_bytes", document::DOCUMENT_BYTES_MAX),
        ("endpoints_per_cluster", document::ENDPOINTS_MAX),
        ("held_bytes_per_session", forwarder::HELD_BYTES_MAX),
        ("held_messages_per_session", forwarder::HELD_MESSAGES_MAX),
        ("large_buffers_per_worker", engine.large_buffers.into()),
        ("listeners", document::LISTENERS_MAX),
        ("message_bytes", forwarder::MESSAGE_BYTES_MAX),
        ("queued_bytes_per_link", forwarder::OUTBOX_HIGH_BYTES),
        ("sessions_per_listener_default", forwarder::SESSIONS_DEFAULT as usize),
        ("sessions_per_page", PAGE_MAX),
        ("small_buffers_per_worker", engine.small_buffers.into()),
        ("stream_buffers_per_worker", engine.stream_buffers.into()),
    ];
    limits.into_iter().map(|(name, limit)| (name.to_owned(), limit as u64)).collect()
}
