//! The real agent and the real proxy: what is sent is what runs, also after a restart of the proxy.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use l7mp_admin::AdminSocket;
use l7mp_link::Report;
use support::{Pod, config, configuration, soon, version};

/// Those of `L7MP_BIN_DIR`, or built beside the agent.
fn program(name: &str) -> PathBuf {
    let directory = match std::env::var_os("L7MP_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let directory = Path::new(env!("CARGO_BIN_EXE_l7mp-agent")).parent().unwrap();
            let release = directory.ends_with("release").then_some("--release");
            let package = ["build", "--quiet", "--package", name];
            let mut build = Command::new(cargo);
            let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).args(package).args(release).status().unwrap();
            assert!(built.success(), "{name} is not built");
            directory.to_owned()
        }
    };
    directory.join(name)
}

fn start(proxy: &Path, socket: &Path) -> tokio::process::Child {
    tokio::process::Command::new(proxy)
        .arg("--admin-socket")
        .arg(socket)
        .args(["--cores", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A port that nobody has.
fn free_port() -> u16 {
    std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn what_the_operator_sends_is_what_the_real_proxy_runs_and_l7mpctl_explains() {
    let (proxy, ctl) = (program("l7mp-proxy"), program("l7mpctl"));
    let pod = Pod::new();
    let socket = pod.proxy.socket.clone();
    let admin = AdminSocket::new(&socket);
    let mut running = start(&proxy, &socket);
    let mut operator = pod.operator().await;
    let agent = pod.agent(operator.address);
    let (_, sender) = operator.connected().await;
    let port = free_port();
    sender.try_send(configuration(1, port)).unwrap();
    operator.applied(version(1)).await;
    pod.checks(0).await;
    let first = admin.info().await.unwrap();
    assert_eq!(first.config_version, 1);

    let explain = || {
        let ran = Command::new(&ctl).arg("--socket").arg(&socket).arg("explain").output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let said = explain();
    for text in ["default/gw", "sent version 1.1", "runs it, as its own version 1", "VirtualService default/in"] {
        assert!(said.contains(text), "{text}: {said}");
    }

    // Somebody has the port: the proxy says so, and goes on.
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    sender.try_send(configuration(2, taken.local_addr().unwrap().port())).unwrap();
    let report = loop {
        match operator.report().await {
            Report::Trouble(_) => {}
            report => break report,
        }
    };
    let Report::Refused { errors, .. } = report else { panic!("{report:?}") };
    assert!(errors[0].path.starts_with("listeners[0]"), "{errors:?}");

    // Without an operator, too, the proxy gets back what it had.
    drop(operator);
    running.kill().await.unwrap();
    let _running = start(&proxy, &socket);
    soon("the restarted proxy has it", async {
        loop {
            match admin.info().await {
                Ok(info) if info.instance != first.instance && info.config_version > 0 => return,
                _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    })
    .await;
    assert!(explain().contains("runs it, as its own version 1"));
    let saved = std::fs::read_to_string(pod.file("saved.json")).unwrap();
    assert!(saved.contains(&config(port).to_value().to_string()), "{saved}");
    let (all, anonymous) = agent.memory();
    println!("the agent has {all} KiB resident, {anonymous} KiB of them not of files");
    assert!(anonymous <= 10 << 10, "{anonymous} KiB");
}
