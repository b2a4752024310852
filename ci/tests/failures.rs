//! `kill -9` of each part under load: what its clients see, what is counted, and that nobody else notices.

mod load;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use l7mp_ci::testbed::{Options, Part, Role, Testbed};

use load::{Ends, Load, PATIENCE, Story, assert_books_balance, first_name, metrics, running, sessions, wait_ready};

const CLIENTS: usize = 60;
/// 1,500 lines a second by all of them.
const PAUSE: Duration = Duration::from_millis(40);
/// A part stays dead until every client that it does not concern has had so many answers: a second.
const DEAD_FOR_LINES: usize = 25;
/// After its restart, every client gets so many answers before the next part is killed. Longer than [`ON_THE_WAY`].
const WELL_FOR_LINES: usize = 20;
/// A line that was sent so long before the death of a part may be lost by it.
const ON_THE_WAY: Duration = Duration::from_millis(500);
/// From the restart of a part to the last line that is lost because of it. A session that cannot be opened is not
/// tried again for 2 s; a restarted proxy is found within 1 s; the rest is for busy machines.
const RECOVERY_MAX: Duration = Duration::from_secs(8);

/// A part that is killed and started again.
struct Victim {
    what: &'static str,
    part: Kind,
    /// Who is concerned.
    concerns: fn(&Ends, &Names) -> bool,
    /// Whose counters tell of it.
    counted_by: fn(&Names) -> &str,
    /// A counter that must move, and one for each session that is concerned.
    moves: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Kind {
    TranscoderServer,
    WorkerServer,
    Sidecar,
    Gateway,
    Controller,
}

/// The first pod of each kind.
struct Names {
    gateway: String,
    transcoder: String,
    worker: String,
}

impl Names {
    fn part(&self, kind: Kind) -> Part<'_> {
        match kind {
            Kind::TranscoderServer => Part::Server(&self.transcoder),
            Kind::WorkerServer => Part::Server(&self.worker),
            Kind::Sidecar => Part::Proxy(&self.transcoder),
            Kind::Gateway => Part::Proxy(&self.gateway),
            Kind::Controller => Part::Controller,
        }
    }
}

const VICTIMS: &[Victim] = &[
    Victim {
        what: "transcoder",
        part: Kind::TranscoderServer,
        concerns: |ends, names| ends.0 == names.transcoder,
        counted_by: |names| &names.gateway,
        moves: &["l7mp_sessions_closed_total", "l7mp_messages_dropped_total"],
    },
    Victim {
        what: "worker server",
        part: Kind::WorkerServer,
        concerns: |ends, names| ends.1 == names.worker,
        counted_by: |names| &names.gateway,
        moves: &["l7mp_sessions_closed_total{reason=\"disconnect\"}"],
    },
    Victim {
        what: "sidecar proxy",
        part: Kind::Sidecar,
        concerns: |ends, names| ends.0 == names.transcoder,
        counted_by: |names| &names.gateway,
        moves: &["l7mp_sessions_closed_total", "l7mp_cluster_connect_failures_total"],
    },
    Victim {
        what: "controller",
        part: Kind::Controller,
        concerns: |_, _| false,
        counted_by: |names| &names.gateway,
        moves: &[],
    },
    Victim {
        what: "gateway proxy",
        part: Kind::Gateway,
        concerns: |_, _| true,
        counted_by: |names| &names.gateway,
        moves: &["l7mp_sessions_opened_total"],
    },
];

/// One death and recovery.
struct Incident {
    victim: &'static Victim,
    killed: Instant,
    started: Instant,
    recovered: Instant,
    counted: BTreeMap<String, f64>,
}

#[test]
fn whatever_is_killed_comes_back_and_concerns_only_the_clients_that_used_it() {
    let mut testbed =
        running(Options { gateway_arguments: ["--workers", "2"].map(str::to_owned).into(), ..Options::default() });
    let names = Names {
        gateway: first_name(&testbed, Role::Gateway),
        transcoder: first_name(&testbed, Role::Transcoder),
        worker: first_name(&testbed, Role::Worker),
    };
    let load = Load::start(testbed.gateway(), CLIENTS, PAUSE);
    load.wait(&testbed, 5);
    let ends = ends_of(&testbed, &names, &load);
    let incidents: Vec<Incident> =
        VICTIMS.iter().map(|victim| kill_and_start(&mut testbed, &names, victim, &load, &ends)).collect();
    load.wait(&testbed, 5);
    let stories = load.finish();

    println!(
        "| killed | clients concerned | lines they lost | longest outage | after the restart | counted by the gateway |"
    );
    println!("|---|---|---|---|---|---|");
    for incident in &incidents {
        report(incident, &names, &ends, &stories);
    }
    for incident in &incidents {
        judge(incident, &names, &ends, &stories);
    }
    for (n, story) in stories.iter().enumerate() {
        assert_eq!(story.all_ends(), [&ends[n]], "client {n} was moved");
    }
    testbed.check().unwrap();
    let proxies: Vec<String> =
        testbed.pods().iter().filter(|pod| pod.proxy.is_some()).map(|pod| pod.name.clone()).collect();
    for pod in proxies {
        assert_books_balance(&mut testbed, &pod);
    }
}

