//! The testbed without proxies: its servers, its processes, its manifests.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use l7mp_ci::process::{Process, Program};
use l7mp_ci::testbed::{Binaries, Options, Part, Role, Servers, Testbed};

const PATIENCE: Duration = Duration::from_secs(10);

fn tool() -> PathBuf {
    env!("CARGO_BIN_EXE_l7mp-ci").into()
}

/// No proxies: these tests start none.
fn testbed(options: Options) -> Testbed {
    let none = PathBuf::from("/nonexistent");
    let binaries = Binaries { proxy: none.clone(), ctl: none.clone(), controller: none, tool: tool() };
    Testbed::prepare(&binaries, options).unwrap()
}

fn first(testbed: &Testbed, role: Role) -> String {
    testbed.pods_of(role).next().unwrap().name.clone()
}

/// Starts the servers of the first transcoder and the first worker, and says what they answer to two lines.
fn answers(servers: Servers) -> (String, String) {
    let mut testbed = testbed(Options { servers, ..Options::default() });
    let (transcoder, worker) = (first(&testbed, Role::Transcoder), first(&testbed, Role::Worker));
    for name in [&transcoder, &worker] {
        let server = testbed.process(Part::Server(name)).unwrap();
        server.start().unwrap();
        server.wait_for_output("listening on", PATIENCE).unwrap();
    }
    let mut stream = UnixStream::connect(testbed.pod(&transcoder).unwrap().root.join("tmp/uds-echo.sock")).unwrap();
    stream.write_all(b"one\ntwo\n").unwrap();
    let mut transcoded = vec![0; 2 * ("Transcoded on : one\n".len() + transcoder.len())];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut transcoded).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();

    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(SocketAddr::new(testbed.pod(&worker).unwrap().address, 9999)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut echoed = String::new();
    for line in ["one\n", "two\n"] {
        client.send(line.as_bytes()).unwrap();
        let mut datagram = [0; 1500];
        let length = client.recv(&mut datagram).unwrap();
        echoed += std::str::from_utf8(&datagram[..length]).unwrap();
    }
    (String::from_utf8(transcoded).unwrap(), echoed)
}

#[test]
fn our_servers_answer_what_socat_and_perl_answer() {
    let ours = answers(Servers::Ours);
    assert_eq!(ours.0.lines().next(), Some("Transcoded on transcoder-deployment-6784fc494c-6t7l5: one"));
    assert_eq!(ours.1.lines().next(), Some("Echo on worker-deployment-6bfdf5584c-97dgn: "));
    assert_eq!(ours, answers(Servers::Socat));
}

#[test]
fn a_killed_server_can_be_started_again() {
    let mut testbed = testbed(Options::default());
    let transcoder = first(&testbed, Role::Transcoder);
    let part = Part::Server(&transcoder);
    for _ in 0..2 {
        testbed.start_part(part).unwrap();
        testbed.process(part).unwrap().wait_for_output("listening on", PATIENCE).unwrap();
        assert!(!testbed.kill(part).unwrap().unwrap().success());
        assert!(testbed.process(part).unwrap().check().is_err());
    }
}

#[test]
fn the_manifests_are_the_tasks_byte_for_byte_unless_the_gateway_has_another_port() {
    let sources = l7mp_ci::workspace().join("deploy/examples/first-task");
    for port in [9001, 19001] {
        let testbed = testbed(Options { gateway_port: port, ..Options::default() });
        assert_eq!(testbed.gateway().port(), port);
        for file in ["1-uds-cluster.yaml", "3-websocket-cluster.yaml", "5-gateway-vsvc.yaml"] {
            let source = std::fs::read_to_string(sources.join(file)).unwrap();
            let copy = std::fs::read_to_string(testbed.manifests().join(file)).unwrap();
            assert_eq!(copy, source.replace("port: 9001", &format!("port: {port}")), "{file}");
        }
        for pod in testbed.pods() {
            let file = testbed.manifests().join(Testbed::pod_manifest(&pod.name));
            let text = std::fs::read_to_string(file).unwrap();
            assert!(
                text.contains(&format!("podIP: {}\n", pod.address)) && text.contains(&format!("name: {}\n", pod.name))
            );
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    let mut testbed = testbed(Options::default());
    let worker = first(&testbed, Role::Worker);
    testbed.start_part(Part::Server(&worker)).unwrap();
    let id = testbed.process(Part::Server(&worker)).unwrap().id().unwrap();
    let manifests = testbed.manifests().to_owned();
    assert!(manifests.exists() && PathBuf::from(format!("/proc/{id}")).exists());
    drop(testbed);
    assert!(!manifests.exists() && !PathBuf::from(format!("/proc/{id}")).exists());
}

/// The case that no destructor sees: the one who started it is killed.
#[test]
fn a_child_is_killed_with_its_parent_and_not_with_the_thread_that_started_it() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program {
        name: "sleeper".to_owned(),
        path: "sh".into(),
        // A shell that starts the tool's `exec` as we do, says its id, and stays.
        arguments: ["-c", "\"$0\" exec --parent $$ -- sleep 60 & echo child $!; wait", env!("CARGO_BIN_EXE_l7mp-ci")]
            .map(Into::into)
            .into(),
        directory: directory.path().into(),
        environment: Vec::new(),
        log: directory.path().join("log"),
    };
    let mut process = std::thread::spawn(move || {
        let mut process = Process::new(program, tool());
        process.start().unwrap();
        process
    })
    .join()
    .unwrap();
    process.wait_for_output("child", PATIENCE).unwrap();
    let output = process.output();
    let child = output.trim().strip_prefix("child ").unwrap();
    let comm = || std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
    wait_until(|| comm() == "sleep\n");
    process.check().unwrap();
    // Not the group, which `kill` would take: only the parent.
    process.signal(rustix::process::Signal::KILL).unwrap();
    wait_until(|| comm().is_empty());
}

#[test]
fn the_alias_accepts_options_with_and_without_two_dashes() {
    for arguments in [&["demo", "--", "--help"][..], &["demo", "--help"]] {
        let output = Command::new(tool()).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("--once"));
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited for {PATIENCE:?}");
        std::thread::sleep(l7mp_ci::process::POLL);
    }
}
