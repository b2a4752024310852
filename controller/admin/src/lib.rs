//! A proxy's admin socket: HTTP/1.1 with JSON over a Unix socket.

#![forbid(unsafe_code)]

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use l7mp_api::status::{Applied, Draining, Errors, Info};
use l7mp_api::{Config, Problem};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// How much of an unexpected answer an error shows.
const ANSWER_SHOWN_CHARS_MAX: usize = 200;

/// The longest that a request may take: binding a listener may itself take 2 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a request failed.
#[derive(Debug, Error)]
pub enum AdminError {
    /// No proxy listens there.
    #[error("no proxy answers at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("the connection to {} broke: {message}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        message: String,
    },
    /// No answer in time.
    #[error("{} did not answer within {} s", path.display(), REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The proxy refuses the document (422) and goes on as it was.
    #[error("the proxy refuses the configuration: {}", first(errors))]
    Refused {
        /// Everything that is wrong with it.
        errors: Vec<Problem>,
    },
    /// Any other answer.
    #[error("{} answered {status}: {body}", path.display())]
    Unexpected {
        /// The socket.
        path: PathBuf,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
}

fn first(errors: &[Problem]) -> String {
    match errors {
        [] => "without a reason".to_owned(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

/// A proxy's admin socket. Each request is a connection of its own: a restarted proxy is met at once.
#[derive(Clone, Debug)]
pub struct AdminSocket {
    path: PathBuf,
}

impl AdminSocket {
    /// Names a socket; nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> AdminSocket {
        AdminSocket { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which process answers, and what configuration it has.
    ///
    /// # Errors
    /// When the proxy does not answer, or not as expected.
    pub async fn info(&self) -> Result<Info, AdminError> {
        let (status, body) = self.request(Method::GET, "/api/v1/info", Bytes::new()).await?;
        self.read(status, &body)
    }

    /// Hands over a whole configuration; returns once every worker has adopted it.
    ///
    /// # Errors
    /// [`AdminError::Refused`] when the proxy finds fault with it; the others as for [`AdminSocket::info`].
    pub async fn put_config(&self, config: &Config) -> Result<Applied, AdminError> {
        let broken = |message: String| AdminError::Broken { path: self.path.clone(), message };
        let document = serde_json::to_vec(config).map_err(|error| broken(error.to_string()))?;
        self.put_document(Bytes::from(document)).await
    }

    /// As [`AdminSocket::put_config`], with a document (JSON or YAML) that only the proxy needs to understand.
    ///
    /// # Errors
    /// As for [`AdminSocket::put_config`].
    pub async fn put_document(&self, document: Bytes) -> Result<Applied, AdminError> {
        let (status, body) = self.request(Method::PUT, "/api/v1/config", document).await?;
        if status == StatusCode::UNPROCESSABLE_ENTITY
            && let Ok(answer) = serde_json::from_slice::<Errors>(&body)
        {
            return Err(AdminError::Refused { errors: answer.errors });
        }
        self.read(status, &body)
    }

    /// Makes the proxy take no new sessions; asking again changes nothing.
    ///
    /// # Errors
    /// As for [`AdminSocket::info`].
    pub async fn drain(&self) -> Result<Draining, AdminError> {
        let (status, body) = self.request(Method::POST, "/api/v1/drain", Bytes::new()).await?;
        self.read(status, &body)
    }

    fn read<T: DeserializeOwned>(&self, status: StatusCode, body: &[u8]) -> Result<T, AdminError> {
        let text = || String::from_utf8_lossy(body).chars().take(ANSWER_SHOWN_CHARS_MAX).collect();
        let unexpected = |body| AdminError::Unexpected { path: self.path.clone(), status, body };
        if !status.is_success() {
            return Err(unexpected(text()));
        }
        serde_json::from_slice(body).map_err(|error| unexpected(format!("{error} in {}", text())))
    }

    async fn request(&self, method: Method, uri: &str, body: Bytes) -> Result<(StatusCode, Bytes), AdminError> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(method, uri, body))
            .await
            .unwrap_or_else(|_| Err(AdminError::Timeout { path: self.path.clone() }))
    }

    async fn exchange(&self, method: Method, uri: &str, body: Bytes) -> Result<(StatusCode, Bytes), AdminError> {
        let broken = |message: String| AdminError::Broken { path: self.path.clone(), message };
        let stream = UnixStream::connect(&self.path).await.map_err(|source| AdminError::Unreachable {
            path: self.path.clone(),
            source: explained(source, &self.path),
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.to_string()))?;
        let _driver = Driver(tokio::spawn(async move {
            // Its error reaches the request as well.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| broken(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| broken(error.to_string()))?
            .to_bytes();
        Ok((status, body))
    }
}

/// Who may open the socket, where this process may not.
fn explained(error: io::Error, path: &Path) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let own = rustix::process::geteuid().as_raw();
    let message = match std::fs::symlink_metadata(path) {
        Ok(socket) => {
            let (mode, owner) = (socket.mode() & 0o7777, socket.uid());
            format!("{error}: the socket is of uid {owner}, mode {mode:04o}, and this process has uid {own}")
        }
        Err(_) => format!("{error}: its directory is closed to uid {own}, which this process has"),
    };
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

/// The task that drives a connection; it ends with the request.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_open_the_socket_is_told_whose_it_is() {
        let socket = std::env::temp_dir();
        let denied = || io::Error::from_raw_os_error(13);
        let said = explained(denied(), &socket).to_string();
        let own = rustix::process::geteuid().as_raw();
        assert!(said.starts_with("Permission denied (os error 13): the socket is of uid "), "{said}");
        assert!(said.contains(", mode 1777, ") && said.ends_with(&format!("this process has uid {own}")), "{said}");
        let said = explained(denied(), Path::new("/nonexistent/admin.sock")).to_string();
        assert!(said.contains("its directory is closed to uid"), "{said}");
        let absent = explained(io::ErrorKind::NotFound.into(), &socket);
        assert_eq!(absent.to_string(), io::Error::from(io::ErrorKind::NotFound).to_string());
    }
}
