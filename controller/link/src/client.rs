//! The agent's half: dials the operator, proves which pod it is, and hears what its proxy is to have.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
pub use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
pub use tonic::codegen::Bytes;
use tonic::codegen::http;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxFuture, Service};
use tonic::{Code, Streaming};

use crate::limits::{FROM_OPERATOR_BYTES_MAX, PING_INTERVAL, PING_TIMEOUT};
use crate::wire::proto::from_operator::Message;
use crate::wire::proto::operator_client::OperatorClient;
use crate::wire::{proto, report_to_wire};
use crate::{Origin, Report, Version};

/// How long one address may take to be dialled.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long TLS, and the operator's review of the token, may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// What is to be said and was not sent yet; more waits.
const REPORTS_MAX: usize = 16;
/// Bytes of a message that are under way before more are asked for.
const WINDOW_BYTES: u32 = 256 << 10;

/// Where an operator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `HOST:PORT` to dial; the host is looked up each time.
    pub dial: String,
    /// The DNS name that its certificate is for, whatever is dialled.
    pub name: String,
}

/// Who the agent is, and what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The pod's namespace, as the agent believes.
    pub namespace: String,
    /// The pod's name, as the agent believes.
    pub pod: String,
    /// Version of the agent's software.
    pub agent_version: String,
    /// What its proxy acknowledged last.
    pub holds: Option<Version>,
    /// The proxy's instance; empty: not known.
    pub instance: String,
}

/// What the operator says.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// What the proxy is to have.
    Configuration(Received),
    /// Another replica leads, at this `ADDRESS:PORT`.
    Elsewhere(String),
}

/// A configuration as it came: the document is for the proxy, which judges it.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// Which one it is.
    pub version: Version,
    /// JSON.
    pub document: Bytes,
    /// Where its parts come from.
    pub origins: Vec<Origin>,
    /// The pod is being deleted: no new sessions.
    pub drain: bool,
}

/// Why there is no stream, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The operator's name has no address.
    #[error("cannot look up {dial}: {source}")]
    Lookup {
        /// What was looked up.
        dial: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to {dial}: {source}")]
    Dial {
        /// What was dialled.
        dial: String,
        /// What the system said.
        source: io::Error,
    },
    /// The other end cannot show a certificate for the operator's name from a CA that is trusted here.
    #[error("{dial} is not trusted to be {name}: {source}")]
    Tls {
        /// What was dialled.
        dial: String,
        /// Whose certificate was expected.
        name: String,
        /// What is wrong.
        source: io::Error,
    },
    /// The operator does not believe the token.
    #[error("the operator refuses this pod's token: {0}")]
    Refused(String),
    /// The operator asks to come again.
    #[error("the operator takes no streams now: {0}")]
    Unavailable(String),
    /// The stream ended.
    #[error("the stream to the operator ended: {0}")]
    Ended(String),
    /// Something took too long.
    #[error("{0} took too long")]
    Timeout(&'static str),
    /// A name, a token or a CA that cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> LinkError {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => LinkError::Refused(message),
            Code::Unavailable | Code::ResourceExhausted => LinkError::Unavailable(message),
            code => LinkError::Ended(if message.is_empty() { code.description().to_owned() } else { message }),
        }
    }
}

/// What is trusted: the certificates of a PEM text, TLS 1.3, HTTP/2.
///
/// # Errors
/// When there is no certificate in it, or one that is none.
pub fn tls_config(ca: &[u8]) -> Result<Arc<ClientConfig>, LinkError> {
    let unusable = |message: String| LinkError::Unusable(format!("the CA file is unusable: {message}"));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("there is no certificate in it".to_owned()));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A stream to the operator. Dropping it ends it.
#[derive(Debug)]
pub struct Link {
    inbound: Streaming<proto::FromOperator>,
    outbound: mpsc::Sender<proto::FromAgent>,
    _driver: Driver,
}

impl Link {
    /// Dials, proves, and says hello; returns when the operator has believed it.
    ///
    /// # Errors
    /// When one of these fails.
    pub async fn open(place: &Place, tls: Arc<ClientConfig>, token: &str, hello: Hello) -> Result<Link, LinkError> {
        let stream = dial(&place.dial).await?;
        let opening = open(place, stream, tls, token, hello);
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.map_err(|_| LinkError::Timeout("the operator's answer"))?
    }

