//! The first task on a Kubernetes, with the commands of its page.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::shell::{Shell, say};
use super::{Interrupt, LINES, Options};
use crate::cluster::{self, Cluster};

/// The cluster of a demo that is told no other.
const NAME: &str = "demo";
/// The port of the task's gateway.
const PORT: u16 = 9001;
/// How long an answer may take: everything is Ready by then.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the cluster while it is up.
const WATCH: Duration = Duration::from_secs(1);

/// The chart, and what ends it.
const INSTALL: &str = "helm install l7mp deploy/helm/l7mp --namespace default --wait --timeout 180s";
const UNINSTALL: &str = "helm uninstall l7mp --namespace default --ignore-not-found --wait --timeout 120s";
/// The task, in the order of its page, and what ends it.
const APPLY: [&str; 7] = [
    "transcoder-deployment.yaml",
    "1-uds-cluster.yaml",
    "2-transcoder-vsvc.yaml",
    "3-websocket-cluster.yaml",
    "worker-deployment.yaml",
    "4-udp-cluster.yaml",
    "5-gateway-vsvc.yaml",
];
const TASK: &str = "deploy/examples/first-task";
const WAIT: [&str; 2] = [
    "kubectl rollout status --timeout=180s deployment/transcoder-deployment deployment/worker-deployment",
    "kubectl wait --for=condition=Ready --timeout=120s vsvc/transcoder-vsvc vsvc/gateway-vsvc tr/uds-cluster \
     tr/websocket-cluster tr/udp-cluster",
];

/// What a failure is explained with: a command, and how many of its last lines.
const EXPLAIN: [(&str, usize); 7] = [
    ("kubectl get pods -A -o wide", usize::MAX),
    ("kubectl get vsvc,tr -o wide", usize::MAX),
    ("kubectl get events -A --sort-by=.lastTimestamp", 15),
    ("kubectl logs -l app=l7mp-operator --prefix --tail=20", usize::MAX),
    ("kubectl logs -l app=l7mp-ingress --all-containers --prefix --tail=10", usize::MAX),
    ("kubectl logs -l app=transcoder --all-containers --prefix --tail=10", usize::MAX),
    ("kubectl logs -l app=worker --all-containers --prefix --tail=10", usize::MAX),
];

/// What this demo has made, and so takes away.
#[derive(Debug, Default)]
struct Made {
    chart: bool,
    task: bool,
}

/// Runs the demo until Ctrl-C, or once; whatever happens, takes down what it has started.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    cluster::end_on_signals()?;
    let cluster = find_or_start(options)?;
    let shell = Shell::new(interrupt, cluster.environment());
    let mut made = Made::default();
    let mut shown = show(options, &cluster, &shell, &mut made);
    if shown.is_ok() && !options.once {
        shown = explain(&cluster).and_then(|()| stay(&cluster, interrupt));
    } else if (made.chart || made.task) && shown.is_err() && !interrupt.came() {
        diagnose(&shell.anew());
    }
    let down = take_down(cluster, &shell.anew(), &made, shown.is_ok());
    shown.and(down)
}

fn find_or_start(options: &Options) -> Result<Cluster> {
    let has_socat = std::process::Command::new("socat").arg("-V").stdout(std::process::Stdio::null()).status();
    has_socat.context("the demo types into socat: `apt-get install socat`")?;
    if options.name.is_none()
        && let Some(cluster) = Cluster::named_or_given()?
    {
        say(&format!("the cluster of {}\n", cluster.kubeconfig().display()))?;
        return Ok(cluster);
    }
    Cluster::needs()?;
    Cluster::needs_of_images()?;
    Cluster::up(options.name.as_deref().unwrap_or(NAME), false)
}

/// The page: chart, deployments, manifests, lines and answers.
fn show(options: &Options, cluster: &Cluster, shell: &Shell<'_>, made: &mut Made) -> Result<()> {
    is_free(shell)?;
    if !cluster.is_given() {
        eprintln!("building the images, and giving them to the node");
        cluster.load(options.profile())?;
    }
    if shell.ask("helm status l7mp --namespace default")?.is_some() {
        say("\nl7mp is installed here already: it is used as it is, and stays\n")?;
    } else {
        made.chart = true;
        shell.run(INSTALL)?;
    }
    made.task = true;
    for file in APPLY {
        shell.run(&format!("kubectl apply -f {TASK}/{file}"))?;
    }
    for line in WAIT {
        shell.run(line)?;
    }
    shell.run("kubectl get vsvc,tr")?;
    let [workers, transcoders] = [pods(shell, "worker")?, pods(shell, "transcoder")?];
    let mut socat = shell.socat(SocketAddr::from((cluster.node_address()?, PORT)))?;
    for line in LINES {
        let answer = socat.ask(line, ANSWER_PATIENCE)?;
        ensure!(workers.contains(&answer.worker), "{} is none of the workers {workers:?}", answer.worker);
        ensure!(
            transcoders.contains(&answer.transcoder),
            "{} is none of the transcoders {transcoders:?}",
            answer.transcoder
        );
    }
    Ok(())
}

