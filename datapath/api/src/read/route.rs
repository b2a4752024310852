//! Routes.

use serde_json::Value;

use super::cluster::{self, cluster_ref};
use super::fields::Fields;
use super::{by_name_or_inline, scalars};
use crate::config::{Ref, Retry, RetryOn, Route};
use crate::limits::{NUM_RETRIES_MAX, RETRY_TIMEOUT_MAX, STAGES_MAX};
use crate::path::Path;
use crate::problem::Problems;

pub(crate) fn route_ref(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Ref<Route> {
    by_name_or_inline(value, at, problems, stand_in, |value, at, problems| route(value, at, false, problems))
}

fn stand_in() -> Route {
    let destination = Ref::Inline(Box::new(cluster::stand_in()));
    Route { name: String::new(), destination, ingress: Vec::new(), egress: Vec::new(), retry: Retry::default() }
}

pub(crate) fn route(value: &Value, at: &Path<'_>, named: bool, problems: &mut Problems) -> Route {
    let Some(mut fields) = Fields::open(value, at, problems) else {
        return stand_in();
    };
    let name = fields.name(named);
    // `cluster` is the original's older word.
    match (fields.has("destination"), fields.has("cluster")) {
        (true, true) => {
            fields.problems.push(&at.key("cluster"), "an older word for `destination`, which is also given")
        }
        (false, false) => fields.problems.push(&at.key("destination"), "missing"),
        (true, false) | (false, true) => {}
    }
    let take = |value: &Value, at: &Path<'_>, problems: &mut Problems| Some(cluster_ref(value, at, problems));
    let destination = fields.optional("destination", take);
    fields.ignore("cluster");
    let destination = match destination {
        Some(destination) => Some(destination),
        None => fields.optional("cluster", take),
    };
    let route = Route {
        name,
        destination: destination.unwrap_or_else(|| Ref::Inline(Box::new(cluster::stand_in()))),
        ingress: fields.list("ingress", STAGES_MAX, cluster_ref),
        egress: fields.list("egress", STAGES_MAX, cluster_ref),
        retry: fields.optional("retry", retry).unwrap_or_default(),
    };
    fields.finish();
    route
}

/// A partial object is completed with the defaults.
fn retry(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Retry> {
    const RETRY_ON: [(&str, RetryOn); 4] = [
        ("never", RetryOn::Never),
        ("connect-failure", RetryOn::ConnectFailure),
        ("disconnect", RetryOn::Disconnect),
        ("always", RetryOn::Always),
    ];
    let default = Retry::default();
    let mut fields = Fields::open(value, at, problems)?;
    let retry_on = fields.optional("retry_on", |v, at, p| scalars::one_of(v, at, p, &RETRY_ON));
    let num_retries = fields.optional("num_retries", |v, at, p| scalars::integer(v, at, p, 0..=NUM_RETRIES_MAX));
    let timeout = fields.optional("timeout", |v, at, p| scalars::duration(v, at, p, RETRY_TIMEOUT_MAX));
    fields.finish();
    Some(Retry {
        retry_on: retry_on.unwrap_or(default.retry_on),
        num_retries: num_retries.unwrap_or(default.num_retries),
        timeout: timeout.unwrap_or(default.timeout),
    })
}
