//! What can go wrong, told to a human.

use std::io;
use std::path::PathBuf;

use l7mp_api::Problem;
use l7mp_api::status::Errors;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers on the socket.
    #[error("cannot reach a proxy at {}: {source}; {}", path.display(), advice(source))]
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
    #[error("{} did not answer within {seconds} s", path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The proxy refuses, or a document is wrong: every reason.
    #[error("refused")]
    Problems(Vec<Problem>),
    /// An answer that this program does not understand.
    #[error("{} answered {status}: {text}", path.display())]
    Unexpected {
        /// The socket.
        path: PathBuf,
        /// The HTTP status.
        status: u16,
        /// What it said, or why that makes no sense.
        text: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The command makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The terminal, or whatever reads our output, is gone.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// Every reason, as the API itself tells it to a program.
    pub fn errors(&self) -> Errors {
        let errors = match self {
            Error::Problems(problems) => problems.clone(),
            other => vec![Problem::new("", other.to_string())],
        };
        Errors { errors }
    }

    /// One line per reason. Those of a document begin with their path in it.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Error::Problems(problems) => problems.iter().map(ToString::to_string).collect(),
            other => vec![format!("l7mpctl: {other}")],
        }
    }
}

/// What to do about a socket that cannot be connected to.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "it answers its own user and root only",
        _ => "is l7mp-proxy running? Give its --admin-socket here as --socket PATH",
    }
}
