//! The real program against a real API server: statuses, two replicas, and what becomes of a leader that ends.
//!
//! ```sh
//! L7MP_KUBECONFIG=/path/to/admin.kubeconfig cargo test -p l7mp-controller --features api-server --test operator
//! ```
//!
//! Each test has a namespace of its own, with the replicas' Lease in it. Pods are objects without a node: nobody
//! runs them, and the tests write their status.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use l7mp_controller::operator::lease::{Candidate, Timing};
use l7mp_link::Version;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

/// A leader that was killed is followed by another 15 s later.
const PATIENCE: Duration = Duration::from_secs(45);

const KINDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A namespace and the replicas in it.
struct Place {
    client: Client,
    namespace: String,
}

/// One replica; killed when it is dropped.
struct Replica {
    child: Child,
    name: String,
    http: u16,
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kubeconfig() -> PathBuf {
    std::env::var_os("L7MP_KUBECONFIG").expect("L7MP_KUBECONFIG names a kubeconfig file").into()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `check` gives something.
async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = check().await {
            return result;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Place {
    async fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let namespace = format!("l7mp-test-{:x}-{}", time.as_micros(), NEXT.fetch_add(1, Ordering::Relaxed));
        let kubeconfig = Kubeconfig::read_from(kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let place = Place { client: Client::try_from(config).unwrap(), namespace };
        let kind = |kind: &str, version: &str, name: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
        place.apply("/api/v1/namespaces", kind("Namespace", "v1", &place.namespace)).await;
        for file in l7mp_crds::yaml() {
            let definition: Value = serde_saphyr::from_str(&file.text).unwrap();
            let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
            place.apply(KINDS, definition).await;
            eventually("the kind is served", async || {
                let found = place.get(&format!("{KINDS}/{name}")).await?;
                let conditions = found["status"]["conditions"].as_array()?.clone();
                conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True").then_some(())
            })
            .await;
        }
        place
    }

    fn path(&self, kind: &str) -> String {
        match kind {
            "pods" => format!("/api/v1/namespaces/{}/pods", self.namespace),
            kind => format!("/apis/l7mp.io/v1/namespaces/{}/{kind}", self.namespace),
        }
    }

    async fn send(&self, path: &str, object: &Value) -> kube::Result<Value> {
        let request = hyper::Request::patch(format!("{path}?fieldManager=l7mp-test&force=true"))
            .header("content-type", "application/apply-patch+yaml")
            .body(serde_json::to_vec(object).unwrap())
            .unwrap();
        self.client.request(request).await
    }

    async fn apply(&self, collection: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.send(&format!("{collection}/{name}"), &object).await.unwrap();
    }

    async fn get(&self, path: &str) -> Option<Value> {
        self.client.request(hyper::Request::get(path).body(Vec::new()).unwrap()).await.ok()
    }

    /// A pod with a proxy, which has an address and is ready.
    async fn pod(&self, name: &str) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": "no-such-node", "containers": [{"name": "l7mp", "image": "none"}]}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.apply(&format!("/api/v1/namespaces/{}/serviceaccounts", self.namespace), account).await;
        self.apply(&self.path("pods"), pod).await;
        let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": {"phase": "Running",
            "podIP": "10.9.8.7", "podIPs": [{"ip": "10.9.8.7"}], "conditions": [{"type": "Ready", "status": "True"}]}});
        self.send(&format!("{}/{name}/status", self.path("pods")), &status).await.unwrap();
    }

    /// A service for the pods `gateway` whose only rule leads to a Target of this name.
    async fn service(&self, name: &str, target: &str) {
        let rules = json!([{"action": {"route": {"destinationRef": target}}}]);
        let spec = json!({"selector": {"matchLabels": {"app": "gateway"}},
            "listener": {"spec": {"UDP": {"port": 9001}}, "rules": rules}});
        let object =
            json!({"apiVersion": "l7mp.io/v1", "kind": "VirtualService", "metadata": {"name": name}, "spec": spec});
        self.apply(&self.path("virtualservices"), object).await;
    }

    async fn target(&self, name: &str) {
        let spec = json!({"cluster": {"spec": {"Echo": {}}}});
        let object = json!({"apiVersion": "l7mp.io/v1", "kind": "Target", "metadata": {"name": name}, "spec": spec});
        self.apply(&self.path("targets"), object).await;
    }

    async fn condition(&self, service: &str, kind: &str) -> Option<Value> {
        let object = self.get(&format!("{}/{service}", self.path("virtualservices"))).await?;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|condition| condition["type"] == kind)
    }

    async fn until_reason(&self, service: &str, kind: &str, reason: &str) -> Value {
        eventually(&format!("{kind} of {service} is {reason}"), async || {
            self.condition(service, kind).await.filter(|condition| condition["reason"] == reason)
        })
        .await
    }

    fn start(&self, name: &str) -> Replica {
        let (grpc, http) = (free_port(), free_port());
        let child = Command::new(env!("CARGO_BIN_EXE_l7mp-controller"))
            .args(["operator", "--namespace", &self.namespace, "--pod", name, "--address", "127.0.0.1"])
            .args(["--listen", &format!("127.0.0.1:{grpc}"), "--http", &format!("127.0.0.1:{http}")])
            .env("KUBECONFIG", kubeconfig())
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Replica { child, name: name.to_owned(), http }
    }

    async fn until_leads(&self, replica: &Replica) -> i32 {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("{} leads", replica.name), async || {
            let spec = leases.get_opt("l7mp-operator").await.ok()??.spec?;
            let is_holder = spec.holder_identity?.starts_with(&format!("{}@127.0.0.1:", replica.name));
            if is_holder { spec.lease_transitions } else { None }
        })
        .await
    }
}

