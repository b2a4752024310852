//! How long after a pod is Ready its first session comes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use l7mp_ci::cluster::FIRST_TASK_IMAGE;
use l7mp_ci::testbed::client::Client;

use crate::installed::{Kubernetes, PATIENCE};

/// Each with a pod of its own.
const TRIALS: usize = 50;
/// Between two new clients.
const EVERY: Duration = Duration::from_millis(2);
/// A client that has no answer by then is forgotten.
const WAITS: Duration = Duration::from_secs(1);
/// Of the gateway's listener.
const PORT: u16 = 9780;
/// Answers that must come from nowhere else before a trial begins.
const BEFORE: usize = 10;

/// A gateway whose sessions end soon, and pods that are ready when the test says so.
fn objects() -> String {
    format!(
        "
apiVersion: l7mp.io/v1
kind: VirtualService
metadata: {{name: ready, namespace: default}}
spec:
  selector: {{matchLabels: {{app: l7mp-ingress}}}}
  listener:
    spec: {{UDP: {{port: {PORT}}}}}
    options: {{idleTimeout: 1s}}
    rules: [{{action: {{route: {{destinationRef: ready}}}}}}]
---
apiVersion: l7mp.io/v1
kind: Target
metadata: {{name: ready, namespace: default}}
spec:
  cluster:
    spec: {{UDP: {{port: 9999}}}}
    loadbalancer: {{policy: RoundRobin}}
    endpoints: [{{selector: {{matchLabels: {{app: ready}}}}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: ready, namespace: default}}
spec:
  replicas: {}
  selector: {{matchLabels: {{app: ready}}}}
  template:
    metadata: {{labels: {{app: ready}}}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      readinessGates: [{{conditionType: test.l7mp.io/open}}]
      containers:
        - name: worker
          image: {FIRST_TASK_IMAGE}
          imagePullPolicy: IfNotPresent
          command: [/usr/bin/l7mp-ci, worker, --listen=0.0.0.0:9999, --name=$(POD_NAME)]
          env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
",
        TRIALS + 1
    )
}

/// A watch of the pods that notes when each is said to be Ready first.
struct Watch {
    kubectl: Child,
    seen: Arc<(Mutex<BTreeMap<String, Instant>>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(kubernetes: &Kubernetes) -> Watch {
        let line = "jsonpath={.metadata.name} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}";
        let mut kubectl = kubernetes.cluster.command("kubectl");
        kubectl.args(["get", "pods", "-l", "app=ready", "--watch", "-o", line]).stdout(Stdio::piped());
        let mut kubectl = kubectl.spawn().unwrap();
        let lines = BufReader::new(kubectl.stdout.take().unwrap()).lines();
        let seen: Arc<(Mutex<BTreeMap<String, Instant>>, Condvar)> = Arc::default();
        let noted = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(name) = line.strip_suffix(" True") {
                    noted.0.lock().unwrap().entry(name.to_owned()).or_insert_with(Instant::now);
                    noted.1.notify_all();
                }
            }
        });
        Watch { kubectl, seen, reader: Some(reader) }
    }

    /// When a pod was said to be Ready, waited for.
    fn ready(&self, pod: &str) -> Option<Instant> {
        let (seen, changed) = &*self.seen;
        let (seen, _) =
            changed.wait_timeout_while(seen.lock().unwrap(), PATIENCE, |seen| !seen.contains_key(pod)).unwrap();
        seen.get(pod).copied()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

/// New clients, each with one line.
struct Clients {
    gateway: SocketAddr,
    waiting: Vec<(Instant, Client)>,
}

impl Clients {
    fn of(kubernetes: &Kubernetes) -> Clients {
        Clients { gateway: SocketAddr::new(kubernetes.gateway().ip(), PORT), waiting: Vec::new() }
    }

    /// One more client; then the pods that have answered since the last one.
    fn next(&mut self) -> Vec<String> {
        let start = Instant::now();
        let client = Client::new(self.gateway).unwrap();
        client.socket().set_nonblocking(true).unwrap();
        client.send("hello").unwrap();
        self.waiting.push((start, client));
        std::thread::sleep((start + EVERY).saturating_duration_since(Instant::now()));
        let mut answers = Vec::new();
        let mut datagram = [0; 2048];
        self.waiting.retain(|(since, client)| match client.socket().recv(&mut datagram) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&datagram[..length]);
                let pod = text.strip_prefix("Echo on ").and_then(|text| Some(text.split_once(':')?.0.to_owned()));
                answers.push(pod.unwrap_or_else(|| panic!("{text:?}")));
                false
            }
            Err(_) => since.elapsed() < WAITS,
        });
        answers
    }
}

