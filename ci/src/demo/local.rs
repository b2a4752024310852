//! The first task as processes of this machine.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Interrupt, LINES, Options};
use crate::testbed::client::{Answer, Client};
use crate::testbed::{self, Binaries, Role, Testbed};

/// How long the first answer may take: programs start, and the configuration arrives.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// Runs the demo until Ctrl-C, or once.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    is_free(options.port)?;
    println!("building l7mp-proxy, l7mpctl and l7mp-controller ...");
    let binaries = Binaries::find_or_build(options.profile(), std::env::current_exe()?);
    // Ctrl-C goes to cargo too: then the build has failed, but that is not the news.
    interrupt.check()?;
    let binaries = binaries?;
    let mut testbed = Testbed::start(
        &binaries,
        testbed::Options {
            gateway_address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            gateway_port: options.port,
            ..testbed::Options::default()
        },
    )?;
    if let Err(error) = show(&mut testbed, interrupt) {
        if !interrupt.came() {
            eprintln!("{}", testbed.logs(30));
        }
        return Err(error);
    }
    if options.once {
        return Ok(());
    }
    explain(&testbed, &binaries, options.port);
    while !interrupt.wait(Duration::from_secs(1)) {
        testbed.revive(|news| println!("{news}"))?;
        std::io::stdout().flush()?;
    }
    println!("\nstopped");
    Ok(())
}

/// The likeliest failure, said before anything is built.
fn is_free(port: u16) -> Result<()> {
    let taken = || format!("cannot listen on UDP 127.0.0.1:{port}, where another demo may run: take another --port");
    UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map(drop).with_context(taken)
}

/// Sends the lines of the page and prints the answers.
fn show(testbed: &mut Testbed, interrupt: &Interrupt) -> Result<()> {
    testbed.wait_ready(READY_PATIENCE, |_| interrupt.came())?;
    let gateway = testbed.gateway();
    let client = Client::new(gateway)?;
    println!("$ socat - udp4:{gateway}");
    for line in LINES {
        let answer = client.ask(line, READY_PATIENCE, || interrupt.came())?;
        print!("{line}\n{answer}");
        check(testbed, line, &answer)?;
    }
    Ok(std::io::stdout().flush()?)
}

/// Whether an answer is what the page promises: a worker's line, a transcoder's, and nothing else.
fn check(testbed: &Testbed, line: &str, text: &str) -> Result<()> {
    let is_pod = |role, name: &str| testbed.pods_of(role).any(|pod| pod.name == name);
    let as_promised = Answer::parse(text).is_some_and(|answer| {
        answer.line == line && is_pod(Role::Worker, &answer.worker) && is_pod(Role::Transcoder, &answer.transcoder)
    });
    ensure!(as_promised, "the answer to \"{line}\" is not the page's: {text:?}");
    Ok(())
}

fn explain(testbed: &Testbed, binaries: &Binaries, port: u16) {
    println!("\nThe gateway, two transcoders, two workers and the controller are up. Type, in another terminal:\n");
    println!("    socat - udp4:127.0.0.1:{port}");
    println!("\nand a line. To look inside:\n");
    for pod in testbed.pods().iter().filter(|pod| pod.proxy.is_some()) {
        println!("    {} --socket {} top", binaries.ctl.display(), pod.admin_socket.display());
    }
    println!("\nThe controller follows the manifests in\n\n    {}", testbed.manifests().display());
    println!("\nKill what you like: a part that ends is started again, as a kubelet would.");
    println!("Ctrl-C stops everything and leaves nothing behind.");
    let _ = std::io::stdout().flush();
}
