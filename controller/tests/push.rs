//! The pusher against a proxy's admin socket: a small server that keeps what it was told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use l7mp_admin::AdminSocket;
use l7mp_api::config::ListenerSpec;
use l7mp_api::status::{Applied, ConfigSource, Errors, Info};
use l7mp_api::{Config, Problem};
use l7mp_compiler::held::Pauses;
use l7mp_compiler::manifest;
use l7mp_compiler::world::World;
use l7mp_controller::push::{Pusher, Timing};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The longest that a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// What the fake proxy has seen and says.
#[derive(Default)]
struct State {
    instance: String,
    version: u64,
    config: Config,
    /// Every document that was PUT, refused ones too.
    put: Vec<Config>,
    /// Listeners that are refused, by name: a path below the listener, and a message.
    refuse: Vec<(String, &'static str)>,
    /// Answers to the next PUTs instead of the usual.
    fail: VecDeque<(StatusCode, &'static str)>,
    infos: usize,
}

#[derive(Clone)]
struct Proxy {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
}

impl Proxy {
    fn new(path: &Path) -> Proxy {
        Proxy { path: path.to_owned(), state: Arc::default(), changed: Arc::new(watch::channel(()).0) }
    }

    /// Starts a process: a new instance without a configuration.
    fn start(&self, instance: &str) -> JoinHandle<()> {
        let _ = std::fs::remove_file(&self.path);
        {
            let mut state = self.state.lock().unwrap();
            (state.instance, state.version, state.config) = (instance.to_owned(), 0, Config::default());
        }
        let listener = UnixListener::bind(&self.path).unwrap();
        let proxy = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let proxy = proxy.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let proxy = proxy.clone();
                        async move { proxy.answer(request).await }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (status, body) = match (method, path.as_str()) {
            (Method::GET, "/api/v1/info") => (StatusCode::OK, serde_json::to_vec(&self.info()).unwrap()),
            (Method::PUT, "/api/v1/config") => self.put(&body),
            _ => (StatusCode::NOT_FOUND, Vec::new()),
        };
        self.changed.send_replace(());
        Ok(Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap())
    }

    fn info(&self) -> Info {
        let mut state = self.state.lock().unwrap();
        state.infos += 1;
        Info {
            version: "0".to_owned(),
            instance: state.instance.clone(),
            config_version: state.version,
            config_source: ConfigSource::Api,
            kernel: String::new(),
            features: Vec::new(),
            workers: 1,
            limits: Default::default(),
            draining: false,
            pid: 1,
            uptime_seconds: 0,
            sessions: 0,
            failing: Vec::new(),
        }
    }

    fn put(&self, body: &[u8]) -> (StatusCode, Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        let config = Config::read(std::str::from_utf8(body).unwrap()).unwrap();
        state.put.push(config.clone());
        if let Some((status, body)) = state.fail.pop_front() {
            return (status, body.as_bytes().to_vec());
        }
        let mut errors = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            for (_, message) in state.refuse.iter().filter(|(name, _)| *name == listener.name) {
                errors.push(Problem::new(format!("listeners[{index}].spec.UDP.port"), *message));
            }
        }
        if !errors.is_empty() {
            return (StatusCode::UNPROCESSABLE_ENTITY, serde_json::to_vec(&Errors { errors }).unwrap());
        }
        let changed = state.version == 0 || state.config != config;
        state.version += u64::from(changed);
        state.config = config;
        let applied = Applied { version: state.version, changed, warnings: Vec::new() };
        (StatusCode::OK, serde_json::to_vec(&applied).unwrap())
    }

    /// Waits until the state is as wanted.
    async fn wait(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let met = async {
            while !wanted(&self.state.lock().unwrap()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(DEADLINE, met).await.is_err() {
            let state = self.state.lock().unwrap();
            panic!("{what}: not within {DEADLINE:?}; now {:?}, puts {:?}", names(&state.config), state.put.len());
        }
    }
}

fn names(config: &Config) -> Vec<&str> {
    config.listeners.iter().map(|listener| listener.name.strip_prefix("default/").unwrap()).collect()
}

/// A world with one pod and listeners `name:port`.
fn world(listeners: &[(&str, u16)]) -> Arc<World> {
    let mut text = "apiVersion: v1\nkind: Pod\nmetadata: {name: gw}\nstatus: {podIP: 10.0.0.1}\n".to_owned();
    for (name, port) in listeners {
        text.push_str(&format!(
            "---\napiVersion: l7mp.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n\
             spec: {{selector: {{}}, listener: {{spec: {{UDP: {{port: {port}}}}}, rules: [{{action: {{refuse: x}}}}]}}}}\n"
        ));
    }
    let read = manifest::read(&text);
    assert_eq!(read.faults, []);
    let mut world = World::default();
    world.reset("test", read.objects);
    Arc::new(world)
}

fn quick() -> Timing {
    let ms = Duration::from_millis;
    Timing { poll: ms(5), retry: Pauses { first: ms(2), max: ms(20) }, hold: Pauses { first: ms(20), max: ms(80) } }
}

struct Bench {
    proxy: Proxy,
    worlds: watch::Sender<Arc<World>>,
    _directory: tempfile::TempDir,
}

/// A pusher at a proxy that does not run yet.
fn bench(first: Arc<World>) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(&directory.path().join("admin.sock"));
    let (worlds, receiver) = watch::channel(first);
    let pusher = Pusher::new("default/gw".parse().unwrap(), AdminSocket::new(&proxy.path), receiver, quick());
    tokio::spawn(pusher.run());
    Bench { proxy, worlds, _directory: directory }
}

#[tokio::test]
async fn a_change_is_pushed_once_and_an_unchanged_proxy_is_left_alone() {
    let bench = bench(world(&[("a", 1)]));
    bench.proxy.start("one");
    bench.proxy.wait("first push", |state| names(&state.config) == ["a"]).await;
    bench.worlds.send_replace(world(&[("a", 1), ("b", 2)]));
    bench.proxy.wait("second push", |state| names(&state.config) == ["a", "b"]).await;
    // The same objects once more, as another value.
    bench.worlds.send_replace(world(&[("a", 1), ("b", 2)]));
    let seen = bench.proxy.state.lock().unwrap().infos;
    bench.proxy.wait("more looks", |state| state.infos > seen + 5).await;
    assert_eq!(bench.proxy.state.lock().unwrap().put.len(), 2);
}

#[tokio::test]
async fn a_proxy_that_is_not_there_yet_gets_its_configuration_when_it_comes() {
    let bench = bench(world(&[("a", 1)]));
    let admin = AdminSocket::new(&bench.proxy.path);
    assert!(admin.info().await.unwrap_err().to_string().contains("no proxy answers at"));
    bench.proxy.start("one");
    bench.proxy.wait("push", |state| names(&state.config) == ["a"]).await;
}

#[tokio::test]
async fn a_restarted_proxy_gets_its_configuration_again() {
    let bench = bench(world(&[("a", 1)]));
    let first = bench.proxy.start("one");
    bench.proxy.wait("first push", |state| state.version == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    bench.proxy.start("two");
    bench.proxy.wait("push after the restart", |state| state.instance == "two" && names(&state.config) == ["a"]).await;
}

#[tokio::test]
async fn the_configuration_of_another_hand_is_replaced() {
    let bench = bench(world(&[("a", 1)]));
    bench.proxy.start("one");
    bench.proxy.wait("first push", |state| state.version == 1).await;
    {
        let mut state = bench.proxy.state.lock().unwrap();
        (state.version, state.config) = (2, Config::default());
    }
    bench.proxy.wait("push", |state| state.version == 3 && names(&state.config) == ["a"]).await;
}

#[tokio::test]
async fn failures_are_retried_until_the_proxy_acknowledges() {
    let bench = bench(world(&[("a", 1)]));
    bench.proxy.state.lock().unwrap().fail = VecDeque::from([
        (StatusCode::INTERNAL_SERVER_ERROR, "out of order"),
        (StatusCode::UNPROCESSABLE_ENTITY, "not even JSON"),
        (StatusCode::UNPROCESSABLE_ENTITY, r#"{"errors": [{"path": "admin", "message": "comes from no object"}]}"#),
        (StatusCode::UNPROCESSABLE_ENTITY, r#"{"errors": []}"#),
        (StatusCode::OK, "{}"),
    ]);
    bench.proxy.start("one");
    bench.proxy.wait("push", |state| names(&state.config) == ["a"]).await;
    assert_eq!(bench.proxy.state.lock().unwrap().put.len(), 6);
}

#[tokio::test]
async fn a_refused_object_is_taken_out_and_the_rest_is_pushed_at_once() {
    let bench = bench(world(&[("a", 1), ("bad", 2), ("c", 3)]));
    bench.proxy.state.lock().unwrap().refuse = vec![("default/bad".to_owned(), "the port is taken")];
    bench.proxy.start("one");
    bench.proxy.wait("the rest", |state| names(&state.config) == ["a", "c"]).await;
    {
        let state = bench.proxy.state.lock().unwrap();
        let puts: Vec<_> = state.put.iter().map(names).collect();
        assert_eq!(puts[..2], [vec!["a", "bad", "c"], vec!["a", "c"]]);
    }
    // Tried again, refused again: nothing else changes meanwhile.
    bench.proxy.wait("two more attempts", |state| state.put.len() >= 4).await;
    assert_eq!(bench.proxy.state.lock().unwrap().version, 1);
    // The port comes free.
    bench.proxy.state.lock().unwrap().refuse.clear();
    bench.proxy.wait("the object", |state| names(&state.config) == ["a", "bad", "c"]).await;
}

#[tokio::test]
async fn a_refused_object_that_is_tried_again_does_not_hold_up_a_change() {
    let bench = bench(world(&[("a", 1), ("bad", 2)]));
    bench.proxy.state.lock().unwrap().refuse = vec![("default/bad".to_owned(), "the port is taken")];
    bench.proxy.start("one");
    bench.proxy.wait("the rest", |state| names(&state.config) == ["a"]).await;
    for round in 1_u16..20 {
        let seen = bench.proxy.state.lock().unwrap().put.len();
        let port = 100 + round;
        bench.worlds.send_replace(world(&[("a", 1), ("bad", 2), ("new", port)]));
        bench.proxy.wait("the change", |state| has_port(&state.config, port)).await;
        let state = bench.proxy.state.lock().unwrap();
        let first = state.put[seen..].iter().find(|config| has_port(config, port)).unwrap();
        assert_eq!(names(first), ["a", "new"], "round {round}");
    }
}

fn has_port(config: &Config, port: u16) -> bool {
    config.listeners.iter().any(|listener| matches!(&listener.spec, ListenerSpec::Udp(udp) if udp.port == port))
}

#[tokio::test]
async fn a_refused_object_that_changes_gets_its_chance_at_once() {
    let bench = bench(world(&[("a", 1), ("bad", 2)]));
    bench.proxy.state.lock().unwrap().refuse =
        vec![("default/bad".to_owned(), "the port is taken"), ("default/bad".to_owned(), "a second fault")];
    bench.proxy.start("one");
    bench.proxy.wait("the rest", |state| names(&state.config) == ["a"]).await;
    bench.proxy.state.lock().unwrap().refuse.clear();
    bench.worlds.send_replace(world(&[("a", 1), ("bad", 22)]));
    bench.proxy.wait("the object", |state| names(&state.config) == ["a", "bad"]).await;
}

#[tokio::test]
async fn everything_refused_leaves_an_empty_configuration() {
    let bench = bench(world(&[("a", 1), ("b", 2)]));
    bench.proxy.state.lock().unwrap().refuse = vec![("default/a".to_owned(), "no"), ("default/b".to_owned(), "no")];
    bench.proxy.start("one");
    bench.proxy.wait("an empty configuration", |state| state.version == 1).await;
    assert_eq!(bench.proxy.state.lock().unwrap().config, Config::default());
}

#[tokio::test]
async fn a_gateway_whose_pod_becomes_unknown_keeps_its_configuration() {
    let bench = bench(world(&[("a", 1)]));
    bench.proxy.start("one");
    bench.proxy.wait("first push", |state| names(&state.config) == ["a"]).await;
    for _ in 0..2 {
        bench.worlds.send_replace(Arc::new(World::default()));
        tokio::time::sleep(10 * quick().poll).await;
    }
    assert_eq!(bench.proxy.state.lock().unwrap().put.len(), 1, "nothing is pushed");
    bench.worlds.send_replace(world(&[("a", 1), ("b", 2)]));
    bench.proxy.wait("the Pod is back", |state| names(&state.config) == ["a", "b"]).await;
    assert_eq!(bench.proxy.state.lock().unwrap().put.len(), 2);
}

#[tokio::test]
async fn a_proxy_whose_pod_was_never_known_is_left_alone_until_it_appears() {
    let bench = bench(Arc::new(World::default()));
    bench.proxy.start("one");
    tokio::time::sleep(10 * quick().poll).await;
    assert_eq!(bench.proxy.state.lock().unwrap().put.len(), 0, "nothing is pushed");
    bench.worlds.send_replace(world(&[("a", 1)]));
    bench.proxy.wait("the Pod is there", |state| names(&state.config) == ["a"]).await;
}

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_names_the_proxy_once_a_line_and_an_unknown_pod_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false);
    let _log = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    let bench = bench(Arc::new(World::default()));
    bench.proxy.start("one");
    for _ in 0..3 {
        bench.worlds.send_replace(Arc::new(World::default()));
        tokio::time::sleep(10 * quick().poll).await;
    }
    bench.worlds.send_replace(world(&[("a", 1)]));
    bench.proxy.wait("first push", |state| state.version == 1).await;
    bench.worlds.send_replace(world(&[("a", 2)]));
    bench.proxy.wait("second push", |state| state.version == 2).await;
    let seen = bench.proxy.state.lock().unwrap().infos;
    bench.proxy.wait("a look after it", |state| state.infos > seen).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let expected = [
        "ERROR there is no Pod default/gw, and its Pod object must be among the manifests; nothing is pushed, and \
         its proxy keeps what it has, until it appears",
        "INFO default/gw: its Pod is among the manifests now",
        "INFO default/gw: first look: pushed version 1 (1 listener, 0 clusters)",
        "INFO default/gw: VirtualService default/a changed: pushed version 2 (1 listener, 0 clusters)",
    ];
    assert_eq!(text.lines().map(str::trim).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn once_ends_with_the_acknowledgement() {
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(&directory.path().join("admin.sock"));
    proxy.start("one");
    let (_worlds, receiver) = watch::channel(world(&[("a", 1)]));
    let pusher = Pusher::new("default/gw".parse().unwrap(), AdminSocket::new(&proxy.path), receiver, quick());
    tokio::time::timeout(DEADLINE, pusher.run_once()).await.unwrap();
    assert_eq!(names(&proxy.state.lock().unwrap().config), ["a"]);
}
