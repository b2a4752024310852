//! Bodies of requests, bounded.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Bytes};
use hyper::header::{EXPECT, HeaderMap};
use l7mp_api::limits::DOCUMENT_BYTES_MAX;

use super::answer::{self, Answer};

/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an oversized body that are read and thrown away, so that its sender hears why.
const DISCARDED_BYTES_MAX: u64 = 64 << 20;
/// How long that may take.
const DISCARD_PATIENCE: Duration = Duration::from_secs(5);

/// Reads a body of at most [`DOCUMENT_BYTES_MAX`].
///
/// # Errors
///
/// The answer to a longer one (413), to one that does not arrive (408), and to a broken one (400).
pub(super) async fn read<B>(headers: &HeaderMap, mut body: B) -> Result<Vec<u8>, Answer>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    if body.size_hint().lower() > DOCUMENT_BYTES_MAX as u64 {
        // Whoever asks before sending (`Expect: 100-continue`) is told at once.
        if !headers.contains_key(EXPECT) {
            discard(body).await;
        }
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_PATIENCE, collect(&mut body)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            discard(body).await;
            Err(too_long())
        }
        Ok(Err(message)) => Err(answer::last(answer::failure(StatusCode::BAD_REQUEST, message))),
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_PATIENCE.as_secs());
            Err(answer::last(answer::failure(StatusCode::REQUEST_TIMEOUT, message)))
        }
    }
}

/// `None`: it is too long.
async fn collect<B>(body: &mut B) -> Result<Option<Vec<u8>>, String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the body broke off: {error}"))?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > DOCUMENT_BYTES_MAX {
            return Ok(None);
        }
        bytes.extend_from_slice(data);
    }
    Ok(Some(bytes))
}

/// A sender that writes on while nobody reads sees a broken connection instead of its answer.
async fn discard<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if bytes > DISCARDED_BYTES_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_PATIENCE, all).await;
}

fn too_long() -> Answer {
    let message = format!("the body is longer than {DOCUMENT_BYTES_MAX} bytes, the limit of a document");
    answer::last(answer::failure(StatusCode::PAYLOAD_TOO_LARGE, message))
}
