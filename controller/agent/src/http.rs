//! `/metrics`, `/healthz` and `/readyz`, and who asks for the last from a probe.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::proxy::Standing;
use crate::state::State;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may take: it serves one request.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait after an `accept` that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the answers are made of.
#[derive(Clone, Debug)]
pub struct Pages {
    /// What is counted.
    pub state: Arc<State>,
    /// How the proxy stands.
    pub standing: watch::Receiver<Standing>,
}

impl Pages {
    /// Answers for ever.
    pub async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("--http takes no connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let pages = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = pages.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // What breaks a connection is its client's affair.
                let _ = tokio::time::timeout(PATIENCE, connection).await;
                drop(place);
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => (StatusCode::OK, self.state.render()),
            (&Method::GET, "/healthz") => (StatusCode::OK, "it runs\n".to_owned()),
            (&Method::GET, "/readyz") => self.ready(),
            (&Method::GET, path) => (StatusCode::NOT_FOUND, format!("nothing is at {path}\n")),
            (method, _) => (StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for here\n")),
        };
        let mut answer = Response::new(Full::new(Bytes::from(text)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
        answer
    }

    fn ready(&self) -> (StatusCode, String) {
        if self.state.ready.load(Relaxed) {
            return (StatusCode::OK, "the proxy has a configuration\n".to_owned());
        }
        let why = match self.standing.borrow().trouble.as_str() {
            "" => "the proxy has no configuration yet\n".to_owned(),
            trouble => format!("{trouble}\n"),
        };
        (StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

/// Asks the agent at `address` whether it is ready: yes, or why not.
///
/// # Errors
/// When nobody answers there.
pub fn check(address: SocketAddr) -> io::Result<Result<String, String>> {
    let address = match address.ip() {
        IpAddr::V4(any) if any.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        IpAddr::V6(any) if any.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
        _ => address,
    };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let body = body.trim_end().to_owned();
    Ok(if head.starts_with("HTTP/1.1 200 ") { Ok(body) } else { Err(body) })
}
