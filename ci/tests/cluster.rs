//! A cluster of this machine's: it runs pods that are reached from outside, its parts may die, and it leaves nothing.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use l7mp_ci::cluster::archive::Image;
use l7mp_ci::cluster::{Cluster, Part, machine};

const IMAGE: &str = "docker.io/l7mp/echo:1";
/// The cluster's; no other test's, and no person's.
const NAME: &str = "selftest";
const PATIENCE: Duration = Duration::from_secs(60);

const ECHO: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: echo
    image: docker.io/l7mp/echo:1
    imagePullPolicy: Never
    command: [socat, "udp-l:9999,fork,reuseaddr", "exec:cat"]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: client, image: "docker.io/l7mp/echo:1", imagePullPolicy: Never, command: [sleep, infinity]}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{port: 53, targetPort: 9999, protocol: UDP}]}
"#;

/// One test: the cluster that ends in its last step is that of its first.
#[test]
fn a_cluster_runs_pods_survives_its_parts_and_leaves_nothing() {
    if Cluster::check_needs().unwrap().is_none() {
        return;
    }
    let before = machine_state();
    let cluster = Cluster::up(NAME, true).unwrap();
    let directory = cluster.kubeconfig().parent().unwrap().to_owned();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pods_are_reached(&cluster);
        tokens_of_any_audience_are_reviewed(&cluster);
        dead_parts_are_started_again(&cluster);
    }));
    if let Err(failure) = result {
        println!("{}", cluster.diagnosis());
        std::panic::resume_unwind(failure);
    }
    let mounted = mounts();
    assert!(mounted.iter().all(|line| !line.contains("l7mp")), "a mount of the cluster's is seen outside: {mounted:?}");
    cluster.down().unwrap();
    assert!(!directory.exists(), "{} is left", directory.display());
    // The kernel takes a network namespace apart a moment after its last process.
    let deadline = Instant::now() + PATIENCE;
    while machine_state() != before {
        let left: Vec<_> = machine_state().symmetric_difference(&before).cloned().collect();
        assert!(Instant::now() < deadline, "not as before: {left:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn pods_are_reached(cluster: &Cluster) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("echo.tar");
    let image = Image { name: IMAGE, entrypoint: &[], user: "0:0", environment: &[] };
    std::fs::write(&file, image.pack(&machine::tree().unwrap()).unwrap()).unwrap();
    cluster.load_archive(&file).unwrap();
    cluster.apply(ECHO).unwrap();
    cluster.wait("condition=Ready", &["pod", "--all"], PATIENCE).unwrap();
    let pod = cluster.kubectl(&["get", "pod", "echo", "-o", "jsonpath={.status.podIP}"]).unwrap();
    echoes(format!("{pod}:9999").parse().unwrap());
    // By the name of the Service, through its address, from another pod of the same node.
    let line = "echo by name | socat -T 1 - udp4:echo.default.svc.cluster.local:53";
    cluster
        .wait_until("the Service answers", PATIENCE, |cluster| {
            Ok(cluster.exec("client", "client", &["sh", "-c", line])? == "by name\n")
        })
        .unwrap();
}

/// Sends until an answer comes: the pod is ready when its program runs, not when it has bound its port.
fn echoes(address: SocketAddr) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut answer = [0; 64];
    loop {
        socket.send(b"a line\n").unwrap();
        match socket.recv(&mut answer) {
            Ok(length) => return assert_eq!(&answer[..length], b"a line\n"),
            Err(error) => assert!(Instant::now() < deadline, "{address} does not answer: {error}"),
        }
    }
}

fn tokens_of_any_audience_are_reviewed(cluster: &Cluster) {
    let token = cluster.kubectl(&["create", "token", "default", "--audience", "l7mp-operator"]).unwrap();
    let review = |audience: &str| {
        let document = format!(
            r#"{{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                "spec": {{"token": "{}", "audiences": ["{audience}"]}}}}"#,
            token.trim()
        );
        let path = "jsonpath={.status.authenticated} {.status.user.username}";
        cluster.kubectl_with_input(&["create", "-f", "-", "-o", path], &document).unwrap()
    };
    assert_eq!(review("l7mp-operator"), "true system:serviceaccount:default:default");
    assert!(!review("another").starts_with("true"));
    let may = cluster.kubectl_output(&["auth", "can-i", "get", "pods", "--as=system:serviceaccount:default:default"]);
    assert_eq!(String::from_utf8_lossy(&may.unwrap().stdout).trim(), "no", "rights are asked for");
}

fn dead_parts_are_started_again(cluster: &Cluster) {
    let pod = cluster.kubectl(&["get", "pod", "echo", "-o", "jsonpath={.status.podIP}"]).unwrap();
    let pod: SocketAddr = format!("{pod}:9999").parse().unwrap();
    for part in Part::ALL {
        cluster.kill_part(part).unwrap();
        echoes(pod);
    }
    assert!(
        cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"]).is_err(),
        "a dead API server answers"
    );
    // As a second `cargo cluster up` does.
    drop(Cluster::up(NAME, false).unwrap());
    cluster.wait("condition=Ready", &["pod", "--all"], PATIENCE).unwrap();
    cluster.kubectl(&["delete", "pod", "echo", "--wait=true"]).unwrap();
    cluster.apply(ECHO).unwrap();
    cluster.wait("condition=Ready", &["pod/echo"], PATIENCE).unwrap();
    let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    assert_eq!(cluster.kubectl(&["get", "pods", "-o", restarts]).unwrap(), "0 0", "containers outlive containerd");
}

/// What a cluster could leave: links, routes, namespaces, mounts, rules, control groups, files, processes.
fn machine_state() -> BTreeSet<String> {
    let mut state = mounts();
    for command in ["ip -o link", "ip route", "ip netns list", "nft list tables", "ps -eo args"] {
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let is_processes = command.starts_with("ps");
        // Of the processes only the first of the cluster, without which there are no others.
        let lines = text.lines().filter(|line| !is_processes || line.contains("cluster-node"));
        state.extend(lines.map(|line| format!("{command}: {line}")));
    }
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let places =
        ["/", "/opt", "/run", "/tmp", "/usr/libexec", "/var/lib", "/var/log"].map(|path| Path::new(path).to_owned());
    for directory in hierarchies.filter(|path| path.is_dir()).chain(places) {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let names = entries.map(|entry| entry.unwrap().path().display().to_string());
        // Temporary files of others come and go.
        state.extend(names.filter(|name| !name.starts_with("/tmp/") || name.contains("kube") || name.contains("cni")));
    }
    // Other clusters come and go.
    state.retain(|line| line.contains(NAME) || !line.contains("l7mp-"));
    state
}

fn mounts() -> BTreeSet<String> {
    std::fs::read_to_string("/proc/self/mounts").unwrap().lines().map(str::to_owned).collect()
}
