//! Worlds out of YAML, for tests.

#![allow(dead_code, reason = "each test uses some of it")]

use l7mp_api::Config;
use l7mp_api::config::{ActionTarget, Cluster, EndpointAt, Ref, Rules};
use l7mp_compiler::compile::{Compiled, HeldBack, View, compile};
use l7mp_compiler::manifest;
use l7mp_compiler::world::World;

/// The objects of a text of documents, which must be right by themselves.
pub fn world(text: &str) -> World {
    let mut world = World::default();
    let read = manifest::read(text);
    assert_eq!(read.faults, [], "{text}");
    world.reset("test", read.objects);
    world
}

/// What the proxy of `default/gw` gets; the document must be one that proxies take.
pub fn compiled(text: &str) -> Compiled {
    compiled_for(&world(text), "default/gw", &View::alone(&HeldBack::new()))
}

/// What a proxy gets; the document must be one that proxies take.
pub fn compiled_for(world: &World, pod: &str, view: &View<'_>) -> Compiled {
    let compiled = compile(world, &pod.parse().unwrap(), view).unwrap();
    let text = serde_json::to_string(&compiled.config).unwrap();
    assert_eq!(Config::read(&text).as_ref(), Ok(&compiled.config));
    compiled
}

/// One document of YAML.
pub fn object(kind: &str, metadata: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: l7mp.io/v1, kind: {kind}, metadata: {{{metadata}}}, spec: {{{spec}}}}}\n")
}

/// A ready pod with a proxy.
pub fn proxy(metadata: &str, address: &str) -> String {
    pod(metadata, "containers: [{name: l7mp}]", address, "conditions: [{type: Ready, status: 'True'}]")
}

/// A ready pod without one.
pub fn app(metadata: &str, address: &str) -> String {
    pod(metadata, "containers: [{name: app}]", address, "conditions: [{type: Ready, status: 'True'}]")
}

/// A pod.
pub fn pod(metadata: &str, spec: &str, address: &str, status: &str) -> String {
    let address = if address.is_empty() { String::new() } else { format!("podIP: {address}, ") };
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{{metadata}}}, spec: {{{spec}}}, status: {{{address}{status}}}}}\n"
    )
}

/// The reports, one to a line.
pub fn reports(compiled: &Compiled) -> Vec<String> {
    compiled.reports.iter().map(ToString::to_string).collect()
}

/// The one cluster of that name.
pub fn cluster<'a>(compiled: &'a Compiled, name: &str) -> &'a Cluster {
    let found: Vec<_> = compiled.config.clusters.iter().filter(|cluster| cluster.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {:?}", compiled.config.clusters);
    found[0]
}

/// The endpoints of a cluster: `ADDRESS[:PORT]` or file name, with ` draining` behind those that drain, and
/// ` unready` behind those that take no sessions for now.
pub fn endpoints(cluster: &Cluster) -> Vec<String> {
    cluster
        .endpoints
        .iter()
        .map(|endpoint| {
            let place = match &endpoint.at {
                EndpointAt::Address { address, port: None } => address.clone(),
                EndpointAt::Address { address, port: Some(port) } => format!("{address}:{port}"),
                EndpointAt::Filename(path) => path.clone(),
            };
            match (endpoint.ready, endpoint.draining) {
                (true, false) => place,
                (true, true) => format!("{place} draining"),
                (false, false) => format!("{place} unready"),
                (false, true) => panic!("nobody needs both: {endpoint:?}"),
            }
        })
        .collect()
}

/// Where the only rule of the only listener leads: the name of its cluster, or why it refuses.
pub fn destination(compiled: &Compiled) -> Result<&str, &str> {
    let [listener] = &compiled.config.listeners[..] else { panic!("one listener: {:?}", compiled.config.listeners) };
    let Rules::Inline(rules) = &listener.rules else { panic!("inline rules: {listener:?}") };
    let [Ref::Inline(rule)] = &rules[..] else { panic!("one inline rule: {rules:?}") };
    match &rule.action.target {
        ActionTarget::Route(Ref::Inline(route)) => match &route.destination {
            Ref::Name(name) => Ok(name),
            Ref::Inline(cluster) => panic!("inline cluster: {cluster:?}"),
        },
        ActionTarget::Refuse(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}
