//! The page of the task, word for word, with what had to be put in the place of its URLs and of minikube.
//!
//! | the page says | here |
//! |---|---|
//! | `https://l7mp.io/tasks/task1/X` | the file X of `deploy/examples/first-task` |
//! | `$(minikube ip)` | the node's address |
//! | `cat <<EOF W kubectl appply -f -` | `kubectl apply -f -` |
//! | images of the original | `docker.io/l7mp/l7mp:0.1.0` and `docker.io/l7mp/first-task:0.1.0`, IfNotPresent |
//! | `helm install` of the original's chart | `helm install l7mp deploy/helm/l7mp --namespace default` |

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::installed::{Kubernetes, MANIFESTS, PATIENCE};

/// What the page types.
const LINES: [&str; 2] = ["This is a test!", "Hurray it's working!"];

#[test]
fn the_page_is_true_as_it_stands() {
    let kubernetes = Kubernetes::with_chart();
    kubernetes.cluster.helm(&["uninstall", "l7mp", "--namespace", "default", "--wait"]).unwrap();
    // What the operator made is collected with its owners, in its own time.
    let collected =
        |_: &l7mp_ci::cluster::Cluster| Ok(!everything(&kubernetes).iter().any(|name| name.contains("l7mp")));
    if let Err(error) = kubernetes.cluster.wait_until("the last installation is gone", PATIENCE, collected) {
        kubernetes.fail(&format!("{error:#}"));
    }
    let before = everything(&kubernetes);
    let chart = l7mp_ci::workspace().join("deploy/helm/l7mp");
    let chart = chart.to_str().unwrap();
    let install = ["install", "l7mp", chart, "--namespace", "default", "--wait", "--timeout=120s"];
    println!("{}", kubernetes.cluster.helm(&install).unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}"))));

    kubernetes.apply("transcoder-deployment.yaml");
    kubernetes.apply(MANIFESTS[0]);
    kubernetes.apply(MANIFESTS[1]);
    // "Fantastic! Now you can send and receive WebSocket messages from transcoder."
    kubernetes.roll_out("deployment/transcoder-deployment");
    kubernetes
        .cluster
        .wait("condition=Ready", &["vsvc/transcoder-vsvc"], PATIENCE)
        .unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    for (pod, address) in addresses(&kubernetes, "app=transcoder") {
        assert_eq!(
            websocket(&format!("ws://{address}:8888/"), "over WebSocket"),
            format!("Transcoded on {pod}: over WebSocket\n")
        );
    }

    kubernetes.apply(MANIFESTS[2]);
    kubernetes.apply("worker-deployment.yaml");
    kubernetes.apply(MANIFESTS[3]);
    kubernetes.apply(MANIFESTS[4]);
    kubernetes.roll_out("deployment/worker-deployment");
    kubernetes.wait_ready();
    println!("{}", kubernetes.kubectl("get vsvc,tr,route,rule"));
    println!("{}", kubernetes.kubectl("describe vsvc gateway-vsvc"));

    let (workers, transcoders) = (kubernetes.pods("app=worker"), kubernetes.pods("app=transcoder"));
    let (said, lines) = socat(&kubernetes);
    println!("$ socat - udp4:{}\n{said}", kubernetes.gateway());
    for (line, answer) in LINES.iter().zip(lines.chunks(2)) {
        let worker = answer[0]
            .strip_prefix("Echo on ")
            .and_then(|rest| rest.strip_suffix(": "))
            .unwrap_or_else(|| panic!("{said}"));
        let transcoded = answer[1]
            .strip_prefix("Transcoded on ")
            .and_then(|rest| rest.split_once(": "))
            .unwrap_or_else(|| panic!("{said}"));
        assert!(workers.contains(worker), "{worker} is none of {workers:?}");
        assert!(transcoders.contains(transcoded.0), "{} is none of {transcoders:?}", transcoded.0);
        assert_eq!(transcoded.1, *line);
    }

    kubernetes.clean_up();
    kubernetes.cluster.helm(&["uninstall", "l7mp", "--namespace", "default", "--wait"]).unwrap();
    // What the operator made is collected with its ClusterRole; leases and endpoints of ours go too.
    let gone = |_: &l7mp_ci::cluster::Cluster| Ok(everything(&kubernetes).iter().all(|name| before.contains(name)));
    if kubernetes.cluster.wait_until("nothing of ours is left but the kinds", PATIENCE, gone).is_err() {
        let left: Vec<String> = everything(&kubernetes).into_iter().filter(|name| !before.contains(name)).collect();
        panic!("left behind: {left:#?}");
    }
    kubernetes.install();
}

