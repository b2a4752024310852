//! `/metrics`, `/healthz` and `/readyz`, without TLS: nothing secret is in them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use l7mp_link::server::Counters;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::operator::metrics::Metrics;

/// Connections at once. The oldest makes room for the next: probes and scrapes are done in milliseconds, so whoever
/// only holds places cannot keep the kubelet out.
const CONNECTIONS_MAX: usize = 64;

/// Of these, from one address.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 8;

/// A request's head must have come after so long, the first one and those that follow on the same connection.
const HEAD_MAX: Duration = Duration::from_secs(2);

/// A connection that is still there after so long is closed: scrapers and probes are done in milliseconds.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// The loop is alive when it answers within so long; its longest turn is the first one, with every proxy.
const TICK_MAX: Duration = Duration::from_secs(5);

/// Asks the loop whether it is alive: it answers by sending.
pub type Tick = oneshot::Sender<()>;

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// The operator's counters.
    pub metrics: Arc<Metrics>,
    /// Those of the agents' port.
    pub link: Arc<Counters>,
    /// Whether all objects were listed once.
    pub synced: watch::Receiver<bool>,
    /// To the loop.
    pub ticks: mpsc::Sender<Tick>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, pages: Pages) {
    let mut places = Places::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("http: cannot accept a connection: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let pages = pages.clone();
        places.make_room(peer.ip());
        let task = tokio::spawn(async move {
            let service = service_fn(|request| {
                let pages = pages.clone();
                async move { Ok::<_, Infallible>(pages.answer(&request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away, or stays too long, is nothing to report.
            let _ = timeout(CONNECTION_MAX, connection).await;
        });
        places.0.push_back((peer.ip(), task.abort_handle()));
    }
}

/// The connections, the oldest first.
#[derive(Default)]
struct Places(VecDeque<(IpAddr, AbortHandle)>);

impl Places {
    /// Closes the oldest connection of this address, or the oldest of all, where there is no place for another one.
    fn make_room(&mut self, peer: IpAddr) {
        self.0.retain(|(_, task)| !task.is_finished());
        let of_peer = self.0.iter().filter(|(address, _)| *address == peer).count();
        let oldest = if of_peer >= CONNECTIONS_PER_ADDRESS_MAX {
            self.0.iter().position(|(address, _)| *address == peer)
        } else {
            (self.0.len() >= CONNECTIONS_MAX).then_some(0)
        };
        if let Some((_, task)) = oldest.and_then(|oldest| self.0.remove(oldest)) {
            task.abort();
        }
    }
}

impl Pages {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return page(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
        }
        match request.uri().path() {
            "/metrics" => page(StatusCode::OK, self.metrics.render() + &self.link.render()),
            "/healthz" => match self.is_alive().await {
                true => page(StatusCode::OK, "ok\n".to_owned()),
                false => page(StatusCode::SERVICE_UNAVAILABLE, "the loop does not answer\n".to_owned()),
            },
            "/readyz" => match *self.synced.borrow() {
                true => page(StatusCode::OK, "ok\n".to_owned()),
                false => {
                    page(StatusCode::SERVICE_UNAVAILABLE, "not every kind was listed yet, see the log\n".to_owned())
                }
            },
            _ => page(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
        }
    }

    async fn is_alive(&self) -> bool {
        let (tick, answer) = oneshot::channel();
        let asked = async {
            self.ticks.send(tick).await.ok()?;
            answer.await.ok()
        };
        matches!(timeout(TICK_MAX, asked).await, Ok(Some(())))
    }
}

fn page(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_is_the_loops_and_readiness_the_caches() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ticks, mut asked) = mpsc::channel::<Tick>(1);
        let (synced_sender, synced) = watch::channel(false);
        let pages = Pages { metrics: Arc::default(), link: Arc::default(), synced, ticks };
        let server = tokio::spawn(serve(listener, pages));
        let answering = tokio::spawn(async move {
            let _ = asked.recv().await.unwrap().send(());
            asked
        });
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        drop(answering.await.unwrap());
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 503"), "the loop is gone");
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        synced_sender.send(true).unwrap();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("\nl7mp_operator_leads 0\n"));
        assert!(get(address, "/x").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }

    /// A connection from 127.0.0.`last` that says nothing.
    async fn silent(to: SocketAddr, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        socket.connect(to).await.unwrap()
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        matches!(timeout(HEAD_MAX / 4, stream.read(&mut [0])).await, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn silent_connections_keep_no_probe_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_synced, synced) = watch::channel(true);
        let pages = Pages { metrics: Arc::default(), link: Arc::default(), synced, ticks: mpsc::channel(1).0 };
        let server = tokio::spawn(serve(listener, pages));
        // The probe's own address has them as well: pods of the host's network share the kubelet's.
        for addresses in [1..2, 2..100] {
            let mut held = Vec::new();
            for last in addresses.clone() {
                for _ in 0..=CONNECTIONS_PER_ADDRESS_MAX {
                    held.push(silent(address, last).await);
                }
            }
            let probed = timeout(HEAD_MAX / 2, get(address, "/readyz")).await.expect("it is not kept waiting");
            assert!(probed.starts_with("HTTP/1.1 200"), "{probed}");
            assert!(is_closed(&mut held[0]).await, "the oldest of {addresses:?}");
            assert!(!is_closed(held.last_mut().unwrap()).await, "the newest of {addresses:?}");
        }
        server.abort();
    }
}
