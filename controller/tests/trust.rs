//! Tokens, certificates and ConfigMaps of the operator, with a real API server.
//!
//! They need an API server of their own, since they write what an installed operator writes too:
//!
//! ```sh
//! L7MP_KUBECONFIG=/path/to/admin.kubeconfig cargo test -p l7mp-controller --features api-server --test trust
//! ```
//!
//! An expired token is made with the key that the API server signs tokens with: `L7MP_SERVICE_ACCOUNT_KEY`, the
//! path of a PEM file (RSA). Without it that one case is left out, and said so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource, ResourceExt as _};
use l7mp_controller::operator::trust::{self, PodAddresses, Pods, Review, Settings};
use l7mp_link::certificates::Material;
use l7mp_link::client::{Hello, Link, LinkError, Place, tls_config};
use l7mp_link::server::{self, Authority as _, Counters, Denied, FromAgent, Identity, Leadership, Reason};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

const PATIENCE: Duration = Duration::from_secs(30);
const PEER: &str = "10.1.0.7";

async fn client(user: Option<String>) -> Client {
    let path = std::env::var_os("L7MP_KUBECONFIG").expect("L7MP_KUBECONFIG names a kubeconfig file");
    let mut kubeconfig = Kubeconfig::read_from(path).unwrap();
    for named in &mut kubeconfig.auth_infos {
        named.auth_info.as_mut().unwrap().impersonate = user.clone();
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// A name that no test had before.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    format!("{prefix}-{:x}-{}", time.as_micros(), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn apply(client: &Client, path: &str, object: Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let request = hyper::Request::patch(format!("{path}/{name}?fieldManager=l7mp-test&force=true"))
        .header("content-type", "application/apply-patch+yaml")
        .body(serde_json::to_vec(&object).unwrap())
        .unwrap();
    client.request::<Value>(request).await.unwrap();
}

async fn namespace(client: &Client) -> String {
    let name = unique("l7mp-test");
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    apply(client, "/api/v1/namespaces", namespace).await;
    name
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

/// A namespace with one account and one pod.
struct Team {
    client: Client,
    namespace: String,
}

impl Team {
    async fn new() -> Team {
        let client = client(None).await;
        let namespace = namespace(&client).await;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "app" } });
        apply(&client, &format!("/api/v1/namespaces/{namespace}/serviceaccounts"), account).await;
        let team = Team { client, namespace };
        team.make_pod().await;
        team
    }

    async fn make_pod(&self) {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "gateway" },
            "spec": { "nodeName": "no-such-node", "serviceAccountName": "app",
                "containers": [{ "name": "l7mp", "image": "none" }] } });
        apply(&self.client, &format!("/api/v1/namespaces/{}/pods", self.namespace), pod).await;
    }

    async fn delete_pod(&self) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let uid = self.uid().await;
        pods.delete("gateway", &DeleteParams::default().grace_period(0)).await.unwrap();
        eventually("the pod is gone", async || {
            pods.get_opt("gateway").await.unwrap().is_none_or(|pod| pod.uid() != Some(uid.clone())).then_some(())
        })
        .await;
    }

    async fn uid(&self) -> String {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        pods.get("gateway").await.unwrap().uid().unwrap()
    }

    /// A token for this audience; bound to the pod, if it is to be.
    async fn token(&self, audience: &str, is_bound: bool) -> String {
        let mut spec = json!({ "audiences": [audience], "expirationSeconds": 600 });
        if is_bound {
            spec["boundObjectRef"] =
                json!({ "apiVersion": "v1", "kind": "Pod", "name": "gateway", "uid": self.uid().await });
        }
        let request: TokenRequest = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let made = accounts.create_token_request("app", &PostParams::default(), &request).await.unwrap();
        made.status.unwrap().token
    }

    /// The operator, when it knows the pod as it is now.
    async fn review(&self) -> Review {
        let addresses = vec![PEER.parse().unwrap()];
        let pod = PodAddresses { uid: self.uid().await, addresses, ..PodAddresses::default() };
        let known = Known(self.namespace.clone(), pod);
        // With the operator's rights: it may make reviews.
        Review::new(self.client.clone(), Arc::new(known), true)
    }
}

struct Known(String, PodAddresses);

impl Pods for Known {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodAddresses> {
        ((namespace, name) == (self.0.as_str(), "gateway")).then(|| self.1.clone())
    }