/// `socat - udp4:NODE:9001`, into which the lines of the page are typed, each after the answer to the one before;
/// the whole text, and the lines of the answers.
fn socat(kubernetes: &Kubernetes) -> (String, Vec<String>) {
    use std::io::BufRead;
    let mut child = Command::new("socat")
        .args(["-T", "60", "-", &format!("udp4:{}", kubernetes.gateway())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("socat is installed");
    let mut input = child.stdin.take().unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut said, mut answers) = (String::new(), Vec::new());
    for line in LINES {
        writeln!(input, "{line}").unwrap();
        said += &format!("{line}\n");
        for _ in 0..2 {
            let answer = output.next().unwrap_or_else(|| kubernetes.fail("socat ended without an answer")).unwrap();
            said += &format!("{answer}\n");
            answers.push(answer);
        }
    }
    drop(input);
    child.kill().unwrap();
    child.wait().unwrap();
    (said, answers)
}

/// Names and addresses of pods.
fn addresses(kubernetes: &Kubernetes, label: &str) -> Vec<(String, String)> {
    let template = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
    let lines = kubernetes.cluster.kubectl(&["get", "pods", "-l", label, "-o", template]).unwrap();
    lines
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, address)| (name.to_owned(), address.to_owned()))
        .collect()
}

/// What a WebSocket server answers to a text message: Python's `websockets` asks.
fn websocket(url: &str, line: &str) -> String {
    const ASK: &str = "
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1]) as socket:
        await socket.send(sys.argv[2] + '\\n')
        answer = await asyncio.wait_for(socket.recv(), 20)
        sys.stdout.write(answer if isinstance(answer, str) else answer.decode())
asyncio.run(main())
";
    // Debian's package belongs to Debian's Python.
    let mut errors = String::new();
    for python in ["python3", "/usr/bin/python3"] {
        let output = Command::new(python).args(["-c", ASK, url, line]).output().expect("Python is installed");
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).into_owned();
        }
        errors += &String::from_utf8_lossy(&output.stderr);
    }
    panic!("no answer from {url}: {errors}")
}

/// Every object of the cluster that a user may have made, but for Events, the kinds, and what Kubernetes itself keeps.
fn everything(kubernetes: &Kubernetes) -> Vec<String> {
    let kinds = kubernetes.kubectl("api-resources --verbs=list -o name");
    let ignored = [
        "events",
        "events.events.k8s.io",
        "customresourcedefinitions.apiextensions.k8s.io",
        "nodes",
        "apiservices.apiregistration.k8s.io",
    ];
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !ignored.contains(kind)).collect();
    let names = kubernetes.kubectl(&format!("get {} -A --ignore-not-found -o name", kinds.join(",")));
    let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn the_manifests_apply_in_every_order() {
    let kubernetes = Kubernetes::with_first_task(false);
    let mut orders = permutations(&MANIFESTS);
    assert_eq!(orders.len(), 120);
    // All of them take minutes: `L7MP_ORDERS=120`. Every tenth has each manifest in each place.
    let wanted: usize = std::env::var("L7MP_ORDERS").ok().and_then(|number| number.parse().ok()).unwrap_or(12);
    let step = orders.len() / wanted.clamp(1, orders.len());
    orders = orders.into_iter().step_by(step.max(1)).collect();
    for order in &orders {
        kubernetes.kubectl("delete vsvc,tr --all -n default");
        for manifest in order {
            kubernetes.apply(manifest);
        }
        kubernetes.wait_ready();
        let answer = kubernetes.ask("in any order");
        assert_eq!(answer.line, "in any order");
    }
    println!("{} orders of the five manifests", orders.len());
}

fn permutations<'a>(items: &[&'a str]) -> Vec<Vec<&'a str>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let with = |index: usize| {
        let rest: Vec<&str> =
            items.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, item)| *item).collect();
        permutations(&rest).into_iter().map(move |tail| [vec![items[index]], tail].concat()).collect::<Vec<_>>()
    };
    (0..items.len()).flat_map(with).collect()
}

/// "So if a pod has the `app: worker` label it will be an endpoint of the udp-cluster."
#[test]
fn a_worker_that_loses_its_label_gets_no_new_sessions_and_one_that_has_it_again_does() {
    let kubernetes = Kubernetes::with_first_task(false);
    let pod = kubernetes.pods("app=worker").into_iter().next().unwrap();
    let reaches = |wanted: bool| {
        let what = format!("new sessions {} {pod}", if wanted { "reach" } else { "do not reach" });
        let asked = kubernetes.cluster.wait_until(&what, PATIENCE, |_| {
            Ok((0..20).any(|_| kubernetes.ask("who is there?").worker == pod) == wanted)
        });
        asked.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    };
    reaches(true);
    // The deployment makes another in its place.
    kubernetes.kubectl(&format!("label pod {pod} app-"));
    reaches(false);
    kubernetes.roll_out("deployment/worker-deployment");
    kubernetes.kubectl(&format!("label pod {pod} app=nobody --overwrite"));
    kubernetes.kubectl("scale deployment worker-deployment --replicas=3");
    kubernetes.roll_out("deployment/worker-deployment");
    kubernetes.kubectl(&format!("label pod {pod} app=worker --overwrite"));
    let back = kubernetes.cluster.wait_until("the deployment has adopted it", Duration::from_secs(60), |_| {
        Ok(kubernetes.pods("app=worker").len() == 3)
    });
    back.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    if kubernetes.pods("app=worker").contains(&pod) {
        reaches(true);
    } else {
        // Of three wanted and four there, the deployment took this one away.
        reaches(false);
    }
}
