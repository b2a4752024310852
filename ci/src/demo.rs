//! `cargo demo`: the first task, shown to a person.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::testbed::client::{Answer, Client};
use crate::testbed::{self, Binaries, Profile, Role, Testbed};

/// What the page of the task types.
const LINES: [&str; 2] = ["This is a test!", "Hurray it's working!"];
/// How long the first answer may take: programs start, and the configuration arrives.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// Options of `cargo demo`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Check the answers, then end
    #[arg(long)]
    once: bool,
    /// UDP port of the gateway, on 127.0.0.1
    #[arg(long, default_value_t = 9001, value_parser = clap::value_parser!(u16).range(1..=65_535))]
    port: u16,
    /// Build without optimisation, which is sooner done
    #[arg(long)]
    debug: bool,
}

/// Runs the demo until Ctrl-C, or once.
pub fn run(options: &Options) -> Result<()> {
    let interrupt = Interrupt::new()?;
    is_free(options.port)?;
    println!("building l7mp-proxy, l7mpctl and l7mp-controller ...");
    let profile = if options.debug { Profile::Debug } else { Profile::Release };
    let binaries = Binaries::find_or_build(profile, std::env::current_exe()?);
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
    if let Err(error) = show(&mut testbed, &interrupt) {
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

/// Ctrl-C, and the other polite ways to end us.
struct Interrupt {
    came: Arc<AtomicBool>,
    arrival: mpsc::Receiver<()>,
}

impl Interrupt {
    fn new() -> Result<Interrupt> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
        let came = Arc::new(AtomicBool::new(false));
        let (arrived, arrival) = mpsc::channel();
        let flag = Arc::clone(&came);
        std::thread::spawn(move || {
            for _ in signals.forever() {
                flag.store(true, Ordering::Relaxed);
                if arrived.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(Interrupt { came, arrival })
    }

    fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<()> {
        if self.came() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits for it, at most for `patience`; whether it came.
    fn wait(&self, patience: Duration) -> bool {
        self.came() || self.arrival.recv_timeout(patience).is_ok()
    }
}
