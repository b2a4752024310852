//! What 3,000 lines a second from 50 clients lose while the cluster changes under them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::clients::{Load, Story};
use crate::installed::{Kubernetes, MANIFESTS, PATIENCE};

const CLIENTS: usize = 50;
/// Of each client's lines: 60 a second.
const PAUSE: Duration = Duration::from_nanos(16_666_667);
/// Answers that each client must have before a change, and after it is in force.
const LINES: usize = 60;
/// How long sessions may stay on a pod that is being deleted; the examples' pods serve 10 s longer (`preStop`).
const DRAIN: &str = r#"{"spec":{"cluster":{"drainTimeout":"2s"}}}"#;

/// What a change cost.
struct Row {
    change: &'static str,
    sent: usize,
    lost: usize,
    /// Clients whose last answer came from other pods than their first.
    moved: usize,
    in_force: Duration,
}

/// The rows of one run.
struct Table<'a> {
    kubernetes: &'a Kubernetes,
    rows: Vec<Row>,
}

impl Table<'_> {
    /// Makes a change under load; `in_force` says when it is.
    fn change(&mut self, change: &'static str, make: impl FnOnce(), in_force: impl Fn() -> bool) -> Vec<Story> {
        let load = Load::start(self.kubernetes.gateway(), CLIENTS, PAUSE);
        load.wait(self.kubernetes.cluster, LINES);
        let start = Instant::now();
        make();
        let waited = self.kubernetes.cluster.wait_until(change, PATIENCE, |_| Ok(in_force()));
        waited.unwrap_or_else(|error| self.kubernetes.fail(&format!("{change}: {error:#}")));
        let took = start.elapsed();
        load.wait(self.kubernetes.cluster, LINES);
        let stories = load.finish_in_any_order();
        let sent = stories.iter().map(|story| story.lines.len()).sum();
        let lost = stories.iter().map(|story| story.lost().count()).sum();
        let moved = stories.iter().filter(|story| story.all_ends().first() != story.all_ends().last()).count();
        self.rows.push(Row { change, sent, lost, moved, in_force: took });
        println!("{change}: {lost} of {sent} lost, {moved} clients moved, in force after {took:.2?}");
        stories
    }

    fn last(&self) -> &Row {
        self.rows.last().expect("a change was made")
    }

    fn print(&self) {
        let mut text =
            String::from("| change | lines sent | lost | clients moved | in force after |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            let (sent, lost, moved, took) = (row.sent, row.lost, row.moved, row.in_force);
            let _ = writeln!(text, "| {} | {sent} | {lost} | {moved} of {CLIENTS} | {took:.1?} |", row.change);
        }
        println!("{text}");
    }
}

/// The pods that answer to 40 new clients.
fn workers_seen(kubernetes: &Kubernetes) -> BTreeSet<String> {
    (0..40).map(|_| kubernetes.ask("who is there?").worker).collect()
}

#[test]
fn pods_that_come_and_go_under_load_take_no_line_with_them_that_could_be_kept() {
    let kubernetes = Kubernetes::with_first_task(true);
    let is_rolled_out = |what: &str| kubernetes.cluster.kubectl(&["rollout", "status", what, "--timeout=1s"]).is_ok();
    for target in ["udp-cluster", "websocket-cluster"] {
        kubernetes.cluster.kubectl(&["patch", "target", target, "--type=merge", "-p", DRAIN]).unwrap();
    }
    kubernetes.wait_ready();
    let mut table = Table { kubernetes: &kubernetes, rows: Vec::new() };

    table.change(
        "workers 2 -> 4",
        || drop(kubernetes.kubectl("scale deployment worker-deployment --replicas=4")),
        || kubernetes.pods("app=worker").len() == 4 && workers_seen(&kubernetes).len() == 4,
    );
    assert_eq!((table.last().lost, table.last().moved), (0, 0));

    let ready_workers = |kubernetes: &Kubernetes| kubernetes.kubectl("get pods -l app=worker -o name").lines().count();
    table.change(
        "workers 4 -> 1",
        || drop(kubernetes.kubectl("scale deployment worker-deployment --replicas=1")),
        || ready_workers(&kubernetes) == 1,
    );
    assert_eq!(table.last().lost, 0, "the pods serve longer than sessions may stay");
    kubernetes.kubectl("scale deployment worker-deployment --replicas=2");
    kubernetes.roll_out("deployment/worker-deployment");

    table.change(
        "roll the transcoders",
        || drop(kubernetes.kubectl("rollout restart deployment/transcoder-deployment")),
        || {
            is_rolled_out("deployment/transcoder-deployment")
                && kubernetes.kubectl("get pods -l app=transcoder -o name").lines().count() == 2
        },
    );
    assert_eq!(table.last().lost, 0, "the pods serve longer than sessions may stay");
    table.print();
}

