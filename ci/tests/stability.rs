//! A gateway whose configuration changes under load: who is moved, and that nobody else notices.

mod load;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use l7mp_ci::testbed::{Options, Role, Testbed};

use load::{Load, PATIENCE, assert_books_balance, first_name, metrics, running, sessions};

const CLIENTS: usize = 60;
/// 1,500 lines a second by all of them.
const PAUSE: Duration = Duration::from_millis(40);

/// The session of each client, and the endpoints of its stages.
fn by_client(testbed: &Testbed, gateway: &str, load: &Load) -> Vec<(String, Vec<String>)> {
    let sessions = sessions(testbed, gateway);
    let find = |address| {
        let prefix = format!("UDP:{address}-{}-", testbed.gateway());
        let mut of_client = sessions.iter().filter(|(name, _)| name.starts_with(&prefix));
        let found = of_client.next().unwrap_or_else(|| panic!("no {prefix} in {sessions:?}"));
        assert!(of_client.next().is_none(), "{address} has two sessions: {sessions:?}");
        (found.0.clone(), found.1.clone())
    };
    load.addresses().iter().map(find).collect()
}

fn version(testbed: &Testbed, gateway: &str) -> u64 {
    testbed.get(gateway, "/api/v1/info").unwrap().json()["config_version"].as_u64().unwrap()
}

/// Waits until the gateway has adopted another configuration than `version`.
fn wait_for_another(testbed: &mut Testbed, gateway: &str, old: u64, what: &str) {
    let adopted = testbed.wait_until(PATIENCE, what, |testbed| version(testbed, gateway) != old);
    adopted.unwrap_or_else(|error| panic!("{error:#}\n{}", testbed.logs(30)));
}

#[test]
fn deleting_a_worker_pod_under_load_moves_its_sessions_and_no_other_loses_a_datagram() {
    let mut testbed = running(Options {
        workers: 4,
        gateway_arguments: ["--workers", "2"].map(str::to_owned).into(),
        ..Options::default()
    });
    let (gateway, worker) = (first_name(&testbed, Role::Gateway), first_name(&testbed, Role::Worker));
    let endpoint = format!("{}:9999", testbed.pod(&worker).unwrap().address);
    let load = Load::start(testbed.gateway(), CLIENTS, PAUSE);
    load.wait(&testbed, 5);
    let before = by_client(&testbed, &gateway, &load);
    let is_moved: Vec<bool> = before.iter().map(|(_, stages)| stages[1] == endpoint).collect();
    let moved = is_moved.iter().filter(|moved| **moved).count();
    assert!((1..CLIENTS).contains(&moved), "{moved} of {CLIENTS} clients are on {endpoint}");

    let version = version(&testbed, &gateway);
    testbed.remove_manifest(&Testbed::pod_manifest(&worker)).unwrap();
    wait_for_another(&mut testbed, &gateway, version, "the pod is no endpoint");
    let adopted = Instant::now();
    load.wait(&testbed, 10);
    let after = by_client(&testbed, &gateway, &load);
    let stories = load.finish();

    let (mut lost, mut silence) = (0, Duration::ZERO);
    for (n, story) in stories.iter().enumerate() {
        if !is_moved[n] {
            assert_eq!(story.lost().count(), 0, "client {n}, which was not on the pod, lost a line");
            assert_eq!(after[n], before[n], "client {n}, which was not on the pod, was moved");
            continue;
        }
        assert_eq!(after[n].1[0], before[n].1[0], "client {n} was moved to another transcoder too");
        assert_ne!(after[n].1[1], endpoint, "client {n} stays on the pod");
        assert_eq!(story.all_ends().len(), 2, "client {n} was moved more than once");
        lost += story.lost().count();
        let last = story.lost().last().map_or(Duration::ZERO, |at| at.saturating_duration_since(adopted));
        silence = silence.max(last);
    }
    println!("{moved} of {CLIENTS} clients were moved; they lost {lost} lines, the last {silence:?} after the change");
    assert!(silence < Duration::from_secs(1), "a moved client lost a line {silence:?} after the change");
    assert_books_balance(&mut testbed, &gateway);
}

/// A change of a manifest: its file, and what becomes of it.
type Change = (&'static str, &'static str, fn(&str) -> String);

