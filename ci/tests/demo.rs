//! `cargo demo -- --kubernetes`, as a person runs it, on the cluster of the tests: `cargo ci kubernetes`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use l7mp_ci::cluster::Cluster;
use rustix::process::{Pid, Signal, kill_process};

/// One demo at a time: it is about one cluster.
static TURN: Mutex<()> = Mutex::new(());

/// The demo on this cluster, where nothing of ours but the kinds is left of an earlier test.
fn demo(cluster: &Cluster, arguments: &[&str]) -> Command {
    let script = l7mp_ci::workspace().join("deploy/examples/first-task/cleanup.sh");
    let mut clean = Command::new("sh");
    assert!(clean.arg(script).envs(cluster.environment()).status().unwrap().success());
    cluster.helm(&["uninstall", "l7mp", "--namespace", "default", "--ignore-not-found", "--wait"]).unwrap();

    let mut demo = Command::new(env!("CARGO_BIN_EXE_l7mp-ci"));
    demo.args(["demo", "--kubernetes"]).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    if std::env::var_os("L7MP_RELEASE").is_none() {
        demo.arg("--debug");
    }
    if cluster.is_given() {
        demo.env("L7MP_KUBECONFIG", cluster.kubeconfig());
    } else {
        demo.env("L7MP_CLUSTER", cluster.name());
    }
    demo
}

/// What a demo must not leave in a cluster that it did not start.
fn assert_nothing_is_left(cluster: &Cluster) {
    let what = "deployments,daemonsets,pods,secrets,configmaps,vsvc,tr";
    let left = cluster.kubectl(&["get", what, "-n", "default", "--ignore-not-found", "-o", "name"]).unwrap();
    // Pods that end take their time; whoever owned them is gone.
    let mut ours = left.lines().filter(|name| *name != "configmap/kube-root-ca.crt" && !name.starts_with("pod/"));
    // Those of ours are collected after their owner.
    assert!(ours.all(|name| name == "configmap/l7mp-ca"), "{left}");
    assert_eq!(cluster.helm(&["list", "--all", "--all-namespaces", "--short"]).unwrap(), "");
}

#[test]
fn the_demo_on_kubernetes_prints_its_commands_and_their_answers_and_leaves_nothing() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("no cluster: {error:#}"));
    let output = demo(cluster, &["--once"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for line in [
        "$ helm install l7mp deploy/helm/l7mp ",
        "$ kubectl apply -f deploy/examples/first-task/5-gateway-vsvc.yaml\n",
        "virtualservice.l7mp.io/gateway-vsvc created\n",
        "$ kubectl get vsvc,tr\n",
        "\nThis is a test!\nEcho on worker-deployment-",
        "\nHurray it's working!\nEcho on worker-deployment-",
        "\nTranscoded on transcoder-deployment-",
        "$ helm uninstall l7mp ",
    ] {
        assert!(said.contains(line), "no \"{line}\" in\n{said}");
    }
    assert_nothing_is_left(cluster);
    assert!(cluster.is_alive(), "it was not the demo's to take down");
}

#[test]
fn a_demo_that_is_interrupted_takes_down_what_it_has_made() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("no cluster: {error:#}"));
    let mut child = demo(cluster, &[]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(|line| line.ok());
    let mut said = String::new();
    let begun = lines.by_ref().inspect(|line| said += &format!("{line}\n")).any(|line| line.contains("3-websocket"));
    assert!(begun, "{said}");
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    said.extend(lines.map(|line| line + "\n"));
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}{errors}");
    assert!(errors.ends_with("error: interrupted\n"), "{errors}");
    assert!(said.contains("cleanup.sh") && !said.contains("5-gateway"), "{said}");
    assert_nothing_is_left(cluster);
}

#[test]
fn a_demo_leaves_a_task_alone_that_somebody_else_has_made() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("no cluster: {error:#}"));
    let mut demo = demo(cluster, &["--once"]);
    let worker = l7mp_ci::workspace().join("deploy/examples/first-task/worker-deployment.yaml");
    let worker = Path::to_str(&worker).unwrap();
    cluster.kubectl(&["apply", "-f", worker]).unwrap();
    let output = demo.stderr(Stdio::piped()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("error: deployment.apps/worker-deployment is there already"), "{errors}");
    cluster.kubectl(&["get", "deployment", "worker-deployment"]).unwrap();
    assert_eq!(cluster.helm(&["list", "--all", "--all-namespaces", "--short"]).unwrap(), "");
    cluster.kubectl(&["delete", "-f", worker]).unwrap();
}
