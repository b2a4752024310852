//! Whether the schema of a kind takes everything that an older one took.

use std::cmp::Ordering;

use serde_json::Value;

/// What a schema may have less of than its predecessor, but never more.
const AT_MOST: [&str; 4] = ["maximum", "maxLength", "maxItems", "maxProperties"];
/// What it may have more of, but never less: the lower ends.
const AT_LEAST: [&str; 4] = ["minimum", "minLength", "minItems", "minProperties"];
/// Restrictions that may go, but neither come nor change: which of two takes more is not seen by looking.
const RESTRICTIONS: [&str; 11] = [
    "pattern",
    "format",
    "multipleOf",
    "uniqueItems",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "x-kubernetes-embedded-resource",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
];
/// What gives the same object another meaning, whichever way it changes.
const MEANING: [&str; 4] = ["default", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"];
/// Permissions, which may come and not go.
const PERMISSIONS: [&str; 2] = ["nullable", "x-kubernetes-preserve-unknown-fields"];

/// What a definition takes away that an older one of the same kind gave: one line for each fault, with its place.
pub fn narrowed(before: &Value, now: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for part in ["group", "scope"] {
        let (old, new) = (&before["spec"][part], &now["spec"][part]);
        if old != new {
            faults.push(format!("{part}: {old} is {new} now"));
        }
    }
    for part in ["kind", "plural", "singular", "shortNames", "categories"] {
        let (old, new) = (&before["spec"]["names"][part], &now["spec"]["names"][part]);
        let is_kept = if old.is_array() { array(old).iter().all(|name| array(new).contains(name)) } else { old == new };
        if !is_kept {
            faults.push(format!("names.{part}: {old} is {new} now"));
        }
    }
    let served = |definition: &'_ Value| -> Vec<Value> {
        array(&definition["spec"]["versions"]).iter().filter(|version| version["served"] == true).cloned().collect()
    };
    let new = served(now);
    for old in served(before) {
        let name = old["name"].as_str().unwrap_or_default();
        let Some(new) = new.iter().find(|version| version["name"] == name) else {
            faults.push(format!("{name}: is not served any more"));
            continue;
        };
        for resource in object(&old["subresources"]).keys().filter(|key| new["subresources"].get(key).is_none()) {
            faults.push(format!("{name}: has no subresource {resource} any more"));
        }
        let schema = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
        compare(&schema(&old), &schema(new), name, &mut faults);
    }
    faults
}

/// What a schema refuses that its predecessor took, or takes for something else.
fn compare(before: &Value, now: &Value, at: &str, into: &mut Vec<String>) {
    keys(before, now, at, into);
    sets(before, now, at, into);
    children(before, now, at, into);
}

/// The keys that a schema has itself.
fn keys(before: &Value, now: &Value, at: &str, into: &mut Vec<String>) {
    let mut fault = |key: &str| {
        let text = |schema: &Value| schema.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        into.push(format!("{at}: {key}: {} is {} now", text(before), text(now)));
    };
    if !types(now).is_none_or(|new| types(before).is_some_and(|old| old.iter().all(|one| new.contains(one)))) {
        fault("type");
    }
    for (limits, wrong) in [(AT_MOST, Ordering::Less), (AT_LEAST, Ordering::Greater)] {
        for key in limits {
            let Some(new) = now[key].as_f64() else { continue };
            // Nothing is shorter than nothing.
            let none = (wrong == Ordering::Greater && key != "minimum").then_some(0.0);
            if before[key].as_f64().or(none).is_none_or(|old| new.partial_cmp(&old) == Some(wrong)) {
                fault(key);
            }
        }
    }
    let is_set = |schema: &Value, key: &str| schema.get(key).is_some_and(|value| *value != Value::Bool(false));
    for key in RESTRICTIONS {
        if is_set(now, key) && before.get(key) != now.get(key) {
            fault(key);
        }
    }
    for key in MEANING.into_iter().filter(|key| before.get(key) != now.get(key)) {
        fault(key);
    }
    for key in PERMISSIONS.into_iter().filter(|key| before[key] == true && now[key] != true) {
        fault(key);
    }
}

/// The types of value that a schema takes; `None`: all of them.
fn types(schema: &Value) -> Option<Vec<&str>> {
    match schema["type"].as_str() {
        _ if schema["x-kubernetes-int-or-string"] == true => Some(vec!["integer", "string"]),
        Some("number") => Some(vec!["integer", "number"]),
        one => one.map(|one| vec![one]),
    }
}