/// Whatever a document can say beside the endpoints that sessions are on.
const CHANGES: &[Change] = &[
    ("another listener", "6-more.yaml", |_| virtual_service("more", 9002, "udp-cluster")),
    ("another listener that reuses it", "6-more.yaml", |_| virtual_service("more", 9003, "websocket-cluster")),
    ("the other listener goes", "6-more.yaml", |_| String::new()),
    ("an unrelated cluster", "7-cluster.yaml", |_| target("unrelated", 1)),
    ("the unrelated cluster changes", "7-cluster.yaml", |_| target("unrelated", 2)),
    ("the unrelated cluster goes", "7-cluster.yaml", |_| String::new()),
    ("another rule", "5-gateway-vsvc.yaml", |text| {
        format!("{}      - action: {{ refuse: \"nobody comes here\" }}\n", with_newline(text))
    }),
    ("the rule before refuses whoever is new", "5-gateway-vsvc.yaml", |text| {
        text.replace("    rules:\n", "    rules:\n      - action: { refuse: \"closed\" }\n")
    }),
    ("the rules as they were", "5-gateway-vsvc.yaml", |text| {
        text.replace("      - action: { refuse: \"closed\" }\n", "")
            .replace("      - action: { refuse: \"nobody comes here\" }\n", "")
    }),
    ("a retry", "5-gateway-vsvc.yaml", |text| {
        format!("{}            retry: {{ retry_on: always, num_retries: 3, timeout: 500ms }}\n", with_newline(text))
    }),
    ("options of the listener", "5-gateway-vsvc.yaml", |text| {
        text.replace("  listener:\n", "  listener:\n    options: { idleTimeout: 20s, maxSessions: 1000 }\n")
    }),
    ("a cluster's policy", "4-udp-cluster.yaml", |text| text.replace("ConsistentHash", "RoundRobin")),
    ("a cluster's policy as it was, its table smaller", "4-udp-cluster.yaml", |text| {
        text.replace("policy: RoundRobin", "policy: ConsistentHash\n      tableSize: 251")
    }),
    ("another key", "3-websocket-cluster.yaml", |text| {
        text.replace("policy: ConsistentHash", "policy: ConsistentHash\n      key: /IP/src_addr")
    }),
    ("another path, for new connections", "3-websocket-cluster.yaml", |text| {
        text.replace("        port: 8888\n", "        port: 8888\n        path: /other\n")
    }),
    ("another worker", "pod-new.yaml", |_| pod("new", "127.0.0.99")),
    ("the new worker terminates", "pod-new.yaml", |_| {
        pod("new", "127.0.0.99").replace("  labels:", "  deletionTimestamp: \"2026-11-02T00:00:00Z\"\n  labels:")
    }),
    ("the new worker is gone", "pod-new.yaml", |_| String::new()),
];

fn with_newline(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

fn virtual_service(name: &str, port: u16, destination: &str) -> String {
    format!(
        "apiVersion: l7mp.io/v1
kind: VirtualService
metadata: {{ name: {name}, namespace: default }}
spec:
  selector: {{ matchLabels: {{ app: l7mp-ingress }} }}
  listener:
    spec: {{ UDP: {{ port: {port} }} }}
    rules: [{{ action: {{ route: {{ destinationRef: default/{destination} }} }} }}]
"
    )
}

fn target(name: &str, weight: u32) -> String {
    format!(
        "apiVersion: l7mp.io/v1
kind: Target
metadata: {{ name: {name} }}
spec:
  selector: {{ matchLabels: {{ app: l7mp-ingress }} }}
  cluster:
    spec: {{ TCP: {{ port: 1 }} }}
    endpoints: [{{ spec: {{ address: 127.0.0.1, weight: {weight} }} }}]
"
    )
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  labels: {{ app: worker }}
spec: {{ containers: [] }}
status:
  phase: Running
  conditions: [{{ type: Ready, status: \"True\" }}]
  podIP: {address}
"
    )
}

#[test]
fn changing_every_other_part_of_the_document_under_load_loses_nothing_and_moves_nobody() {
    let mut testbed =
        running(Options { gateway_arguments: ["--workers", "2"].map(str::to_owned).into(), ..Options::default() });
    let gateway = first_name(&testbed, Role::Gateway);
    let load = Load::start(testbed.gateway(), CLIENTS, PAUSE);
    load.wait(&testbed, 5);
    let before = by_client(&testbed, &gateway, &load);
    let opened = metrics(&testbed, &gateway)["l7mp_sessions_opened_total"];

    for (what, file, change) in CHANGES {
        let old = version(&testbed, &gateway);
        let text = std::fs::read_to_string(testbed.manifests().join(file)).unwrap_or_default();
        let changed = change(&text);
        assert_ne!(changed, text, "{what} is no change");
        if changed.is_empty() {
            testbed.remove_manifest(file).unwrap();
        } else {
            testbed.write_manifest(file, &changed).unwrap();
        }
        wait_for_another(&mut testbed, &gateway, old, what);
        load.wait(&testbed, 3);
        assert_eq!(by_client(&testbed, &gateway, &load), before, "{what}");
    }

    let stories = load.finish();
    let lines: usize = stories.iter().map(|story| story.lines.len()).sum();
    let lost: BTreeMap<_, _> = stories.iter().enumerate().map(|(n, story)| (n, story.lost().count())).collect();
    assert!(lost.values().all(|lost| *lost == 0), "lines lost by client: {lost:?}");
    assert!(stories.iter().all(|story| story.all_ends().len() == 1));
    assert_eq!(metrics(&testbed, &gateway)["l7mp_sessions_opened_total"], opened);
    println!("{} changes, {CLIENTS} clients, {lines} lines, none lost, no session moved", CHANGES.len());
    assert_books_balance(&mut testbed, &gateway);
}
