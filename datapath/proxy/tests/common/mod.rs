//! A real proxy for a test: its own directory, its own ports, its admin socket spoken to by hand.
#![allow(dead_code)] // each test file uses its own part of this

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A number from the environment: how large a test is.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// A running `l7mp-proxy`; killed when dropped.
pub struct Proxy {
    child: Child,
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    /// As whom it runs, and its program; `None`: as the test does.
    user: Option<(u32, PathBuf)>,
}

/// What the admin API answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

impl Proxy {
    /// Starts a proxy with this document and waits until it has adopted it. Listeners without an address are on
    /// 127.0.0.1, and Unix paths live in the test's directory.
    pub fn start(config: &str) -> Proxy {
        Proxy::start_with(config, &["--workers", "1"])
    }

    /// The same with further arguments.
    pub fn start_with(config: &str, arguments: &[&str]) -> Proxy {
        Proxy::start_in(new_directory(config), true, arguments, None)
    }

    /// As this user and group, which only root can do.
    pub fn start_as(user: u32, config: &str) -> Proxy {
        let directory = new_directory(config);
        // The program's own directory may be closed to that user.
        let program = directory.path().join("l7mp-proxy");
        std::fs::copy(env!("CARGO_BIN_EXE_l7mp-proxy"), &program).expect("the program is copied");
        for path in [directory.path(), &directory.path().join("root")] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).expect("root gives directories away");
        }
        Proxy::start_in(directory, true, &["--workers", "1"], Some((user, program)))
    }

    /// Unix paths live where they say.
    pub fn start_without_root(config: &str) -> Proxy {
        Proxy::start_in(new_directory(config), false, &["--workers", "1"], None)
    }

    fn start_in(directory: tempfile::TempDir, rooted: bool, arguments: &[&str], user: Option<(u32, PathBuf)>) -> Proxy {
        let place = |name: &str| directory.path().join(name).to_str().expect("a path").to_owned();
        let mut all = vec!["--bind".to_owned(), "127.0.0.1".to_owned(), "--config".to_owned(), place("config.yaml")];
        all.extend(["--admin-socket".to_owned(), place("admin/admin.sock")]);
        if rooted {
            all.extend(["--unix-root".to_owned(), place("root")]);
        }
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let child = spawn(&directory, &all, user.as_ref());
        let mut proxy = Proxy { child, directory, arguments: all, user };
        proxy.wait_until_ready();
        proxy
    }

    fn wait_until_ready(&mut self) {
        self.wait_until("the proxy is ready", |proxy| proxy.try_get("/readyz").is_some_and(|a| a.status == 200));
    }

    /// `kill -9`, and the same proxy again at once.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().expect("the proxy is ours");
        self.child.wait().expect("the proxy is ours");
        self.child = spawn(&self.directory, &self.arguments, self.user.as_ref());
        self.wait_until_ready();
    }

    /// The directory under which the configuration's Unix paths live.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// What the proxy printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that it has touched, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the proxy runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.directory.path().join("admin/admin.sock")
    }

    /// The file that `--config` names.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    /// Sends a signal by its number.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for the process to end; its exit code (`None`: a signal).
    pub fn wait_exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the proxy is ours") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the proxy does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for a condition, and says what the proxy printed when it does not come.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&Proxy) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            if let Some(status) = self.child.try_wait().expect("the proxy is ours") {
                panic!("waiting until {what}: the proxy ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "waiting until {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn request(&self, method: &str, path: &str, body: &str) -> Answer {
        self.try_request(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    fn try_get(&self, path: &str) -> Option<Answer> {
        self.try_request("GET", path, "").ok()
    }

    /// With further headers, each with its line end.
    pub fn request_with(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.exchange(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_request(&self, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
        self.exchange(method, path, "", body)
    }

    fn exchange(&self, method: &str, path: &str, headers: &str, body: &str) -> std::io::Result<Answer> {
        let mut stream = UnixStream::connect(self.admin_socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: l7mp\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Answer { status: status.ok_or(std::io::ErrorKind::InvalidData)?, body: body.to_owned() })
    }

    /// Adopts a document and answers what the proxy said of it.
    pub fn put(&self, config: &str) -> Value {
        let answer = self.request("PUT", "/api/v1/config", config);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// Where a listener is bound.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let answer = self.get(&format!("/api/v1/listeners/{listener}")).json();
        let address = answer["status"]["address"].as_str().unwrap_or_else(|| panic!("no address in {answer}"));
        address.parse().expect("an address")
    }

    /// Where every listener is bound that has an Internet address, by name.
    pub fn addresses(&self) -> HashMap<String, SocketAddr> {
        let listeners = self.get("/api/v1/listeners").json();
        let bound = listeners.as_array().expect("a list").iter().filter_map(|listener| {
            let address = listener["status"]["address"].as_str()?.parse().ok()?;
            Some((listener["name"].as_str()?.to_owned(), address))
        });
        bound.collect()
    }

    /// The sum of all samples of a metric whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> u64 {
        let text = self.get("/metrics").body;
        let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        let exact = samples.filter(|line| line[name.len()..].starts_with(['{', ' ']));
        exact.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    /// Messages dropped, by every reason there is.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let text = self.get("/metrics").body;
        let samples = text.lines().filter_map(|line| line.strip_prefix("l7mp_messages_dropped_total{reason=\""));
        let split = samples.filter_map(|sample| sample.split_once("\"} "));
        split.map(|(reason, count)| (reason.to_owned(), count.parse::<f64>().expect("a count") as u64)).collect()
    }

    /// Messages dropped for a reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.metric("l7mp_messages_dropped_total", &format!("reason=\"{reason}\""))
    }
}

/// The directory of a proxy, with its document.
fn new_directory(config: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("config.yaml"), config).expect("the document is written");
    std::fs::create_dir(directory.path().join("root")).expect("a root");
    directory
}

fn spawn(directory: &tempfile::TempDir, arguments: &[String], user: Option<&(u32, PathBuf)>) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(directory.path().join("log")).expect("a log");
    let own = Path::new(env!("CARGO_BIN_EXE_l7mp-proxy"));
    let mut command = Command::new(user.map_or(own, |(_, program)| program));
    if let Some((user, _)) = user {
        // Giving up root's user gives up its groups too.
        command.uid(*user).gid(*user);
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("the proxy starts")
}

/// Runs a command that is to end by itself; its exit code (`None`: a signal) and what it printed.
pub fn run_to_end(command: &mut Command) -> (Option<i32>, String) {
    let log = tempfile::NamedTempFile::new().expect("a log");
    let output = || log.reopen().expect("a log");
    let mut child = command.stdin(Stdio::null()).stdout(output()).stderr(output()).spawn().expect("the command runs");
    let deadline = Instant::now() + PATIENCE;
    let printed = || std::fs::read_to_string(log.path()).unwrap_or_default();
    loop {
        if let Some(status) = child.try_wait().expect("the command is ours") {
            return (status.code(), printed());
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} does not end:\n{}", printed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Looks until there is something to see.
pub fn within<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "it did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the proxy printed:\n{}", self.log());
        }
    }
}