    /// What the operator says next. May be dropped and called again.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn next(&mut self) -> Result<Told, LinkError> {
        loop {
            let Some(message) = self.inbound.message().await? else {
                return Err(LinkError::Ended("the operator closed it".to_owned()));
            };
            match message.message {
                Some(Message::Configuration(configuration)) => {
                    let proto::Configuration { version, document, origins, drain } = configuration;
                    let version = version.unwrap_or_default().into();
                    let origins = origins.into_iter().map(Origin::from).collect();
                    return Ok(Told::Configuration(Received { version, document, origins, drain }));
                }
                Some(Message::Elsewhere(elsewhere)) => return Ok(Told::Elsewhere(elsewhere.address)),
                // An operator of a later version says what this one does not know.
                None => {}
            }
        }
    }

    /// Says something. Waits while the operator does not read.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn report(&self, report: Report) -> Result<(), LinkError> {
        self.say(report_to_wire(report)).await
    }

    /// Proves again, before the last token ends.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn renew(&self, token: &str) -> Result<(), LinkError> {
        self.say(proto::from_agent::Message::Token(proto::Token { token: token.to_owned() })).await
    }

    async fn say(&self, message: proto::from_agent::Message) -> Result<(), LinkError> {
        let message = proto::FromAgent { message: Some(message) };
        self.outbound.send(message).await.map_err(|_| LinkError::Ended("the operator reads no more".to_owned()))
    }
}

/// Every address of a name, one after the other, beginning with any.
async fn dial(dial: &str) -> Result<TcpStream, LinkError> {
    let lookup = |source| LinkError::Lookup { dial: dial.to_owned(), source };
    let addresses = tokio::time::timeout(DIAL_TIMEOUT, tokio::net::lookup_host(dial))
        .await
        .map_err(|_| lookup(io::ErrorKind::TimedOut.into()))?
        .map_err(lookup)?;
    let mut addresses: Vec<_> = addresses.collect();
    if !addresses.is_empty() {
        let first = crate::random() as usize % addresses.len();
        addresses.rotate_left(first);
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(LinkError::Dial { dial: dial.to_owned(), source: last })
}

async fn open(
    place: &Place,
    stream: TcpStream,
    tls: Arc<ClientConfig>,
    token: &str,
    hello: Hello,
) -> Result<Link, LinkError> {
    let unusable = |what: &str, error: String| LinkError::Unusable(format!("{what}: {error}"));
    let name = ServerName::try_from(place.name.clone())
        .map_err(|error| unusable("the operator's name is no DNS name", error.to_string()))?;
    let untrusted = |source| LinkError::Tls { dial: place.dial.clone(), name: place.name.clone(), source };
    stream.set_nodelay(true).map_err(untrusted)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(untrusted)?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| LinkError::Ended(error.to_string()))?;
    let driver = Driver(tokio::spawn(async move {
        // Its error reaches the stream as well.
        let _ = connection.await;
    }));
    let origin = http::Uri::builder().scheme("https").authority(place.name.as_str()).path_and_query("/").build();
    let origin = origin.map_err(|error| unusable("the operator's name", error.to_string()))?;
    let mut client =
        OperatorClient::with_origin(Requests(sender), origin).max_decoding_message_size(FROM_OPERATOR_BYTES_MAX);
    let (outbound, said) = mpsc::channel(REPORTS_MAX);
    let hello = proto::Hello {
        namespace: hello.namespace,
        pod: hello.pod,
        agent_version: hello.agent_version,
        holds: hello.holds.map(Into::into),
        instance: hello.instance,
    };
    let hello = proto::FromAgent { message: Some(proto::from_agent::Message::Hello(hello)) };
    outbound.try_send(hello).map_err(|error| LinkError::Ended(error.to_string()))?;
    let mut request = tonic::Request::new(ReceiverStream::new(said));
    let bearer = format!("Bearer {token}").parse();
    let bearer = bearer.map_err(|_| unusable("the token", "it has characters that no token has".to_owned()))?;
    request.metadata_mut().insert("authorization", bearer);
    let inbound = client.connect(request).await?.into_inner();
    Ok(Link { inbound, outbound, _driver: driver })
}

/// The requests of one connection, as `tonic` wants them.
#[derive(Debug)]
struct Requests(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Requests {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// The task that drives a connection; it ends with the stream.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