/// Values, needed fields and rules.
fn sets(before: &Value, now: &Value, at: &str, into: &mut Vec<String>) {
    if let Some(values) = now["enum"].as_array() {
        match before["enum"].as_array() {
            None => into.push(format!("{at}: enum: any value was taken, now only {}", now["enum"])),
            Some(old) => into.extend(
                old.iter().filter(|value| !values.contains(value)).map(|value| format!("{at}: enum: {value} is gone")),
            ),
        }
    }
    let added = |key: &str| {
        let old = array(&before[key]);
        array(&now[key]).iter().filter(move |name| !old.contains(name)).cloned().collect::<Vec<Value>>()
    };
    into.extend(added("required").iter().map(|name| format!("{at}: needs {name}")));
    // Their messages may change.
    let same = |a: &Value, b: &Value| a["rule"] == b["rule"] && a["optionalOldSelf"] == b["optionalOldSelf"];
    let old = array(&before["x-kubernetes-validations"]);
    for new in array(&now["x-kubernetes-validations"]).iter().filter(|new| !old.iter().any(|old| same(old, new))) {
        into.push(format!("{at}: has the new rule {}", new["rule"]));
    }
}

/// The schemas inside.
fn children(before: &Value, now: &Value, at: &str, into: &mut Vec<String>) {
    let (old, new) = (object(&before["properties"]), object(&now["properties"]));
    let was_free = before["x-kubernetes-preserve-unknown-fields"] == true;
    for (name, inner) in &old {
        let path = format!("{at}.{name}");
        match new.get(name) {
            Some(found) => compare(inner, found, &path, into),
            None => into.push(format!("{path}: is gone")),
        }
    }
    for name in new.keys().filter(|name| was_free && !old.contains_key(*name)) {
        into.push(format!("{at}.{name}: took anything, now it has a schema"));
    }
    // `true` takes anything; where there is none, other fields are dropped.
    let inner = |schema: &Value| schema.get("additionalProperties").filter(|value| **value != false).cloned();
    let path = format!("{at}[*]");
    match (inner(before), inner(now)) {
        (None, _) | (Some(_), Some(Value::Bool(true))) => (),
        (Some(Value::Bool(true)), Some(_)) => into.push(format!("{path}: took anything, now it has a schema")),
        (Some(old), Some(new)) => compare(&old, &new, &path, into),
        (Some(_), None) => into.push(format!("{path}: is gone")),
    }
    let path = format!("{at}[]");
    match (before.get("items"), now.get("items")) {
        (_, None) => (),
        (None, Some(_)) => into.push(format!("{path}: took anything, now it has a schema")),
        (Some(old), Some(new)) => compare(old, new, &path, into),
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn object(value: &Value) -> serde_json::Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults of a schema, both as YAML flow; the same ones are found below properties, items and maps.
    #[track_caller]
    fn check(before: &str, now: &str, expected: &[&str]) {
        let nests = [("", ""), ("{properties: {a: ", "}}"), ("{items: ", "}"), ("{additionalProperties: ", "}")];
        for ((open, close), at) in nests.into_iter().zip(["", ".a", "[]", "[*]"]) {
            let parse = |text: &str| serde_saphyr::from_str::<Value>(&format!("{open}{text}{close}")).unwrap();
            let mut faults = Vec::new();
            compare(&parse(before), &parse(now), "", &mut faults);
            let expected: Vec<String> = expected.iter().map(|fault| format!("{at}{fault}")).collect();
            assert_eq!(faults, expected, "{open}{before} -> {now}{close}");
        }
    }

    #[test]
    fn limits_widen_only() {
        for key in AT_MOST {
            check(&format!("{{{key}: 10}}"), &format!("{{{key}: 9}}"), &[&format!(": {key}: 10 is 9 now")]);
            check("{type: string}", &format!("{{type: string, {key}: 9}}"), &[&format!(": {key}: absent is 9 now")]);
            check(&format!("{{{key}: 10}}"), &format!("{{{key}: 11}}"), &[]);
            check(&format!("{{{key}: 10}}"), "{}", &[]);
        }
        for key in AT_LEAST {
            check(&format!("{{{key}: 1}}"), &format!("{{{key}: 2}}"), &[&format!(": {key}: 1 is 2 now")]);
            check("{type: string}", &format!("{{type: string, {key}: 2}}"), &[&format!(": {key}: absent is 2 now")]);
            check(&format!("{{{key}: 2}}"), &format!("{{{key}: 1}}"), &[]);
            check(&format!("{{{key}: 2}}"), "{}", &[]);
        }
        check("{type: string}", "{type: string, minLength: 0}", &[]);
        check("{type: integer}", "{type: integer, minimum: 0}", &[": minimum: absent is 0 now"]);
    }

    #[test]
    fn types_take_what_they_took() {
        for (before, now) in [("integer", "number"), ("string", "string")] {
            check(&format!("{{type: {before}}}"), &format!("{{type: {now}}}"), &[]);
        }
        check("{type: string}", "{x-kubernetes-int-or-string: true}", &[]);
        check("{type: string}", "{x-kubernetes-preserve-unknown-fields: true}", &[]);
        check("{type: string}", "{type: integer}", &[r#": type: "string" is "integer" now"#]);
        check("{type: number}", "{type: integer}", &[r#": type: "number" is "integer" now"#]);
        check("{type: object}", "{x-kubernetes-int-or-string: true}", &[r#": type: "object" is absent now"#]);
        check("{x-kubernetes-int-or-string: true}", "{type: string}", &[r#": type: absent is "string" now"#]);
        check("{description: any}", "{type: string}", &[r#": type: absent is "string" now"#]);
    }

    #[test]
    fn restrictions_go_and_do_not_come() {
        check("{pattern: a}", "{pattern: b}", &[r#": pattern: "a" is "b" now"#]);
        check("{type: string}", "{type: string, pattern: b}", &[r#": pattern: absent is "b" now"#]);
        check("{type: string}", "{type: string, format: date}", &[r#": format: absent is "date" now"#]);
        check("{pattern: a}", "{}", &[]);
        check("{anyOf: [{minimum: 1}]}", "{oneOf: [{minimum: 1}]}", &[r#": oneOf: absent is [{"minimum":1}] now"#]);
        check("{maximum: 1}", "{maximum: 1, exclusiveMaximum: true}", &[": exclusiveMaximum: absent is true now"]);
        check("{maximum: 1}", "{maximum: 1, exclusiveMaximum: false}", &[]);
        check("{nullable: true}", "{nullable: false}", &[": nullable: true is false now"]);
        check("{nullable: false}", "{nullable: true}", &[]);
        check("{default: 1}", "{default: 2}", &[": default: 1 is 2 now"]);
        check("{x-kubernetes-list-type: map}", "{}", &[r#": x-kubernetes-list-type: "map" is absent now"#]);
    }

    #[test]
    fn values_and_rules_and_needs_are_counted() {
        check("{enum: [a, b]}", "{enum: [a, c]}", &[r#": enum: "b" is gone"#]);
        check("{enum: [a, b]}", "{enum: [c, b, a]}", &[]);
        check("{enum: [a]}", "{}", &[]);
        check("{type: string}", "{type: string, enum: [a]}", &[r#": enum: any value was taken, now only ["a"]"#]);
        check("{required: [a]}", "{required: [a, b]}", &[r#": needs "b""#]);
        check("{required: [a, b]}", "{required: [b]}", &[]);
        let old = "{x-kubernetes-validations: [{rule: one, message: long}, {rule: two}]}";
        check(old, "{x-kubernetes-validations: [{rule: one, message: short}]}", &[]);
        let new = "{x-kubernetes-validations: [{rule: two}, {rule: three}, {rule: one, optionalOldSelf: true}]}";
        check(old, new, &[r#": has the new rule "three""#, r#": has the new rule "one""#]);
    }

    #[test]
    fn what_is_inside_is_kept() {
        check("{properties: {b: {}}}", "{properties: {c: {}}}", &[".b: is gone"]);
        check("{properties: {b: {}}}", "{properties: {b: {}, c: {maximum: 3}}}", &[]);
        check("{type: object}", "{properties: {c: {maximum: 3}}}", &[]);
        let free = "{x-kubernetes-preserve-unknown-fields: true}";
        let fault = ": x-kubernetes-preserve-unknown-fields: true is absent now";
        check(free, "{properties: {c: {}}}", &[fault, ".c: took anything, now it has a schema"]);
        check("{additionalProperties: {}}", "{properties: {c: {}}}", &["[*]: is gone"]);
        check(
            "{additionalProperties: true}",
            "{additionalProperties: {}}",
            &["[*]: took anything, now it has a schema"],
        );
        check("{additionalProperties: {type: string}}", "{additionalProperties: true}", &[]);
        check("{additionalProperties: false}", "{additionalProperties: {type: string}}", &[]);
        check("{type: array}", "{type: array, items: {}}", &["[]: took anything, now it has a schema"]);
        check("{items: {items: {maxLength: 2}}}", "{items: {items: {maxLength: 1}}}", &["[][]: maxLength: 2 is 1 now"]);
    }

    #[test]
    fn definitions_keep_names_and_versions() {
        let definition = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap();
        let before = definition(
            "
spec:
  scope: Namespaced
  names: {kind: Rule, shortNames: [r, ru]}
  versions:
  - {name: v0, served: false}
  - {name: v1, served: true, subresources: {status: {}}, schema: {openAPIV3Schema: {properties: {a: {maximum: 2}}}}}
  - {name: v2, served: true}
",
        );
        assert_eq!(narrowed(&before, &before), [""; 0]);
        let now = definition(
            "
spec:
  scope: Cluster
  names: {kind: Rules, shortNames: [ru, x]}
  versions:
  - {name: v3, served: true}
  - {name: v2, served: false}
  - {name: v1, served: true, schema: {openAPIV3Schema: {properties: {a: {maximum: 1}}}}}
",
        );
        let expected = [
            r#"scope: "Namespaced" is "Cluster" now"#,
            r#"names.kind: "Rule" is "Rules" now"#,
            r#"names.shortNames: ["r","ru"] is ["ru","x"] now"#,
            "v1: has no subresource status any more",
            "v1.a: maximum: 2 is 1 now",
            "v2: is not served any more",
        ];
        assert_eq!(narrowed(&before, &now), expected);
    }
}
