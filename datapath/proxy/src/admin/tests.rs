//! The API as its clients see it: requests over real sockets, with and without a worker behind.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use l7mp_api::limits::DOCUMENT_BYTES_MAX;
use l7mp_api::status::{Applied, ConfigAnswer, ConfigSource, Errors, SessionPage};
use l7mp_forwarder::Identity;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::ledger::{Ledger, Settings};
use crate::worker::{Handle, Worker};

/// An API on a socket of its own.
struct Fixture {
    admin: Admin,
    path: PathBuf,
    _directory: TempDir,
}

/// What came back.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn errors(&self) -> Vec<String> {
        self.json::<Errors>().errors.iter().map(ToString::to_string).collect()
    }
}

/// An API in front of so many workers, for this user or, as a test, for another one.
fn serve(workers: usize, trusted: Option<u32>) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let handles = (0..workers).map(|worker| start(worker, workers)).collect();
    let ledger = Ledger::new(workers, Settings { bind: Some([127, 0, 0, 1].into()), ..Settings::default() });
    let mut admin = Admin::new(Arc::new(Control::new(handles, ledger, "test".to_owned())));
    admin.trusted = trusted.map_or(admin.trusted, |uid| vec![uid]);
    tokio::spawn(admin.clone().serve(bind(&path).unwrap()));
    Fixture { admin, path, _directory: directory }
}

