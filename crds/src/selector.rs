//! Which pods an object means.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::rules;

/// Picks pods. All terms must hold; `{}` picks every pod of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    /// Labels that the pod must carry with just these values; at most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels, such as `{key: app, operator: In, values: [worker]}`; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<Requirement>,
    /// Conditions on fields of the pod: `metadata.name`, `metadata.namespace`, `spec.nodeName`,
    /// `spec.serviceAccountName`, `status.phase`, `status.podIP`; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "field_requirements")]
    pub match_fields: Vec<Requirement>,
    /// The namespace of the pods; absent: that of the object that carries the selector. Pods of another namespace
    /// must accept it: by their annotation `l7mp.io/accept-from`, which lists namespaces, or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), extend("x-kubernetes-validations" = rules::label_name()))]
    pub match_namespace: Option<String>,
    /// The name of a Service of that namespace: the pods behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), extend("x-kubernetes-validations" = rules::label_name()))]
    pub match_service: Option<String>,
}

/// One condition on a label or a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::requirement()))]
pub struct Requirement {
    /// The label, or the path of the field.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it is compared: `In` (present, with one of the values), `NotIn` (absent, or with none of them), `Exists`
    /// or `DoesNotExist`.
    pub operator: Operator,
    /// What it is compared with: at least one for `In` and `NotIn`, none for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub values: Vec<String>,
}

/// How a label or a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// Present, with one of the values.
    In,
    /// Absent, or with none of the values.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
        }
    })
}

/// As for labels, but the keys are known.
fn field_requirements(generator: &mut SchemaGenerator) -> Schema {
    let mut item = Requirement::json_schema(generator);
    item.ensure_object()["properties"]["key"] = serde_json::json!({
        "description": "The path of the field.",
        "type": "string",
        "enum": rules::POD_FIELDS,
    });
    json_schema!({"type": "array", "maxItems": 8, "items": item})
}
