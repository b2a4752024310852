//! What the API answers, as tables. Read as JSON trees: a field that a newer proxy leaves out is an empty cell.

use std::fmt::Write;

use l7mp_api::status::{Info, Session, Stage};
use serde_json::Value;

use crate::cli::Kind;
use crate::table::{Table, time};

/// The cells of an object.
type RowOf = fn(&Value) -> Vec<String>;

/// Objects of the document.
pub fn objects(kind: Kind, objects: &[Value]) -> Table {
    let (columns, row): (&[&'static str], RowOf) = match kind {
        Kind::Listeners => (&["NAME", "PROTOCOL", "ADDRESS", ">SESSIONS", "RULES"], listener),
        Kind::Clusters => (&["NAME", "PROTOCOL", ">ENDPOINTS", "POLICY", ">SESSIONS", "LAST ERROR"], cluster),
        Kind::Routes => (&["NAME", "CHAIN", "RETRY"], route),
        Kind::Rules => (&["NAME", "MATCH", "ACTION"], rule),
        Kind::Rulelists => (&["NAME", "RULES"], rulelist),
        Kind::Config | Kind::Sessions | Kind::Info => (&["NAME"], |object| vec![text(&object["name"])]),
    };
    Table { columns: columns.to_vec(), rows: objects.iter().map(row).collect() }
}

fn listener(object: &Value) -> Vec<String> {
    let (protocol, spec) = tagged(&object["spec"]);
    let bound = text(&object["status"]["address"]);
    let address = if bound.is_empty() { text(&spec["filename"]) } else { bound };
    vec![text(&object["name"]), protocol, address, text(&object["status"]["sessions"]), references(&object["rules"])]
}

fn cluster(object: &Value) -> Vec<String> {
    let (protocol, _) = tagged(&object["spec"]);
    let endpoints = object["endpoints"].as_array().map_or(0, Vec::len);
    let policy = object["loadbalancer"]["policy"].as_str().unwrap_or("Trivial");
    let status = &object["status"];
    let error = match (text(&status["last_error"]), status["last_error_age_ms"].as_u64()) {
        (error, Some(age)) => format!("{} ago: {error}", time(age)),
        (error, None) => error,
    };
    vec![text(&object["name"]), protocol, endpoints.to_string(), policy.to_owned(), text(&status["sessions"]), error]
}

fn route(object: &Value) -> Vec<String> {
    vec![text(&object["name"]), chain(object), retry(&object["retry"])]
}

fn rule(object: &Value) -> Vec<String> {
    let condition = match &object["match"] {
        Value::Null => "*".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    vec![text(&object["name"]), condition, action(&object["action"])]
}

fn rulelist(object: &Value) -> Vec<String> {
    vec![text(&object["name"]), references(&object["rules"])]
}

/// `{UDP: {...}}`
pub(crate) fn tagged(spec: &Value) -> (String, Value) {
    let entry = spec.as_object().and_then(|fields| fields.iter().next());
    entry.map(|(protocol, fields)| (protocol.clone(), fields.clone())).unwrap_or_default()
}

/// ingress > destination > egress
pub(crate) fn chain(route: &Value) -> String {
    let list = |field: &str| route[field].as_array().cloned().unwrap_or_default();
    let clusters = list("ingress").into_iter().chain([route["destination"].clone()]).chain(list("egress"));
    clusters.map(|cluster| reference(&cluster)).collect::<Vec<_>>().join(" > ")
}

fn retry(retry: &Value) -> String {
    match retry["retry_on"].as_str() {
        None => "never".to_owned(),
        Some(when) => format!("{when}, {} times, {}", text(&retry["num_retries"]), text(&retry["timeout"])),
    }
}

pub(crate) fn action(action: &Value) -> String {
    let target = match (&action["route"], &action["apply"], &action["refuse"]) {
        (Value::Null, Value::Null, reason) => format!("refuse: {}", text(reason)),
        (Value::Null, list, _) => format!("apply {}", text(list)),
        (Value::String(name), _, _) => format!("route {name}"),
        (route, _, _) => chain(route),
    };
    match action["rewrite"].as_array().map_or(0, Vec::len) {
        0 => target,
        rewrites => format!("{target} (after {rewrites} rewrites)"),
    }
}

/// The name of an object, or that it is written inline.
fn reference(object: &Value) -> String {
    match object {
        Value::String(name) => name.clone(),
        inline => match inline["name"].as_str() {
            Some(name) => name.to_owned(),
            None => format!("({})", tagged(&inline["spec"]).0),
        },
    }
}

/// The name of a rule list; or rules, by name or as what they do.
fn references(rules: &Value) -> String {
    let Some(rules) = rules.as_array() else { return text(rules) };
    let rule = |rule: &Value| match (rule, rule["name"].as_str()) {
        (Value::String(name), _) => name.clone(),
        (_, Some(name)) => name.to_owned(),
        (_, None) => action(&rule["action"]),
    };
    rules.iter().map(rule).collect::<Vec<_>>().join("; ")
}

/// A scalar; nothing for null.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Sessions, one per row.
pub fn sessions(sessions: &[Session]) -> Table {
    let mut table = Table::new(&["NAME", "LISTENER", "STATUS", "DESTINATION", "ENDPOINT", ">AGE", ">IDLE"]);
    table.rows = sessions
        .iter()
        .map(|session| {
            let destination = &session.destination;
            vec![
                session.name.clone(),
                session.listener.clone(),
                word(&session.status),
                stage_name(destination),
                destination.endpoint.clone(),
                time(session.age_ms),
                time(session.idle_ms),
            ]
        })
        .collect();
    table
}

/// One session with its stages, in the order in which a message meets them.
pub fn session(session: &Session) -> String {
    let mut text = pairs(&[
        ("name", session.name.clone()),
        ("listener", session.listener.clone()),
        ("status", word(&session.status)),
        ("worker", session.worker.to_string()),
        ("age", time(session.age_ms)),
        ("idle", time(session.idle_ms)),
        ("metadata", session.metadata.to_string()),
    ]);
    let mut table = Table::new(&["STAGE", "CLUSTER", "PROTOCOL", "ENDPOINT", "STATUS", ">RETRIES"]);
    let ingress = session.ingress.iter().map(|stage| ("ingress", stage));
    let egress = session.egress.iter().map(|stage| ("egress", stage));
    let ends = [("source", &session.source), ("destination", &session.destination)];
    for (role, stage) in [ends[0]].into_iter().chain(ingress).chain([ends[1]]).chain(egress) {
        table.rows.push(vec![
            role.to_owned(),
            stage.cluster.clone(),
            stage.protocol.clone(),
            stage.endpoint.clone(),
            word(&stage.status),
            stage.retries.to_string(),
        ]);
    }
    let _ = write!(text, "\n{table}");
    text
}

/// The cluster, or the protocol of one without a name; a session that is not open has neither yet.
fn stage_name(stage: &Stage) -> String {
    match (stage.cluster.as_str(), stage.protocol.as_str()) {
        ("", "") => "-".to_owned(),
        ("", protocol) => format!("({protocol})"),
        (cluster, _) => cluster.to_owned(),
    }
}

/// An enum as JSON spells it.
fn word(status: &impl serde::Serialize) -> String {
    serde_json::to_value(status).map(|value| text(&value)).unwrap_or_default()
}

/// What runs.
pub fn info(info: &Info) -> String {
    let limits: Vec<String> = info.limits.iter().map(|(name, limit)| format!("{name} {limit}")).collect();
    let failing: Vec<String> = info.failing.iter().map(ToString::to_string).collect();
    let mut facts = vec![
        ("version", info.version.clone()),
        ("instance", info.instance.clone()),
        ("pid", info.pid.to_string()),
        ("uptime", time(info.uptime_seconds * 1000)),
        ("configuration", format!("{} ({})", info.config_version, word(&info.config_source))),
        ("draining", if info.draining { "yes" } else { "no" }.to_owned()),
        ("sessions", info.sessions.to_string()),
        ("workers", info.workers.to_string()),
        ("kernel", info.kernel.clone()),
        ("features", info.features.join(", ")),
        ("limits", limits.join("\n")),
    ];
    if !failing.is_empty() {
        facts.push(("failing", failing.join("\n")));
    }
    pairs(&facts)
}

/// Names and values in two columns; a value may have several lines.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in pairs {
        let value = value.replace('\n', &format!("\n{:width$}  ", ""));
        let _ = writeln!(text, "{}", format!("{name:width$}  {value}").trim_end());
    }
    text
}
