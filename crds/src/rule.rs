//! Rule: a condition, and what becomes of the sessions that meet it.

use serde::{Deserialize, Serialize};

use crate::meta::Resource;
use crate::route::RouteSpec;
use crate::selector::Selector;

/// One rule of a rule list.
pub type Rule = Resource<RuleSpec>;

/// The desired state of a [`Rule`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RuleSpec {
    /// The rule list, within the namespace.
    pub rulelist: String,
    /// Where in the list: by position, then creationTimestamp, then name; absent: after those with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// The rule.
    pub rule: InlineRule,
    /// The pods on which the rule is part of its list; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Accepted as the original had it; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_owners: Option<bool>,
}

/// A condition and what to do when it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InlineRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A predicate on the session's metadata; absent, or any string: always.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<serde_json::Value>,
    /// What to do.
    pub action: Action,
}

/// What a rule does: exactly one of `route`, `routeRef`, `apply` and `refuse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Action {
    /// Changes to the metadata, in order, before the route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewrite: Vec<Rewrite>,
    /// A Route, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_ref: Option<String>,
    /// A route, inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteSpec>,
    /// The name of a rule list of the namespace, whose result is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<String>,
    /// Opens nothing; the text is for status and logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuse: Option<String>,
}

/// A change to a session's metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rewrite {
    /// Where, e.g. `/HTTP/headers/x-user`.
    pub path: String,
    /// The new value.
    pub value_str: String,
}
