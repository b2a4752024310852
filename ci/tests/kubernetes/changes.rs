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

/// How long a client may be without an answer when its Target is deleted and made again.
const REMADE: Duration = Duration::from_secs(10);
/// How long a client may be without an answer when the gateway's pod is replaced: the old one drains, the new one starts.
const REPLACED: Duration = Duration::from_secs(20);

/// What a change cost.
struct Row {
    change: &'static str,
    sent: usize,
    lost: usize,
    /// Clients whose last answer came from other pods than their first.
    moved: usize,
    in_force: Duration,
    /// The longest time that a client was without an answer.
    silence: Duration,
}

/// What the clients saw, and when the change was made and in force.
struct Seen {
    stories: Vec<Story>,
    made: Instant,
    in_force: Instant,
}

impl Seen {
    /// Between which times a client's lost lines were sent, in seconds since the change was made.
    fn when(&self, story: &Story) -> String {
        let seconds = |sent: Instant| match sent.checked_duration_since(self.made) {
            Some(after) => format!("{:.2}", after.as_secs_f64()),
            None => format!("-{:.2}", (self.made - sent).as_secs_f64()),
        };
        let lost: Vec<Instant> = story.lost().collect();
        let ends = [lost.first(), lost.last()].map(|sent| sent.map_or_else(String::new, |sent| seconds(*sent)));
        format!("{} s to {} s, in force after {} s", ends[0], ends[1], seconds(self.in_force))
    }
}

/// The rows of one run.
struct Table<'a> {
    kubernetes: &'a Kubernetes,
    rows: Vec<Row>,
}

impl Table<'_> {
    /// Makes a change under load; `in_force` says when it is. Every client is answered before it and after it.
    fn change(&mut self, change: &'static str, make: impl FnOnce(), in_force: impl Fn() -> bool) -> Seen {
        let load = Load::start(self.kubernetes.gateway(), CLIENTS, PAUSE);
        load.wait(self.kubernetes.cluster, LINES);
        let made = Instant::now();
        make();
        let waited = self.kubernetes.cluster.wait_until(change, PATIENCE, |_| Ok(in_force()));
        waited.unwrap_or_else(|error| self.kubernetes.fail(&format!("{change}: {error:#}")));
        let in_force = Instant::now();
        load.wait(self.kubernetes.cluster, LINES);
        let stories = load.finish_in_any_order();
        let sent = stories.iter().map(|story| story.lines.len()).sum();
        let lost = stories.iter().map(|story| story.lost().count()).sum();
        let moved = stories.iter().filter(|story| story.all_ends().first() != story.all_ends().last()).count();
        let silence = stories.iter().map(Story::longest_silence).max().unwrap_or_default();
        let took = in_force - made;
        self.rows.push(Row { change, sent, lost, moved, in_force: took, silence });
        println!(
            "{change}: {lost} of {sent} lost, {moved} clients moved, in force after {took:.2?}, longest silence {silence:.2?}"
        );
        Seen { stories, made, in_force }
    }

    fn last(&self) -> &Row {
        self.rows.last().expect("a change was made")
    }

    fn print(&self) {
        let mut text = String::from(
            "| change | lines sent | lost | clients moved | in force after | longest silence |\n|---|---|---|---|---|---|\n",
        );
        for Row { change, sent, lost, moved, in_force, silence } in &self.rows {
            let _ = writeln!(
                text,
                "| {change} | {sent} | {lost} | {moved} of {CLIENTS} | {in_force:.1?} | {silence:.1?} |"
            );
        }
        println!("{text}");
    }
}