/// A worker on a thread that ends with the test's process.
fn start(worker: usize, workers: usize) -> Handle {
    let (started, start) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let identity = Identity { worker, workers, seed: 1 };
        let (worker, handle) = Worker::new(identity, l7mp_engine::Settings::default()).unwrap();
        started.send(handle).unwrap();
        worker.run()
    });
    start.recv().unwrap()
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Reply {
    stream.write_all(request).await.unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

impl Fixture {
    async fn send(&self, request: &[u8]) -> Reply {
        exchange(UnixStream::connect(&self.path).await.unwrap(), request).await
    }

    /// `line` is a method and a path; `headers` end with CRLF each.
    async fn ask(&self, line: &str, headers: &str, body: &str) -> Reply {
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
        self.send(format!("{head}{body}").as_bytes()).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask(&format!("GET {path}"), "", "").await
    }
}

const CLUSTERS: &str =
    "{clusters: [{name: a/b, spec: {Echo: }}, {name: c, spec: {Discard: }}], routes: [{name: r, destination: c}]}";

#[tokio::test]
async fn a_document_is_put_and_read_back() {
    let fixture = serve(0, None);
    assert_eq!(fixture.get("/readyz").await.status, 503);
    let tried: Applied = fixture.ask("PUT /api/v1/config?dry_run=true", "", CLUSTERS).await.json();
    assert_eq!((tried.version, tried.changed), (0, true));
    let reply = fixture.ask("PUT /api/v1/config", "", CLUSTERS).await;
    assert!(reply.head.contains("etag: \"1\""), "{}", reply.head);
    assert_eq!((reply.json::<Applied>().version, reply.json::<Applied>().changed), (1, true));
    let again: Applied = fixture.ask("PUT /api/v1/config", "If-Match: \"1\"\r\n", CLUSTERS).await.json();
    assert_eq!((again.version, again.changed), (1, false));

    let read = fixture.get("/api/v1/config").await;
    assert!(read.head.contains("etag: \"1\""), "{}", read.head);
    let answer: ConfigAnswer = read.json();
    assert_eq!(answer.config, l7mp_api::Config::read(CLUSTERS).unwrap());
    let info: Info = fixture.get("/api/v1/info").await.json();
    assert_eq!((info.config_version, info.config_source, info.draining), (1, ConfigSource::Api, false));
    assert!(!info.kernel.is_empty() && info.limits["document_bytes"] == DOCUMENT_BYTES_MAX as u64);
    assert_eq!(fixture.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn an_empty_document_makes_the_proxy_ready() {
    let fixture = serve(0, None);
    assert_eq!(fixture.ask("PUT /api/v1/config", "", "{}").await.status, 200);
    assert_eq!(fixture.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn another_version_than_if_match_names_is_not_replaced() {
    let fixture = serve(0, None);
    fixture.ask("PUT /api/v1/config", "", CLUSTERS).await;
    let reply = fixture.ask("PUT /api/v1/config", "If-Match: \"7\"\r\n", "{}").await;
    assert_eq!(reply.status, 412);
    assert_eq!(reply.errors(), ["the adopted version is 1, not 7: read it again before changing it"]);
    assert_eq!(fixture.ask("PUT /api/v1/config", "If-Match: new\r\n", "{}").await.status, 400);
    assert_eq!(fixture.get("/api/v1/config").await.json::<ConfigAnswer>().version, 1);
}

#[tokio::test]
async fn every_error_of_a_document_comes_back() {
    let fixture = serve(0, None);
    let reply = fixture.ask("PUT /api/v1/config", "", "clusters: [{name: a}, {nam: b, spec: {Echo: }}]").await;
    assert_eq!(reply.status, 422);
    assert_eq!(reply.errors().len(), 3, "{:?}", reply.errors());
    assert!(reply.errors()[0].starts_with("clusters[0].spec: "), "{:?}", reply.errors());
    let mut request =
        b"PUT /api/v1/config HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n".to_vec();
    request.extend([b'{', 0xff]);
    let reply = fixture.send(&request).await;
    assert_eq!((reply.status, reply.errors().len()), (422, 1));
    assert!(reply.errors()[0].contains("not UTF-8"), "{:?}", reply.errors());
}

#[tokio::test]
async fn objects_are_found_by_name() {
    let fixture = serve(0, None);
    fixture.ask("PUT /api/v1/config", "", CLUSTERS).await;
    let all: Value = fixture.get("/api/v1/clusters").await.json();
    assert_eq!(all[1], serde_json::json!({"name": "c", "spec": {"Discard": {}}, "status": {"sessions": 0}}));
    for path in ["/api/v1/clusters/a%2Fb", "/api/v1/clusters/a/b"] {
        assert_eq!(fixture.get(path).await.json::<Value>()["name"], "a/b");
    }
    let route: Value = fixture.get("/api/v1/routes/r").await.json();
    assert_eq!(route, serde_json::json!({"name": "r", "destination": "c"}));
    let reply = fixture.get("/api/v1/rulelists/x").await;
    assert_eq!((reply.status, reply.errors()), (404, vec![r#"no rule list "x""#.to_owned()]));
    assert_eq!(fixture.get("/api/v1/rules").await.body, "[]\n");
}

#[tokio::test]
async fn wrong_requests_hear_what_is_wrong() {
    let fixture = serve(0, None);
    let table = [
        ("GET /api/v1/nothing", 404, "nothing is at /api/v1/nothing"),
        ("DELETE /api/v1/config", 405, "DELETE is not allowed on /api/v1/config: GET, HEAD, PUT"),
        ("GET /api/v1/drain", 405, "GET is not allowed on /api/v1/drain: POST"),
        ("PUT /api/v1/config?dryrun=true", 400, r#"unknown parameter "dryrun": known are dry_run"#),
        ("GET /api/v1/sessions?limit=0", 400, "limit is a number between 1 and 1000"),
        ("GET /api/v1/sessions?cursor=x", 400, "cursor is what the page before ended with"),
        ("GET /api/v1/sessions/none", 404, r#"no session "none""#),
        ("DELETE /api/v1/sessions/none", 404, r#"no session "none""#),
    ];
    for (line, status, message) in table {
        let reply = fixture.ask(line, "", "").await;
        assert_eq!((reply.status, reply.errors()), (status, vec![message.to_owned()]), "{line}");
    }
    let reply = fixture.ask("POST /metrics", "", "").await;
    assert!(reply.status == 405 && reply.head.contains("allow: get, head"), "{}", reply.head);
}

#[tokio::test]
async fn a_body_of_10_mb_is_refused_with_its_reason() {
    let fixture = serve(0, None);
    let body = "x".repeat(10 << 20);
    let reply = fixture.ask("PUT /api/v1/config", "", &body).await;
    assert_eq!((reply.status, reply.errors().len()), (413, 1));
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let head = "PUT /api/v1/config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let reply = fixture.send(format!("{head}{chunk}").as_bytes()).await;
    assert_eq!(reply.status, 413);
    assert!(reply.errors()[0].contains("8388608 bytes"), "{:?}", reply.errors());
    let head = format!("{}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", &head[..38], body.len());
    let reply = fixture.send(head.as_bytes()).await;
    assert_eq!(reply.status, 413, "without waiting for a body that was not sent");
}

#[tokio::test]
async fn another_user_is_refused() {
    let fixture = serve(0, Some(u32::MAX));
    let reply = fixture.send(b"GET /api/v1/info HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(reply.status, 403);
    assert!(reply.head.contains("connection: close") && reply.errors().len() == 1, "{}", reply.head);
    fixture.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(metrics::of(&fixture.admin.control).await.contains("\nl7mp_admin_refused_total 2\n"));
}

#[tokio::test]
async fn who_is_answered_is_not_counted_as_refused() {
    let fixture = serve(0, None);
    fixture.get("/nothing").await;
    let metrics = fixture.get("/metrics").await.body;
    assert!(metrics.contains("\nl7mp_admin_refused_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn draining_ends_readiness() {
    let fixture = serve(0, None);
    fixture.ask("PUT /api/v1/config", "", "{}").await;
    let draining: Draining = fixture.ask("POST /api/v1/drain", "", "").await.json();
    assert_eq!(draining.sessions, 0);
    let reply = fixture.get("/readyz").await;
    assert_eq!((reply.status, reply.body.as_str()), (503, "draining\n"));
    assert!(fixture.get("/api/v1/info").await.json::<Info>().draining);
    assert_eq!(fixture.get("/healthz").await.body, "ok\n");
}

#[tokio::test]
async fn tcp_serves_metrics_health_and_readiness_only() {
    let fixture = serve(0, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(fixture.admin.clone().serve_http(listener));
    let ask = async |line: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
        exchange(TcpStream::connect(address).await.unwrap(), request.as_bytes()).await
    };
    let metrics = ask("GET /metrics").await;
    assert!(metrics.status == 200 && metrics.head.contains("version=0.0.4"), "{}", metrics.head);
    assert!(metrics.body.contains("\nl7mp_config_version 0\n"), "{}", metrics.body);
    assert_eq!(ask("GET /healthz").await.status, 200);
    assert_eq!(ask("GET /readyz").await.body, "no configuration is adopted yet\n");
    assert_eq!(ask("GET /api/v1/config").await.status, 404);
    assert_eq!(ask("PUT /api/v1/config").await.status, 404);
    assert_eq!(ask("POST /healthz").await.status, 405);
}

/// A listener's address, once the proxy has told it.
async fn address_of(fixture: &Fixture, listener: &str) -> SocketAddr {
    let listener: Value = fixture.get(&format!("/api/v1/listeners/{listener}")).await.json();
    listener["status"]["address"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_listed_shown_and_deleted() {
    let fixture = serve(2, None);
    let document =
        "listeners: [{name: in, spec: {UDP: {port: 0}}, rules: [{action: {route: {destination: {spec: {Echo: }}}}}]}]";
    let reply = fixture.ask("PUT /api/v1/config", "", document).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let address = address_of(&fixture, "in").await;
    let clients: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for client in &clients {
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"hello", address).unwrap();
        let mut answer = [0; 16];
        assert_eq!(client.recv(&mut answer).unwrap(), 5);
    }

    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: SessionPage = fixture.get(&format!("/api/v1/sessions?listener=in&limit=2{cursor}")).await.json();
        assert!(page.sessions.len() <= 2);
        names.extend(page.sessions.into_iter().map(|session| session.name));
        let Some(next) = page.cursor else { break };
        cursor = format!("&cursor={next}");
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(fixture.get("/api/v1/sessions?listener=out").await.json::<SessionPage>().sessions.is_empty());

    let path = format!("/api/v1/sessions/{}", names[0]);
    assert_eq!(fixture.get(&path).await.json::<Value>()["listener"], "in");
    assert_eq!(fixture.ask(&format!("DELETE {path}"), "", "").await.status, 204);
    assert_eq!(fixture.get(&path).await.status, 404);

    let samples = metrics::tests::checked(&fixture.get("/metrics").await.body);
    assert_eq!(samples["l7mp_messages_in_total"], 5.0);
    assert_eq!(samples[r#"l7mp_listener_messages_total{listener="in",direction="in"}"#], 5.0);
    assert_eq!(samples[r#"l7mp_sessions_closed_total{reason="deleted"}"#], 1.0);
    assert_eq!(samples["l7mp_session_open_seconds_count"], 5.0);
    assert_eq!(samples[r#"l7mp_listener_kernel_drops_total{listener="in"}"#], 0.0);
    assert_eq!(fixture.get("/healthz").await.status, 200);
}
