//! What an API server does with an object and a structural schema, in its words.

use std::collections::BTreeMap;

use kube_cel::Validator;
use serde_json::{Value, json};

/// The schemas of the kinds.
pub struct Kinds(BTreeMap<String, Value>);

impl Kinds {
    /// Those that are generated from the types.
    pub fn load() -> Kinds {
        let definitions = l7mp_crds::yaml().into_iter().map(|file| {
            let definition: Value = serde_saphyr::from_str(&file.text).unwrap();
            let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            (kind, definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        });
        Kinds(definitions.collect())
    }

    /// What is wrong with an object, as `PATH: MESSAGE`. Rules are asked only if the schema is met.
    pub fn faults(&self, object: &Value) -> Vec<String> {
        let schema = &self.0[object["kind"].as_str().unwrap()];
        let mut faults = Vec::new();
        check(&object["spec"], "spec", &schema["properties"]["spec"], &mut faults);
        if let Some(status) = object.get("status") {
            check(status, "status", &schema["properties"]["status"], &mut faults);
        }
        if faults.is_empty()
            && let Err(errors) = Validator::new().validate(schema, object, None)
        {
            faults.extend(errors.into_vec().iter().map(|error| format!("{}: {}", error.field_path, error.message)));
        }
        faults
    }
}

fn check(value: &Value, path: &str, schema: &Value, faults: &mut Vec<String>) {
    let mut fault = |message: String| faults.push(format!("{path}: {message}"));
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64);
    match (schema["type"].as_str(), value) {
        (Some("integer"), Value::Number(number)) => {
            let number = number.as_i64().unwrap();
            if let Some(least) = bound("minimum").filter(|least| number < *least) {
                fault(format!("should be greater than or equal to {least}"));
            }
            if let Some(most) = bound("maximum").filter(|most| number > *most) {
                fault(format!("should be less than or equal to {most}"));
            }
        }
        (Some("boolean"), Value::Bool(_)) => {}
        (Some("string"), Value::String(text)) => check_text(text, schema, &mut fault),
        (Some("array"), Value::Array(items)) => {
            if bound("maxItems").is_some_and(|most| items.len() as i64 > most) {
                fault("Too many".to_owned());
            }
            for (index, item) in items.iter().enumerate() {
                check(item, &format!("{path}[{index}]"), &schema["items"], faults);
            }
        }
        (Some("object"), Value::Object(map)) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for name in required.filter(|name| !map.contains_key(*name)) {
                faults.push(format!("{path}.{name}: Required value"));
            }
            for (name, value) in map {
                let inner = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                match inner {
                    Some(inner) => check(value, &format!("{path}.{name}"), inner, faults),
                    None => faults.push(format!("{path}.{name}: unknown field")),
                }
            }
        }
        (None, Value::Number(_) | Value::String(_)) if schema["x-kubernetes-int-or-string"] == true => {}
        (None, _) if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
        (expected, _) => fault(format!("must be of type {}", expected.unwrap_or("int-or-string"))),
    }
}

fn check_text(text: &str, schema: &Value, fault: &mut impl FnMut(String)) {
    let length = text.chars().count() as i64;
    if schema["maxLength"].as_i64().is_some_and(|most| length > most) {
        fault("Too long".to_owned());
    }
    if schema["minLength"].as_i64().is_some_and(|least| length < least) {
        fault("should be at least 1 chars long".to_owned());
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(&json!(text))) {
        fault("Unsupported value".to_owned());
    }
    if let Some(pattern) = schema.get("pattern") {
        // The one regular expression engine at hand is that of the rules.
        let schema =
            json!({"type": "string", "x-kubernetes-validations": [{"rule": format!("self.matches({pattern})")}]});
        if Validator::new().validate(&schema, &json!(text), None).is_err() {
            fault(format!("should match {pattern}"));
        }
    }
}
