//! Who may connect: tokens that prove nothing, a client without TLS, another user at the admin socket. Each is refused,
//! logged, and counted.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::installed::{Kubernetes, PATIENCE};

/// What agents' tokens are for.
const AUDIENCE: &str = "l7mp-operator";
/// Where agents connect.
const PORT: u16 = 7800;

/// The replica of the operator that leads.
pub struct Leader<'a> {
    kubernetes: &'a Kubernetes,
    pod: String,
    address: String,
}

impl Leader<'_> {
    pub fn find(kubernetes: &Kubernetes) -> Leader<'_> {
        let mut found = None;
        let waited = kubernetes.cluster.wait_until("an operator leads", PATIENCE, |cluster| {
            let holder = ["get", "lease", "l7mp-operator", "--namespace=default", "-o=jsonpath={.spec.holderIdentity}"];
            let holder = cluster.kubectl(&holder)?;
            // POD@ADDRESS:PORT
            let holder = holder.rsplit_once(':').and_then(|(holder, _)| holder.split_once('@'));
            found = holder.map(|(pod, address)| (pod.to_owned(), address.to_owned()));
            Ok(found.is_some())
        });
        waited.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
        let (pod, address) = found.unwrap();
        Leader { kubernetes, pod, address }
    }

    /// The value of a series of `/metrics`.
    pub fn count(&self, series: &str) -> u64 {
        let path = format!("/api/v1/namespaces/default/pods/{}:7801/proxy/metrics", self.pod);
        let text = self.kubernetes.kubectl(&format!("get --raw {path}"));
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }

    fn refused(&self, reason: &str) -> u64 {
        self.count(&format!("l7mp_link_refused_tokens_total{{reason=\"{reason}\"}}"))
    }

    fn log(&self) -> String {
        self.kubernetes.kubectl(&format!("logs {} --tail=2000", self.pod))
    }

    /// Waits until a refusal is counted and a line of the log has all of `words`.
    fn wait_refused(&self, reason: &str, before: u64, words: &[&str]) {
        let waited = self.kubernetes.cluster.wait_until(&format!("{reason} is counted and logged"), PATIENCE, |_| {
            let logged = self.log().lines().any(|line| words.iter().all(|word| line.contains(word)));
            Ok(logged && self.refused(reason) > before)
        });
        if let Err(error) = waited {
            panic!("{error:#}: {} refused, log without {words:?}:\n{}", self.refused(reason), self.log());
        }
    }
}

/// A token of the API server's own making.
fn token(kubernetes: &Kubernetes, arguments: &str) -> String {
    kubernetes.kubectl(&format!("create token default --namespace default {arguments}")).trim().to_owned()
}

fn token_of_pod(kubernetes: &Kubernetes, pod: &str, audience: &str) -> String {
    token(kubernetes, &format!("--audience {audience} --bound-object-kind Pod --bound-object-name {pod}"))
}

/// A token whose signature has another letter in its middle: the last one has bits that do not count.
fn with_another_signature(good: &str) -> String {
    let (rest, letter) = good.split_at(good.len() - 10);
    let other = if letter.starts_with('A') { 'B' } else { 'A' };
    format!("{rest}{other}{}", &letter[1..])
}

/// A good token with its times moved into the past, signed anew with the API server's key. `None` where that key is
/// not at hand: on a cluster of somebody else's.
fn expired(kubernetes: &Kubernetes, good: &str) -> Option<String> {
    const DAY: u64 = 86_400;
    let key = kubernetes.cluster.token_key().ok()?;
    let (header, rest) = good.split_once('.').unwrap();
    let (payload, _) = rest.split_once('.').unwrap();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    for time in ["exp", "iat", "nbf"] {
        claims[time] = json!(claims[time].as_u64().unwrap() - DAY);
    }
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().expect("openssl is installed");
    child.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(raw_signature(&output.stdout))))
}

/// The two numbers of an ECDSA signature (P-256) one after the other, as JWTs have them, from its DER form.
fn raw_signature(der: &[u8]) -> Vec<u8> {
    const BYTES: usize = 32;
    assert_eq!((der[0], usize::from(der[1])), (0x30, der.len() - 2), "a sequence");
    let mut rest = &der[2..];
    let mut raw = Vec::new();
    for _ in 0..2 {
        assert_eq!(rest[0], 2, "an integer");
        let (number, after) = rest[2..].split_at(usize::from(rest[1]));
        // Positive numbers may have a zero in front; small ones have fewer bytes.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        raw.extend(std::iter::repeat_n(0, BYTES - number.len()));
        raw.extend(number);
        rest = after;
    }
    raw
}

/// Objects that are deleted with this value.
struct Made<'a> {
    kubernetes: &'a Kubernetes,
    yaml: String,
}

impl Made<'_> {
    fn apply(kubernetes: &Kubernetes, yaml: String) -> Made<'_> {
        kubernetes.cluster.apply(&yaml).unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
        Made { kubernetes, yaml }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.kubernetes.cluster.delete(&self.yaml) {
            eprintln!("something is left behind: {error:#}");
        }
    }
}

