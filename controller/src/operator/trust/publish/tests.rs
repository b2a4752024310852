use hyper::Method;
use serde_json::Value;

use super::super::testing::{Asked, Server, Watch};
use super::*;

const LIST: &str = "/api/v1/configmaps?&fieldSelector=metadata.name%3Dl7mp-ca&limit=500";
const WATCH: &str = "/api/v1/configmaps?&watch=true&";
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/l7mp-operator";
const BUNDLE: &str = "-----BEGIN CERTIFICATE-----\none\n";

/// A publisher that runs, and the API server that it speaks to.
struct Cluster {
    server: Server,
    bundle: watch::Sender<Option<Arc<str>>>,
    namespaces: watch::Sender<BTreeSet<String>>,
    leads: watch::Sender<bool>,
    /// Watches that followed the first.
    watches: Vec<Watch>,
}

fn cluster(namespaces: &[&str]) -> Cluster {
    let (client, server) = Server::new();
    let bundle = watch::Sender::new(Some(Arc::from(BUNDLE)));
    let namespaces = watch::Sender::new(set(namespaces));
    let leads = watch::Sender::new(true);
    let publisher = Publisher::new(client, bundle.subscribe(), namespaces.subscribe(), leads.subscribe());
    tokio::spawn(publisher.run());
    Cluster { server, bundle, namespaces, leads, watches: Vec::new() }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Cluster {
    /// The leader begins: the owner is there, and these maps are.
    async fn begin(&mut self, maps: &[Value]) -> Watch {
        self.server.expect(Method::GET, ROLE).await.answer(role());
        self.list(maps).await
    }

    async fn list(&mut self, maps: &[Value]) -> Watch {
        self.server.expect(Method::GET, LIST).await.answer(json!({ "apiVersion": "v1", "kind": "ConfigMapList",
            "metadata": { "resourceVersion": "7" }, "items": maps }));
        // What the list says is acted upon before or after the watch begins.
        let mut others = Vec::new();
        let watch = loop {
            let asked = self.server.next().await;
            if asked.uri.starts_with(WATCH) {
                assert!(asked.uri.contains("fieldSelector=metadata.name%3Dl7mp-ca"), "{}", asked.uri);
                break asked.watch();
            }
            others.push(asked);
        };
        others.into_iter().for_each(|asked| self.server.put_back(asked));
        watch
    }

    /// The next request that is not for the owner, nor a watch that goes on after its time.
    async fn next(&mut self) -> Asked {
        loop {
            let asked = self.server.next().await;
            if asked.uri == ROLE {
                asked.answer(role());
            } else if asked.uri.starts_with(WATCH) {
                self.watches.push(asked.watch());
            } else {
                return asked;
            }
        }
    }

    /// The next request is that map's, and is granted. What was applied.
    async fn applied(&mut self, namespace: &str) -> Value {
        let asked = self.next().await;
        assert_eq!((&asked.method, asked.uri.as_str()), (&Method::PATCH, apply_uri(namespace).as_str()));
        let body = asked.body.clone();
        asked.answer(body.clone());
        body
    }

    /// Nothing is asked for so long.
    async fn is_quiet(&mut self, time: Duration) {
        if let Ok(asked) = timeout(time, self.next()).await {
            panic!("{} {}", asked.method, asked.uri);
        }
    }
}

fn apply_uri(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/l7mp-ca?&force=true&fieldManager=l7mp-controller")
}

fn role() -> Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": { "name": "l7mp-operator", "uid": "uid-of-role" } })
}

fn map(namespace: &str, bundle: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "l7mp-ca",
            "namespace": namespace,
            "labels": { "app.kubernetes.io/managed-by": "l7mp-operator" },
            "ownerReferences": [{ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "name": "l7mp-operator", "uid": "uid-of-role" }],
        },
        "data": { "ca.crt": bundle },
    })
}

