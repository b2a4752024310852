use std::collections::BTreeMap;

use hyper::Method;
use k8s_openapi::ByteString;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use serde_json::{Value, json};

use super::super::testing::{Asked, Server, Time};
use super::super::{LIFETIMES, Settings};
use super::*;

const SECRET: &str = "/api/v1/namespaces/l7mp/secrets/l7mp-operator-tls";
const APPLY: &str = "/api/v1/namespaces/l7mp/secrets/l7mp-operator-tls?&force=true&fieldManager=l7mp-controller";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/l7mp/deployments/l7mp-operator";
const DAY: Duration = Duration::from_secs(86_400);

/// A keeper, the API server that it speaks to, and the Secret that is there.
struct Cluster {
    keeper: Keeper,
    server: Server,
    time: Time,
    secret: Option<Secret>,
    version: u64,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    bundle: watch::Receiver<Option<Arc<str>>>,
}

fn names() -> Vec<String> {
    Settings::new("l7mp").names()
}

fn cluster() -> Cluster {
    cluster_at(Time::new())
}

fn cluster_at(time: Time) -> Cluster {
    let (client, server) = Server::new();
    let shown = Shown::new();
    let (tls, bundle) = (shown.tls(), shown.bundle());
    let keeper = Keeper::new(&client, "l7mp", names(), LIFETIMES, time.clock(), shown);
    Cluster { keeper, server, time, secret: None, version: 0, tls, bundle }
}

impl Cluster {
    /// One turn; the API server answers as one does, from `self.secret`. The writes that it took.
    async fn turn(&mut self, is_leader: bool) -> (Turn, Vec<Value>) {
        let Cluster { keeper, server, secret, version, .. } = self;
        let mut writes = Vec::new();
        let serve = async {
            loop {
                answer(server.next().await, secret, version, &mut writes);
            }
        };
        let turn = tokio::select! {
            turn = keeper.turn(is_leader) => turn,
            () = serve => unreachable!(),
        };
        (turn, writes)
    }

    fn material(&self) -> Material {
        secret::read(self.secret.as_ref().unwrap()).unwrap()
    }

    fn shows(&self, material: &Material) -> bool {
        let bundle = self.bundle.borrow().clone().unwrap();
        let tls = self.tls.borrow().clone().unwrap();
        *bundle == *material.bundle() && handshake(&material.bundle(), tls, "l7mp-operator.l7mp.svc").is_ok()
    }

    /// Puts this into the Secret, as a careless person would.
    fn damage(&mut self, key: &str, text: Option<&str>) {
        let data = self.secret.as_mut().unwrap().data.as_mut().unwrap();
        match text {
            Some(text) => data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec())),
            None => data.remove(key),
        };
    }
}

fn answer(asked: Asked, secret: &mut Option<Secret>, version: &mut u64, writes: &mut Vec<Value>) {
    match (asked.method.as_str(), asked.uri.as_str()) {
        ("GET", SECRET) => match secret {
            Some(secret) => asked.answer(serde_json::to_value(secret).unwrap()),
            None => asked.not_found(),
        },
        ("GET", DEPLOYMENT) => asked.answer(deployment("uid-of-deployment")),
        ("PATCH", APPLY) => {
            writes.push(asked.body.clone());
            *version += 1;
            let mut stored: Secret = serde_json::from_value(asked.body.clone()).unwrap();
            stored.metadata.resource_version = Some(version.to_string());
            asked.answer(serde_json::to_value(&stored).unwrap());
            *secret = Some(stored);
        }
        other => panic!("{other:?} is not the operator's to ask"),
    }
}

fn deployment(uid: &str) -> Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": { "name": "l7mp-operator", "namespace": "l7mp", "uid": uid } })
}

/// What a client that trusts `bundle` says of the server, when it knows it by `name`.
fn handshake(bundle: &str, server: Arc<ServerConfig>, name: &str) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    for root in rustls::pki_types::CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.time_provider = Arc::new(Then);
    config.alpn_protocols = server.alpn_protocols.clone();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

/// The time at which handshakes of tests happen: that of a new [`Time`], some minutes on.
#[derive(Debug)]
struct Then;

impl rustls::time_provider::TimeProvider for Then {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_300)))
    }
}

