//! What clients see when a part of the system is killed or changed under them.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use l7mp_ci::testbed::client::{Answer, Client};
use l7mp_ci::testbed::{Binaries, Options, Part, Profile, Role, Testbed};

const PATIENCE: Duration = Duration::from_secs(30);

fn running(options: Options) -> Testbed {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    let binaries =
        BINARIES.get_or_init(|| Binaries::find_or_build(Profile::Debug, env!("CARGO_BIN_EXE_l7mp-ci").into()).unwrap());
    let mut testbed = Testbed::start(binaries, options).unwrap();
    wait_ready(&mut testbed);
    testbed
}

fn wait_ready(testbed: &mut Testbed) {
    if let Err(error) = testbed.wait_ready(PATIENCE, |_| false) {
        panic!("{error:#}\n{}", testbed.logs(30));
    }
}

fn ask(testbed: &Testbed, client: &Client, line: &str) -> Answer {
    let text = client.ask(line, PATIENCE, || false).unwrap_or_else(|error| panic!("{error:#}\n{}", testbed.logs(30)));
    // An answer to a line that was sent twice may come twice.
    let answers = Answer::parse_all(&text).unwrap_or_else(|| panic!("{text:?}"));
    answers.into_iter().find(|answer| answer.line == line).unwrap_or_else(|| panic!("{text:?} answers {line}"))
}

/// Transcoder and worker of each client.
fn ends(testbed: &Testbed, clients: &[Client], line: &str) -> Vec<(String, String)> {
    let end = |client| {
        let answer = ask(testbed, client, line);
        (answer.transcoder, answer.worker)
    };
    clients.iter().map(end).collect()
}

#[test]
fn endpoints_of_100_clients_are_the_same_after_a_restart_and_on_1_and_2_workers() {
    let mut testbed = running(Options {
        transcoders: 3,
        workers: 4,
        gateway_arguments: ["--workers", "1"].map(str::to_owned).into(),
        ..Options::default()
    });
    let gateway = testbed.pods_of(Role::Gateway).next().unwrap().name.clone();
    let clients: Vec<_> = (0..100).map(|_| Client::new(testbed.gateway()).unwrap()).collect();
    let before = ends(&testbed, &clients, "before");
    let used: HashMap<_, _> = before.iter().map(|end| (end, ())).collect();
    assert_eq!(used.len(), 12, "every transcoder with every worker");
    for workers in ["1", "2"] {
        let part = Part::Proxy(&gateway);
        testbed.kill(part).unwrap();
        let arguments = &mut testbed.process(part).unwrap().program_mut().arguments;
        *arguments.last_mut().unwrap() = workers.into();
        testbed.start_part(part).unwrap();
        wait_ready(&mut testbed);
        assert_eq!(ends(&testbed, &clients, "after"), before, "{workers} workers");
    }
}

#[test]
fn deleting_a_worker_pod_moves_its_sessions_and_no_other_loses_a_datagram() {
    let testbed = running(Options { workers: 4, ..Options::default() });
    let clients: Vec<_> = (0..60).map(|_| Client::new(testbed.gateway()).unwrap()).collect();
    let before = ends(&testbed, &clients, "before");
    let gone = before[0].1.clone();
    testbed.remove_manifest(&Testbed::pod_manifest(&gone)).unwrap();
    // Those that must not notice: each line once, each answer awaited.
    let deadline = Instant::now() + PATIENCE;
    let mut round = 0;
    loop {
        for (client, end) in clients.iter().zip(&before).filter(|(_, end)| end.1 != gone) {
            let line = format!("round {round}");
            client.send(&line).unwrap();
            let text = client.receive(Duration::from_secs(5)).unwrap().expect("no datagram of another session is lost");
            let answer = Answer::parse(&text).unwrap();
            assert_eq!((answer.line, answer.transcoder, answer.worker), (line, end.0.clone(), end.1.clone()));
        }
        round += 1;
        let moved = clients.iter().zip(&before).filter(|(_, end)| end.1 == gone);
        let all_moved =
            moved.map(|(client, _)| ask(&testbed, client, &format!("moved {round}"))).all(|a| a.worker != gone);
        if all_moved {
            break;
        }
        assert!(Instant::now() < deadline, "sessions stay on a worker that is gone\n{}", testbed.logs(20));
    }
}

/// Kills `part`, starts it again, and waits until a client that was there before and a new one get answers.
fn recovers(testbed: &mut Testbed, part: Part<'_>) {
    let old = Client::new(testbed.gateway()).unwrap();
    ask(testbed, &old, "before");
    testbed.restart(part).unwrap();
    // Sent again every half second: what is asked here is that the system comes back by itself.
    ask(testbed, &old, "after");
    let new = Client::new(testbed.gateway()).unwrap();
    ask(testbed, &new, "new");
}

#[test]
fn everything_recovers_from_the_death_of_any_part() {
    // One of each, so that nobody else can take over.
    let mut testbed = running(Options { transcoders: 1, workers: 1, ..Options::default() });
    let name = |role| testbed.pods_of(role).next().unwrap().name.clone();
    let (gateway, transcoder, worker) = (name(Role::Gateway), name(Role::Transcoder), name(Role::Worker));
    recovers(&mut testbed, Part::Server(&transcoder));
    recovers(&mut testbed, Part::Server(&worker));
    recovers(&mut testbed, Part::Proxy(&transcoder));
    recovers(&mut testbed, Part::Controller);
    recovers(&mut testbed, Part::Proxy(&gateway));
    testbed.check().unwrap();
}

#[test]
fn without_its_controller_the_datapath_goes_on() {
    let mut testbed = running(Options::default());
    testbed.kill(Part::Controller).unwrap();
    let client = Client::new(testbed.gateway()).unwrap();
    for line in ["one", "two"] {
        ask(&testbed, &client, line);
    }
}

#[test]
fn every_part_that_is_killed_from_outside_is_told_and_started_again() {
    let mut testbed = running(Options::default());
    let worker = testbed.pods_of(Role::Worker).next().unwrap().name.clone();
    let gateway = testbed.pods_of(Role::Gateway).next().unwrap().name.clone();
    for part in [Part::Server(&worker), Part::Proxy(&gateway), Part::Controller] {
        let process = testbed.process(part).unwrap();
        let name = process.program().name.clone();
        process.signal(rustix::process::Signal::KILL).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut news = Vec::new();
        while news.is_empty() && Instant::now() < deadline {
            testbed.revive(|line| news.push(line.to_owned())).unwrap();
        }
        let [death, start] = &news[..] else { panic!("{part:?}: {news:?}") };
        assert!(death.starts_with(&format!("{name} (pid ")) && death.contains("SIGKILL"), "{death}");
        assert!(start.starts_with(&format!("{name} is started again")), "{start}");
    }
    wait_ready(&mut testbed);
    ask(&testbed, &Client::new(testbed.gateway()).unwrap(), "and on it goes");
}