#[test]
fn changed_objects_under_load_lose_nothing_of_others() {
    let kubernetes = Kubernetes::with_first_task(true);
    let is_rolled_out = |what: &str| kubernetes.cluster.kubectl(&["rollout", "status", what, "--timeout=1s"]).is_ok();
    for target in ["udp-cluster", "websocket-cluster"] {
        kubernetes.cluster.kubectl(&["patch", "target", target, "--type=merge", "-p", DRAIN]).unwrap();
    }
    kubernetes.wait_ready();
    let mut table = Table { kubernetes: &kubernetes, rows: Vec::new() };

    let unrelated = "
apiVersion: l7mp.io/v1
kind: VirtualService
metadata: {name: unrelated, namespace: default}
spec:
  selector: {matchLabels: {app: l7mp-ingress}}
  listener:
    spec: {UDP: {port: 9777}}
    rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]
";
    let is_ready = |name: &str| kubernetes.cluster.wait("condition=Ready", &[name], Duration::from_secs(1)).is_ok();
    table.change(
        "an unrelated VirtualService, new",
        || drop(kubernetes.cluster.apply(unrelated).unwrap()),
        || is_ready("vsvc/unrelated"),
    );
    assert_eq!((table.last().lost, table.last().moved), (0, 0));
    table.change(
        "the same, deleted",
        || drop(kubernetes.cluster.delete(unrelated).unwrap()),
        || kubernetes.kubectl("get vsvc -o name --ignore-not-found").lines().count() == 2,
    );
    assert_eq!((table.last().lost, table.last().moved), (0, 0));

    let rule = r#"[{"op":"add","path":"/spec/listener/rules/-","value":{"action":{"refuse":"nobody gets here"}}}]"#;
    let generation = || {
        let path = "jsonpath={.metadata.generation} {.status.conditions[?(@.type==\"Programmed\")].observedGeneration} {.status.conditions[?(@.type==\"Programmed\")].status}";
        let said = kubernetes.cluster.kubectl(&["get", "vsvc", "gateway-vsvc", "-o", path]).unwrap();
        let words: Vec<&str> = said.split(' ').collect();
        matches!(words[..], [wanted, observed, "True"] if wanted == observed)
    };
    table.change(
        "the gateway's own rules",
        || drop(kubernetes.cluster.kubectl(&["patch", "vsvc", "gateway-vsvc", "--type=json", "-p", rule]).unwrap()),
        generation,
    );
    assert_eq!((table.last().lost, table.last().moved), (0, 0));

    table.change(
        "upgrade the operator",
        || drop(kubernetes.kubectl("rollout restart deployment/l7mp-operator")),
        || is_rolled_out("deployment/l7mp-operator"),
    );
    assert_eq!((table.last().lost, table.last().moved), (0, 0));

    table.change(
        "delete a Target and make it again",
        || {
            kubernetes.kubectl("delete target udp-cluster");
            kubernetes.apply(MANIFESTS[3]);
        },
        || is_ready("tr/udp-cluster") && is_ready("vsvc/gateway-vsvc"),
    );

    let victim = kubernetes.pods("app=worker").into_iter().next().unwrap();
    let stories = table.change(
        "delete a worker by force",
        || drop(kubernetes.kubectl(&format!("delete pod {victim} --force --grace-period=0"))),
        || is_rolled_out("deployment/worker-deployment"),
    );
    let (mut others, mut lost_elsewhere) = (0, 0);
    for story in &stories {
        if story.all_ends().iter().all(|(_, worker)| *worker != victim) {
            others += 1;
            lost_elsewhere += story.lost().count();
        }
    }
    assert!(others > 0, "some clients were on the other worker");
    assert_eq!(lost_elsewhere, 0, "clients of the other worker lose nothing");

    table.change(
        "upgrade the gateway itself",
        || drop(kubernetes.kubectl("rollout restart daemonset/l7mp-ingress")),
        || is_rolled_out("daemonset/l7mp-ingress"),
    );
    table.print();
}
