//! The chart's life: installed, upgraded with other values, uninstalled with the objects kept, installed again.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::installed::{Kubernetes, PATIENCE};
use crate::tokens::Leader;

#[path = "schemas.rs"]
mod schemas;

/// The kubelet shows sidecars that went on a new CA only when it looks at their ConfigMap again.
const CA_PATIENCE: Duration = Duration::from_secs(300);
const KINDS: [&str; 4] = ["virtualservices", "targets", "routes", "rules"];

fn helm(kubernetes: &Kubernetes, arguments: &[&str]) -> String {
    let said = kubernetes.cluster.helm(&[arguments, &["--namespace", "default", "--wait", "--timeout=180s"]].concat());
    said.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")))
}

/// A field of an object, as text; empty where one of them is missing.
fn field(kubernetes: &Kubernetes, what: &str, path: &str) -> String {
    kubernetes.kubectl(&format!("get {what} --ignore-not-found -o jsonpath={{{path}}}"))
}

/// The UIDs of the task's objects, and what they say.
fn objects(kubernetes: &Kubernetes) -> Vec<(String, Value)> {
    let list: Value =
        serde_json::from_str(&kubernetes.kubectl("get vsvc,tr,route,rule --namespace default -o json")).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    let mut objects: Vec<_> =
        items.map(|item| (item["metadata"]["uid"].as_str().unwrap().to_owned(), item["spec"].clone())).collect();
    objects.sort_by(|a, b| a.0.cmp(&b.0));
    objects
}

#[test]
fn the_chart_is_installed_upgraded_uninstalled_and_installed_again() {
    let kubernetes = Kubernetes::with_first_task(false);
    let chart = l7mp_ci::workspace().join("deploy/helm/l7mp");
    let chart = chart.to_str().unwrap();
    let before = objects(&kubernetes);
    assert_eq!(before.len(), 5);

    // Other values: one replica needs no disruption budget, all programs log more, and the gateway's agent is asked at
    // another address, by its probe as well.
    let metrics = "ingress.metrics.agent=$(HOST_IP):7812";
    let values = ["--set", "operator.replicas=1", "--set", "logLevel=debug", "--set", metrics];
    helm(&kubernetes, &[&["upgrade", "l7mp", chart], &values[..]].concat());
    kubernetes.roll_out("deployment/l7mp-operator");
    kubernetes.roll_out("daemonset/l7mp-ingress");
    assert_eq!(field(&kubernetes, "deployment l7mp-operator", ".spec.replicas"), "1");
    assert_eq!(field(&kubernetes, "pdb l7mp-operator", ".metadata.name"), "");
    let level = ".spec.template.spec.containers[0].env[?(@.name==\"RUST_LOG\")].value";
    assert_eq!(field(&kubernetes, "deployment l7mp-operator", level), "debug");
    assert_eq!(field(&kubernetes, "daemonset l7mp-ingress", level), "debug");
    kubernetes.wait_ready();
    assert_eq!(kubernetes.ask("after the upgrade").line, "after the upgrade");

    helm(&kubernetes, &["uninstall", "l7mp"]);
    let gone = kubernetes.cluster.wait_until("what the chart and the operator made is gone", PATIENCE, |_| {
        let names = "deployment/l7mp-operator daemonset/l7mp-ingress clusterrole/l7mp-operator configmap/l7mp-ca secret/l7mp-operator-tls";
        Ok(kubernetes.kubectl(&format!("get {names} --namespace default --ignore-not-found -o name")).is_empty())
    });
    gone.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    for kind in KINDS {
        let name = format!("crd {kind}.l7mp.io");
        assert_eq!(field(&kubernetes, &name, ".metadata.annotations.helm\\.sh/resource-policy"), "keep", "{name}");
        assert_eq!(field(&kubernetes, &name, ".metadata.deletionTimestamp"), "", "{name}");
    }
    assert_eq!(objects(&kubernetes), before, "the objects stay as they are");

    let clock = std::time::Instant::now();
    helm(&kubernetes, &["install", "l7mp", chart]);
    println!("installed again after {:.1?}", clock.elapsed());
    assert_eq!(field(&kubernetes, "deployment l7mp-operator", ".spec.replicas"), "2");
    // The gateway is new, and uses transcoders whose proxies have said that they listen: their agents come back when the
    // kubelet shows them the new CA.
    assert_eq!(kubernetes.ask("after all of it").line, "after all of it");
    println!("the task answers after {:.1?}", clock.elapsed());
    let all = ["vsvc/gateway-vsvc", "vsvc/transcoder-vsvc", "tr/udp-cluster", "tr/websocket-cluster", "tr/uds-cluster"];
    let ready = kubernetes.cluster.wait("condition=Ready", &all, CA_PATIENCE);
    ready.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    // A new leader says for a while what its predecessor said: its streams tell who is there.
    let proxies = kubernetes.pods("app in (l7mp-ingress,transcoder,worker)").len() as u64;
    assert_eq!(proxies, 5);
    let leader = Leader::find(&kubernetes);
    let known = kubernetes
        .cluster
        .wait_until("every proxy is reached again", CA_PATIENCE, |_| Ok(leader.count("l7mp_link_streams") == proxies));
    known.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    println!("every proxy is known again after {:.1?}", clock.elapsed());
    assert_eq!(objects(&kubernetes), before, "the objects are those of before");
}

