//! `/api/v1/config`: the whole document.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, IF_MATCH};
use hyper::{Request, StatusCode};
use l7mp_api::status::{ConfigAnswer, ConfigSource};
use l7mp_api::{Config, Problem};
use tracing::{error, info};

use super::answer::{self, Answer};
use super::{body, place};
use crate::control::{ApplyError, ApplyOptions, Control};

/// `GET`: the adopted document in its canonical spelling.
pub(super) async fn get(control: &Control) -> Answer {
    let adopted = control.adopted();
    let answer = ConfigAnswer {
        version: adopted.version,
        config: (*adopted.config).clone(),
        warnings: adopted.config.warnings(),
    };
    answer::versioned(adopted.version, &answer)
}

/// `PUT[?dry_run=true]`, with `If-Match: "<version>"` only if that is the adopted one.
pub(super) async fn put(control: &Arc<Control>, request: Request<Incoming>) -> Result<Answer, Answer> {
    let bad_request = |message| answer::failure(StatusCode::BAD_REQUEST, message);
    let dry_run = dry_run(request.uri().query()).map_err(bad_request)?;
    let if_version = if_match(request.headers()).map_err(bad_request)?;
    let (head, body) = request.into_parts();
    let body = body::read(&head.headers, body).await?;
    let config = parse(body).await.map_err(unprocessable)?;
    let options = ApplyOptions { dry_run, if_version, source: ConfigSource::Api };
    // A task of its own: a client that hangs up must not leave a document half adopted.
    let applier = Arc::clone(control);
    let applied = tokio::spawn(async move { applier.apply(config, options).await }).await;
    let ended = |_| answer::failure(StatusCode::SERVICE_UNAVAILABLE, "the proxy is ending".to_owned());
    let applied = applied.map_err(ended)?.map_err(|error| refusal(error, options))?;
    if applied.changed && !dry_run {
        info!(version = applied.version, warnings = applied.warnings.len(), "adopted a configuration of the admin API");
    }
    Ok(answer::versioned(applied.version, &applied))
}

/// A big document takes a while to read: not on the thread that answers probes.
async fn parse(body: Vec<u8>) -> Result<Config, Vec<Problem>> {
    let read = tokio::task::spawn_blocking(move || match std::str::from_utf8(&body) {
        Ok(text) => Config::read(text),
        Err(error) => {
            let message = format!("the document is not UTF-8: byte {} begins no character", error.valid_up_to());
            Err(vec![Problem::new("", message)])
        }
    });
    read.await.unwrap_or_else(|_| Err(vec![Problem::new("", "the document could not be read")]))
}

fn unprocessable(errors: Vec<Problem>) -> Answer {
    answer::problems(StatusCode::UNPROCESSABLE_ENTITY, errors)
}

fn refusal(error: ApplyError, options: ApplyOptions) -> Answer {
    match error {
        ApplyError::Problems(errors) => unprocessable(errors),
        ApplyError::Stale(version) => answer::stale(options.if_version.unwrap_or_default(), version),
        ApplyError::Worker(worker) => {
            let message = format!("worker {worker} did not answer: it may not have adopted the configuration yet");
            error!("{message}");
            answer::failure(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}

fn dry_run(query: Option<&str>) -> Result<bool, String> {
    let parameters = place::parameters(query, &["dry_run"])?;
    match parameters.get("dry_run").map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true" | "") => Ok(true),
        Some(other) => Err(format!("dry_run is true or false, not {other:?}")),
    }
}

/// `*` asks for nothing: there is always a configuration, if only an empty one.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, String> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.trim_matches('"').parse().ok().filter(|_| values.next().is_none());
    version.map(Some).ok_or_else(|| format!("If-Match names one version, as \"3\" (the ETag); not {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_names_a_version() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_MATCH, value.parse().unwrap());
            if_match(&headers)
        };
        assert_eq!(if_match(&HeaderMap::new()), Ok(None));
        assert_eq!(read("\"3\""), Ok(Some(3)));
        assert_eq!(read("3"), Ok(Some(3)));
        assert_eq!(read("*"), Ok(None));
        assert!(read("W/\"3\"").is_err() && read("\"1\", \"2\"").is_err() && read("").is_err());
    }

    #[test]
    fn dry_runs_are_asked_for_by_name() {
        assert_eq!(dry_run(None), Ok(false));
        assert_eq!(dry_run(Some("dry_run=true")), Ok(true));
        assert_eq!(dry_run(Some("dry_run")), Ok(true));
        assert_eq!(dry_run(Some("dry_run=false")), Ok(false));
        assert!(dry_run(Some("dry_run=1")).is_err() && dry_run(Some("dryrun=true")).is_err());
    }
}
