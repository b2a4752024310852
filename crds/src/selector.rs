//! Which pods an object means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Picks pods. All terms must hold; `{}` picks every pod of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    /// Labels that the pod must carry with just these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// Conditions on fields of the pod: `metadata.name`, `metadata.namespace`, `spec.nodeName`,
    /// `spec.serviceAccountName`, `status.phase`, `status.podIP`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
    /// The namespace of the pods; absent: that of the object that carries the selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_namespace: Option<String>,
    /// The name of a Service of that namespace: the pods behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_service: Option<String>,
}

/// One condition on a label or a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The label, or the path of the field.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// What it is compared with: at least one for `In` and `NotIn`, none for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label or a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