/// What git says; `None` where it says nothing: in a checkout without history, or without such a file.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(l7mp_ci::workspace()).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Tries the objects of our kinds in a file, in a namespace that is there; how many there are.
fn hold(kubernetes: &Kubernetes, file: &str, text: &str) -> usize {
    let documents = format!("\n{text}");
    let mut tried = 0;
    for document in documents.split("\n---").filter(|document| document.contains("apiVersion: l7mp.io/v1")) {
        let mut object: Value = serde_saphyr::from_str(document).unwrap();
        object["metadata"]["namespace"] = Value::from("default");
        let said =
            kubernetes.cluster.kubectl_with_input(&["apply", "--dry-run=server", "-f", "-"], &object.to_string());
        said.unwrap_or_else(|error| panic!("{file}: not taken any more: {error:#}"));
        tried += 1;
    }
    tried
}

/// Objects that were right yesterday are right today. What is compared with is the commit before this one
/// (`L7MP_PREVIOUS` names another); in a checkout without it there is nothing to compare, which is said.
#[test]
fn objects_and_kinds_of_the_previous_commit_hold() {
    let kubernetes = Kubernetes::with_chart();
    let previous = std::env::var("L7MP_PREVIOUS").unwrap_or_else(|_| "HEAD~1".to_owned());
    let Some(files) = git(&["ls-tree", "-r", "--name-only", &previous, "deploy/examples", "crds/yaml"]) else {
        eprintln!("skipped: this checkout has no {previous}");
        return;
    };
    let (mut kinds, mut tried) = (0, 0);
    for file in files.lines().filter(|file| file.ends_with(".yaml")) {
        let text = git(&["show", &format!("{previous}:{file}")]).unwrap();
        if file.starts_with("crds/yaml/") {
            let old: Value = serde_saphyr::from_str(&text).unwrap();
            let name = old["metadata"]["name"].as_str().unwrap();
            let new: Value = serde_json::from_str(&kubernetes.kubectl(&format!("get crd {name} -o json"))).unwrap();
            let faults = schemas::narrowed(&old, &new);
            assert!(faults.is_empty(), "{name} is less than it was in {previous}: {faults:#?}");
            kinds += 1;
        } else {
            tried += hold(&kubernetes, &format!("{file} of {previous}"), &text);
        }
    }
    println!("{previous}: {kinds} kinds and {tried} objects hold");
    assert_eq!((kinds, tried >= 5), (KINDS.len(), true), "{previous} has kinds and examples");
}
