//! The directory as a source, and the program around it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use l7mp_compiler::world::World;
use l7mp_controller::local::{Directory, follow};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// The longest that a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(20);

fn target(name: &str) -> String {
    format!(
        "apiVersion: l7mp.io/v1\nkind: Target\nmetadata: {{name: {name}}}\nspec: {{cluster: {{spec: {{Echo: {{}}}}}}}}\n"
    )
}

fn targets(world: &World) -> Vec<&str> {
    world.targets().map(|target| target.metadata.name.as_str()).collect()
}

async fn wait(worlds: &mut watch::Receiver<Arc<World>>, wanted: &[&str]) {
    let met = tokio::time::timeout(DEADLINE, worlds.wait_for(|world| targets(world) == wanted)).await.is_ok();
    assert!(met, "{wanted:?} not within {DEADLINE:?}: {:?}", targets(&worlds.borrow()));
}

/// As careful people and `kubectl` write: beside, then renamed.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn every_change_below_the_directory_is_followed() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str| root.path().join(name);
    fs::write(file("a.yaml"), target("a")).unwrap();
    let directory = Directory::open(root.path()).unwrap();
    let (sender, mut worlds) = watch::channel(Arc::new(directory.world().clone()));
    let following = tokio::spawn(follow(directory, sender));
    wait(&mut worlds, &["a"]).await;
    fs::write(file("b.yml"), target("b")).unwrap();
    wait(&mut worlds, &["a", "b"]).await;
    replace(&file("a.yaml"), &format!("{}---\n{}", target("a"), target("a2")));
    wait(&mut worlds, &["a", "a2", "b"]).await;
    fs::create_dir(file("sub")).unwrap();
    fs::write(file("sub/c.json"), r#"{"apiVersion":"l7mp.io/v1","kind":"Target","metadata":{"name":"c"},"spec":{"cluster":{"spec":{"Discard":{}}}}}"#).unwrap();
    wait(&mut worlds, &["a", "a2", "b", "c"]).await;
    fs::remove_file(file("a.yaml")).unwrap();
    wait(&mut worlds, &["b", "c"]).await;
    fs::rename(file("sub"), file(".hidden")).unwrap();
    wait(&mut worlds, &["b"]).await;
    drop(worlds);
    tokio::time::timeout(DEADLINE, following).await.unwrap().unwrap().unwrap();
}

#[test]
fn faults_name_file_document_object_and_path() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.yaml"), format!("{}---\n{}", target("a"), target("b").replace("Echo", "Ecco")))
        .unwrap();
    fs::write(root.path().join("b.yaml"), target("a")).unwrap();
    fs::write(root.path().join("bytes.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(root.path().join("notes.txt"), "no manifest").unwrap();
    let directory = Directory::open(root.path()).unwrap();
    let faults: Vec<String> = directory.faults().collect();
    assert!(
        faults[0].starts_with("a.yaml: document 2: Target default/b: spec.cluster.spec: unknown name `Ecco`"),
        "{faults:?}"
    );
    assert!(faults[1].starts_with("bytes.yaml: "), "{faults:?}");
    assert_eq!(faults[2], "b.yaml: Target default/a stands in a.yaml already, which counts; left out");
    assert_eq!((faults.len(), targets(directory.world())), (3, vec!["a"]));
}

#[test]
fn a_directory_that_vanishes_takes_nothing_down() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), target("a")).unwrap();
    let mut directory = Directory::open(&path).unwrap();
    fs::rename(&path, root.path().join("away")).unwrap();
    assert!(!directory.scan(true));
    assert_eq!(targets(directory.world()), ["a"]);
    fs::create_dir(&path).unwrap();
    assert!(directory.scan(true));
    assert_eq!(targets(directory.world()), [""; 0]);
    assert!(Directory::open(root.path().join("absent")).unwrap_err().to_string().contains("--manifests"));
}

#[test]
fn a_link_to_a_directory_above_does_not_go_on_for_ever() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.yaml"), target("a")).unwrap();
    std::os::unix::fs::symlink(root.path(), root.path().join("loop")).unwrap();
    let directory = Directory::open(root.path()).unwrap();
    assert_eq!((targets(directory.world()), directory.faults().count()), (vec!["a"], 0));
}

fn controller(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_l7mp-controller"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn sigterm_and_sigint_end_the_program_with_0() {
    let root = tempfile::tempdir().unwrap();
    let manifests = root.path().to_str().unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let proxy = format!("default/gw={manifests}/absent.sock");
        let mut child = controller(&["local", "--manifests", manifests, "--proxy", &proxy]);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.contains("ERROR there is no Pod default/gw, and its Pod object must be among"), "{line}");
        assert!(line.contains("its proxy keeps what it has"), "{line}");
        let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let status = tokio::time::timeout(DEADLINE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: gw}\nstatus: {podIP: 10.0.0.1}\n";

#[tokio::test]
async fn an_edit_that_takes_an_object_out_of_force_says_so_once_and_so_does_the_mended_one() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a.yaml");
    fs::write(root.path().join("pod.yaml"), POD).unwrap();
    fs::write(&file, target("a")).unwrap();
    let manifests = root.path().to_str().unwrap();
    let proxy = format!("default/gw={manifests}/absent.sock");
    let mut child = controller(&["local", "--manifests", manifests, "--proxy", &proxy]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let broken = target("a").replace("Echo", "Ecco");
    let withdrawn = "ERROR Target default/a was in force and is withdrawn until it is mended";
    for (text, expected) in [
        (target("a"), vec!["default/gw: no proxy answers at"]),
        (broken, vec!["a.yaml: document 1: Target default/a: spec.cluster.spec: ", withdrawn]),
        (target("a"), vec!["Target default/a is mended, and in force again"]),
    ] {
        replace(&file, &text);
        for expected in expected {
            let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
            assert!(line.contains(expected), "{line}");
        }
    }
}

