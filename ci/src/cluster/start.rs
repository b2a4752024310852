//! Starting a cluster, step by step.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags};

use super::certificates;
use super::control::{self, Answer, Request};
use super::network::{self, Network};
use super::place::{Lock, Place, Record, cache, started};
use super::programs::Programs;
use super::settings::{self, NODE, PAUSE_IMAGE};
use super::{Part, archive, clean, images, interrupted, needs};

/// How long a part may take until it answers.
const PART_PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// Lines of a log that an error shows.
const TAIL: usize = 15;

/// What the others do not start without.
const FIRST: [Part; 3] = [Part::Etcd, Part::Containerd, Part::ApiServer];
const SECOND: [Part; 5] = [Part::ControllerManager, Part::Scheduler, Part::Kubelet, Part::KubeProxy, Part::Dns];

/// Whoever holds this keeps a cluster alive: its first process ends when it is dropped, or its owner dies.
#[derive(Debug)]
pub struct Hold {
    input: ChildStdin,
    /// Its launcher, which ends when all of it is gone.
    _launcher: Child,
}

impl Hold {
    /// Lets the cluster live on without us.
    pub fn release(mut self) -> Result<()> {
        self.input.write_all(b"stay\n").context("the cluster's first process is gone")
    }
}

/// A cluster that runs, and the hold on it, if it was started here.
pub struct Started {
    /// What is known of it.
    pub record: Record,
    /// Of those that were found running there is none.
    pub hold: Option<Hold>,
}

/// Says what takes how long.
pub struct Steps(Instant);

impl Steps {
    /// Begins now.
    pub fn begin() -> Steps {
        Steps(Instant::now())
    }

    /// A step is done.
    pub fn done(&mut self, what: &str) {
        eprintln!("  {what}: {:.1} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// Starts the cluster, or what of it does not run. The caller has its lock.
pub fn up(place: &Place, programs: &Programs) -> Result<Started> {
    if let Some(record) = place.running() {
        revive(place, &record)?;
        if record.programs != programs.directory {
            eprintln!("cluster {} runs {}: `down` and `up` change that", place.name, record.programs.display());
        }
        return Ok(Started { record, hold: None });
    }
    clean::remains(place).context("cannot remove what an earlier cluster has left")?;
    network::check_link(place)?;
    eprintln!("starting cluster {}", place.name);
    match start(place, programs) {
        Ok(started) => Ok(started),
        Err(error) => {
            if let Err(second) = clean::down(place) {
                eprintln!("cannot take down what was started: {second:#}");
            }
            Err(error)
        }
    }
}

fn start(place: &Place, programs: &Programs) -> Result<Started> {
    let mut steps = Steps::begin();
    let directory = &place.directory;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let (record, hold) = namespaces(place, programs)?;
    let network = Network(record.network);
    steps.done(&format!("namespaces, link {} to {}", place.link(), network.all()));
    certificates::make(directory, network)?;
    settings::write(place, network, snapshotter(directory)?)?;
    clean::make_cgroups(&place.cgroup())?;
    steps.done("certificates, settings");
    let cluster = Waiting { place, programs, network };
    cluster.start(&FIRST)?;
    pause(place, programs)?;
    steps.done("etcd, containerd, API server");
    cluster.start(&SECOND)?;
    steps.done("controllers, kubelet, proxy, DNS: the node is ready");
    Ok(Started { record, hold: Some(hold) })
}

/// Starts the first process, and gives its network a way out.
fn namespaces(place: &Place, programs: &Programs) -> Result<(Record, Hold)> {
    fs::create_dir_all(place.file("log"))?;
    let log = File::create(place.log("node"))?;
    let mut command = Command::new(needs::path("setsid"));
    command.arg(needs::path("unshare"));
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private", "--"]);
    command.arg(tool()?).arg("cluster-node").arg("--directory").arg(&place.directory);
    command.arg("--cgroup").arg(place.cgroup()).arg("--programs").arg(&programs.directory);
    command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    let mut launcher = command.spawn().context("cannot run setsid")?;
    let input = launcher.stdin.take().context("no input")?;
    let deadline = Instant::now() + PART_PATIENCE;
    let pid = loop {
        if let Ok((_, pid)) = control::ask(&place.directory, &Request::Status) {
            break pid;
        }
        if let Some(status) = launcher.try_wait()? {
            bail!("the cluster's namespaces cannot be made ({status}); {}", place.log_tail("node", TAIL));
        }
        ensure!(Instant::now() < deadline, "waited {PART_PATIENCE:?} for the cluster's first process");
        interrupted()?;
        std::thread::sleep(POLL);
    };
    let hold = Hold { input, _launcher: launcher };
    let started = started(pid).context("the cluster's first process is gone")?;
    // Two clusters that start at once must not pick the same network.
    let _lock = Lock::take(&cache()?.join("run/network.lock"), "the choice of a network")?;
    let network = Network::free()?;
    let record = Record { network: network.0, pid, started, programs: programs.directory.clone() };
    place.write_record(&record)?;
    network::connect(place, network, pid)?;
    Ok((record, hold))
}

/// `l7mp-ci`: we, or beside the test that we are.
fn tool() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    if own.file_stem().is_some_and(|name| name == "l7mp-ci") {
        return Ok(own);
    }
    let directories = own.ancestors().skip(1).take(2);
    let found = directories.map(|directory| directory.join("l7mp-ci")).find(|tool| tool.exists());
    found.with_context(|| format!("no l7mp-ci beside {}: `cargo build -p l7mp-ci`", own.display()))
}

/// How containerd keeps the layers of images: on top of each other where the kernel can, else copied.
fn snapshotter(directory: &Path) -> Result<&'static str> {
    // Seen from here, where the same file system is; it goes at once.
    let try_it = directory.join("overlay");
    let sub = |name: &str| try_it.join(name);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(sub(name))?;
    }
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| sub(name).display().to_string());
    let data = std::ffi::CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}"))?;
    let mounted = rustix::mount::mount("overlay", sub("merged"), "overlay", MountFlags::empty(), data.as_c_str());
    if mounted.is_ok() {
        rustix::mount::unmount(sub("merged"), UnmountFlags::DETACH)?;
    }
    fs::remove_dir_all(&try_it)?;
    Ok(if mounted.is_ok() { "overlayfs" } else { "native" })
}