/// A pod of agents that have others' tokens, or bad ones: one container for each token.
fn intruder(tokens: &[(&str, String)]) -> String {
    let data: serde_json::Map<String, Value> =
        tokens.iter().map(|(name, token)| ((*name).to_owned(), json!(STANDARD.encode(token)))).collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "stolen", "namespace": "default"}, "data": data,
    });
    let containers: Vec<Value> = tokens
        .iter()
        .enumerate()
        .map(|(number, (name, _))| {
            json!({
                "name": name,
                "image": l7mp_ci::cluster::IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/usr/bin/l7mp-agent"],
                "args": [format!("--token=/tokens/{name}"), format!("--http=127.0.0.1:{}", 7810 + number)],
                "volumeMounts": [
                    {"name": "tokens", "mountPath": "/tokens"},
                    {"name": "ca", "mountPath": "/etc/l7mp/ca"},
                    {"name": "run", "mountPath": "/run/l7mp"},
                ],
            })
        })
        .collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "intruder", "namespace": "default"},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": containers,
            "volumes": [
                {"name": "tokens", "secret": {"secretName": "stolen"}},
                {"name": "ca", "configMap": {"name": "l7mp-ca"}},
                {"name": "run", "emptyDir": {}},
            ],
        },
    });
    format!("{secret}\n---\n{pod}\n")
}

const SHORT_LIVED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: short-lived, namespace: default}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: 'docker.io/l7mp/first-task:0.1.0', command: [sleep, infinity]}]
";

#[test]
fn tokens_that_prove_nothing_are_refused_logged_and_counted() {
    let kubernetes = Kubernetes::with_first_task(false);
    let leader = Leader::find(&kubernetes);
    let victim = kubernetes.pods("app=transcoder").into_iter().next().unwrap();
    let good = token_of_pod(&kubernetes, &victim, AUDIENCE);

    let gone = Made::apply(&kubernetes, SHORT_LIVED.to_owned());
    let of_deleted = token_of_pod(&kubernetes, "short-lived", AUDIENCE);
    drop(gone);

    let of_victim = format!("default/{victim}");
    let mut cases = vec![
        ("address", "address", good.clone(), vec!["the token of pod", of_victim.as_str(), "was used from"]),
        ("audience", "audience", token_of_pod(&kubernetes, &victim, "somebody-else"), vec!["audiences"]),
        ("deleted", "pod_gone", of_deleted, vec!["invalidated"]),
        ("unbound", "not_of_pod", token(&kubernetes, "--audience l7mp-operator"), vec!["is bound to no pod"]),
        ("forged", "invalid", with_another_signature(&good), vec!["invalid bearer token"]),
    ];
    match expired(&kubernetes, &good) {
        Some(token) => cases.push(("expired", "expired", token, vec!["has expired"])),
        None => eprintln!("skipped: no expired token, since the cluster's key for tokens is not at hand"),
    }
    let before: Vec<u64> = cases.iter().map(|(_, reason, ..)| leader.refused(reason)).collect();
    let tokens: Vec<(&str, String)> = cases.iter().map(|(name, _, token, _)| (*name, token.clone())).collect();
    let made = Made::apply(&kubernetes, intruder(&tokens));
    for ((name, reason, _, words), before) in cases.iter().zip(before) {
        let reason_said = format!("reason=\"{reason}\"");
        let words = [&["WARN", "refused a token", &reason_said], &words[..]].concat();
        leader.wait_refused(reason, before, &words);
        let log = leader.log();
        let line = log.lines().rev().find(|line| words.iter().all(|word| line.contains(word)));
        println!("{name}: {}", line.unwrap_or_default());
        // The kubelet shows what a container says only a little later.
        let mut told = String::new();
        let said = kubernetes.cluster.wait_until(&format!("the agent {name} says why"), PATIENCE, |cluster| {
            told = cluster.kubectl(&["logs", "intruder", "-c", name])?;
            Ok(told.contains("the operator refuses this pod's token"))
        });
        said.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}: {told}")));
        println!("  its agent: {}", told.lines().rfind(|line| line.contains("refuses")).unwrap_or_default());
    }
    let peer = kubernetes.kubectl("get pod intruder -o jsonpath={.status.podIP}");
    let log = leader.log();
    let let_in = log.lines().find(|line| line.contains("agent connected") && line.ends_with(&format!("peer={peer}")));
    assert_eq!(let_in, None);
    // As everybody else who was let in.
    assert!(log.contains("agent connected") && log.contains(" peer="), "{log}");
    drop(made);
    // Nobody else was in the way.
    kubernetes.wait_ready();
    assert_eq!(kubernetes.ask("and those who may?").line, "and those who may?");
}