#[tokio::test]
async fn the_leader_makes_the_secret_and_everybody_shows_it() {
    let mut leader = cluster();
    let (turn, writes) = leader.turn(true).await;
    assert_eq!(turn, Turn::Written);
    let [written] = writes.as_slice() else { panic!("{writes:?}") };
    assert_eq!(
        written["metadata"],
        json!({
            "name": "l7mp-operator-tls",
            "namespace": "l7mp",
            "labels": { "app.kubernetes.io/managed-by": "l7mp-operator" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "l7mp-operator",
                "uid": "uid-of-deployment" }],
        })
    );
    let keys: Vec<_> = written["data"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["ca.crt", "ca.key", "tls.crt", "tls.key"]);
    assert!(leader.shows(&leader.material()));

    let mut follower = cluster();
    follower.secret = leader.secret.clone();
    assert_eq!(follower.turn(false).await, (Turn::Read, vec![]));
    assert!(follower.shows(&leader.material()));

    let (bundle, tls) = (leader.material().bundle(), follower.tls.borrow().clone().unwrap());
    for name in ["l7mp-operator.l7mp.svc", "l7mp-operator.l7mp", "l7mp-operator"] {
        handshake(&bundle, tls.clone(), name).unwrap();
    }
    handshake(&bundle, tls.clone(), "kubernetes.default.svc").unwrap_err();
    let mut stranger = cluster();
    stranger.turn(true).await;
    handshake(&stranger.material().bundle(), tls, "l7mp-operator").unwrap_err();
}

#[tokio::test]
async fn a_good_secret_is_not_written_again() {
    let mut cluster = cluster();
    cluster.turn(true).await;
    let (tls, bundle) = (cluster.tls.clone(), cluster.bundle.clone());
    cluster.tls.mark_unchanged();
    cluster.bundle.mark_unchanged();
    for _ in 0..3 {
        assert_eq!(cluster.turn(true).await, (Turn::Read, vec![]));
    }
    assert!(!cluster.tls.has_changed().unwrap() && !cluster.bundle.has_changed().unwrap());
    drop((tls, bundle));
}

#[tokio::test]
async fn one_that_does_not_lead_writes_nothing() {
    let mut cluster = cluster();
    assert_eq!(cluster.turn(false).await, (Turn::Failed, vec![]));
    assert!(cluster.tls.borrow().is_none() && cluster.bundle.borrow().is_none());
    cluster.turn(true).await;
    let good = cluster.material();
    cluster.damage("tls.key", None);
    assert_eq!(cluster.turn(false).await, (Turn::Failed, vec![]));
    assert!(cluster.shows(&good), "what was shown stays");
    cluster.secret = None;
    assert_eq!(cluster.turn(false).await, (Turn::Failed, vec![]));
    assert!(cluster.shows(&good), "what was shown stays");
    // Long after it all ended: only the leader renews.
    cluster.turn(true).await;
    cluster.time.pass(LIFETIMES.ca * 2);
    assert_eq!(cluster.turn(false).await, (Turn::Read, vec![]));
}

