//! `l7mpctl` as a user runs it, against a proxy of paper on a real Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

/// What came in: request line, `If-Match`, body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    line: String,
    if_match: Option<String>,
    body: String,
}

/// A proxy of paper.
struct Fake {
    directory: TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Answers every request with what `answer` makes of its number and line: status and body.
    fn new(answer: impl Fn(usize, &str) -> (u16, String) + Send + 'static) -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("admin.sock")).unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                let number = seen.lock().unwrap().len();
                let (status, body) = answer(number, &request.line);
                seen.lock().unwrap().push(request);
                let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            }
        });
        Fake { directory, requests }
    }

    /// One answer for everything.
    fn always(status: u16, body: &str) -> Fake {
        let body = body.to_owned();
        Fake::new(move |_, _| (status, body.clone()))
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        let socket = self.socket();
        ctl(&[&["--socket", socket.to_str().unwrap()], arguments].concat(), input)
    }

    /// The request lines, without the version of HTTP.
    fn lines(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|request| request.line.trim_end_matches(" HTTP/1.1").to_owned()).collect()
    }
}

fn read(stream: &UnixStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut if_match, mut length) = (String::new(), None, 0);
    reader.read_line(&mut line).ok()?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            Some((name, value)) if name.eq_ignore_ascii_case("if-match") => if_match = Some(value.to_owned()),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line: line.trim_end().to_owned(), if_match, body: String::from_utf8(body).ok()? })
}

/// What a run printed.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ctl(arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_l7mpctl"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ran { code: status.code(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
}

fn ok(out: &str) -> Ran {
    Ran { code: Some(0), out: out.to_owned(), err: String::new() }
}

fn failed(err: &str) -> Ran {
    Ran { code: Some(1), out: String::new(), err: err.to_owned() }
}

const SESSION: &str = r#"{"name":"UDP:10.0.0.7:41020-10.0.0.1:9001-7","listener":"players","worker":1,
    "status":"CONNECTED","metadata":{"IP":{"src_addr":"10.0.0.7"}},"age_ms":185000,"idle_ms":85,
    "source":{"protocol":"UDP","endpoint":"10.0.0.7:41020","status":"READY"},
    "ingress":[{"cluster":"transcoders","protocol":"UnixDomainSocket","endpoint":"/run/t.sock","status":"READY"}],
    "destination":{"cluster":"workers","protocol":"UDP","endpoint":"10.0.0.9:9999","status":"RETRYING","retries":2}}"#;

