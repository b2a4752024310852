//! The first task, end to end: the real programs, the manifests of the page, real sockets.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use l7mp_ci::testbed::client::{Answer, Client};
use l7mp_ci::testbed::{Binaries, Options, Profile, Role, Servers, Testbed};

const PATIENCE: Duration = Duration::from_secs(20);

fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| Binaries::find_or_build(Profile::Debug, env!("CARGO_BIN_EXE_l7mp-ci").into()).unwrap())
}

fn running(options: Options) -> Testbed {
    let mut testbed = Testbed::start(binaries(), options).unwrap();
    if let Err(error) = testbed.wait_ready(PATIENCE, |_| false) {
        panic!("{error:#}\n{}", testbed.logs(30));
    }
    testbed
}

#[test]
fn the_demo_prints_the_lines_of_the_page_and_ends() {
    // Below the range of ports that the kernel gives to clients; another one for each process.
    let port = 20_000 + std::process::id() % 10_000;
    let mut demo = Command::new(env!("CARGO_BIN_EXE_l7mp-ci"));
    demo.args(["demo", "--once", "--debug", "--port", &port.to_string()]).stdin(Stdio::null());
    let output = demo.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    let lines: Vec<&str> = stdout.lines().skip_while(|line| !line.starts_with("$ socat")).skip(1).collect();
    let [first, echo, transcoded, second, echo_again, transcoded_again] = lines[..] else { panic!("{stdout}") };
    assert_eq!((first, second), ("This is a test!", "Hurray it's working!"));
    assert!(echo.starts_with("Echo on worker-deployment-6bfdf5584c-") && echo.ends_with(": "), "{echo}");
    assert_eq!(echo, echo_again);
    let prefix = transcoded.strip_suffix(first).unwrap();
    assert!(prefix.starts_with("Transcoded on transcoder-deployment-6784fc494c-"), "{prefix}");
    assert_eq!(transcoded_again, format!("{prefix}{second}"));
}

#[test]
fn a_demo_whose_port_is_taken_says_so_before_it_builds_anything() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_l7mp-ci"));
    let output = demo.args(["demo", "--once", "--port", &port]).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("take another --port"));
}

#[test]
fn a_demo_on_port_0_is_refused() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_l7mp-ci"));
    let output = demo.args(["demo", "--once", "--port", "0"]).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("1..=65535"), "{output:?}");
}

/// One `socat - udp4:GATEWAY`, as the page has it.
struct Socat {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Socat {
    fn new(gateway: SocketAddr) -> Socat {
        let mut command = Command::new("socat");
        command.args(["-T", "30", "-", &format!("udp4:{gateway}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("socat is installed");
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Socat { child, stdin, stdout }
    }

    fn ask(&mut self, line: &str) -> Answer {
        self.stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut text = String::new();
        self.stdout.read_line(&mut text).unwrap();
        self.stdout.read_line(&mut text).unwrap();
        Answer::parse(&text).unwrap_or_else(|| panic!("the answer to {line} is {text:?}"))
    }
}

impl Drop for Socat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_page_with_socat_and_perl_for_20_clients() {
    let testbed = running(Options { servers: Servers::Socat, ..Options::default() });
    let gateway = testbed.gateway();
    // One after the other: socat's `udp-l,fork` mixes up peers that arrive together.
    let clients = (0..20).map(|n| {
        let mut socat = Socat::new(gateway);
        let answer = socat.ask(&format!("client {n} line 0"));
        assert_eq!(answer.line, format!("client {n} line 0"));
        (n, socat, answer)
    });
    let clients: Vec<_> = clients.collect();
    let together = Barrier::new(clients.len());
    std::thread::scope(|scope| {
        for (n, mut socat, first) in clients {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                for line in (1..10).map(|line| format!("client {n} line {line}")) {
                    assert_eq!(socat.ask(&line), Answer { line, ..first.clone() });
                }
            });
        }
    });
}

/// Talks for a while, a line every `pause`, and answers with what it got; no line is sent twice.
fn talk(client: &Client, name: usize, lines: usize, pause: Duration) -> Vec<Answer> {
    let start = Instant::now();
    let mut answers = Vec::new();
    let mut take = |text: String| answers.extend(Answer::parse_all(&text).unwrap_or_else(|| panic!("{text:?}")));
    for line in 0..lines {
        client.send(&format!("client {name} line {line}")).unwrap();
        let next = start + pause * (line as u32 + 1);
        while let Some(text) = client.receive(next.saturating_duration_since(Instant::now())).unwrap() {
            take(text);
        }
    }
    while let Some(text) = client.receive(Duration::from_secs(2)).unwrap() {
        take(text);
    }
    answers
}

#[test]
fn two_hundred_clients_at_once_get_their_own_lines_and_lose_none() {
    const CLIENTS: usize = 200;
    const LINES: usize = 500;
    // 5,000 lines a second for 20 s.
    const PAUSE: Duration = Duration::from_millis(40);
    let testbed = running(Options::default());
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::new(testbed.gateway()).unwrap()).collect();
    let together = Barrier::new(CLIENTS);
    let results: Vec<Vec<Answer>> = std::thread::scope(|scope| {
        let talk_together = |(name, client)| {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                talk(client, name, LINES, PAUSE)
            })
        };
        let threads: Vec<_> = clients.iter().enumerate().map(talk_together).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut pods = HashSet::new();
    for (name, answers) in results.iter().enumerate() {
        let lines: Vec<_> = answers.iter().map(|answer| answer.line.clone()).collect();
        let sent: Vec<_> = (0..LINES).map(|line| format!("client {name} line {line}")).collect();
        assert!(lines == sent, "client {name} got {} of {LINES} lines; {}", lines.len(), testbed.logs(5));
        let ends: HashSet<_> = answers.iter().map(|answer| (&answer.transcoder, &answer.worker)).collect();
        assert_eq!(ends.len(), 1, "client {name} was moved");
        pods.extend(answers.iter().take(1).flat_map(|answer| [answer.transcoder.clone(), answer.worker.clone()]));
    }
    let servers = testbed.pods().iter().filter(|pod| pod.role != Role::Gateway).count();
    assert_eq!(pods.len(), servers, "some pods have no clients");
}
