//! The real operator with 2,000 pods that kwok plays: what it is told, and what it takes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use l7mp_ci::process::{Process, Program};
use tempfile::TempDir;

use crate::clients::Load;
use crate::installed::{Kubernetes, PATIENCE};
use crate::processes::InPod;

/// Of everything that is played.
const NAMESPACE: &str = "thousands";
/// The label of the played nodes, so that kwok leaves the real one alone.
const PLAYED: &str = "test.l7mp.io/played";
const NODES: usize = 4;
/// Each with a Target, and with a listener of the real gateway.
const APPS: usize = 20;
const PODS_PER_APP: usize = 100;
/// Of an app's pods: so many have a proxy, which never connects.
const PROXIES_PER_APP: usize = 10;
const PODS: usize = APPS * PODS_PER_APP;
/// Clients of the first task meanwhile, which nothing of this concerns.
const CLIENTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// Of one operator, in MB: the goal of 10,000 pods.
const RESIDENT_MAX: f64 = 150.0;

/// kwok, and what it plays: gone when dropped.
struct Played<'a> {
    kubernetes: &'a Kubernetes,
    kwok: Process,
    _log: TempDir,
}

impl Played<'_> {
    fn start(kubernetes: &Kubernetes) -> Played<'_> {
        let directory = TempDir::new().unwrap();
        let text = |text: &str| OsString::from(text);
        let stages = l7mp_ci::workspace().join("ci/tests/kubernetes/kwok-stages.yaml");
        let program = Program {
            name: "kwok".to_owned(),
            path: kubernetes.cluster.kwok().unwrap(),
            arguments: vec![
                text("--config"),
                stages.into_os_string(),
                text("--kubeconfig"),
                kubernetes.cluster.kubeconfig().into(),
                text(&format!("--manage-nodes-with-label-selector={PLAYED}=true")),
                // Without, the node controller takes its pods for lost.
                text("--node-lease-duration-seconds=40"),
                // Addresses for tests of performance, which nobody has.
                text("--cidr=198.18.0.0/16"),
                text("--node-ip=198.19.0.1"),
            ],
            directory: directory.path().to_owned(),
            environment: Vec::new(),
            log: directory.path().join("kwok.log"),
        };
        let mut kwok = Process::new(program, env!("CARGO_BIN_EXE_l7mp-ci").into());
        kwok.start().unwrap();
        let played = Played { kubernetes, kwok, _log: directory };
        played.apply(&nodes());
        let label = format!("{PLAYED}=true");
        let ready = kubernetes.cluster.wait("condition=Ready", &["nodes", "-l", &label], PATIENCE);
        ready.unwrap_or_else(|error| played.fail(&error));
        played
    }

    fn fail(&self, why: &anyhow::Error) -> ! {
        self.kubernetes.fail(&format!("{why:#}\nkwok:\n{}", self.kwok.log_tail(20)))
    }

    fn apply(&self, yaml: &str) {
        self.kubernetes.cluster.apply(yaml).unwrap_or_else(|error| self.fail(&error));
    }

    fn kubectl(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        self.kubernetes.cluster.kubectl(&arguments).unwrap_or_else(|error| self.fail(&error))
    }

    /// Makes the pods of apps, four callers at a time: one is held back by kubectl's own limit.
    fn make(&self, apps: std::ops::Range<usize>) {
        let apps: Vec<usize> = apps.collect();
        let make = |apps: &[usize]| {
            let yaml: String = apps.iter().flat_map(|app| (0..PODS_PER_APP).map(|number| pod(*app, number))).collect();
            self.kubernetes.cluster.kubectl_with_input(&["create", "-f", "-"], &yaml).map(drop)
        };
        std::thread::scope(|scope| {
            let callers: Vec<_> =
                apps.chunks(apps.len().div_ceil(4)).map(|apps| scope.spawn(move || make(apps))).collect();
            for caller in callers {
                caller.join().unwrap().unwrap_or_else(|error| self.fail(&error));
            }
        });
    }

    /// Waits until the status of all Targets together counts so many endpoints, and the gateway uses them.
    fn wait(&self, endpoints: usize) {
        let counted = self.kubernetes.cluster.wait_until("all endpoints are counted", PATIENCE, |cluster| {
            let path = "jsonpath={.items[*].status.endpoints}";
            let counts = cluster.kubectl(&["get", "targets", "--namespace", NAMESPACE, "-o", path])?;
            Ok(counts.split(' ').filter_map(|count| count.parse::<usize>().ok()).sum::<usize>() == endpoints)
        });
        counted.unwrap_or_else(|error| self.fail(&error));
        let what = ["vsvc", "--namespace=default", "-l", "test.l7mp.io/played=true"];
        let in_force = self.kubernetes.cluster.wait("condition=Ready", &what, PATIENCE);
        in_force.unwrap_or_else(|error| self.fail(&error));
    }

    /// Removes all of it, and waits until it is gone.
    fn remove(&self) -> anyhow::Result<()> {
        let cluster = self.kubernetes.cluster;
        cluster.kubectl(&["delete", "vsvc", "--namespace=default", "-l", &format!("{PLAYED}=true")])?;
        cluster.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s"])?;
        cluster.delete(&nodes()).map(drop)
    }
}