#[test]
fn a_document_is_applied_from_a_file_or_from_standard_input() {
    let fake = Fake::always(200, r#"{"version":3,"changed":true,"warnings":[{"path":"routes[0]","message":"hm"}]}"#);
    let file = fake.directory.path().join("gateway.yaml");
    std::fs::write(&file, "clusters: []\n").unwrap();
    let ran = fake.run(&["apply", file.to_str().unwrap(), "--if-version", "2"]);
    assert_eq!(ran, Ran { err: "warning: routes[0]: hm\n".to_owned(), ..ok("version 3: adopted\n") });
    let ran = fake.run_with(&["apply", "-", "--dry-run", "-o", "json"], "{}");
    assert!(ran.out.starts_with("{\n  \"version\": 3,\n"), "{ran:?}");
    let requests = fake.requests.lock().unwrap();
    let request = |line: &str, if_match: Option<&str>, body: &str| Request {
        line: line.to_owned(),
        if_match: if_match.map(str::to_owned),
        body: body.to_owned(),
    };
    assert_eq!(requests[0], request("PUT /api/v1/config HTTP/1.1", Some("\"2\""), "clusters: []\n"));
    assert_eq!(requests[1], request("PUT /api/v1/config?dry_run=true HTTP/1.1", None, "{}"));
}

#[test]
fn every_error_is_on_a_line_of_its_own() {
    let fake = Fake::always(
        422,
        r#"{"errors":[{"path":"listeners[0].rules","message":"no rule list \"x\""},{"path":"","message":"also"}]}"#,
    );
    let ran = fake.run_with(&["apply", "-"], "listeners: [...]");
    assert_eq!(ran, failed("listeners[0].rules: no rule list \"x\"\nalso\n"));
}

#[test]
fn a_missing_proxy_is_told_with_its_path_and_what_to_do() {
    let ran = ctl(&["--socket", "/nonexistent/admin.sock", "get", "info"], "");
    let advice = "is l7mp-proxy running? Give its --admin-socket here as --socket PATH";
    let reason = "No such file or directory (os error 2)";
    assert_eq!(ran, failed(&format!("l7mpctl: cannot reach a proxy at /nonexistent/admin.sock: {reason}; {advice}\n")));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stale.sock");
    drop(UnixListener::bind(&path).unwrap());
    let ran = ctl(&["get", "info", "--socket", path.to_str().unwrap()], "");
    assert!(ran.code == Some(1) && ran.err.contains("Connection refused") && ran.err.contains(advice), "{ran:?}");
}

#[test]
fn what_is_no_answer_of_a_proxy_is_shown() {
    let fake = Fake::always(500, "oops\n");
    let path = fake.socket().display().to_string();
    assert_eq!(fake.run(&["get", "info"]), failed(&format!("l7mpctl: {path} answered 500: oops\n")));
    let fake = Fake::always(200, "<html>");
    let ran = fake.run(&["get", "listeners"]);
    assert!(ran.code == Some(1) && ran.err.contains("<html>"), "{ran:?}");
}

#[test]
fn objects_as_tables() {
    let table = [
        (
            "listeners",
            r#"[{"name":"players","spec":{"UDP":{"port":0}},"rules":[{"action":{"route":{"destination":"workers",
                "ingress":["transcoders"]}}}],"status":{"address":"0.0.0.0:9001","sessions":12,"kernel_drops":0}},
              {"name":"local","spec":{"UnixDomainSocket":{"filename":"/run/in.sock"}},"rules":"all",
                "status":{"address":null,"sessions":0,"kernel_drops":0}}]"#,
            include_str!("golden/listeners.txt"),
        ),
        (
            "clusters",
            r#"[{"name":"workers","spec":{"UDP":{"port":9999}},"endpoints":[{"spec":{"address":"10.0.0.9"}}],
                "loadbalancer":{"policy":"ConsistentHash"},"status":{"sessions":12}},
              {"name":"echo","spec":{"Echo":{}},"status":{"sessions":0}},
              {"name":"x","spec":{"UnixDomainSocket":{}},"status":{"sessions":0,"last_error":"permission denied for /x",
                "last_error_age_ms":4000}}]"#,
            include_str!("golden/clusters.txt"),
        ),
        (
            "routes",
            r#"[{"name":"in-out","destination":{"spec":{"Echo":{}}},"ingress":["a","b"],"egress":["c"],
                "retry":{"retry_on":"always","num_retries":3,"timeout":"2s"}},
              {"name":"plain","destination":"workers"}]"#,
            include_str!("golden/routes.txt"),
        ),
        (
            "rules",
            r#"[{"name":"all","action":{"route":"plain"}},
              {"name":"rest","match":"*","action":{"rewrite":[{"path":"/x","value":1}],"apply":"others"}},
              {"name":"never","match":{"op":"test"},"action":{"refuse":"gone"}}]"#,
            include_str!("golden/rules.txt"),
        ),
        (
            "rulelists",
            r#"[{"name":"all","rules":["a",{"name":"b","action":{"refuse":"x"}},{"action":{"route":"plain"}}]}]"#,
            include_str!("golden/rulelists.txt"),
        ),
    ];
    for (kind, answer, golden) in table {
        let fake = Fake::always(200, answer);
        assert_eq!(fake.run(&["get", kind]), ok(golden), "{kind}");
        assert_eq!(fake.lines(), [format!("GET /api/v1/{kind}")]);
    }
}

