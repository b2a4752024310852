//! `/metrics`, `/healthz` and `/readyz`, without TLS: nothing secret is in them.

use std::convert::Infallible;
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
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::operator::metrics::Metrics;

/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 64;

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
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("http: cannot accept a connection: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let pages = pages.clone();
                async move { Ok::<_, Infallible>(pages.answer(&request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away, or stays too long, is nothing to report.
            let _ = timeout(CONNECTION_MAX, connection).await;
            drop(permit);
        });
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
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
}