/// A request of HTTP/2 without a token, over TLS as openssl speaks it. An agent of ours makes none such.
fn ask_without_token(address: &str) {
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }
    let mut head = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/l7mp.v1.Operator/Connect"),
        (":authority", "l7mp-operator.default.svc"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that is not indexed; no text here is longer than 126 bytes.
        head.push(0);
        for text in [name, value] {
            head.push(u8::try_from(text.len()).unwrap());
            head.extend(text.bytes());
        }
    }
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(SETTINGS, 0, 0, &[]));
    request.extend(frame(HEADERS, END_HEADERS, 1, &head));
    let mut child = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-quiet", "-alpn", "h2", "-connect", &format!("{address}:{PORT}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    let mut input = child.stdin.take().unwrap();
    input.write_all(&request).unwrap();
    // It closes the connection when it has answered and heard nothing for a while.
    let mut answer = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut answer).unwrap();
    child.wait().unwrap();
    let frames = frames(&answer);
    let of_ours: Vec<_> = frames.iter().filter(|(_, _, stream)| *stream == 1).collect();
    assert!(of_ours.contains(&&(HEADERS, END_HEADERS | END_STREAM, 1)), "an end without content: {frames:?}");
    assert!(of_ours.iter().all(|(kind, ..)| *kind != DATA), "an end without content: {frames:?}");
}

/// Kind, flags and stream of each frame of HTTP/2.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32)> {
    const HEAD: usize = 9;
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(HEAD) {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        frames.push((head[3], head[4], number(&head[5..])));
        bytes = rest.get(number(&head[..3]) as usize..).expect("a whole frame");
    }
    frames
}

#[test]
fn a_request_without_a_token_and_one_without_tls_are_refused_logged_and_counted() {
    let kubernetes = Kubernetes::with_chart();
    let leader = Leader::find(&kubernetes);

    let before = leader.refused("absent");
    ask_without_token(&leader.address);
    leader.wait_refused("absent", before, &["WARN", "refused", "there is no token", "absent"]);

    let not_tls = "l7mp_link_turned_away_total{reason=\"not_tls\"}";
    let before = leader.count(not_tls);
    let mut stream = TcpStream::connect((leader.address.as_str(), PORT)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /l7mp.v1.Operator/Connect HTTP/1.1\r\nHost: l7mp-operator\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    // At most a TLS alert (21).
    assert!(answer.is_empty() || answer[0] == 21, "{:?}", String::from_utf8_lossy(&answer));
    let waited = kubernetes.cluster.wait_until("it is counted and logged", PATIENCE, |_| {
        let logged = leader
            .log()
            .lines()
            .any(|line| line.contains("WARN") && line.contains("turned away: what came over the connection is no TLS"));
        Ok(logged && leader.count(not_tls) == before + 1)
    });
    waited.unwrap_or_else(|error| panic!("{error:#}\n{}", leader.log()));
}

/// A proxy whose volume others mount as well: the mistake that the examples do not make.
const NEIGHBOURS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: neighbours, namespace: default}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  volumes: [{name: l7mp, emptyDir: {}}]
  containers:
    - name: l7mp
      image: docker.io/l7mp/l7mp:0.1.0
      imagePullPolicy: IfNotPresent
      command: [/usr/bin/l7mp-proxy, --admin-socket=/run/l7mp/admin.sock, --workers=1]
      securityContext: {runAsUser: 65532, runAsGroup: 65532}
      volumeMounts: [{name: l7mp, mountPath: /run/l7mp}]
    - name: stranger
      image: docker.io/l7mp/first-task:0.1.0
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      securityContext: {runAsUser: 10001, runAsGroup: 10001}
      volumeMounts: [{name: l7mp, mountPath: /run/l7mp}]
    - name: root
      image: docker.io/l7mp/first-task:0.1.0
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      volumeMounts: [{name: l7mp, mountPath: /run/l7mp}]
";

#[test]
fn another_user_at_the_admin_socket_is_refused_and_logged() {
    const ASK: &str = r" HTTP/1.0\r\n\r\n' | socat -t 5 - unix-connect:/run/l7mp/admin.sock 2>&1";
    let kubernetes = Kubernetes::with_chart();
    let _made = Made::apply(&kubernetes, NEIGHBOURS.to_owned());
    let ask = |container: &str| {
        let command = ["sh", "-c", &format!("printf 'GET /api/v1/info{ASK} || true")];
        kubernetes.cluster.exec("neighbours", container, &command).unwrap_or_else(|error| format!("{error:#}"))
    };
    let answers =
        kubernetes.cluster.wait_until("the proxy answers root", PATIENCE, |_| Ok(ask("root").contains(" 200 ")));
    answers.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}: {}", ask("root"))));

    // The file's mode keeps others out.
    let said = ask("stranger");
    assert!(said.contains("Permission denied") && !said.contains("HTTP"), "{said}");
    // Where somebody has changed it, the proxy looks at who asks.
    kubernetes.cluster.exec("neighbours", "root", &["chmod", "0666", "/run/l7mp/admin.sock"]).unwrap();
    let said = ask("stranger");
    assert!(said.starts_with("HTTP/1.") && said.contains(" 403 "), "{said}");
    println!("{said}");
    let log = kubernetes.kubectl("logs neighbours -c l7mp");
    assert!(
        log.contains("a connection of another user, or of a session of this proxy, to the admin socket is refused"),
        "{log}"
    );
}
