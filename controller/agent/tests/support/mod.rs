//! A proxy and an operator of paper, and the real agent between them.
#![allow(dead_code)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use l7mp_api::status::{Applied, ConfigSource, Draining, Errors, Info};
use l7mp_api::{Config, Problem};
use l7mp_link::certificates::{Lifetimes, Material, server_config};
use l7mp_link::server::{
    Authority, BoxFuture, Counters, Denied, FromAgent, Identity, Leadership, Reason, Sender, Server, Timing,
};
use l7mp_link::{Configuration, Origin, Report, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The longest that a test waits for what must happen.
pub const DEADLINE: Duration = Duration::from_secs(30);
const NAME: &str = "localhost";

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Waits until it is so.
pub async fn until(what: &str, so: impl Fn() -> bool) {
    soon(what, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What the proxy of paper has seen and says.
#[derive(Default)]
pub struct Seen {
    pub instance: String,
    pub version: u64,
    pub config: Config,
    pub puts: usize,
    pub draining: bool,
    pub failing: Vec<Problem>,
}

/// A proxy of paper: refuses a listener on port 666.
#[derive(Clone)]
pub struct Proxy {
    pub socket: PathBuf,
    pub seen: Arc<Mutex<Seen>>,
}

impl Proxy {
    pub fn new(socket: &Path) -> Proxy {
        Proxy { socket: socket.to_owned(), seen: Arc::default() }
    }

    /// Starts a process: a new instance without a configuration. It ends with the value.
    pub fn start(&self, instance: &str) -> Running {
        let _ = std::fs::remove_file(&self.socket);
        let puts = self.seen.lock().unwrap().puts;
        *self.seen.lock().unwrap() = Seen { instance: instance.to_owned(), puts, ..Seen::default() };
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (proxy, socket) = (self.clone(), self.socket.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let proxy = proxy.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let proxy = proxy.clone();
                        async move { Ok::<_, Infallible>(proxy.answer(request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Running { task, socket }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut seen = self.seen.lock().unwrap();
        let (status, body) = match (method, path.as_str()) {
            (Method::GET, "/api/v1/info") => (StatusCode::OK, serde_json::to_vec(&info(&seen)).unwrap()),
            (Method::PUT, "/api/v1/config") => put(&mut seen, &body),
            (Method::POST, "/api/v1/drain") => {
                seen.draining = true;
                (StatusCode::OK, serde_json::to_vec(&Draining { sessions: 0 }).unwrap())
            }
            _ => (StatusCode::NOT_FOUND, Vec::new()),
        };
        Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap()
    }

    /// Waits until the proxy has the configuration of this port.
    pub async fn wait(&self, port: u16) {
        until(&format!("the proxy has port {port}"), || self.seen.lock().unwrap().config == config(port)).await;
    }
}

fn info(seen: &Seen) -> Info {
    Info {
        version: "0".to_owned(),
        instance: seen.instance.clone(),
        config_version: seen.version,
        config_source: ConfigSource::Api,
        kernel: String::new(),
        features: Vec::new(),
        workers: 1,
        limits: Default::default(),
        draining: seen.draining,
        pid: 1,
        uptime_seconds: 0,
        sessions: 0,
        failing: seen.failing.clone(),
    }
}

fn put(seen: &mut Seen, body: &[u8]) -> (StatusCode, Vec<u8>) {
    seen.puts += 1;
    let config = Config::read(std::str::from_utf8(body).unwrap()).unwrap();
    if config == self::config(666) {
        let errors = vec![Problem::new("listeners[0].spec.UDP.port", "666 is taken")];
        return (StatusCode::UNPROCESSABLE_ENTITY, serde_json::to_vec(&Errors { errors }).unwrap());
    }
    let changed = seen.version == 0 || seen.config != config;
    seen.version += u64::from(changed);
    seen.config = config;
    let applied = Applied { version: seen.version, changed, warnings: Vec::new() };
    (StatusCode::OK, serde_json::to_vec(&applied).unwrap())
}

/// A proxy's process; dropped, it is gone, and its socket too.
pub struct Running {
    task: JoinHandle<()>,
    socket: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// One listener on this port.
pub fn config(port: u16) -> Config {
    let text =
        format!("listeners: [{{name: in, spec: {{UDP: {{port: {port}}}}}, rules: [{{action: {{refuse: nothing}}}}]}}]");
    Config::read(&text).unwrap()
}

pub fn version(sequence: u64) -> Version {
    Version { epoch: 5, term: 1, sequence }
}

pub fn configuration(sequence: u64, port: u16) -> Configuration {
    let origin = Origin {
        path: "listeners[0]".to_owned(),
        object: "VirtualService default/in".to_owned(),
        at: "spec.listener".to_owned(),
    };
    Configuration { version: version(sequence), config: Arc::new(config(port)), origins: vec![origin], drain: false }
}

/// A token of this pod; the number makes it another one.
pub fn token(pod: &str, number: u32) -> String {
    let payload = format!(
        r#"{{"jti":"{number}","kubernetes.io":{{"namespace":"default","pod":{{"name":"{pod}","uid":"uid-{pod}"}}}}}}"#
    );
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
}

/// An authority of paper.
#[derive(Default)]
pub struct Paper {
    pub tokens: Mutex<HashMap<String, Result<Identity, Denied>>>,
    pub reviewed: Mutex<Vec<String>>,
}

impl Paper {
    pub fn accept(&self, token: &str, pod: &str) {
        let uid = format!("uid-{pod}");
        let identity = Identity { namespace: "default".to_owned(), pod: pod.to_owned(), uid, expires: None };
        self.tokens.lock().unwrap().insert(token.to_owned(), Ok(identity));
    }
}

impl Authority for Paper {
    fn review(&self, token: String, _: IpAddr) -> BoxFuture<'_, Result<Identity, Denied>> {
        let invalid = Err(Denied::Refused { reason: Reason::Invalid, message: "nobody signed it".to_owned() });
        let answer = self.tokens.lock().unwrap().get(&token).cloned().unwrap_or(invalid);
        self.reviewed.lock().unwrap().push(token);
        Box::pin(async move { answer })
    }
}

/// An operator of paper around the real server; its process ends with the value.
pub struct Operator {
    pub address: SocketAddr,
    pub events: mpsc::Receiver<FromAgent>,
    pub leadership: watch::Sender<Leadership>,
    pub tls: watch::Sender<Arc<rustls::ServerConfig>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Operator {
    pub async fn start(address: Option<SocketAddr>, paper: &Arc<Paper>, material: &Material) -> Operator {
        let timing =
            Timing { review_pauses: (Duration::from_millis(10), Duration::from_millis(10)), ..Timing::default() };
        let (tls, on_tls) = watch::channel(server_config(&material.serving).unwrap());
        let (leadership, on_leadership) = watch::channel(Leadership::Here { term: 1 });
        let (sender, events) = mpsc::channel(64);
        let wanted = address.unwrap_or(([127, 0, 0, 1], 0).into());
        // The one before may be ending still.
        let listener = soon("the address is free", async {
            loop {
                match TcpListener::bind(wanted).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await;
        let address = listener.local_addr().unwrap();
        let server = Server {
            tls: on_tls,
            authority: Arc::clone(paper) as Arc<dyn Authority>,
            leadership: on_leadership,
            events: sender,
            counters: Arc::new(Counters::default()),
            timing,
        };
        let server = tokio::spawn(server.serve(listener));
        Operator { address, events, leadership, tls, server }
    }

    pub async fn connected(&mut self) -> (Option<Version>, Sender) {
        loop {
            match soon("an agent connects", self.events.recv()).await.unwrap() {
                FromAgent::Connected { holds, sender, .. } => return (holds, sender),
                FromAgent::Disconnected { .. } | FromAgent::Report { .. } => {}
            }
        }
    }

    pub async fn report(&mut self) -> Report {
        match soon("an agent reports", self.events.recv()).await.unwrap() {
            FromAgent::Report { report, .. } => report,
            other => panic!("{other:?}"),
        }
    }

    /// Until the agent says that its proxy has adopted this.
    pub async fn applied(&mut self, wanted: Version) {
        loop {
            if matches!(self.report().await, Report::Applied { version, .. } if version == wanted) {
                return;
            }
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A pod: a directory with all that an agent needs.
pub struct Pod {
    pub directory: tempfile::TempDir,
    pub proxy: Proxy,
    pub paper: Arc<Paper>,
    pub material: Material,
    pub http: SocketAddr,
}

impl Pod {
    /// A pod whose token is good and whose CA is that of `material`.
    pub fn new() -> Pod {
        let directory = tempfile::tempdir().unwrap();
        let proxy = Proxy::new(&directory.path().join("admin.sock"));
        let material = material();
        // Free now; whoever takes it meanwhile makes the agent say so.
        let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let pod = Pod { directory, proxy, paper: Arc::default(), material, http };
        pod.paper.accept(&token("gw", 0), "gw");
        pod.write("token", &token("gw", 0));
        pod.write("ca.crt", &pod.material.bundle());
        pod
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As the kubelet writes: beside, then renamed.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file("beside"), text).unwrap();
        std::fs::rename(self.file("beside"), self.file(name)).unwrap();
    }

    /// The real agent.
    pub fn agent(&self, operator: SocketAddr) -> Agent {
        let log = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(self.file("log")).unwrap();
        let child = self.command(operator).stderr(Stdio::from(log)).kill_on_drop(true).spawn().unwrap();
        Agent { child }
    }

    fn command(&self, operator: SocketAddr) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_l7mp-agent"));
        command
            .env("RUST_LOG", "debug")
            .env("L7MP_ADMIN_SOCKET", &self.proxy.socket)
            .arg("--operator")
            .arg(format!("{NAME}:{}", operator.port()))
            .arg("--saved")
            .arg(self.file("saved.json"))
            .arg("--token")
            .arg(self.file("token"))
            .arg("--ca")
            .arg(self.file("ca.crt"))
            .arg("--http")
            .arg(self.http.to_string())
            .stdin(Stdio::null());
        command
    }

    pub async fn operator(&self) -> Operator {
        Operator::start(None, &self.paper, &self.material).await
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Waits for a line of the agent's log.
    pub async fn says(&self, text: &str) {
        let so = async {
            while !self.log().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, so).await.is_err() {
            panic!("{text:?} was not said:\n{}", self.log());
        }
    }

    /// `l7mp-agent check`
    pub async fn check(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_l7mp-agent"));
        command.arg("check").arg("--http").arg(self.http.to_string()).output().await.unwrap()
    }

    /// What the agent shows at `/metrics`; empty when it does not answer.
    pub async fn metrics(&self) -> String {
        let Ok(mut stream) = TcpStream::connect(self.http).await else { return String::new() };
        let mut text = String::new();
        let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        if asked.is_err() || stream.read_to_string(&mut text).await.is_err() {
            return String::new();
        }
        text
    }

    /// Waits until the agent's metrics have this line, without its prefix.
    pub async fn shows(&self, line: &str) {
        let wanted = format!("\nl7mp_agent_{line}\n");
        soon(&format!("the metrics show {line}"), async {
            while !self.metrics().await.contains(&wanted) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Waits until `l7mp-agent check` ends with this code.
    pub async fn checks(&self, code: i32) {
        soon(&format!("check ends with {code}"), async {
            while self.check().await.status.code() != Some(code) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// A CA and a certificate for the agent's operator.
pub fn material() -> Material {
    Material::create(&[NAME.to_owned()], SystemTime::now(), &Lifetimes::default()).unwrap()
}

/// The real agent's process; it is killed when dropped.
pub struct Agent {
    pub child: Child,
}

impl Agent {
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Resident memory in KiB: all of it, and what is not of files.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("VmRSS:"), field("RssAnon:"))
    }
}
