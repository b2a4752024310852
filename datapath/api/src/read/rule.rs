//! Rules and their actions.

use serde_json::Value;

use super::fields::Fields;
use super::route::route_ref;
use super::{by_name_or_inline, scalars};
use crate::config::{Action, ActionTarget, Ref, Rewrite, Rule};
use crate::limits::REWRITES_MAX;
use crate::path::Path;
use crate::problem::Problems;

pub(crate) fn rule_ref(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Ref<Rule> {
    by_name_or_inline(value, at, problems, stand_in, |value, at, problems| rule(value, at, false, problems))
}

fn stand_in() -> Rule {
    Rule { name: String::new(), matches: None, action: Action::default() }
}

pub(crate) fn rule(value: &Value, at: &Path<'_>, named: bool, problems: &mut Problems) -> Rule {
    let Some(mut fields) = Fields::open(value, at, problems) else {
        return stand_in();
    };
    let name = fields.name(named);
    let matches = fields.optional("match", predicate);
    let action = fields.must("action", action).unwrap_or_default();
    fields.finish();
    Rule { name, matches, action }
}

/// Absent, or any string: the wildcard. Anything else would be ignored by the datapath, so it is refused.
fn predicate(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Value> {
    match value {
        Value::String(_) => None,
        Value::Object(_) => {
            problems.push(at, "match predicates are not supported yet; without `match` a rule matches every session");
            Some(value.clone())
        }
        other => {
            problems.push(at, format!("expected a predicate, not {}", scalars::kind(other)));
            None
        }
    }
}

fn action(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = Fields::open(value, at, problems)?;
    let rewrite = fields.list("rewrite", REWRITES_MAX, rewrite).into_iter().flatten().collect();
    let given: Vec<&str> = ["route", "apply", "refuse"].into_iter().filter(|name| fields.has(name)).collect();
    match given.as_slice() {
        [_] => {}
        [] => fields.problems.push(at, "one of `route`, `apply` and `refuse` is needed"),
        [first, more @ ..] => {
            for name in more {
                fields.problems.push(
                    &at.key(name),
                    format!("stands beside `{first}`; an action has one of `route`, `apply` and `refuse`"),
                );
            }
        }
    }
    let route = fields.optional("route", |v, at, p| Some(ActionTarget::Route(route_ref(v, at, p))));
    let apply = fields.optional("apply", |v, at, p| scalars::name(v, at, p).map(ActionTarget::Apply));
    let refuse = fields.optional("refuse", |v, at, p| scalars::reason(v, at, p).map(ActionTarget::Refuse));
    fields.finish();
    Some(Action { rewrite, target: route.or(apply).or(refuse).unwrap_or_default() })
}

/// `{path, value}`; `valueStr` is a string constant, as the custom resources have it.
fn rewrite(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Rewrite> {
    let mut fields = Fields::open(value, at, problems)?;
    let path = fields.must("path", scalars::metadata_path);
    let constant = fields.raw("value");
    let text = fields.optional("valueStr", |v, at, p| scalars::text(v, at, p).map(Value::from));
    let has_text = fields.has("valueStr");
    match (constant, has_text) {
        (Some(_), true) => {
            fields.problems.push(&at.key("valueStr"), "stands beside `value`; a rewrite has one of them")
        }
        (None, false) => fields.problems.push(&at.key("value"), "missing"),
        (Some(_), false) | (None, true) => {}
    }
    fields.finish();
    let (path, value) = (path?, constant.cloned().or(text)?);
    if path.trim_matches('/').is_empty() && !value.is_object() {
        problems.push(&at.key("value"), "the path / is the whole metadata; its value must be an object");
        return None;
    }
    Some(Rewrite { path, value })
}