fn event(kind: &str, mut object: Value) -> Value {
    object["metadata"]["resourceVersion"] = json!("8");
    json!({ "type": kind, "object": object })
}

fn terminating(asked: Asked) {
    asked.refuse(
        403,
        "Forbidden",
        "configmaps \"l7mp-ca\" is forbidden: unable to create new content in namespace a because it is being terminated",
    );
}

#[tokio::test(start_paused = true)]
async fn every_namespace_with_a_proxy_has_the_map() {
    let mut cluster = cluster(&["a"]);
    let _watch = cluster.begin(&[]).await;
    assert_eq!(cluster.applied("a").await, map("a", BUNDLE));
    let before = Instant::now();
    cluster.namespaces.send_replace(set(&["a", "b"]));
    assert_eq!(cluster.applied("b").await, map("b", BUNDLE));
    assert_eq!(before.elapsed(), Duration::ZERO, "at once");
    cluster.is_quiet(CHECK * 10).await;
}

#[tokio::test(start_paused = true)]
async fn maps_that_are_right_are_left_and_others_are_put_right() {
    let mut unlabelled = map("unlabelled", BUNDLE);
    unlabelled["metadata"]["labels"] = json!({});
    let mut unowned = map("unowned", BUNDLE);
    unowned["metadata"]["ownerReferences"] = json!([]);
    let mut empty = map("empty", BUNDLE);
    empty["data"] = Value::Null;
    let mut foreign = map("foreign", "theirs");
    foreign["metadata"]["labels"] = json!({});
    let there = [map("good", BUNDLE), map("old", "old"), map("unused", "old"), unlabelled, unowned, empty, foreign];
    let mut cluster = cluster(&["empty", "good", "old", "unlabelled", "unowned"]);
    let _watch = cluster.begin(&there).await;
    // In the order of names, up to four at once: `unused` has no proxy now and is ours; `foreign` is nobody's.
    for namespace in ["empty", "old", "unlabelled", "unowned", "unused"] {
        assert_eq!(cluster.applied(namespace).await, map(namespace, BUNDLE));
    }
    cluster.is_quiet(CHECK * 3).await;
}

