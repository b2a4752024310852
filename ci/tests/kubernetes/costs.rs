//! What operator, agents and proxies take: memory and time, idle, under load, and while the transcoders are rolled.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::clients::Load;
use crate::installed::{Kubernetes, PATIENCE};
use crate::processes::InPod;

const CLIENTS: usize = 50;
/// Of each client's lines: 60 a second.
const PAUSE: Duration = Duration::from_nanos(16_666_667);
/// How long is looked at what happens without a change.
const LOOK: Duration = Duration::from_secs(20);
/// Answers that each client has in that time.
const LINES: usize = 1000;
/// The roles: label of the pods, program, and the most that it may take, in MB.
const ROLES: [(&str, &str, f64); 7] = [
    ("app=l7mp-operator", "l7mp-controller", 150.0),
    ("app=l7mp-ingress", "l7mp-proxy", 200.0),
    ("app=l7mp-ingress", "l7mp-agent", 10.0),
    ("app=transcoder", "l7mp-proxy", 200.0),
    ("app=transcoder", "l7mp-agent", 10.0),
    ("app=worker", "l7mp-proxy", 200.0),
    ("app=worker", "l7mp-agent", 10.0),
];
/// The most of a core that a process may take when nothing happens, in percent.
const IDLE_MAX: f64 = 10.0;

/// A process, and the time that it and its container had computed.
struct Seen {
    program: &'static str,
    process: InPod,
    computed: Duration,
    in_container: Duration,
}

fn look(kubernetes: &Kubernetes) -> Vec<Seen> {
    let mut all = Vec::new();
    for (label, program, _) in ROLES {
        for process in InPod::all(kubernetes, label, program) {
            let (computed, in_container) = (process.computed(), process.container_computed());
            all.push(Seen { program, process, computed, in_container });
        }
    }
    all
}

/// The rows of one run.
struct Table<'a> {
    kubernetes: &'a Kubernetes,
    text: String,
}

impl Table<'_> {
    /// Does something, and adds a row for each process that is there afterwards: what it took meanwhile, or since its
    /// start. The most of a core that one took, in percent.
    fn phase(&mut self, what: &str, make: impl FnOnce()) -> f64 {
        let before = look(self.kubernetes);
        let start = Instant::now();
        make();
        let after = look(self.kubernetes);
        let took = start.elapsed().as_secs_f64();
        let mut most: f64 = 0.0;
        for Seen { program, process, computed, in_container } in &after {
            let then = before.iter().find(|seen| (seen.program, &seen.process) == (*program, process));
            let (then, in_container_then) = then.map(|seen| (seen.computed, seen.in_container)).unwrap_or_default();
            let percent = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() * 100.0 / took;
            let (own, all) = (percent(*computed, then), percent(*in_container, in_container_then));
            most = most.max(own);
            let (pod, resident) = (&process.pod, process.resident());
            let _ = writeln!(self.text, "| {what} | {program} | {pod} | {resident:.1} MB | {own:.1} % | {all:.1} % |");
        }
        most
    }
}

#[test]
fn operator_agents_and_proxies_take_little() {
    let kubernetes = Kubernetes::with_first_task(true);
    let mut table = Table { kubernetes: &kubernetes, text: String::new() };
    // A time, and no condition: nothing is to happen in it.
    let idle = table.phase("idle", || std::thread::sleep(LOOK));
    let load = Load::start(kubernetes.gateway(), CLIENTS, PAUSE);
    load.wait(kubernetes.cluster, 1);
    table.phase("3,000 lines/s", || {
        load.wait(kubernetes.cluster, LINES);
    });
    table.phase("3,000 lines/s, transcoders rolled", || {
        kubernetes.kubectl("rollout restart deployment/transcoder-deployment");
        kubernetes.roll_out("deployment/transcoder-deployment");
        let gone = kubernetes.cluster.wait_until("the old transcoders are gone", PATIENCE, |cluster| {
            Ok(cluster.kubectl(&["get", "pods", "-l", "app=transcoder", "-o", "name"])?.lines().count() == 2)
        });
        gone.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    });
    load.finish_in_any_order();
    println!(
        "| while | program | pod | RSS | CPU of the process | of its container, with probes |\n|---|---|---|---|---|---|\n{}",
        table.text
    );
    assert!(idle < IDLE_MAX, "{idle} % of a core, idle");
    for (label, program, most) in ROLES {
        for process in InPod::all(&kubernetes, label, program) {
            assert!(process.resident() < most, "{program} of {}: {} MB", process.pod, process.resident());
        }
    }
}