    fn is_pod_address(&self, address: IpAddr) -> bool {
        self.1.addresses.contains(&address)
    }
}

fn reason(result: Result<Identity, Denied>) -> Reason {
    match result {
        Err(Denied::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_pod_alone() {
    let team = Team::new().await;
    let peer: IpAddr = PEER.parse().unwrap();
    let token = team.token("l7mp-operator", true).await;
    let identity = team.review().await.review(token.clone(), peer).await.unwrap();
    assert_eq!((identity.namespace, identity.pod.as_str()), (team.namespace.clone(), "gateway"));
    assert_eq!(identity.uid, team.uid().await);
    let left = identity.expires.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!((500..=600).contains(&left.as_secs()), "{left:?}");

    let other = "10.1.0.8".parse().unwrap();
    assert_eq!(reason(team.review().await.review(token.clone(), other).await), Reason::Address);
    let elsewhere = team.token("https://elsewhere", true).await;
    assert_eq!(reason(team.review().await.review(elsewhere, peer).await), Reason::Audience);
    let unbound = team.token("l7mp-operator", false).await;
    assert_eq!(reason(team.review().await.review(unbound, peer).await), Reason::NotOfPod);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(reason(team.review().await.review(forged, peer).await), Reason::Invalid);
    match std::env::var_os("L7MP_SERVICE_ACCOUNT_KEY") {
        Some(key) => {
            let expired = expired(&token, key.to_str().unwrap());
            assert_eq!(reason(team.review().await.review(expired, peer).await), Reason::Expired);
        }
        None => eprintln!("without L7MP_SERVICE_ACCOUNT_KEY no expired token is tried"),
    }
}

#[tokio::test]
async fn a_token_of_a_deleted_pod_is_refused_though_another_has_its_name() {
    let team = Team::new().await;
    let peer: IpAddr = PEER.parse().unwrap();
    let token = team.token("l7mp-operator", true).await;
    let review = team.review().await;
    review.review(token.clone(), peer).await.unwrap();
    team.delete_pod().await;
    team.make_pod().await;
    let review = team.review().await;
    // The API server may say yes for 10 s more, out of its cache: never good, and refused in the end.
    eventually("the token is refused", async || match review.review(token.clone(), peer).await {
        Ok(identity) => panic!("accepted: {identity:?}"),
        Err(Denied::Unavailable(_)) => None,
        Err(Denied::Refused { reason, .. }) => {
            assert_eq!(reason, Reason::PodGone);
            Some(())
        }
    })
    .await;
}

/// The same token, signed again with its end in the past.
fn expired(token: &str, key: &str) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    claims["exp"] = json!(1_700_000_000);
    let signed = format!("{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-binary", "-sign", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
    let signature = openssl.wait_with_output().unwrap().stdout;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The rights that the module's documentation lists, and nothing else, for the account `l7mp-operator` of a namespace.
async fn grant(client: &Client, namespace: &str) {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let name = format!("{namespace}-operator");
    let rule = |group: &str, resource: &str, names: &[&str], verbs: &[&str]| {
        let mut rule = json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    };
    let subject = json!([{ "kind": "ServiceAccount", "name": "l7mp-operator", "namespace": namespace }]);
    let role = |kind: &str, name: &str, rules: Value| {
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name },
            "rules": rules })
    };
    let binding = |kind: &str, role: &str, name: &str| {
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name },
            "subjects": subject })
    };
    let everywhere = json!([
        rule("authentication.k8s.io", "tokenreviews", &[], &["create"]),
        rule("", "configmaps", &["l7mp-ca"], &["list", "watch", "create", "patch"]),
        rule("rbac.authorization.k8s.io", "clusterroles", &["l7mp-operator"], &["get"]),
    ]);
    let here = json!([
        rule("", "secrets", &["l7mp-operator-tls"], &["get", "create", "patch"]),
        rule("apps", "deployments", &["l7mp-operator"], &["get"]),
    ]);
    apply(client, &format!("{RBAC}/clusterroles"), role("ClusterRole", "l7mp-operator", json!([]))).await;
    apply(client, &format!("{RBAC}/clusterroles"), role("ClusterRole", &name, everywhere)).await;
    let bound = binding("ClusterRoleBinding", "ClusterRole", &name);
    apply(client, &format!("{RBAC}/clusterrolebindings"), bound).await;
    let namespaced = format!("{RBAC}/namespaces/{namespace}");
    apply(client, &format!("{namespaced}/roles"), role("Role", &name, here)).await;
    apply(client, &format!("{namespaced}/rolebindings"), binding("RoleBinding", "Role", &name)).await;
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "l7mp-operator" },
        "spec": { "replicas": 0, "selector": { "matchLabels": { "app": "x" } }, "template": {
            "metadata": { "labels": { "app": "x" } },
            "spec": { "containers": [{ "name": "x", "image": "none" }] } } } });
    apply(client, &format!("/apis/apps/v1/namespaces/{namespace}/deployments"), deployment).await;
}