/// Transcoder and worker of each client, as the gateway has its sessions.
fn ends_of(testbed: &Testbed, names: &Names, load: &Load) -> Vec<Ends> {
    let sessions = sessions(testbed, &names.gateway);
    let pod_at = |endpoint: &str| {
        let address = endpoint.rsplit_once(':').unwrap().0;
        testbed.pods().iter().find(|pod| pod.address.to_string() == address).unwrap().name.clone()
    };
    let of_client = |address| {
        let prefix = format!("UDP:{address}-");
        let (_, stages) = sessions.iter().find(|(name, _)| name.starts_with(&prefix)).unwrap();
        (pod_at(&stages[0]), pod_at(&stages[1]))
    };
    load.addresses().iter().map(of_client).collect()
}

fn kill_and_start(
    testbed: &mut Testbed,
    names: &Names,
    victim: &'static Victim,
    load: &Load,
    ends: &[Ends],
) -> Incident {
    let others = |n: usize| !(victim.concerns)(&ends[n], names);
    assert!((0..CLIENTS).any(others) || matches!(victim.part, Kind::Gateway), "nobody else is there");
    let counted_by = (victim.counted_by)(names);
    let before = metrics(testbed, counted_by);
    let killed = Instant::now();
    testbed.kill(names.part(victim.part)).unwrap();
    load.wait_for(testbed, DEAD_FOR_LINES, others);
    let started = Instant::now();
    testbed.start_part(names.part(victim.part)).unwrap();
    load.wait(testbed, WELL_FOR_LINES);
    let recovered = Instant::now();
    wait_ready(testbed);
    let mut counted = metrics(testbed, counted_by);
    if !matches!(victim.part, Kind::Gateway) {
        counted.iter_mut().for_each(|(name, value)| *value -= before.get(name).copied().unwrap_or(0.0));
    }
    Incident { victim, killed, started, recovered, counted }
}

impl Incident {
    /// The lines that a client lost in this incident: when they were sent.
    fn lost<'a>(&'a self, story: &'a Story) -> impl Iterator<Item = Instant> + 'a {
        let from = self.killed.checked_sub(ON_THE_WAY).unwrap();
        story.lost().filter(move |sent| (from..self.recovered).contains(sent))
    }

    fn concerns(&self, names: &Names, ends: &Ends) -> bool {
        (self.victim.concerns)(ends, names)
    }
}

fn report(incident: &Incident, names: &Names, ends: &[Ends], stories: &[Story]) {
    let concerned =
        || stories.iter().zip(ends).filter(|(_, ends)| incident.concerns(names, ends)).map(|(story, _)| story);
    let lost: usize = stories.iter().map(|story| incident.lost(story).count()).sum();
    let outage = |story| Some(incident.lost(story).last()? + PAUSE - incident.lost(story).next()?);
    let outage = concerned().filter_map(outage).max().unwrap_or_default();
    let last = concerned().filter_map(|story| incident.lost(story).last()).max();
    let last = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(incident.started));
    let told = ["messages_dropped", "sessions_closed", "sessions_opened_total", "failures", "retries"];
    let counted =
        incident.counted.iter().filter(|(name, value)| **value > 0.0 && told.iter().any(|t| name.contains(t)));
    let counted: Vec<String> =
        counted.map(|(name, value)| format!("`{}` {value}", name.trim_start_matches("l7mp_"))).collect();
    println!(
        "| {} (dead for {:.1} s) | {} of {} | {lost} | {:.2} s | {:.2} s | {} |",
        incident.victim.what,
        (incident.started - incident.killed).as_secs_f64(),
        concerned().count(),
        stories.len(),
        outage.as_secs_f64(),
        last.as_secs_f64(),
        counted.join(", ")
    );
}

fn judge(incident: &Incident, names: &Names, ends: &[Ends], stories: &[Story]) {
    let what = incident.victim.what;
    for (n, (story, ends)) in stories.iter().zip(ends).enumerate() {
        if !incident.concerns(names, ends) {
            assert_eq!(incident.lost(story).count(), 0, "client {n} lost a line when the {what} was killed");
            continue;
        }
        if let Some(last) = incident.lost(story).last() {
            let late = last.saturating_duration_since(incident.started);
            assert!(late < RECOVERY_MAX, "client {n} lost a line {late:?} after the {what} was started");
        }
    }
    for counter in incident.victim.moves {
        let moved: f64 =
            incident.counted.iter().filter(|(name, _)| name.starts_with(counter)).map(|(_, value)| value).sum();
        assert!(moved > 0.0, "{counter} did not move when the {what} was killed");
    }
}

/// What changes while nobody looks is made up for.
#[test]
fn a_controller_that_comes_back_pushes_what_changed_meanwhile() {
    let mut testbed = running(Options::default());
    let (gateway, worker) = (first_name(&testbed, Role::Gateway), first_name(&testbed, Role::Worker));
    let load = Load::start(testbed.gateway(), 20, PAUSE);
    load.wait(&testbed, 5);
    testbed.kill(Part::Controller).unwrap();
    testbed.remove_manifest(&Testbed::pod_manifest(&worker)).unwrap();
    load.wait(&testbed, 10);
    testbed.start_part(Part::Controller).unwrap();
    let endpoint = format!("{}:9999", testbed.pod(&worker).unwrap().address);
    let moved = |testbed: &Testbed| sessions(testbed, &gateway).values().all(|stages| !stages.contains(&endpoint));
    testbed.wait_until(PATIENCE, "all sessions are on other workers", moved).unwrap();
    load.wait(&testbed, 5);
    let started = Instant::now();
    for story in load.finish() {
        assert_ne!(story.ends_at(started).unwrap().1, worker);
    }
}