impl Replica {
    async fn page(&self, path: &str) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.ok()?;
        Some(page)
    }

    async fn until_ready(&self) {
        eventually(&format!("{} is ready", self.name), async || {
            self.page("/readyz").await.filter(|page| page.starts_with("HTTP/1.1 200"))
        })
        .await;
    }

    async fn leads(&self) -> bool {
        self.page("/metrics").await.unwrap().contains("\nl7mp_operator_leads 1\n")
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its end, which must come within so long.
    async fn ended(&mut self, within: Duration) -> ExitStatus {
        let began = Instant::now();
        let status = eventually(&format!("{} ends", self.name), async || self.child.try_wait().unwrap()).await;
        assert!(began.elapsed() <= within, "{} took {:?} to end", self.name, began.elapsed());
        status
    }
}

#[tokio::test]
async fn every_object_gets_a_status_that_follows_what_it_refers_to() {
    let place = Place::new().await;
    place.service("service", "later").await;
    let replica = place.start("one");
    place.until_leads(&replica).await;
    let ready = place.until_reason("service", "Ready", "RefNotFound").await;
    assert_eq!((&ready["status"], &ready["observedGeneration"]), (&json!("False"), &json!(1)));
    let resolved = place.until_reason("service", "ResolvedRefs", "RefNotFound").await;
    assert!(resolved["message"].as_str().unwrap().contains("spec.listener.rules[0].action.route.destinationRef"));
    place.until_reason("service", "Programmed", "NoPods").await;
    let events: Api<Event> = Api::namespaced(place.client.clone(), &place.namespace);
    eventually("an Event says so", async || {
        let events = events.list(&ListParams::default()).await.ok()?;
        events.items.into_iter().find(|event| event.reason.as_deref() == Some("RefNotFound"))
    })
    .await;

    place.target("later").await;
    place.pod("gateway").await;
    place.until_reason("service", "ResolvedRefs", "ResolvedRefs").await;
    place.until_reason("service", "Programmed", "Unreachable").await;
    let object = place.get(&format!("{}/service", place.path("virtualservices"))).await.unwrap();
    assert_eq!((&object["status"]["pods"], &object["status"]["protocol"]), (&json!(1), &json!("UDP")));
}