/// Starts whatever has ended of a cluster that runs, and waits until all of it answers.
fn revive(place: &Place, record: &Record) -> Result<()> {
    let (Answer { parts, .. }, _) = control::ask(&place.directory, &Request::Status)?;
    for part in Part::ALL {
        match parts.get(part.name()) {
            Some(None) => (),
            Some(Some(how)) => eprintln!("{} had ended ({how}): it is started again", part.name()),
            None => eprintln!("{} was never started: it is now", part.name()),
        }
    }
    let programs = Programs { directory: record.programs.clone() };
    let waiting = Waiting { place, programs: &programs, network: Network(record.network) };
    waiting.start(&FIRST)?;
    waiting.start(&SECOND)
}

/// Starts one part of a cluster that runs, and waits until it answers.
pub fn start_part(place: &Place, record: &Record, part: Part) -> Result<()> {
    let programs = Programs { directory: record.programs.clone() };
    Waiting { place, programs: &programs, network: Network(record.network) }.start(&[part])
}

/// Ends one part with a signal, and waits until it is gone.
pub fn end_part(place: &Place, part: Part, signal: rustix::process::Signal) -> Result<()> {
    let request = Request::Signal { part: part.name().to_owned(), signal: signal.as_raw() };
    control::ask(&place.directory, &request)?;
    let deadline = Instant::now() + PART_PATIENCE;
    loop {
        let (answer, _) = control::ask(&place.directory, &Request::Status)?;
        if answer.parts.get(part.name()).is_none_or(Option::is_some) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} has not ended {PART_PATIENCE:?} after the signal; {}",
            part.name(),
            place.log_tail(part.name(), TAIL)
        );
        std::thread::sleep(POLL);
    }
}