#[test]
fn an_object_that_was_deleted_or_moved_is_not_called_withdrawn() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str| root.path().join(name);
    let withdrawn = |directory: &Directory| directory.withdrawn().map(ToString::to_string).collect::<Vec<_>>();
    let all = ["a", "b", "c"].map(target);
    fs::write(file("a.yaml"), all.join("---\n")).unwrap();
    let mut directory = Directory::open(root.path()).unwrap();
    // a is mistyped, b deleted, c moved.
    fs::write(file("a.yaml"), all[0].replace("kind: Target", "kind: Tagret")).unwrap();
    fs::write(file("z.yaml"), &all[2]).unwrap();
    directory.scan(true);
    assert_eq!(withdrawn(&directory), ["Target default/a"]);
    // No YAML at all, then deleted.
    fs::write(file("z.yaml"), ": : [").unwrap();
    directory.scan(true);
    assert_eq!(withdrawn(&directory), ["Target default/a", "Target default/c"]);
    fs::write(file("a.yaml"), "").unwrap();
    fs::remove_file(file("z.yaml")).unwrap();
    directory.scan(true);
    assert_eq!(withdrawn(&directory), [""; 0]);
}

#[tokio::test]
async fn an_unknown_pod_ends_compile_and_once_with_1() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("pod.yaml"), POD.replace("name: gw", "name: gateway")).unwrap();
    let manifests = root.path().to_str().unwrap();
    let local = format!("default/gatway={manifests}/absent.sock");
    let table: [&[&str]; 2] = [
        &["compile", "--manifests", manifests, "--proxy", "default/gatway"],
        &["local", "--once", "--manifests", manifests, "--proxy", &local],
    ];
    for arguments in table {
        let output = tokio::time::timeout(DEADLINE, controller(arguments).wait_with_output()).await.unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{stderr}");
        assert!(stderr.contains("there is no Pod default/gatway") && stderr.contains("is default/gateway meant?"));
    }
}

#[tokio::test]
async fn a_directory_error_says_what_the_system_said_once() {
    let arguments = ["compile", "--manifests", "/nonexistent/l7mp", "--proxy", "default/gw"];
    let output = tokio::time::timeout(DEADLINE, controller(&arguments).wait_with_output()).await.unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("os error 2").count(), 1, "{stderr}");
}

#[test]
fn the_help_names_commands_that_run_as_they_stand() {
    let run = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let program = env!("CARGO_BIN_EXE_l7mp-controller");
    let help = run(std::process::Command::new(program).arg("--help"));
    assert!(help.contains("Pod objects must be"), "{help}");
    let root = tempfile::tempdir().unwrap();
    let commands: Vec<String> = help
        .lines()
        .filter_map(|line| line.strip_prefix("      "))
        .filter(|line| ["mkdir ", "cp ", "l7mp-controller compile "].iter().any(|start| line.starts_with(start)))
        .map(|line| line.replace("l7mp-controller compile", &format!("{program} compile")))
        .map(|line| line.replace("/tmp/l7mp", root.path().to_str().unwrap()))
        .collect();
    assert_eq!(commands.len(), 4, "{help}");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let printed = run(std::process::Command::new("sh").args(["-ec", &commands.join("\n")]).current_dir(repository));
    assert!(printed.contains("default/gateway-vsvc"), "{printed}");
}

#[tokio::test]
async fn compile_prints_the_document_and_exits_1_when_an_object_was_reported() {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/compiler/tests/golden/breadth");
    let child = controller(&["compile", "--manifests", manifests, "--proxy", "games/gateway"]);
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let committed = fs::read(format!("{manifests}/gateway.json")).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&committed));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PortConflict"));
}

#[tokio::test]
async fn wrong_arguments_say_what_to_write() {
    let root = tempfile::tempdir().unwrap();
    let manifests = root.path().to_str().unwrap();
    let table: [(&[&str], &str); 4] = [
        (&["--proxy", "default/gw"], "NAMESPACE/POD=SOCKET"),
        (&["--proxy", "gw=/s"], "NAMESPACE/POD, for example"),
        (&["--proxy", "a/b=/s", "--proxy", "a/c=/s"], "share a pod or a socket"),
        (&[], "--proxy"),
    ];
    for (arguments, message) in table {
        let arguments = [&["local", "--manifests", manifests], arguments].concat();
        let output = tokio::time::timeout(DEADLINE, controller(&arguments).wait_with_output()).await.unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(message), "{arguments:?}: {stderr}");
    }
}

/// `kubectl get -o yaml > file` truncates the file a second before it writes it.
#[tokio::test]
async fn a_file_that_is_being_rewritten_keeps_its_objects() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a.yaml");
    fs::write(&file, target("a")).unwrap();
    let directory = Directory::open(root.path()).unwrap();
    let (sender, mut worlds) = watch::channel(Arc::new(directory.world().clone()));
    let following = tokio::spawn(follow(directory, sender));
    wait(&mut worlds, &["a"]).await;
    fs::write(&file, "").unwrap();
    fs::write(root.path().join("b.yaml"), target("b")).unwrap();
    wait(&mut worlds, &["a", "b"]).await;
    fs::write(&file, target("c")).unwrap();
    wait(&mut worlds, &["b", "c"]).await;
    drop(worlds);
    following.abort();
}
