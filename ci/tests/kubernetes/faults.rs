//! Parts of the cluster and of ours are killed: traffic goes on, and the state is right afterwards.

use std::fs;
use std::time::Duration;

use l7mp_ci::cluster::Part;

use crate::clients::{Load, Story};
use crate::installed::{Kubernetes, PATIENCE};

const CLIENTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(20);
/// Answers of each client before a fault and after it.
const LINES: usize = 25;
/// How long clients may wait for a killed proxy: the kubelet starts it again, and its agent pushes.
const RESTART: Duration = Duration::from_secs(20);
/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(60);

/// Runs clients while something happens; the lines that were lost, and the longest time between two answers of a client.
fn under_load(kubernetes: &Kubernetes, fault: &str, make: impl FnOnce()) -> (usize, Duration) {
    let load = Load::start(kubernetes.gateway(), CLIENTS, PAUSE);
    load.wait(kubernetes.cluster, LINES);
    make();
    load.wait(kubernetes.cluster, LINES);
    let stories = load.finish_in_any_order();
    let lost = stories.iter().map(|story| story.lost().count()).sum();
    let outage = stories.iter().map(Story::longest_silence).max().unwrap_or_default();
    println!("{fault}: {lost} lines lost, longest silence {outage:.2?}");
    (lost, outage)
}

/// A new object is served, and taken away again; the task answers.
fn the_state_is_right(kubernetes: &Kubernetes) {
    const NEW: &str = "
apiVersion: l7mp.io/v1
kind: VirtualService
metadata: {name: after-the-fault, namespace: default}
spec:
  selector: {matchLabels: {app: l7mp-ingress}}
  listener:
    spec: {UDP: {port: 9778}}
    rules: [{action: {route: {destination: {spec: {Echo: {}}}}}}]
";
    let done = kubernetes
        .cluster
        .wait_until("objects are taken", PATIENCE, |cluster| cluster.apply(NEW).map(|_| true))
        .and_then(|()| kubernetes.cluster.wait("condition=Ready", &["vsvc/after-the-fault"], PATIENCE))
        .and_then(|_| kubernetes.cluster.delete(NEW));
    done.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    kubernetes.wait_ready();
    assert_eq!(kubernetes.ask("and now?").line, "and now?");
}

/// Kills (SIGKILL) the process of a program in the first pod with a label.
fn kill_in_pod(kubernetes: &Kubernetes, label: &str, program: &str) {
    let uid = kubernetes.kubectl(&format!("get pods -l {label} -o jsonpath={{.items[0].metadata.uid}}"));
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_meant = |process: &i32| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        read("cgroup").contains(uid.trim())
            && read("cmdline").split('\0').next().is_some_and(|path| path.ends_with(program))
    };
    let victims: Vec<i32> = processes.filter(is_meant).collect();
    assert_eq!(victims.len(), 1, "{program} of {label} is one process");
    let process = rustix::process::Pid::from_raw(victims[0]).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn killed_operators_leave_the_traffic_alone() {
    let kubernetes = Kubernetes::with_first_task(true);
    let (lost, _) = under_load(&kubernetes, "both operators killed", || {
        kubernetes.kubectl("delete pods -l app=l7mp-operator --force --grace-period=0");
        kubernetes.roll_out("deployment/l7mp-operator");
    });
    assert_eq!(lost, 0);
    the_state_is_right(&kubernetes);
}

#[test]
fn an_api_server_that_is_away_for_a_minute_leaves_the_traffic_alone() {
    let kubernetes = Kubernetes::with_first_task(true);
    let (lost, _) = under_load(&kubernetes, "API server stopped for a minute", || {
        kubernetes.cluster.stop_part(Part::ApiServer).unwrap();
        // The fault itself is a time, not a condition.
        std::thread::sleep(OUTAGE);
        kubernetes.cluster.start_part(Part::ApiServer).unwrap();
    });
    assert_eq!(lost, 0);
    the_state_is_right(&kubernetes);
}

#[test]
fn a_restarted_etcd_leaves_the_traffic_alone() {
    let kubernetes = Kubernetes::with_first_task(true);
    let (lost, _) = under_load(&kubernetes, "etcd killed and started", || {
        kubernetes.cluster.kill_part(Part::Etcd).unwrap();
        kubernetes.cluster.start_part(Part::Etcd).unwrap();
    });
    assert_eq!(lost, 0);
    the_state_is_right(&kubernetes);
}

#[test]
fn a_restarted_kubelet_leaves_the_traffic_alone() {
    let kubernetes = Kubernetes::with_first_task(true);
    let (lost, _) = under_load(&kubernetes, "kubelet killed and started", || {
        kubernetes.cluster.kill_part(Part::Kubelet).unwrap();
        kubernetes.cluster.start_part(Part::Kubelet).unwrap();
    });
    assert_eq!(lost, 0);
    the_state_is_right(&kubernetes);
}

#[test]
fn a_killed_agent_leaves_the_traffic_alone() {
    let kubernetes = Kubernetes::with_first_task(true);
    let (lost, _) = under_load(&kubernetes, "the gateway's agent killed", || {
        kill_in_pod(&kubernetes, "app=l7mp-ingress", "l7mp-agent");
        kubernetes.roll_out("daemonset/l7mp-ingress");
    });
    assert_eq!(lost, 0);
    the_state_is_right(&kubernetes);
}

/// Its sessions are gone with it; its agent gives the next process its configuration, and the clients come back.
#[test]
fn a_killed_proxy_has_its_configuration_again_at_once() {
    let kubernetes = Kubernetes::with_first_task(true);
    for (fault, label) in
        [("the gateway's proxy killed", "app=l7mp-ingress"), ("a sidecar's proxy killed", "app=transcoder")]
    {
        let (_, outage) = under_load(&kubernetes, fault, || kill_in_pod(&kubernetes, label, "l7mp-proxy"));
        assert!(outage < RESTART, "{fault}: a client waited {outage:?}");
        the_state_is_right(&kubernetes);
    }
}

/// With no operator to ask, a pod whose containers all start anew takes its configuration from its file.
#[test]
fn agent_and_proxy_start_without_an_operator() {
    let kubernetes = Kubernetes::with_first_task(true);
    kubernetes.kubectl("scale deployment l7mp-operator --replicas=0");
    let none =
        kubernetes.cluster.wait_until("no operator", PATIENCE, |_| Ok(kubernetes.pods("app=l7mp-operator").is_empty()));
    none.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    kill_in_pod(&kubernetes, "app=l7mp-ingress", "l7mp-agent");
    kill_in_pod(&kubernetes, "app=l7mp-ingress", "l7mp-proxy");
    assert_eq!(kubernetes.ask("from the file").line, "from the file");
    kubernetes.kubectl("scale deployment l7mp-operator --replicas=2");
    kubernetes.roll_out("deployment/l7mp-operator");
    the_state_is_right(&kubernetes);
}
