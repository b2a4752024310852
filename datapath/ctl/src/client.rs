//! Requests over the admin socket, each on a connection of its own: a restarted proxy is met at once.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, IF_MATCH};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use l7mp_api::status::Errors;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::error::Error;

/// How long a request may take: a bind is tried for 2 s, a worker may take 5 s to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a socket may be missing before the first request: the proxy may just have been started.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked for.
const START_LOOK: Duration = Duration::from_millis(20);
/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Characters of an unexpected answer that are shown.
const SHOWN_CHARS_MAX: usize = 200;
/// What a name keeps unescaped in a path or query.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// A proxy's admin socket.
pub struct Client {
    runtime: Runtime,
    path: PathBuf,
    patience: Duration,
    /// Whether the proxy was there: then nobody waits for it to start.
    reached: Cell<bool>,
}

impl Client {
    /// Names a socket; nothing is opened yet.
    ///
    /// # Errors
    ///
    /// When the system has no descriptors left for a runtime.
    pub fn new(path: PathBuf) -> Result<Client, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Unreachable { path: path.clone(), source })?;
        Ok(Client { runtime, path, patience: PATIENCE, reached: Cell::new(false) })
    }

    /// The same, for someone who waits.
    ///
    /// # Errors
    ///
    /// As for [`Client::new`].
    pub fn patient_for(&self, patience: Duration) -> Result<Client, Error> {
        Ok(Client { patience, ..Client::new(self.path.clone())? })
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `GET`, and the JSON that comes back.
    ///
    /// # Errors
    ///
    /// When the proxy does not answer, refuses, or answers what makes no sense.
    pub fn get<T: DeserializeOwned>(&self, uri: &str) -> Result<T, Error> {
        let answer = self.send(Method::GET, uri, None, Bytes::new())?;
        self.read(&answer)
    }

    /// `GET`, and the text that comes back.
    ///
    /// # Errors
    ///
    /// As for [`Client::get`].
    pub fn text(&self, uri: &str) -> Result<String, Error> {
        let answer = self.send(Method::GET, uri, None, Bytes::new())?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// `PUT` of a document, if `version` is adopted or none is named.
    ///
    /// # Errors
    ///
    /// As for [`Client::get`]; every problem of the document.
    pub fn put<T: DeserializeOwned>(&self, uri: &str, body: String, version: Option<u64>) -> Result<T, Error> {
        let answer = self.send(Method::PUT, uri, version, Bytes::from(body))?;
        self.read(&answer)
    }

    /// `POST` without a body.
    ///
    /// # Errors
    ///
    /// As for [`Client::get`].
    pub fn post<T: DeserializeOwned>(&self, uri: &str) -> Result<T, Error> {
        let answer = self.send(Method::POST, uri, None, Bytes::new())?;
        self.read(&answer)
    }

    /// `DELETE`
    ///
    /// # Errors
    ///
    /// As for [`Client::get`].
    pub fn delete(&self, uri: &str) -> Result<(), Error> {
        self.send(Method::DELETE, uri, None, Bytes::new()).map(|_| ())
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(answer).map_err(|error| Error::Unexpected {
            path: self.path.clone(),
            status: StatusCode::OK.as_u16(),
            text: format!("{error} in {}", shown(answer)),
        })
    }

    fn send(&self, method: Method, uri: &str, version: Option<u64>, body: Bytes) -> Result<Bytes, Error> {
        let mut request = Request::builder().method(method).uri(uri).header(HOST, "localhost");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/yaml");
        }
        if let Some(version) = version {
            request = request.header(IF_MATCH, format!("\"{version}\""));
        }
        let request = request.body(Full::new(body)).map_err(|error| self.broken(error))?;
        let exchange = async { tokio::time::timeout(self.patience, self.exchange(request)).await };
        let (status, answer) = self
            .runtime
            .block_on(exchange)
            .map_err(|_| Error::Timeout { path: self.path.clone(), seconds: self.patience.as_secs() })??;
        if status.is_success() {
            return Ok(answer);
        }
        match serde_json::from_slice::<Errors>(&answer) {
            Ok(refusal) if !refusal.errors.is_empty() => Err(Error::Problems(refusal.errors)),
            _ => {
                let text = shown(&answer);
                Err(Error::Unexpected { path: self.path.clone(), status: status.as_u16(), text })
            }
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Error> {
        let stream = self.connect().await;
        let stream = stream.map_err(|source| Error::Unreachable { path: self.path.clone(), source })?;
        self.reached.set(true);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        // Its error reaches the request as well.
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        driver.abort();
        Ok((status, body.map_err(|error| self.broken(error))?.to_bytes()))
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match UnixStream::connect(&self.path).await {
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
                        && !self.reached.get()
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(START_LOOK).await;
                }
                result => return result,
            }
        }
    }

    fn broken(&self, error: impl ToString) -> Error {
        Error::Broken { path: self.path.clone(), message: error.to_string() }
    }
}

/// A name as a part of a path or query.
pub fn escaped(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

fn shown(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).trim_end().chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("UDP:[::1]:5-x-1"), "UDP:%5B::1%5D:5-x-1");
        assert_eq!(escaped("ns/a b?&="), "ns%2Fa%20b%3F%26%3D");
    }
}
