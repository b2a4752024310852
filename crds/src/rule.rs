//! Rule: a condition, and what becomes of the sessions that meet it.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::meta::Resource;
use crate::route::RouteSpec;
use crate::rules;
use crate::selector::Selector;
use crate::status::Status;

/// One rule of a rule list.
pub type Rule = Resource<RuleSpec>;

/// The desired state of a Rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[kube(
    group = "l7mp.io",
    version = "v1",
    kind = "Rule",
    root = "RuleKind",
    plural = "rules",
    namespaced,
    category = "l7mp",
    status = "Status",
    derive = "PartialEq",
    doc = "One rule of a rule list: a condition, and what becomes of the sessions that meet it. The Rules of a \
           namespace with the same spec.rulelist are one list, which listeners (rulesRef) and rules (apply) name.",
    printcolumn(name = "List", type_ = "string", json_path = ".spec.rulelist"),
    printcolumn(name = "Position", type_ = "integer", json_path = ".spec.position"),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        json_path = ".status.pods",
        description = "Pods with a proxy that listeners bring it to"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "integer",
        json_path = ".status.programmed",
        description = "Those that run this generation"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct RuleSpec {
    /// The rule list that it is part of, by name, within the namespace: no slash, no white space.
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::list_name()))]
    pub rulelist: String,
    /// Where in the list: by position, then age, then name; the first rule that matches wins. Default: after those
    /// with a position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4_294_967_295_u32))]
    pub position: Option<u32>,
    /// The rule.
    pub rule: InlineRule,
    /// The pods on which the rule is part of its list. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Accepted as the original had it; without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_owners: Option<bool>,
}

/// A condition and what to do when it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InlineRule {
    /// For people; no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// A predicate on the session's metadata, such as `{op: test, path: /IP/src_addr, value: 10.0.0.1}`. Absent, or
    /// any text: always.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub matches: Option<serde_json::Value>,
    /// What to do.
    pub action: Action,
}

/// What a rule does: exactly one of `route`, `routeRef`, `apply` and `refuse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::action()))]
pub struct Action {
    /// Changes to the session's metadata, in order, before the route; at most 64. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rewrite: Vec<Rewrite>,
    /// A Route, by reference: `NAME`, `NAMESPACE/NAME`, `/l7mp.io/v1/Route/NAMESPACE/NAME` or
    /// `/apis/l7mp.io/v1/namespaces/NAMESPACE/routes/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384), extend("x-kubernetes-validations" = rules::route_ref()))]
    pub route_ref: Option<String>,
    /// A route, inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteSpec>,
    /// The name of a rule list of the namespace, whose result is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::list_name()))]
    pub apply: Option<String>,
    /// Opens nothing; the text is for status and logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::reason()))]
    pub refuse: Option<String>,
}

/// A change to a session's metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rewrite {
    /// Where, such as `/HTTP/headers/x-user`.
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = rules::metadata_path()))]
    pub path: String,
    /// The new value, a text.
    #[schemars(length(max = 4096))]
    pub value_str: String,
}

/// A predicate may be anything; the controller judges it.
fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}