#[tokio::test]
async fn a_damaged_secret_is_made_anew() {
    let mut other = cluster();
    other.turn(true).await;
    let other = other.material();
    let cases: [(&str, Option<&str>); 12] = [
        ("ca.crt", None),
        ("ca.key", None),
        ("tls.crt", None),
        ("tls.key", None),
        ("ca.crt", Some("")),
        ("ca.key", Some("no key")),
        ("tls.crt", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
        ("ca.crt", Some(&other.ca.certificate)),
        ("ca.key", Some(&other.ca.key)),
        ("tls.crt", Some(&other.serving.certificate)),
        ("tls.key", Some(&other.serving.key)),
        ("next-ca.crt", Some(&other.ca.certificate)),
    ];
    for (key, text) in cases {
        let mut cluster = cluster();
        cluster.turn(true).await;
        let old = cluster.material();
        cluster.damage(key, text);
        let (turn, writes) = cluster.turn(true).await;
        assert_eq!(turn, Turn::Written, "{key} {text:?}");
        assert_eq!(writes.len(), 1, "{key} {text:?}");
        assert_eq!(writes[0]["metadata"]["resourceVersion"], json!("1"), "{key} {text:?}");
        let new = cluster.material();
        assert_ne!(new.ca.key, old.ca.key, "{key} {text:?}");
        assert!(cluster.shows(&new), "{key} {text:?}");
        assert_eq!(cluster.turn(true).await, (Turn::Read, vec![]), "{key} {text:?}");
    }
    let mut cluster = cluster();
    cluster.turn(true).await;
    cluster.secret.as_mut().unwrap().data = Some(BTreeMap::from([("tls.crt".to_owned(), ByteString(vec![0xff]))]));
    assert_eq!(cluster.turn(true).await.0, Turn::Written);
    cluster.secret.as_mut().unwrap().data = None;
    assert_eq!(cluster.turn(true).await.0, Turn::Written);
}

#[tokio::test]
async fn a_year_passes_and_no_agent_notices() {
    let mut cluster = cluster();
    cluster.turn(true).await;
    let first = cluster.material();
    let mut last = first.clone();
    let mut seen = Vec::new();
    for day in 1..=400 {
        cluster.time.pass(DAY);
        // As many steps as the leader finds due in a day of turns.
        for _ in 0..3 {
            let (turn, _) = cluster.turn(true).await;
            let now = cluster.material();
            if turn == Turn::Read {
                assert_eq!(now, last);
                break;
            }
            seen.push((day, step(&last, &now)));
            // Agents and other replicas lag one step behind, or the leader does.
            for (bundle, serving) in [(&last, &now), (&now, &last), (&now, &now)] {
                verify::accepts(&bundle.bundle(), &serving.serving.certificate, &names(), cluster.time.now())
                    .unwrap_or_else(|fault| panic!("day {day}: {fault}: {seen:?}"));
            }
            last = now;
        }
        verify::accepts(&last.bundle(), &last.serving.certificate, &names(), cluster.time.now()).unwrap();
    }
    let of = |what: &str| seen.iter().filter(|(_, step)| step.contains(what)).map(|(day, _)| *day).collect::<Vec<_>>();
    let published = of("is published beside");
    let signs = of("signs from now on");
    let gone = of("is not trusted any more");
    assert!(matches!(published.as_slice(), [243..=245]), "{seen:?}");
    assert!(matches!(signs.as_slice(), [signs] if (1..=2).contains(&(signs - published[0]))), "{seen:?}");
    assert!(matches!(gone.as_slice(), [gone] if (1..=2).contains(&(gone - signs[0]))), "{seen:?}");
    assert!((4..=7).contains(&of("serving certificate is renewed").len()), "{seen:?}");
    assert_ne!(first.ca, last.ca);
    assert!(last.next.is_none() && last.previous.is_none());
    let versions = cluster.version;
    assert_eq!(usize::try_from(versions).unwrap(), seen.len() + 1);
}

#[tokio::test]
async fn an_operator_that_was_off_for_years_starts() {
    let mut cluster = cluster();
    cluster.turn(true).await;
    cluster.time.pass(LIFETIMES.ca * 20);
    for _ in 0..10 {
        if cluster.turn(true).await.0 == Turn::Read {
            break;
        }
    }
    let material = cluster.material();
    verify::accepts(&material.bundle(), &material.serving.certificate, &names(), cluster.time.now()).unwrap();
    assert_eq!(cluster.turn(true).await, (Turn::Read, vec![]));
}

#[tokio::test]
async fn a_clock_that_is_late_changes_nothing() {
    let mut cluster = cluster();
    cluster.turn(true).await;
    cluster.time.go_back(DAY * 30);
    assert_eq!(cluster.turn(true).await, (Turn::Read, vec![]));
}

#[tokio::test]
async fn a_secret_of_another_deployment_is_taken_over() {
    let mut cluster = cluster();
    cluster.turn(true).await;
    let before = cluster.material();
    let owners = cluster.secret.as_mut().unwrap().metadata.owner_references.as_mut().unwrap();
    owners[0].uid = "uid-of-an-older-one".to_owned();
    let (turn, writes) = cluster.turn(true).await;
    assert_eq!((turn, cluster.material()), (Turn::Written, before));
    assert_eq!(writes[0]["metadata"]["ownerReferences"][0]["uid"], json!("uid-of-deployment"));
}

#[tokio::test]
async fn without_a_deployment_nobody_owns_it() {
    let mut cluster = cluster();
    let served = async {
        cluster.server.expect(Method::GET, SECRET).await.not_found();
        cluster.server.expect(Method::GET, DEPLOYMENT).await.not_found();
        let write = cluster.server.expect(Method::PATCH, APPLY).await;
        assert_eq!(write.body["metadata"]["ownerReferences"], Value::Null);
        write.answer(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {} }));
    };
    assert_eq!(tokio::join!(cluster.keeper.turn(true), served).0, Turn::Written);
}