/// What the writer of status relies on: the API server looks at the version, and not at a UID.
#[tokio::test]
async fn a_status_is_not_applied_to_an_object_that_has_changed() {
    let place = Place::new().await;
    place.target("a").await;
    let path = format!("{}/a/status", place.path("targets"));
    let version = async || {
        let object = place.get(&format!("{}/a", place.path("targets"))).await.unwrap();
        object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    };
    let status = |version: &str, pods: u32| {
        json!({"apiVersion": "l7mp.io/v1", "kind": "Target", "metadata": {"name": "a", "resourceVersion": version},
            "status": {"pods": pods, "programmed": 0, "unreachable": 0}})
    };
    let first = version().await;
    let written = place.send(&path, &status(&first, 7)).await.unwrap();
    assert_eq!(written["status"]["pods"], 7);
    assert_eq!(written["metadata"]["resourceVersion"], version().await, "the answer names the new version");
    match place.send(&path, &status(&first, 8)).await {
        Err(kube::Error::Api(refused)) => assert_eq!(refused.code, 409, "{refused:?}"),
        other => panic!("{other:?}"),
    }
    match place
        .send(
            &path.replace("/a/", "/b/"),
            &json!({"apiVersion": "l7mp.io/v1", "kind": "Target",
        "metadata": {"name": "b"}, "status": {"pods": 1, "programmed": 0, "unreachable": 0}}),
        )
        .await
    {
        Err(kube::Error::Api(refused)) => assert_eq!(refused.code, 404, "nothing is made by a status: {refused:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_and_one_that_is_killed_is_followed() {
    let place = Place::new().await;
    place.service("service", "nothing").await;
    let mut one = place.start("one");
    assert_eq!(place.until_leads(&one).await, 0);
    place.until_reason("service", "Ready", "RefNotFound").await;
    let accepted = place.condition("service", "Accepted").await.unwrap();
    let mut two = place.start("two");
    two.until_ready().await;
    assert!(one.leads().await && !two.leads().await, "a follower is ready, and follows");

    one.signal(rustix::process::Signal::TERM);
    let stopped = Instant::now();
    assert!(one.ended(Duration::from_secs(5)).await.success());
    assert_eq!(place.until_leads(&two).await, 1);
    assert!(stopped.elapsed() < Duration::from_secs(10), "the Lease was handed back: {:?}", stopped.elapsed());

    let three = place.start("three");
    three.until_ready().await;
    two.signal(rustix::process::Signal::KILL);
    assert_eq!(two.ended(Duration::from_secs(5)).await.signal(), Some(9));
    assert_eq!(place.until_leads(&three).await, 2);
    place.target("nothing").await;
    place.until_reason("service", "ResolvedRefs", "ResolvedRefs").await;
    let kept = place.condition("service", "Accepted").await.unwrap();
    assert_eq!(kept["lastTransitionTime"], accepted["lastTransitionTime"], "it was so all the time");
}

#[tokio::test]
async fn a_lease_of_a_backup_is_counted_up_above_what_agents_hold_and_has_an_owner() {
    let place = Place::new().await;
    let labels = json!({"app": "none"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "l7mp-operator"},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}});
    let deployments = format!("/apis/apps/v1/namespaces/{}/deployments", place.namespace);
    place.apply(&deployments, deployment).await;
    let deployment = place.get(&format!("{deployments}/l7mp-operator")).await.unwrap();

    let leases: Api<Lease> = Api::namespaced(place.client.clone(), &place.namespace);
    let candidate =
        Candidate::new(leases.clone(), "l7mp-operator", "a@127.0.0.1:1", Timing::default(), Default::default())
            .owned_by(Api::namespaced(place.client.clone(), &place.namespace));
    let overtaken = candidate.overtaken();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(candidate.run(stopped));
    let counted = async |count: i32| {
        eventually(&format!("the Lease counts {count}"), async || {
            let lease = leases.get_opt("l7mp-operator").await.ok()??;
            (lease.spec.as_ref()?.lease_transitions == Some(count)).then_some(lease)
        })
        .await
    };
    let lease = counted(0).await;
    let owners = lease.metadata.owner_references.unwrap();
    assert_eq!((owners.len(), &json!(owners[0].uid)), (1, &deployment["metadata"]["uid"]));

    let epoch = Version::epoch_of(lease.metadata.uid.as_deref().unwrap());
    overtaken.send_replace(Some(Version { epoch, term: 7, sequence: 42 }));
    counted(8).await;
    // Under its holder, too.
    eventually("the Lease is put back, between two renewals", async || {
        let mut backup = leases.get("l7mp-operator").await.ok()?;
        backup.spec.as_mut()?.lease_transitions = Some(3);
        leases.replace("l7mp-operator", &kube::api::PostParams::default(), &backup).await.ok()
    })
    .await;
    let lease = counted(9).await;
    assert_eq!(lease.metadata.owner_references.unwrap(), owners, "once");
    stop.send_replace(true);
    running.await.unwrap();
}