/// What clients of a worker that was deleted by force lost without reason, and what all others lost. There is no reason
/// to lose more than what was sent to it between its death and the change in force, or anything after that.
fn lost_without_reason(seen: &Seen, victim: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut of_it, mut others) = (0, 0);
    for story in &seen.stories {
        let (address, lost) = (story.address, story.lost().count());
        if story.ends_at(seen.made).is_none_or(|(_, worker)| worker != victim) {
            others += 1;
            if lost > 0 {
                faults.push(format!(
                    "{address} lost {lost} lines ({}), and was a client of another worker",
                    seen.when(story)
                ));
            }
            continue;
        }
        of_it += 1;
        let (sent, after) =
            (story.sent_between(seen.made, seen.in_force), story.lost().filter(|sent| *sent >= seen.in_force).count());
        if lost > sent || after > 0 {
            faults.push(format!(
                "{address} lost {lost} lines ({}), {after} of them after the change, and sent {sent} before it to the dead worker",
                seen.when(story)
            ));
        }
    }
    if of_it == 0 || others == 0 {
        faults.push(format!("{of_it} clients of the worker and {others} of others: there have to be both"));
    }
    faults
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
    assert!(table.last().silence < REMADE, "a client waited {:?}", table.last().silence);

    let victim = kubernetes.pods("app=worker").into_iter().next().unwrap();
    let seen = table.change(
        "delete a worker by force",
        || drop(kubernetes.kubectl(&format!("delete pod {victim} --force --grace-period=0"))),
        || {
            let workers = workers_seen(&kubernetes);
            workers.len() == 2 && !workers.contains(&victim)
        },
    );
    let faults = lost_without_reason(&seen, &victim);
    if !faults.is_empty() {
        kubernetes.fail(&format!("{victim} was deleted by force: {faults:#?}"));
    }

    table.change(
        "upgrade the gateway itself",
        || drop(kubernetes.kubectl("rollout restart daemonset/l7mp-ingress")),
        || is_rolled_out("daemonset/l7mp-ingress"),
    );
    assert!(table.last().silence < REPLACED, "a client waited {:?}", table.last().silence);
    table.print();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Answered;

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// A client of a worker; each line is sent at a time, and answered at another one (milliseconds).
    fn story(start: Instant, worker: &str, lines: &[(u64, Option<u64>)]) -> Story {
        let answered = |at: u64| Answered { at: start + ms(at), ends: ("transcoder".to_owned(), worker.to_owned()) };
        let lines = lines.iter().map(|(sent, answer)| (start + ms(*sent), answer.map(answered))).collect();
        Story { address: "127.0.0.1:9".parse().unwrap(), lines, strange: Vec::new(), overtaken: 0 }
    }

    #[test]
    fn silence_is_what_a_client_waited() {
        let start = Instant::now();
        let silence = |lines: &[(u64, Option<u64>)]| story(start, "w", lines).longest_silence();
        assert_eq!(silence(&[]), ms(0));
        assert_eq!(silence(&[(0, Some(1)), (10, Some(11)), (20, Some(25))]), ms(14));
        assert_eq!(silence(&[(0, Some(1)), (10, None), (20, None), (30, Some(31))]), ms(30));
        assert_eq!(silence(&[(0, Some(12)), (10, Some(11)), (20, Some(13))]), ms(11), "in any order");
        assert_eq!(silence(&[(0, None), (10, Some(11))]), ms(11), "before the first answer");
        assert_eq!(silence(&[(0, Some(1)), (10, None), (40, None)]), ms(39), "after the last one");
        assert_eq!(silence(&[(0, None), (40, None)]), ms(40), "never answered");
    }

    #[test]
    fn a_dead_worker_excuses_its_own_clients_until_the_change_is_in_force() {
        let start = Instant::now();
        let faults = |lines: &[(u64, Option<u64>)], other: &[(u64, Option<u64>)]| {
            let stories = vec![story(start, "dead", lines), story(start, "alive", other)];
            let faults =
                lost_without_reason(&Seen { stories, made: start + ms(100), in_force: start + ms(200) }, "dead");
            faults.len()
        };
        let fine = [(0, Some(1)), (110, Some(111)), (190, Some(191)), (210, Some(211))];
        assert_eq!(faults(&fine, &fine), 0);
        assert_eq!(faults(&[(0, Some(1)), (110, None), (190, None), (210, Some(211))], &fine), 0);
        assert_eq!(faults(&[(0, Some(1)), (110, None), (210, None), (220, Some(221))], &fine), 1, "after the change");
        let on_its_way = [(0, Some(1)), (99, None), (110, None), (190, Some(191))];
        assert_eq!(faults(&on_its_way, &fine), 0, "was on its way when the worker died");
        assert_eq!(faults(&[(0, Some(1)), (90, None), (95, None), (110, Some(111))], &fine), 1, "more than the bound");
        assert_eq!(faults(&fine, &[(0, Some(1)), (110, None), (190, Some(191))]), 1, "another worker's client");
        let lone = vec![story(start, "alive", &fine)];
        let seen = Seen { stories: lone, made: start + ms(100), in_force: start + ms(200) };
        assert_eq!(lost_without_reason(&seen, "dead").len(), 1, "nobody was there to lose anything");
    }
}