#[tokio::test]
async fn another_leaders_write_is_read_before_anything_is_written() {
    let mut first = cluster();
    first.turn(true).await;
    let mut second = cluster();
    let served = async {
        second.server.expect(Method::GET, SECRET).await.not_found();
        second.server.expect(Method::GET, DEPLOYMENT).await.answer(deployment("uid-of-deployment"));
        let write = second.server.expect(Method::PATCH, APPLY).await;
        write.refuse(409, "Conflict", "the object has been modified");
    };
    assert_eq!(tokio::join!(second.keeper.turn(true), served).0, Turn::Failed);
    assert!(second.tls.borrow().is_none(), "what is not stored is not shown");
    second.secret = first.secret.clone();
    assert_eq!(second.turn(true).await, (Turn::Read, vec![]));
    assert!(second.shows(&first.material()));
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_stays_while_the_api_server_is_at_fault() {
    let mut cluster = cluster();
    cluster.turn(true).await;
    let good = cluster.material();
    for code in [403, 429, 500, 503] {
        let served = async { cluster.server.expect(Method::GET, SECRET).await.refuse(code, "Any", "no") };
        assert_eq!(tokio::join!(cluster.keeper.turn(true), served).0, Turn::Failed);
    }
    let served = async { cluster.server.expect(Method::GET, SECRET).await.cut() };
    assert_eq!(tokio::join!(cluster.keeper.turn(true), served).0, Turn::Failed);
    let (turn, _unanswered) = tokio::join!(cluster.keeper.turn(true), cluster.server.next());
    assert_eq!(turn, Turn::Failed);
    assert!(cluster.shows(&good));
}

#[tokio::test]
async fn a_secret_that_cannot_be_written_is_shown_while_it_is_good() {
    let mut cluster = cluster();
    cluster.turn(true).await;
    let mut later = cluster_at(cluster.time.clone());
    later.time.pass(LIFETIMES.serving * 3 / 4);
    let secret = serde_json::to_value(&cluster.secret).unwrap();
    let served = async {
        later.server.expect(Method::GET, SECRET).await.answer(secret);
        later.server.expect(Method::GET, DEPLOYMENT).await.answer(deployment("uid-of-deployment"));
        later.server.expect(Method::PATCH, APPLY).await.refuse(403, "Forbidden", "not yours");
    };
    assert_eq!(tokio::join!(later.keeper.turn(true), served).0, Turn::Failed);
    assert_eq!(later.bundle.borrow().as_deref(), Some(&*cluster.material().bundle()));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_writes_at_once_and_a_lost_secret_is_missed_within_10_s() {
    let Cluster { keeper, mut server, mut tls, .. } = cluster();
    let (leads, is_leader) = watch::channel(false);
    let running = tokio::spawn(keeper.run(is_leader));
    server.expect(Method::GET, SECRET).await.not_found();
    let begun = tokio::time::Instant::now();
    server.expect(Method::GET, SECRET).await.not_found();
    assert_eq!(begun.elapsed(), POLL_WITHOUT);
    leads.send_replace(true);
    server.expect(Method::GET, SECRET).await.not_found();
    assert_eq!(begun.elapsed(), POLL_WITHOUT);
    server.expect(Method::GET, DEPLOYMENT).await.answer(deployment("uid"));
    server.expect(Method::PATCH, APPLY).await.answer(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {} }));
    tls.wait_for(Option::is_some).await.unwrap();
    server.expect(Method::GET, SECRET).await.not_found();
    assert_eq!(begun.elapsed(), POLL_WITHOUT + POLL);
    server.expect(Method::PATCH, APPLY).await.answer(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {} }));
    drop(leads);
    running.await.unwrap();
}