/// Opens the gate of a pod, or closes it.
fn set_gate(kubernetes: &Kubernetes, pod: &str, open: bool) {
    let status = if open { "True" } else { "False" };
    let patch = format!(r#"{{"status":{{"conditions":[{{"type":"test.l7mp.io/open","status":"{status}"}}]}}}}"#);
    let arguments = ["patch", "pod", pod, "--subresource=status", "--type=strategic", "-p", &patch];
    kubernetes.cluster.kubectl(&arguments).unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
}

/// Waits until new clients get no other answer than that of `open`.
fn settle(kubernetes: &Kubernetes, open: &str) {
    let mut clients = Clients::of(kubernetes);
    let left = kubernetes.cluster.wait_until("no session on a pod that is not ready", PATIENCE, |_| {
        let mut answers: Vec<String> = Vec::new();
        let deadline = Instant::now() + WAITS;
        while answers.len() < BEFORE && Instant::now() < deadline {
            answers.extend(clients.next());
        }
        Ok(answers.len() >= BEFORE && answers.iter().all(|answer| answer == open))
    });
    left.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
}

/// Makes a pod ready while clients come; when the watch said so, and when the first of them had its answer from it.
fn trial(kubernetes: &Kubernetes, watch: &Watch, pod: &str) -> (Instant, Instant) {
    let mut clients = Clients::of(kubernetes);
    let deadline = Instant::now() + PATIENCE;
    let answered = std::thread::scope(|scope| {
        scope.spawn(|| set_gate(kubernetes, pod, true));
        while Instant::now() < deadline {
            if clients.next().iter().any(|answer| answer == pod) {
                return Some(Instant::now());
            }
        }
        None
    });
    match (watch.ready(pod), answered) {
        (Some(ready), Some(answered)) => (ready, answered),
        outcome => kubernetes.fail(&format!("{pod}: [ready, answered] = {outcome:?}")),
    }
}

/// From the moment that a watch of ours says Ready=True to the first answer of a session on that pod, with a new client
/// every 2 ms.
#[test]
fn a_pod_gets_sessions_soon_after_it_is_ready() {
    let kubernetes = Kubernetes::with_chart();
    kubernetes.cluster.apply(&objects()).unwrap();
    let started = kubernetes.cluster.wait_until("all pods have started", PATIENCE, |cluster| {
        let path = "jsonpath={.items[*].status.conditions[?(@.type==\"ContainersReady\")].status}";
        let said = cluster.kubectl(&["get", "pods", "-l", "app=ready", "-o", path])?;
        Ok(said.split(' ').filter(|status| *status == "True").count() == TRIALS + 1)
    });
    started.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    let watch = Watch::start(&kubernetes);
    let pods: Vec<String> = kubernetes.pods("app=ready").into_iter().collect();
    let (open, pods) = pods.split_first().unwrap();
    set_gate(&kubernetes, open, true);
    let is_ready = kubernetes.cluster.wait("condition=Ready", &["vsvc/ready", "target/ready"], PATIENCE);
    is_ready.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));

    let mut delays = Vec::new();
    for pod in pods {
        settle(&kubernetes, open);
        let (ready, answered) = trial(&kubernetes, &watch, pod);
        // The operator's watch may be told before ours.
        delays.push(answered.saturating_duration_since(ready));
        set_gate(&kubernetes, pod, false);
    }
    drop(watch);
    kubernetes.cluster.delete(&objects()).unwrap();
    delays.sort();
    let at = |percent: usize| delays[(delays.len() * percent).div_ceil(100) - 1];
    let (p50, p99) = (at(50), at(99));
    let mut all = String::new();
    for delay in &delays {
        let _ = write!(all, " {}", delay.as_millis());
    }
    println!("from Ready to the first session, {TRIALS} pods: p50 {p50:.0?}, p99 {p99:.0?}; all, in ms:{all}");
    // The goals are 300 ms and 1 s; a busy machine may take longer.
    assert!(p50 < Duration::from_secs(1), "p50 {p50:?}");
    assert!(p99 < Duration::from_secs(5), "p99 {p99:?}");
}