struct Nobody;

impl Pods for Nobody {
    fn pod(&self, _: &str, _: &str) -> Option<PodAddresses> {
        None
    }

    fn is_pod_address(&self, _: IpAddr) -> bool {
        false
    }
}

/// One replica of the operator, as far as this module is it, with the operator's rights.
struct Replica {
    trust: trust::Trust,
    leads: watch::Sender<bool>,
    namespaces: watch::Sender<BTreeSet<String>>,
}

async fn replica(namespace: &str, is_leader: bool) -> Replica {
    let client = client(Some(format!("system:serviceaccount:{namespace}:l7mp-operator"))).await;
    let (leads, namespaces) = (watch::Sender::new(is_leader), watch::Sender::new(BTreeSet::new()));
    let settings = Settings::new(namespace);
    let trust = trust::start(&client, settings, leads.subscribe(), namespaces.subscribe(), Arc::new(Nobody)).unwrap();
    Replica { trust, leads, namespaces }
}

async fn get<K>(client: &Client, namespace: &str, name: &str) -> Option<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned,
    K: std::fmt::Debug,
{
    Api::namespaced(client.clone(), namespace).get_opt(name).await.unwrap()
}

async fn bundle(replica: &Replica) -> Arc<str> {
    let mut bundle = replica.trust.bundle();
    let shown = tokio::time::timeout(PATIENCE, bundle.wait_for(Option::is_some)).await;
    shown.expect("a CA within 30 s").unwrap().clone().unwrap()
}

/// Waits until the namespace's map holds this.
async fn published(client: &Client, namespace: &str, bundle: &str) -> ConfigMap {
    eventually("the ConfigMap is there", async || {
        let map = get::<ConfigMap>(client, namespace, "l7mp-ca").await?;
        (map.data == Some(BTreeMap::from([("ca.crt".to_owned(), bundle.to_owned())]))).then_some(map)
    })
    .await
}

#[tokio::test]
async fn certificates_and_maps_with_the_operators_rights() {
    let admin = client(None).await;
    let (home, team, late) = (namespace(&admin).await, namespace(&admin).await, namespace(&admin).await);
    grant(&admin, &home).await;
    let follower = replica(&home, false).await;
    let leader = replica(&home, true).await;
    leader.namespaces.send_replace(BTreeSet::from([team.clone()]));

    let first = bundle(&leader).await;
    assert_eq!(bundle(&follower).await, first);
    let secret = get::<Secret>(&admin, &home, "l7mp-operator-tls").await.unwrap();
    assert_eq!(secret.owner_references()[0].kind, "Deployment");
    let map = published(&admin, &team, &first).await;
    assert_eq!(map.owner_references()[0].kind, "ClusterRole");
    assert_eq!(map.labels()["app.kubernetes.io/managed-by"], "l7mp-operator");

    leader.namespaces.send_replace(BTreeSet::from([team.clone(), late.clone(), "no-such-namespace".to_owned()]));
    published(&admin, &late, &first).await;
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), &team);
    maps.delete("l7mp-ca", &DeleteParams::default()).await.unwrap();
    published(&admin, &team, &first).await;
    let forged = Patch::Merge(json!({ "data": { "ca.crt": "forged" } }));
    maps.patch("l7mp-ca", &PatchParams::default(), &forged).await.unwrap();
    published(&admin, &team, &first).await;

    // The other replica takes over. Deleting the Secret is how an administrator orders a new CA.
    leader.leads.send_replace(false);
    follower.namespaces.send_replace(BTreeSet::from([team.clone(), late.clone()]));
    follower.leads.send_replace(true);
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), &home);
    secrets.delete("l7mp-operator-tls", &DeleteParams::default()).await.unwrap();
    for replica in [&follower, &leader] {
        let mut bundle = replica.trust.bundle();
        let changed = bundle.wait_for(|bundle| bundle.as_ref().is_some_and(|bundle| *bundle != first));
        tokio::time::timeout(PATIENCE, changed).await.expect("a new CA within 30 s").unwrap();
    }
    let second = bundle(&follower).await;
    assert_eq!(bundle(&leader).await, second);
    for namespace in [&team, &late] {
        published(&admin, namespace, &second).await;
    }

    // A Secret that somebody damaged.
    let damage = Patch::Merge(json!({ "data": { "ca.key": "bm8ga2V5" } }));
    secrets.patch("l7mp-operator-tls", &PatchParams::default(), &damage).await.unwrap();
    let third = eventually("the Secret is made anew", async || {
        let bundle = bundle(&follower).await;
        (bundle != second).then_some(bundle)
    })
    .await;
    published(&admin, &team, &third).await;
    follower.trust.stop().await;
    leader.trust.stop().await;

    for name in [&home, &team, &late] {
        Api::<Namespace>::all(admin.clone()).delete(name, &DeleteParams::default()).await.unwrap();
    }
}