/// Whether there is room for the task: what somebody else has made is neither changed nor removed.
fn is_free(shell: &Shell<'_>) -> Result<()> {
    let namespace = shell.ask("kubectl config view --minify -o jsonpath={..namespace}")?;
    let namespace = namespace.context("kubectl knows no cluster: is the kubeconfig good?")?;
    ensure!(
        namespace.is_empty() || namespace == "default",
        "the task lives in the namespace default, and the kubeconfig's context has {namespace}: \
         `kubectl config set-context --current --namespace=default`"
    );
    let kinds = shell.ask("kubectl api-resources --api-group=l7mp.io -o name")?.context("no API server answers")?;
    // Where the kinds are unknown, so are their objects.
    let files: Vec<_> = APPLY.iter().filter(|file| !kinds.is_empty() || file.contains("deployment")).collect();
    for file in files {
        let found = shell.ask(&format!("kubectl get --ignore-not-found -o name -f {TASK}/{file}"))?;
        let found = found.with_context(|| format!("kubectl cannot look for {file}"))?;
        ensure!(found.is_empty(), "{} is there already: `{TASK}/cleanup.sh` removes the task", found.trim());
    }
    Ok(())
}

/// The names of the pods of one deployment of the task.
fn pods(shell: &Shell<'_>, app: &str) -> Result<Vec<String>> {
    let names = shell.ask(&format!("kubectl get pods -l app={app} -o name"))?.context("kubectl lists no pods")?;
    Ok(names.lines().map(|name| name.trim_start_matches("pod/").to_owned()).collect())
}

fn explain(cluster: &Cluster) -> Result<()> {
    let gateway = SocketAddr::from((cluster.node_address()?, PORT));
    say(&format!(
        "
The first task is up. In another terminal, in this directory:

{exports}
    {socat:<43} # type a line
    kubectl describe vsvc gateway-vsvc          # what holds, and for how many pods
    kubectl exec ds/l7mp-ingress -c l7mp -- l7mpctl get sessions
    kubectl scale deployment/worker-deployment --replicas=4
    kubectl delete tr udp-cluster               # what does gateway-vsvc say now?
    kubectl apply -f {TASK}/4-udp-cluster.yaml
    kubectl explain virtualservice.spec.listener

Ctrl-C takes down what this demo has started{end}.
",
        socat = format!("socat - udp4:{gateway}"),
        exports = cluster.exports().lines().map(|line| format!("    {line}\n")).collect::<String>(),
        end = if cluster.ends_with_us() { "" } else { "; the cluster stays" },
    ))
}

/// Until Ctrl-C.
fn stay(cluster: &Cluster, interrupt: &Interrupt) -> Result<()> {
    while !interrupt.wait(WATCH) {
        ensure!(cluster.is_alive(), "somebody else has taken the cluster down");
    }
    say("\n")
}

/// What may explain a failure, on stderr.
fn diagnose(shell: &Shell<'_>) {
    for (line, last) in EXPLAIN {
        let said = shell.ask(line).ok().flatten().unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("\n$ {line}\n{}", lines[lines.len().saturating_sub(last)..].join("\n"));
    }
}

/// Removes what was made, and says so. `whole`: all of it is there, and goes as the page has it; what is left of a
/// failure goes with the cluster, if that was started here.
fn take_down(cluster: Cluster, shell: &Shell<'_>, made: &Made, whole: bool) -> Result<()> {
    let alive = cluster.is_alive();
    let ends = cluster.ends_with_us();
    let mut cleaned = Ok(());
    if alive && (whole || !ends) {
        if made.task {
            cleaned = shell.run(&format!("sh {TASK}/cleanup.sh"));
        }
        if made.chart {
            cleaned = cleaned.and(shell.run(UNINSTALL));
        }
    }
    if !ends {
        return cleaned.context("something of the demo is left in the cluster");
    }
    let name = cluster.name().to_owned();
    eprintln!("\ntaking cluster {name} down");
    cluster.down().with_context(|| format!("cannot take cluster {name} down: `cargo cluster down --name {name}`"))?;
    eprintln!("cluster {name} is gone");
    if let Err(error) = cleaned {
        bail!("{error:#}; it went with the cluster");
    }
    Ok(())
}
