//! The operator's port: TCP, TLS, HTTP/2, and how long those who have proved nothing may stay.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service;

use super::gate::{Busy, Gate, Place};
use super::pods::Pods;
use super::quiet::Quiet;
use super::service::{Connection, Shared};
use super::{Server, Turned};
use crate::limits::{FROM_AGENT_BYTES_MAX, FROM_OPERATOR_BYTES_MAX, HEAD_BYTES_MAX, PING_INTERVAL, PING_TIMEOUT};
use crate::wire::proto::operator_server::OperatorServer;

/// The wait after an `accept` that failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests of one connection at once: an agent makes one.
const REQUESTS_MAX: u32 = 1;
/// Bytes of a message that are under way before more are asked for.
const WINDOW_BYTES: u32 = 64 << 10;
/// Bytes of a stream that wait for the client to read.
const UNREAD_BYTES_MAX: usize = 256 << 10;

pub(super) async fn serve(server: Server, listener: TcpListener) -> io::Result<()> {
    let Server { mut tls, authority, leadership, events, counters, timing } = server;
    let (_ends_with_this, end) = watch::channel(());
    let shared = Arc::new(Shared {
        authority,
        leadership,
        events: events.clone(),
        counters,
        timing,
        pods: Arc::new(Pods::default()),
        gate: Arc::new(Gate::default()),
        quiet: Quiet::default(),
        end,
        streams: AtomicU64::new(0),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let acceptor = TlsAcceptor::from(Arc::clone(&*tls.borrow_and_update()));
                    enter(&shared, stream, peer, acceptor, &mut connections);
                }
                Err(error) => {
                    tracing::warn!("the operator's port takes no connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = events.closed() => return Ok(()),
        }
    }
}

fn enter(
    shared: &Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    connections: &mut JoinSet<()>,
) {
    let peer = peer.ip().to_canonical();
    shared.counters.connections.fetch_add(1, Ordering::Relaxed);
    match shared.gate.enter(peer) {
        Some(place) => {
            connections.spawn(connection(Arc::clone(shared), stream, peer, acceptor, place));
        }
        None => shared.turn(Turned::TooMany, peer, "too many connections have not proved who they are"),
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, peer: IpAddr, acceptor: TlsAcceptor, place: Place) {
    let _ = stream.set_nodelay(true);
    let patience = shared.timing.patience;
    let stream = match tokio::time::timeout(patience, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed_handshake(&shared, peer, &error),
        Err(_) => return shared.turn(Turned::TooSlow, peer, "no TLS handshake in time"),
    };
    let busy = Busy::new(place);
    let mut working = busy.follow();
    let server = OperatorServer::new(Connection { shared: Arc::clone(&shared), peer, busy })
        .max_decoding_message_size(FROM_AGENT_BYTES_MAX)
        .max_encoding_message_size(FROM_OPERATOR_BYTES_MAX);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut server = server.clone();
        async move { server.call(request).await }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(REQUESTS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(UNREAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut was_used = false;
    loop {
        let idle = *working.borrow_and_update() == 0;
        was_used |= !idle;
        tokio::select! {
            // What breaks a connection ends its streams, which say so.
            _ = connection.as_mut() => return,
            _ = working.changed() => {}
            () = tokio::time::sleep(patience), if idle => {
                if !was_used {
                    shared.turn(Turned::TooSlow, peer, "no request came in time");
                }
                return;
            }
        }
    }
}

fn failed_handshake(shared: &Shared, peer: IpAddr, error: &io::Error) {
    let cause = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => {
            shared.turn(Turned::NotTls, peer, "what came over the connection is no TLS");
        }
        Some(cause) => shared.turn(Turned::Tls, peer, &format!("TLS failed: {cause}")),
        // Probes of load balancers come and go like this.
        None => {
            shared.counters.turn(Turned::Tls);
            tracing::debug!(%peer, "the connection ended during the TLS handshake: {error}");
        }
    }
}
