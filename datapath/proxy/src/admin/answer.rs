//! Answers: JSON, or text for what programs of others read.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, ETAG, HeaderValue};
use hyper::{Method, Response, StatusCode};
use l7mp_api::Problem;
use l7mp_api::status::Errors;
use serde::Serialize;

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// A value as JSON, on one line.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            answer(status, JSON, body)
        }
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

/// 200 and a value.
pub(super) fn ok(value: &impl Serialize) -> Answer {
    json(StatusCode::OK, value)
}

/// 200 and a value of an adopted version.
pub(super) fn versioned(version: u64, value: &impl Serialize) -> Answer {
    with_version(ok(value), version)
}

fn with_version(mut answer: Answer, version: u64) -> Answer {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

/// A failure that is not about a place in a document.
pub(super) fn failure(status: StatusCode, message: impl Into<String>) -> Answer {
    problems(status, vec![Problem::new("", message)])
}

/// Every problem of a document.
pub(super) fn problems(status: StatusCode, errors: Vec<Problem>) -> Answer {
    json(status, &Errors { errors })
}

/// 412: another version is adopted.
pub(super) fn stale(wanted: u64, version: u64) -> Answer {
    let message = format!("the adopted version is {version}, not {wanted}: read it again before changing it");
    with_version(failure(StatusCode::PRECONDITION_FAILED, message), version)
}

/// 404: nothing of that name.
pub(super) fn unknown(what: &str, name: &str) -> Answer {
    failure(StatusCode::NOT_FOUND, format!("no {what} {name:?}"))
}

/// 405, with what is allowed.
pub(super) fn not_allowed(method: &Method, path: &str, allowed: &[Method]) -> Answer {
    let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    let allowed = allowed.join(", ");
    let message = format!("{method} is not allowed on {path}: {allowed}");
    let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, message);
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

/// The last answer of a connection.
pub(super) fn last(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// A line for a probe.
pub(super) fn line(status: StatusCode, text: &str) -> Answer {
    answer(status, TEXT, format!("{text}\n"))
}

/// Metrics in Prometheus' text format.
pub(super) fn metrics(text: String) -> Answer {
    answer(StatusCode::OK, PROMETHEUS, text)
}