/// The image that every pod needs, so that any other can be run.
fn pause(place: &Place, programs: &Programs) -> Result<()> {
    let mut tree = archive::Tree::default();
    tree.file("pause", fs::read(programs.path("pause")).context("no pause")?, 0o755)?;
    let image = archive::Image { name: PAUSE_IMAGE, entrypoint: &["/pause"], user: "65535:65535", environment: &[] };
    let file = place.file("pause.tar");
    fs::write(&file, image.pack(&tree)?)?;
    images::import(place, programs, &file)
}

/// A cluster that parts are waited for in.
struct Waiting<'a> {
    place: &'a Place,
    programs: &'a Programs,
    network: Network,
}

impl Waiting<'_> {
    /// Starts those of these parts that do not run, and waits until all of them do what they are for.
    fn start(&self, parts: &[Part]) -> Result<()> {
        for part in parts {
            control::ask(&self.place.directory, &Request::Start(part.start(self.network)))
                .with_context(|| format!("cannot start {}", part.name()))?;
        }
        parts.iter().try_for_each(|part| self.part(*part, parts))
    }

    /// Waits until a part does what it is for, or one of those that were started with it has ended.
    fn part(&self, part: Part, with: &[Part]) -> Result<()> {
        let deadline = Instant::now() + PART_PATIENCE;
        while !self.answers(part) {
            interrupted()?;
            let (answer, _) = control::ask(&self.place.directory, &Request::Status)?;
            for name in with.iter().map(|part| part.name()) {
                if let Some(Some(how)) = answer.parts.get(name) {
                    bail!("{name} has ended: {how}; {}", self.place.log_tail(name, TAIL));
                }
            }
            ensure!(
                Instant::now() < deadline,
                "waited {PART_PATIENCE:?} for {}; {}",
                part.name(),
                self.place.log_tail(part.name(), TAIL)
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn answers(&self, part: Part) -> bool {
        match part {
            // Nobody but the API server may speak to it, who need not be there.
            Part::Etcd => !self.runs(Part::ApiServer) || self.answers(Part::ApiServer),
            Part::ApiServer => self.kubectl(&["get", "--raw", "/readyz"]).is_some(),
            Part::Containerd => {
                let socket = self.place.file("containerd.sock");
                let mut ctr = Command::new(self.programs.path("ctr"));
                // One of the services that are there last.
                ctr.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "list", "--quiet"]);
                ctr.stdin(Stdio::null()).stderr(Stdio::null()).output().is_ok_and(|output| output.status.success())
            }
            Part::ControllerManager => self.kubectl(&["get", "serviceaccount", "default"]).is_some(),
            // It has nothing to do before there are pods, and tries again until the API server answers.
            Part::Scheduler => true,
            Part::Kubelet => {
                let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status} {.spec.taints}";
                self.kubectl(&["get", "node", NODE, "-o", path]).is_some_and(|text| text.trim() == "True")
            }
            Part::KubeProxy => healthy(SocketAddr::from((self.network.node(), 10256))).is_some(),
            Part::Dns => resolves(SocketAddr::from((self.network.node(), 53))).is_some(),
        }
    }

    fn runs(&self, part: Part) -> bool {
        let answer = control::ask(&self.place.directory, &Request::Status);
        answer.is_ok_and(|(answer, _)| answer.parts.get(part.name()).is_some_and(Option::is_none))
    }

    fn kubectl(&self, arguments: &[&str]) -> Option<String> {
        let mut kubectl = Command::new(self.programs.path("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.place.file("admin.kubeconfig")).arg("--request-timeout=3s");
        let output = kubectl.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Whether `GET /healthz` is answered with 200.
fn healthy(address: SocketAddr) -> Option<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    answer.split(|byte| *byte == b' ').nth(1).filter(|status| status == b"200").map(drop)
}

/// Whether the API server's own name has an address.
fn resolves(server: SocketAddr) -> Option<()> {
    // RFC 1035 section 4: an id, one question, the name in pieces, type A, class IN.
    let mut query = vec![0x17, 0x0a, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    socket.connect(server).ok()?;
    socket.send(&query).ok()?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    // The code of the answer is the low half of the fourth byte, the number of answers the seventh and eighth.
    let good = length > 12 && answer[..2] == query[..2] && answer[3] & 0xf == 0 && answer[6..8] != [0, 0];
    good.then_some(())
}
