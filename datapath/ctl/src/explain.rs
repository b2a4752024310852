//! `l7mpctl explain`: what the operator told this pod's proxy, and which object each part comes from. `l7mp-agent`
//! keeps that in a file beside the admin socket.

mod differences;
mod saved;

use std::io::Write;
use std::path::PathBuf;

use l7mp_api::status::ConfigAnswer;
use serde::Serialize;
use serde_json::Value;

use crate::cli::Format;
use crate::client::Client;
use crate::error::Error;
use crate::output;
use crate::table::Table;
use crate::tables::{action, chain, pairs, tagged, text};
use differences::{Difference, differences};
use saved::{From, Saved, Version};

/// All that is told.
#[derive(Serialize)]
struct Explained {
    /// The file.
    saved: PathBuf,
    /// The pod, `default/gateway-0`.
    pod: String,
    /// The operator's version of it.
    version: Version,
    /// The operator asked the proxy to drain.
    drain: bool,
    /// What the proxy says.
    proxy: Running,
    listeners: Vec<Listener>,
    rules: Vec<Rule>,
    routes: Vec<Route>,
    clusters: Vec<Cluster>,
}

/// What the proxy has, compared with the file.
#[derive(Serialize)]
struct Running {
    /// `None`: it does not answer.
    version: Option<u64>,
    /// Whether it has what the file says.
    matches: bool,
    /// Why it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Listener {
    name: String,
    protocol: String,
    address: String,
    from: Option<From>,
}

#[derive(Serialize)]
struct Rule {
    /// Path in the document; a rule of a listener or a list has no other name.
    at: String,
    action: String,
    from: Option<From>,
}

#[derive(Serialize)]
struct Route {
    name: String,
    chain: String,
    from: Option<From>,
}

#[derive(Serialize)]
struct Cluster {
    name: String,
    protocol: String,
    endpoints: Vec<Endpoint>,
    from: Option<From>,
}

#[derive(Serialize)]
struct Endpoint {
    name: String,
    address: String,
    ready: bool,
    draining: bool,
}

/// Prints it.
///
/// # Errors
///
/// When there is no such file: then no agent runs this proxy.
pub fn explain(client: &Client, file: Option<PathBuf>, format: Format, out: &mut impl Write) -> Result<(), Error> {
    let file = file.unwrap_or_else(|| client.path().with_file_name("saved.json"));
    let saved = Saved::read(&file)?;
    let running = match client.get::<ConfigAnswer>("/api/v1/config") {
        Ok(answer) => {
            let differences = differences(&saved.document, &answer.config);
            Running { version: Some(answer.version), matches: differences.is_empty(), error: None, differences }
        }
        Err(error) => {
            let error = Some(error.lines().join("; "));
            Running { version: None, matches: false, error, differences: Vec::new() }
        }
    };
    let explained = Explained {
        pod: saved.pod.to_string(),
        version: saved.version,
        drain: saved.drain,
        proxy: running,
        listeners: saved.parts("listeners").map(|(at, part)| listener(&saved, &at, part)).collect(),
        rules: rules(&saved),
        routes: saved.parts("routes").map(|(at, part)| route(&saved, &at, part)).collect(),
        clusters: saved.parts("clusters").map(|(at, part)| cluster(&saved, &at, part)).collect(),
        saved: file,
    };
    output::print(out, format, &explained, for_people)
}

fn listener(saved: &Saved, at: &str, part: &Value) -> Listener {
    let (protocol, address) = place(&part["spec"], "");
    Listener { name: text(&part["name"]), protocol, address, from: saved.from(at) }
}

fn route(saved: &Saved, at: &str, part: &Value) -> Route {
    Route { name: text(&part["name"]), chain: chain(part), from: saved.from(at) }
}

/// Those of listeners, of lists, and those with a name.
fn rules(saved: &Saved) -> Vec<Rule> {
    let mut rules = Vec::new();
    for kind in ["listeners", "rulelists"] {
        for (at, part) in saved.parts(kind) {
            match &part["rules"] {
                Value::Array(list) => rules.extend(list.iter().enumerate().map(|(index, rule)| {
                    let at = format!("{at}.rules[{index}]");
                    let action = match rule {
                        Value::String(name) => format!("rule {name}"),
                        rule => action(&rule["action"]),
                    };
                    Rule { from: saved.from(&at), at, action }
                })),
                Value::String(list) => {
                    let at = format!("{at}.rules");
                    rules.push(Rule { from: saved.from(&at), at, action: format!("list {list}") });
                }
                _ => {}
            }
        }
    }
    rules.extend(saved.parts("rules").map(|(at, part)| Rule {
        from: saved.from(&at),
        at,
        action: action(&part["action"]),
    }));
    rules
}