/// An agent that uses the port of this replica, with this token.
async fn agent(port: u16, home: &str, bundle: &str, token: &str) -> Result<Link, LinkError> {
    let place = Place { dial: format!("127.0.0.1:{port}"), name: format!("l7mp-operator.{home}.svc") };
    let hello = Hello { pod: "gateway".to_owned(), ..Hello::default() };
    Link::open(&place, tls_config(bundle.as_bytes())?, token, hello).await
}

#[tokio::test]
async fn an_agent_connects_with_its_pods_token_and_the_published_ca() {
    let team = Team::new().await;
    let home = namespace(&team.client).await;
    grant(&team.client, &home).await;
    let replica = replica(&home, true).await;
    replica.namespaces.send_replace(BTreeSet::from([team.namespace.clone()]));
    let tls = replica.trust.tls().await.unwrap();
    let map = published(&team.client, &team.namespace, &bundle(&replica).await).await;
    let ca = &map.data.unwrap()["ca.crt"];

    let pod = PodAddresses { uid: team.uid().await, addresses: vec![[127, 0, 0, 1].into()], ..PodAddresses::default() };
    let known = Known(team.namespace.clone(), pod);
    let operator = client(Some(format!("system:serviceaccount:{home}:l7mp-operator"))).await;
    let review = Arc::new(Review::new(operator, Arc::new(known), true));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (events, mut heard) = mpsc::channel(16);
    let counters = Arc::new(Counters::default());
    let (_leadership, leads) = watch::channel(Leadership::Here { term: 1 });
    let serving = tokio::spawn(server::serve(listener, tls, review, leads, events, counters.clone()));

    let link = agent(port, &home, ca, &team.token("l7mp-operator", true).await).await.unwrap();
    match heard.recv().await.unwrap() {
        FromAgent::Connected { identity, .. } => assert_eq!(
            (identity.namespace, identity.pod, identity.uid),
            (team.namespace.clone(), "gateway".to_owned(), team.uid().await)
        ),
        other => panic!("{other:?}"),
    }
    let unbound = agent(port, &home, ca, &team.token("l7mp-operator", false).await).await;
    assert!(matches!(&unbound, Err(LinkError::Refused(_))), "{unbound:?}");
    assert_eq!(counters.refused(Reason::NotOfPod), 1);
    // Not this replica's CA, not this replica's name.
    let stranger = Material::create(&Settings::new(&home).names(), SystemTime::now(), &trust::LIFETIMES).unwrap();
    let token = team.token("l7mp-operator", true).await;
    let untrusted = agent(port, &home, &stranger.bundle(), &token).await;
    assert!(matches!(&untrusted, Err(LinkError::Tls { .. })), "{untrusted:?}");
    let misnamed = agent(port, "elsewhere", ca, &token).await;
    assert!(matches!(&misnamed, Err(LinkError::Tls { .. })), "{misnamed:?}");
    drop(link);
    serving.abort();
    replica.trust.stop().await;
}