#[test]
fn one_object_by_its_name() {
    let fake = Fake::always(200, r#"{"name":"ns/echo","spec":{"Echo":{}},"status":{"sessions":4}}"#);
    let golden = "NAME     PROTOCOL  ENDPOINTS  POLICY   SESSIONS  LAST ERROR\nns/echo  Echo              0  Trivial         4\n";
    assert_eq!(fake.run(&["get", "cluster", "ns/echo"]), ok(golden));
    assert_eq!(fake.lines(), ["GET /api/v1/clusters/ns%2Fecho"]);
    assert_eq!(
        fake.run(&["get", "clusters", "ns/echo", "-o", "yaml"]),
        ok("name: ns/echo\nspec:\n  Echo: {}\nstatus:\n  sessions: 4\n")
    );
    let ran = fake.run(&["get", "config", "x"]);
    assert_eq!(ran, failed("l7mpctl: there is one config; l7mpctl get config takes no name\n"));
}

#[test]
fn sessions_of_all_pages() {
    let fake = Fake::new(|number, _| {
        let cursor = if number == 0 { r#","cursor":"1.0""# } else { "" };
        (200, format!("{{\"sessions\":[{SESSION}]{cursor}}}"))
    });
    assert_eq!(fake.run(&["get", "sessions", "--listener", "a/b"]), ok(include_str!("golden/sessions.txt")));
    let first = "GET /api/v1/sessions?limit=1000&listener=a%2Fb";
    assert_eq!(fake.lines(), [first.to_owned(), format!("{first}&cursor=1.0")]);
}

#[test]
fn one_session_with_its_stages() {
    let fake = Fake::always(200, SESSION);
    let name = "UDP:10.0.0.7:41020-10.0.0.1:9001-7";
    assert_eq!(fake.run(&["get", "session", name]), ok(include_str!("golden/session.txt")));
    assert_eq!(fake.lines(), [format!("GET /api/v1/sessions/{name}")]);
}

#[test]
fn a_session_is_deleted() {
    let fake = Fake::always(204, "");
    assert_eq!(fake.run(&["delete", "session", "UDP:[::1]:5-[::]:6-1"]), ok("deleted session UDP:[::1]:5-[::]:6-1\n"));
    assert_eq!(fake.lines(), ["DELETE /api/v1/sessions/UDP:%5B::1%5D:5-%5B::%5D:6-1"]);
    let fake = Fake::always(404, r#"{"errors":[{"path":"","message":"no session \"x\""}]}"#);
    assert_eq!(fake.run(&["delete", "session", "x"]), failed("no session \"x\"\n"));
}

#[test]
fn the_configuration_comes_back_as_it_is_applied() {
    let document = r#"{"clusters":[{"name":"echo","spec":{"Echo":{}}}]}"#;
    let fake = Fake::always(200, &format!("{{\"version\":3,\"config\":{document},\"warnings\":[]}}"));
    let ran = fake.run(&["get", "config"]);
    assert_eq!(ran, ok("# version 3\nclusters:\n- name: echo\n  spec:\n    Echo: {}\n"));
    assert_eq!(l7mp_api::Config::read(&ran.out), l7mp_api::Config::read(document));
    let json = fake.run(&["get", "config", "-o", "json"]).out;
    assert_eq!(l7mp_api::Config::read(&json), l7mp_api::Config::read(document));
}

fn info(sessions: u64) -> String {
    format!(
        r#"{{"version":"0.1.0","instance":"abc","config_version":3,"config_source":"api","kernel":"6.12.0",
        "features":["SINGLE_ISSUER","SUBMIT_ALL"],"workers":2,"limits":{{"clusters":16384,"listeners":4096}},
        "draining":true,"pid":77,"uptime_seconds":4000,"sessions":{sessions}}}"#
    )
}

#[test]
fn info_as_a_table() {
    let fake = Fake::always(200, &info(12));
    assert_eq!(fake.run(&["get", "info"]), ok(include_str!("golden/info.txt")));
}

#[test]
fn ready_is_an_exit_code_and_a_reason() {
    let fake = Fake::always(200, "ready\n");
    let ran = fake.run(&["ready"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "ready\n"));
    assert_eq!(fake.lines(), ["GET /readyz"]);
    let fake = Fake::always(503, "no configuration yet\n");
    let ran = fake.run(&["ready"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("no configuration yet"), "{}", ran.err);
}

#[test]
fn draining_may_begin_later() {
    let fake = Fake::always(200, r#"{"draining": true, "sessions": 0}"#);
    let start = std::time::Instant::now();
    assert_eq!(fake.run(&["drain", "--after", "300ms"]).code, Some(0));
    assert!(start.elapsed() >= std::time::Duration::from_millis(300));
    assert_eq!(fake.lines(), ["POST /api/v1/drain"]);
    assert!(fake.run(&["drain", "--after", "soon"]).err.contains("not a duration"));
}

#[test]
fn draining_returns_once_it_has_begun_or_when_it_is_over() {
    let fake = Fake::always(200, r#"{"sessions":2}"#);
    assert_eq!(fake.run(&["drain"]), ok("draining, 2 sessions live\n"));
    assert_eq!(fake.lines(), ["POST /api/v1/drain"]);
    let fake = Fake::new(|number, _| match number {
        0 => (200, r#"{"sessions":2}"#.to_owned()),
        1 | 2 => (200, info(1)),
        _ => (200, info(0)),
    });
    assert_eq!(fake.run(&["drain", "--wait"]), ok("draining, 2 sessions live\ndrained\n"));
    assert_eq!(fake.lines().len(), 4);
}

#[test]
fn a_document_is_validated_without_a_proxy() {
    let ran = ctl(&["validate", "-"], "clusters: [{name: echo, spec: {Echo: }}]");
    assert_eq!(ran, ok("-: ok (0 listeners, 1 cluster)\n"));
    let ran = ctl(&["validate", "-"], "listeners: [{name: in, spec: {UDP: {prot: 9001}}, rules: all}]");
    let errors = "listeners[0].spec.UDP.port: missing\n\
        listeners[0].spec.UDP.prot: unknown field; did you mean \"port\"?\n\
        listeners[0].rules: no rule list \"all\"\n";
    assert_eq!(ran, failed(errors));
    let lossy = "{listeners: [{name: in, spec: {UDP: {port: 1}}, rules: [{action: {route: {destination: t}}}]}], \
        clusters: [{name: t, spec: {TCP: {port: 2}}, endpoints: [{spec: {address: 10.0.0.1}}]}]}";
    let ran = ctl(&["validate", "-"], lossy);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "-: ok (1 listener, 1 cluster)\n"));
    assert!(ran.err.starts_with("warning: ") && ran.err.lines().count() == 1, "{ran:?}");
    let ran = ctl(&["validate", "/nonexistent.yaml"], "");
    assert_eq!(ran, failed("l7mpctl: cannot read /nonexistent.yaml: No such file or directory (os error 2)\n"));
    let ran = ctl(&["validate", "-"], &" ".repeat((8 << 20) + 1));
    assert_eq!(ran, failed("l7mpctl: - is longer than 8388608 bytes, the limit of a document\n"));
}

fn json(ran: &Ran) -> serde_json::Value {
    assert_eq!(ran.err, "", "{ran:?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

#[test]
fn programs_read_what_went_wrong_on_standard_output() {
    let refusal = r#"{"errors":[{"path":"listeners[0].rules","message":"no rule list \"x\""}]}"#;
    let fake = Fake::always(422, refusal);
    for arguments in [
        &["apply", "-", "-o", "json"][..],
        &["delete", "session", "x", "-o", "json"],
        &["get", "cluster", "x", "-o", "json"],
    ] {
        let ran = fake.run(arguments);
        assert_eq!(ran.code, Some(1));
        assert_eq!(json(&ran), serde_json::from_str::<serde_json::Value>(refusal).unwrap(), "{arguments:?}");
    }
    let ran = ctl(&["validate", "-", "-o", "json"], "clusters: [{name: echo}]");
    assert_eq!((ran.code, &json(&ran)["errors"][0]["path"]), (Some(1), &"clusters[0].spec".into()));
    let ran = ctl(&["validate", "/nonexistent.yaml", "-o", "json"], "");
    assert_eq!((ran.code, &json(&ran)["errors"][0]["path"]), (Some(1), &"".into()));
    let ran = ctl(&["validate", "-", "-o", "json"], "clusters: [{name: echo, spec: {Echo: }}]");
    assert_eq!(json(&ran), serde_json::json!({"listeners": 0, "clusters": 1, "warnings": []}));
    let fake = Fake::always(204, "");
    assert_eq!(json(&fake.run(&["delete", "session", "x", "-o", "json"])), serde_json::json!({"deleted": "x"}));
    let ran = fake.run(&["top", "--once", "-o", "yaml"]);
    assert!(ran.code == Some(1) && ran.out.contains("takes no --output"), "{ran:?}");
    assert_eq!(fake.lines().len(), 1);
}

#[test]
fn sessions_of_a_listener_that_is_not_there_are_an_error() {
    let fake = Fake::new(|_, line| match line.contains("/listeners/") {
        true => (404, r#"{"errors":[{"path":"","message":"no listener \"nope\""}]}"#.to_owned()),
        false => (200, r#"{"sessions":[]}"#.to_owned()),
    });
    assert_eq!(fake.run(&["get", "sessions", "--listener", "nope"]), failed("no listener \"nope\"\n"));
}

#[test]
fn a_session_that_is_not_open_has_no_destination() {
    let session = r#"{"name":"s","listener":"l","worker":0,"status":"INIT","age_ms":1,"idle_ms":1,"metadata":{},
        "source":{"protocol":"UDP","endpoint":"e","status":"READY"},"destination":{"protocol":"","status":"INIT"}}"#;
    let fake = Fake::always(200, &format!("{{\"sessions\":[{session}]}}"));
    let ran = fake.run(&["get", "sessions"]);
    assert_eq!(words(ran.out.lines().nth(1).unwrap_or_default())[..4], ["s", "l", "INIT", "-"], "{ran:?}");
}

#[test]
fn a_proxy_that_is_just_starting_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let path = socket.clone();
    let proxy = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (mut stream, _) = UnixListener::bind(path).unwrap().accept().unwrap();
        read(&stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 14\r\n\r\n{\"sessions\":1}").unwrap();
    });
    let ran = ctl(&["--socket", socket.to_str().unwrap(), "drain"], "");
    assert_eq!(ran, ok("draining, 1 session live\n"));
    proxy.join().unwrap();
}

/// Metrics of a proxy that has carried so many messages.
fn metrics(messages: u64) -> String {
    let scope = |kind: &str, name: &str, messages: u64| {
        let label = format!("{kind}=\"{name}\"");
        format!(
            "l7mp_{kind}_messages_total{{{label},direction=\"in\"}} {messages}\n\
             l7mp_{kind}_messages_total{{{label},direction=\"out\"}} {}\n\
             l7mp_{kind}_bytes_total{{{label},direction=\"in\"}} {}\n\
             l7mp_{kind}_sessions_active{{{label}}} 12\n",
            messages / 2,
            messages * 100,
        )
    };
    [
        scope("listener", "idle", 0),
        scope("listener", "players", messages),
        scope("cluster", "workers", messages),
        "l7mp_listener_kernel_drops_total{listener=\"players\"} 5\n".to_owned(),
        "l7mp_messages_dropped_total{reason=\"no_rule\"} 7\nl7mp_messages_dropped_total{reason=\"backlog\"} 0\n"
            .to_owned(),
        format!("l7mp_messages_in_total {messages}\nl7mp_sessions_active 12\nl7mp_messages_held 3\n"),
    ]
    .concat()
}

/// `12  3.2k  1.2M` as words; rates depend on the clock, so they are looked at one by one.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn top_prints_the_rates_of_one_second_when_nobody_watches() {
    let looks = Mutex::new(0);
    let fake = Fake::new(move |_, line| {
        if line.contains("/info") {
            return (200, info(12));
        }
        if line.contains("/sessions") {
            return (200, format!("{{\"sessions\":[{SESSION}]}}"));
        }
        let mut looks = looks.lock().unwrap();
        *looks += 1;
        (200, metrics(*looks * 100_000))
    });
    let ran = fake.run(&["top"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "l7mp-proxy 0.1.0, pid 77, up 1h06m, configuration 3, 2 workers, draining");
    assert!(lines[1].contains("held 3") && lines[1].ends_with("sessions 12, opened 0/s"), "{}", lines[1]);
    assert_eq!(lines[3], "LISTENER  SESSIONS  NEW/S  IN/S  OUT/S  IN B/S  OUT B/S  KERNEL DROPS");
    let busiest = words(lines[4]);
    assert_eq!((&busiest[..3], &busiest[6..]), (&["players", "12", "0"][..], &["0", "5"][..]));
    // 100,000 messages of 100 bytes in a second, or a little more than one.
    let rate: f64 = busiest[3].strip_suffix('k').unwrap().parse().unwrap();
    assert!((50.0..=100.0).contains(&rate), "{rate}");
    assert!(busiest[5].ends_with('M'), "{busiest:?}");
    assert_eq!(words(lines[5]), ["idle", "12", "0", "0", "0", "0", "0", "0"]);
    assert_eq!(words(lines[8])[..2], ["workers", "12"]);
    assert_eq!(lines[10..12], ["DROPPED  TOTAL  PER S", "no_rule      7      0"]);
    assert!(lines[14].starts_with("UDP:10.0.0.7:41020-10.0.0.1:9001-7  players  "), "{}", lines[14]);
}

#[test]
fn help_shows_examples() {
    for arguments in
        [&["--help"][..], &["apply", "--help"], &["get", "--help"], &["drain", "--help"], &["top", "--help"]]
    {
        let ran = ctl(arguments, "");
        assert!(ran.code == Some(0) && ran.out.contains("Examples:\n  l7mpctl "), "{arguments:?}: {ran:?}");
    }
}

/// What the agent keeps beside the socket, and a proxy that answers with `running` as its configuration.
fn explained(running: impl Fn(&str) -> String) -> Fake {
    let saved: serde_json::Value = serde_json::from_str(include_str!("golden/saved.json")).unwrap();
    let config = running(&saved["document"].to_string());
    let fake = Fake::always(200, &format!(r#"{{"version":3,"config":{config}}}"#));
    std::fs::write(fake.directory.path().join("saved.json"), include_str!("golden/saved.json")).unwrap();
    fake
}

#[test]
fn explain_names_the_object_of_each_part() {
    let fake = explained(str::to_owned);
    let path = fake.directory.path().join("saved.json").display().to_string();
    let ran = fake.run(&["explain"]);
    assert_eq!(ran, ok(&include_str!("golden/explain.txt").replace("SAVED", &path)));
    assert_eq!(fake.lines(), ["GET /api/v1/config"]);
    let ran = fake.run(&["explain", "--saved", &path, "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&value["proxy"]["matches"], &value["proxy"]["version"]), (&true.into(), &3.into()));
    assert_eq!(value["clusters"][0]["from"]["object"], "Target default/udp-cluster");
    assert_eq!(value["clusters"][0]["endpoints"][1]["address"], "[fd00::4]:7");
    assert_eq!(value["rules"].as_array().unwrap().len(), 5);
}

#[test]
fn explain_says_when_the_proxy_runs_something_else() {
    let fake = explained(|sent| sent.replace("9001", "9002").replace("default/plain", "default/other"));
    let ran = fake.run(&["explain"]);
    assert_eq!(ran.code, Some(0));
    let wanted = [
        "proxy     RUNS SOMETHING ELSE, its own version 3:",
        "listeners default/gateway-vsvc: runs otherwise than it was sent",
        "routes default/plain: was sent and does not run",
        "routes default/other: runs and was not sent",
    ];
    assert!(wanted.iter().all(|line| ran.out.contains(line)), "{}", ran.out);
    let ran = fake.run(&["explain", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["proxy"]["matches"], false);
    assert_eq!(value["proxy"]["differences"].as_array().unwrap().len(), 4, "{value}");
}

#[test]
fn explain_says_when_no_agent_keeps_the_proxy_and_when_the_proxy_is_away() {
    let fake = Fake::always(200, "{}");
    let ran = fake.run(&["explain"]);
    assert!(ran.code == Some(1) && ran.err.contains("no l7mp-agent keeps this proxy"), "{ran:?}");
    for (text, said) in [("{", "is not what l7mp-agent writes"), (r#"{"format":2}"#, "its format is 2, not 1")] {
        std::fs::write(fake.directory.path().join("saved.json"), text).unwrap();
        let ran = fake.run(&["explain"]);
        assert!(ran.code == Some(1) && ran.err.contains(said), "{ran:?}");
    }
    std::fs::write(fake.directory.path().join("saved.json"), include_str!("golden/saved.json")).unwrap();
    std::fs::remove_file(fake.socket()).unwrap();
    let ran = fake.run(&["explain"]);
    assert!(ran.code == Some(0) && ran.out.contains("proxy     does not say what it runs: "), "{ran:?}");
    assert!(ran.out.contains("Target default/udp-cluster"), "{ran:?}");
}