fn cluster(saved: &Saved, at: &str, part: &Value) -> Cluster {
    let (protocol, port) = place(&part["spec"], "");
    let endpoints = part["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let endpoint = |endpoint: &Value| Endpoint {
        name: text(&endpoint["name"]),
        address: address(&endpoint["spec"], &port),
        ready: endpoint["ready"] != false,
        draining: endpoint["draining"] == true,
    };
    let endpoints = endpoints.iter().map(endpoint).collect();
    Cluster { name: text(&part["name"]), protocol, endpoints, from: saved.from(at) }
}

/// Protocol and address of `{UDP: {port: 9001}}`.
fn place(spec: &Value, port: &str) -> (String, String) {
    let (protocol, fields) = tagged(spec);
    (protocol, address(&fields, port))
}

/// `10.0.0.5:9999`, `9001`, `/run/in.sock`; the port is `port` where none is named.
fn address(fields: &Value, port: &str) -> String {
    let (host, filename, own) = (text(&fields["address"]), text(&fields["filename"]), text(&fields["port"]));
    let port = if own.is_empty() { port } else { &own };
    match (host.as_str(), filename.as_str(), port) {
        ("", "", port) => port.to_owned(),
        ("", filename, _) => filename.to_owned(),
        (host, _, "") => host.to_owned(),
        (host, _, port) if host.contains(':') => format!("[{host}]:{port}"),
        (host, _, port) => format!("{host}:{port}"),
    }
}

fn for_people(explained: &Explained) -> String {
    let proxy = &explained.proxy;
    let runs = match (&proxy.error, proxy.version, proxy.matches) {
        (Some(error), _, _) => format!("does not say what it runs: {error}"),
        (None, Some(version), true) => format!("runs it, as its own version {version}"),
        (None, version, _) => {
            let version = version.unwrap_or_default();
            let differences: Vec<String> = proxy.differences.iter().map(|it| format!("  {it}")).collect();
            format!("RUNS SOMETHING ELSE, its own version {version}:\n{}", differences.join("\n"))
        }
    };
    let drain = if explained.drain { ", and asked it to drain" } else { "" };
    let mut printed = pairs(&[
        ("pod", explained.pod.clone()),
        ("operator", format!("sent version {}{drain}", explained.version)),
        ("proxy", runs),
        ("saved in", explained.saved.display().to_string()),
    ]);
    let mut listeners = Table::new(&["LISTENER", "PROTOCOL", "ADDRESS", "OBJECT", "PATH"]);
    for part in &explained.listeners {
        listeners.rows.push(row([&part.name, &part.protocol, &part.address], &part.from));
    }
    let mut rules = Table::new(&["RULE", "ACTION", "OBJECT", "PATH"]);
    for part in &explained.rules {
        rules.rows.push(row([&part.at, &part.action], &part.from));
    }
    let mut routes = Table::new(&["ROUTE", "CHAIN", "OBJECT", "PATH"]);
    for part in &explained.routes {
        routes.rows.push(row([&part.name, &part.chain], &part.from));
    }
    let mut clusters = Table::new(&["CLUSTER", "PROTOCOL", "OBJECT", "PATH"]);
    let mut endpoints = Table::new(&["ENDPOINT", "ADDRESS", "STATE", "CLUSTER"]);
    for part in &explained.clusters {
        clusters.rows.push(row([&part.name, &part.protocol], &part.from));
        for endpoint in &part.endpoints {
            let state = match endpoint.ready {
                _ if endpoint.draining => "draining",
                true => "",
                false => "not ready",
            };
            let cells = [&endpoint.name, &endpoint.address, state, &part.name];
            endpoints.rows.push(cells.map(str::to_owned).to_vec());
        }
    }
    for table in [listeners, rules, routes, clusters, endpoints] {
        if !table.rows.is_empty() {
            printed.push_str(&format!("\n{table}"));
        }
    }
    printed
}

fn row<const N: usize>(cells: [&String; N], from: &Option<From>) -> Vec<String> {
    let (object, path) = from.as_ref().map(|from| (from.object.clone(), from.path.clone())).unwrap_or_default();
    cells.into_iter().cloned().chain([object, path]).collect()
}