#[tokio::test(start_paused = true)]
async fn what_others_change_or_delete_is_put_back() {
    let mut cluster = cluster(&["a"]);
    let watch = cluster.begin(&[map("a", BUNDLE)]).await;
    cluster.is_quiet(CHECK).await;
    let before = Instant::now();
    watch.send(event("MODIFIED", map("a", "forged"))).unwrap();
    cluster.applied("a").await;
    watch.send(event("MODIFIED", map("a", BUNDLE))).unwrap();
    watch.send(event("DELETED", map("a", BUNDLE))).unwrap();
    cluster.applied("a").await;
    watch.send(event("ADDED", map("a", BUNDLE))).unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    cluster.is_quiet(CHECK * 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_bundle_goes_everywhere() {
    let mut cluster = cluster(&["a", "b"]);
    let _watch = cluster.begin(&[map("a", BUNDLE), map("b", BUNDLE)]).await;
    cluster.namespaces.send_replace(set(&["a"]));
    cluster.is_quiet(CHECK).await;
    cluster.bundle.send_replace(Some(Arc::from("two")));
    assert_eq!(cluster.applied("a").await, map("a", "two"));
    assert_eq!(cluster.applied("b").await, map("b", "two"));
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_asks_for_anything() {
    let mut cluster = cluster(&["a"]);
    let watch = cluster.begin(&[]).await;
    cluster.applied("a").await;
    cluster.leads.send_replace(false);
    cluster.namespaces.send_replace(set(&["a", "b"]));
    watch.closed().await;
    assert!(cluster.server.within(CHECK * 3).await.is_none());
    cluster.leads.send_replace(true);
    let _watch = cluster.begin(&[map("a", BUNDLE)]).await;
    cluster.applied("b").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_there_is_a_ca() {
    let mut cluster = cluster(&["a"]);
    cluster.bundle.send_replace(None);
    assert!(cluster.server.within(CHECK * 3).await.is_none());
    cluster.bundle.send_replace(Some(Arc::from(BUNDLE)));
    let _watch = cluster.begin(&[]).await;
    cluster.applied("a").await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_ends_is_tried_less_and_less_and_keeps_nobody_waiting() {
    let mut cluster = cluster(&["a", "b"]);
    let _watch = cluster.begin(&[]).await;
    terminating(cluster.server.expect(Method::PATCH, &apply_uri("a")).await);
    cluster.applied("b").await;
    let begun = Instant::now();
    let mut tries = Vec::new();
    while begun.elapsed() < Duration::from_secs(300) {
        let asked = cluster.next().await;
        assert_eq!(asked.uri, apply_uri("a"));
        tries.push(begun.elapsed().as_secs());
        terminating(asked);
    }
    assert_eq!(tries, [1, 3, 7, 15, 31, 63, 123, 183, 243, 303]);
    cluster.namespaces.send_replace(set(&["b"]));
    cluster.is_quiet(CHECK * 5).await;
    cluster.namespaces.send_replace(set(&["a", "b"]));
    let before = Instant::now();
    cluster.applied("a").await;
    assert_eq!(before.elapsed(), Duration::ZERO, "a new namespace of that name waits for nothing");
}

#[tokio::test(start_paused = true)]
async fn without_the_role_nobody_owns_the_map_and_one_that_was_there_is_never_forgotten() {
    let mut cluster = cluster(&["a"]);
    cluster.server.expect(Method::GET, ROLE).await.not_found();
    let _watch = cluster.list(&[]).await;
    assert_eq!(cluster.applied("a").await["metadata"]["ownerReferences"], Value::Null);
    cluster.server.expect(Method::GET, ROLE).await.refuse(403, "Forbidden", "no");
    cluster.server.expect(Method::GET, ROLE).await.answer(role());
    assert_eq!(cluster.applied("a").await, map("a", BUNDLE));
    cluster.server.expect(Method::GET, ROLE).await.not_found();
    cluster.namespaces.send_replace(set(&["a", "b"]));
    assert_eq!(cluster.applied("b").await, map("b", BUNDLE));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_keeps_nothing_from_being_published() {
    let mut cluster = cluster(&["a"]);
    let begun = Instant::now();
    let mut tries = Vec::new();
    while tries.len() < 4 {
        let asked = cluster.next().await;
        match asked.uri.as_str() {
            LIST => asked.refuse(403, "Forbidden", "no"),
            _ => {
                assert_eq!(asked.uri, apply_uri("a"));
                tries.push(begun.elapsed().as_secs());
                let body = asked.body.clone();
                asked.answer(body);
            }
        }
    }
    assert_eq!(tries, [3, 60, 120, 180]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_gone_is_made_again_and_misses_nothing() {
    let mut cluster = cluster(&["a", "b"]);
    let watch = cluster.begin(&[map("a", BUNDLE), map("b", BUNDLE)]).await;
    watch
        .send(json!({ "type": "ERROR", "object": { "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version" } }))
        .unwrap();
    drop(watch);
    let _watch = cluster.list(&[map("a", BUNDLE)]).await;
    assert_eq!(cluster.applied("b").await, map("b", BUNDLE));
    cluster.is_quiet(CHECK * 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_answered_keeps_others_waiting_10_s_at_most() {
    let mut cluster = cluster(&["a", "b"]);
    let _watch = cluster.begin(&[]).await;
    let _unanswered = cluster.server.expect(Method::PATCH, &apply_uri("a")).await;
    cluster.applied("b").await;
    let before = Instant::now();
    cluster.namespaces.send_replace(set(&["a", "b", "c"]));
    cluster.applied("c").await;
    assert_eq!(before.elapsed(), REQUEST_TIMEOUT);
}