impl Drop for Played<'_> {
    fn drop(&mut self) {
        // kwok is needed for it, and ends afterwards.
        if let Err(error) = self.remove() {
            eprintln!("what kwok plays is not gone: {error:#}");
        }
    }
}

/// Nodes that take only pods that name them: the gateway's DaemonSet has none there.
fn nodes() -> String {
    let node = |number| {
        format!(
            "---
apiVersion: v1
kind: Node
metadata: {{name: played-{number}, labels: {{{PLAYED}: \"true\"}}}}
spec: {{taints: [{{key: {PLAYED}, value: \"true\", effect: NoSchedule}}]}}
"
        )
    };
    (0..NODES).map(node).collect()
}

/// A Target for each app, a listener of the real gateway that uses it, and a VirtualService on all played proxies.
fn objects() -> String {
    let mut yaml = format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: l7mp.io/v1
kind: VirtualService
metadata: {{name: sidecars, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{proxy: played}}}}
  listener:
    spec: {{UDP: {{port: 5000}}}}
    rules: [{{action: {{route: {{destinationRef: app-0}}}}}}]
"
    );
    for app in 0..APPS {
        let port = 9800 + app;
        let _ = write!(
            yaml,
            "---
apiVersion: l7mp.io/v1
kind: Target
metadata: {{name: app-{app}, namespace: {NAMESPACE}, annotations: {{l7mp.io/accept-from: default}}}}
spec:
  cluster:
    spec: {{UDP: {{port: 9999}}}}
    loadbalancer: {{policy: ConsistentHash}}
    endpoints: [{{selector: {{matchLabels: {{app: app-{app}}}}}}}]
---
apiVersion: l7mp.io/v1
kind: VirtualService
metadata: {{name: thousands-{app}, namespace: default, labels: {{{PLAYED}: \"true\"}}}}
spec:
  selector: {{matchLabels: {{app: l7mp-ingress}}}}
  listener:
    spec: {{UDP: {{port: {port}}}}}
    rules: [{{action: {{route: {{destinationRef: {NAMESPACE}/app-{app}}}}}}}]
"
        );
    }
    yaml
}

/// A pod that names its node, so that no scheduler is asked.
fn pod(app: usize, number: usize) -> String {
    let node = number % NODES;
    let (label, proxy) = match number < PROXIES_PER_APP {
        true => (", proxy: played", ", {name: l7mp, image: none}, {name: l7mp-agent, image: none}"),
        false => ("", ""),
    };
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: app-{app}-{number}, namespace: {NAMESPACE}, labels: {{app: app-{app}{label}}}}}
spec:
  nodeName: played-{node}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: none}}{proxy}]
"
    )
}

/// The samples of an operator's `/metrics`.
fn metrics(kubernetes: &Kubernetes, pod: &str) -> BTreeMap<String, f64> {
    let text = kubernetes.kubectl(&format!("get --raw /api/v1/namespaces/default/pods/{pod}:7801/proxy/metrics"));
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// What an operator has counted and taken so far.
#[derive(Clone, Copy, Default)]
struct Count {
    leads: bool,
    events: f64,
    received: u64,
    computed: Duration,
    resident: f64,
    compiled: f64,
    longest: f64,
}

impl Count {
    fn of(kubernetes: &Kubernetes, operator: &InPod) -> Count {
        let samples = metrics(kubernetes, &operator.pod);
        let events = samples.iter().filter(|(name, _)| name.starts_with("l7mp_operator_watch_events_total"));
        Count {
            leads: samples["l7mp_operator_leads"] == 1.0,
            events: events.map(|(_, count)| count).sum(),
            received: operator.received(),
            computed: operator.computed(),
            resident: operator.resident(),
            compiled: samples["l7mp_operator_compile_seconds_count"],
            longest: samples["l7mp_operator_compile_longest_seconds"],
        }
    }
}

/// What each phase cost each operator.
struct Table<'a> {
    kubernetes: &'a Kubernetes,
    before: BTreeMap<String, Count>,
    text: String,
}

impl Table<'_> {
    fn new(kubernetes: &Kubernetes) -> Table<'_> {
        let text = "| phase | took | operator | watch events | KB received | CPU | turns | longest turn so far | RSS |\n\
                    |---|---|---|---|---|---|---|---|---|\n";
        let mut table = Table { kubernetes, before: BTreeMap::new(), text: text.to_owned() };
        table.phase("the first task", || ());
        table
    }

    /// Does something, and adds a row for each operator: from its start, if it is a new one.
    fn phase(&mut self, what: &str, make: impl FnOnce()) {
        let start = Instant::now();
        make();
        let took = start.elapsed();
        for operator in InPod::all(self.kubernetes, "app=l7mp-operator", "l7mp-controller") {
            let now = Count::of(self.kubernetes, &operator);
            let then = self.before.insert(operator.pod, now).unwrap_or_default();
            let role = if now.leads { "leader" } else { "other" };
            let line = format!(
                "| {what} | {took:.1?} | {role} | {} | {} | {:.2?} | {} | {:.0} ms | {:.1} MB |",
                now.events - then.events,
                (now.received - then.received) / 1000,
                now.computed.saturating_sub(then.computed),
                now.compiled - then.compiled,
                now.longest * 1000.0,
                now.resident,
            );
            println!("{line}");
            self.text += &(line + "\n");
            assert!(now.resident < RESIDENT_MAX, "{what}: {} MB", now.resident);
        }
    }
}

/// Watch traffic, memory and time of both replicas, while pods come, change and go; the first task goes on.
#[test]
fn two_thousand_pods_are_little_to_an_operator() {
    let kubernetes = Kubernetes::with_first_task(true);
    let load = Load::start(kubernetes.gateway(), CLIENTS, PAUSE);
    let mut table = Table::new(&kubernetes);
    let played = Played::start(&kubernetes);
    table.phase("20 Targets without pods", || {
        played.apply(&objects());
        played.wait(0);
    });
    table.phase("2,000 pods come", || {
        played.make(0..APPS);
        played.wait(PODS);
    });
    // A time, and no condition: what is to be seen is that nothing happens.
    table.phase("nothing happens", || std::thread::sleep(Duration::from_secs(20)));
    let pods = format!("pods --namespace={NAMESPACE}");
    table.phase("200 pods lose a label", || {
        for app in [0, 1] {
            played.kubectl(&format!("label {pods} -l app=app-{app} app=none --overwrite"));
        }
        played.wait(PODS - 2 * PODS_PER_APP);
    });
    table.phase("they go, and 200 others come", || {
        played.kubectl(&format!("delete {pods} -l app=none"));
        played.make(0..2);
        played.wait(PODS);
    });
    table.phase("new operators", || {
        kubernetes.kubectl("rollout restart deployment/l7mp-operator");
        kubernetes.roll_out("deployment/l7mp-operator");
        let old_gone = kubernetes.cluster.wait_until("the old operators are gone", PATIENCE, |cluster| {
            let names = cluster.kubectl(&["get", "pods", "-l", "app=l7mp-operator", "-o", "name"])?;
            Ok(names.lines().count() == 2)
        });
        old_gone.unwrap_or_else(|error| played.fail(&error));
        played.wait(PODS);
    });
    table.phase("all of it goes", || drop(played));
    load.wait(kubernetes.cluster, 1);
    let stories = load.finish_in_any_order();
    let lost: usize = stories.iter().map(|story| story.lost().count()).sum();
    let sent: usize = stories.iter().map(|story| story.lines.len()).sum();
    println!("{}the first task meanwhile: {lost} of {sent} lines lost", table.text);
    assert_eq!(lost, 0, "played pods are no concern of the first task");
    let label = format!("{PLAYED}=true");
    assert_eq!(kubernetes.kubectl(&format!("get nodes,vsvc -A -l {label} -o name")), "");
    assert_eq!(kubernetes.ask("and now?").line, "and now?");
}
