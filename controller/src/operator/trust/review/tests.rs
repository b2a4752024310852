use std::time::UNIX_EPOCH;

use hyper::Method;
use serde_json::{Value, json};

use super::super::testing::{Asked, Server};
use super::*;

const POD: &str = "10.1.0.7";
const OTHER_POD: &str = "10.1.0.8";
const NODE: &str = "192.168.0.1";
/// An address of the node that is in no pod's status: its bridge's.
const BRIDGE: &str = "10.1.0.1";

/// What the operator knows: one pod.
struct Known(Option<PodAddresses>);

impl Pods for Known {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodAddresses> {
        assert_eq!((namespace, name), ("team", "gateway-1"));
        self.0.clone()
    }

    fn is_pod_address(&self, address: IpAddr) -> bool {
        [ip(POD), ip(OTHER_POD)].contains(&address)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn known() -> PodAddresses {
    PodAddresses { uid: "uid-1".to_owned(), addresses: vec![ip(POD)], host_network: false, deleted: false }
}

fn on_node() -> PodAddresses {
    PodAddresses { addresses: vec![ip(NODE)], host_network: true, ..known() }
}

/// A token of the right shape, which `exp` is read from.
fn token() -> String {
    token_that_ends(1_795_372_959)
}

fn token_that_ends(exp: u64) -> String {
    let payload = URL_SAFE_NO_PAD.encode(json!({ "exp": exp, "sub": "anything" }).to_string());
    format!("eyJhbGciOiJSUzI1NiJ9.{payload}.c2lnbmF0dXJl")
}

/// As an API server 1.36 answers for a good token.
fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["l7mp-operator"],
        "user": {
            "username": "system:serviceaccount:team:app",
            "uid": "a32e3d7a",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/credential-id": ["JTI=9078605d"],
                "authentication.kubernetes.io/node-name": ["n1"],
                "authentication.kubernetes.io/pod-name": ["gateway-1"],
                "authentication.kubernetes.io/pod-uid": ["uid-1"],
            },
        },
    })
}

fn reviewed(asked: Asked, status: Value) {
    let answer = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {},
        "spec": asked.body["spec"], "status": status });
    asked.answer_with(201, answer);
}

fn review(pod: Option<PodAddresses>, check_address: bool) -> (Arc<Review>, Server) {
    let (client, server) = Server::new();
    (Arc::new(Review::new(client, Arc::new(Known(pod)), check_address)), server)
}

/// Judges one token that the API server says `status` about.
async fn judge(pod: Option<PodAddresses>, check: bool, peer: &str, status: Value) -> Result<Identity, Denied> {
    let (review, mut server) = review(pod, check);
    let answered = async { reviewed(server.next().await, status) };
    tokio::join!(review.review(token(), ip(peer)), answered).0
}

fn reason(result: Result<Identity, Denied>) -> Reason {
    match result {
        Err(Denied::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn is_unavailable(result: &Result<Identity, Denied>) -> bool {
    matches!(result, Err(Denied::Unavailable(_)))
}

#[tokio::test]
async fn accepts_a_token_of_the_pod_that_uses_it() {
    let (review, mut server) = review(Some(known()), true);
    let answered = async {
        let asked = server.expect(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews?").await;
        assert_eq!(asked.body["spec"], json!({ "token": token(), "audiences": ["l7mp-operator"] }));
        reviewed(asked, good());
    };
    let (identity, ()) = tokio::join!(review.review(token(), ip(POD)), answered);
    assert_eq!(
        identity,
        Ok(Identity {
            namespace: "team".to_owned(),
            pod: "gateway-1".to_owned(),
            uid: "uid-1".to_owned(),
            expires: Some(UNIX_EPOCH + Duration::from_secs(1_795_372_959)),
        })
    );
}

#[tokio::test]
async fn rejects_what_the_api_server_rejects_and_names_the_reason() {
    let cases = [
        ("[invalid bearer token, service account token has expired]", Reason::Expired),
        (
            r#"[invalid bearer token, token audiences ["x"] is invalid for the target audiences ["l7mp-operator"]]"#,
            Reason::Audience,
        ),
        ("[invalid bearer token, service account token has been invalidated]", Reason::PodGone),
        ("[invalid bearer token, pod UID (4974) does not match service account pod ref claim (4f07)]", Reason::PodGone),
        ("[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]", Reason::Invalid),
        ("invalid bearer token", Reason::Invalid),
    ];
    for (error, expected) in cases {
        let status = json!({ "error": error, "user": {} });
        assert_eq!(reason(judge(Some(known()), true, POD, status).await), expected, "{error}");
    }
    let silent = judge(Some(known()), true, POD, json!({ "user": {} })).await;
    assert_eq!(reason(silent), Reason::Invalid);
}

#[tokio::test]
async fn rejects_a_good_token_that_proves_no_pod() {
    let without = |pointer: &str| {
        let mut status = good();
        let (parent, key) = pointer.split_once('!').unwrap();
        status.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
        status
    };
    let with = |pointer: &str, value: Value| {
        let mut status = good();
        *status.pointer_mut(pointer).unwrap() = value;
        status
    };
    let name = "/user/extra/authentication.kubernetes.io~1pod-name";
    let uid = "/user/extra/authentication.kubernetes.io~1pod-uid";
    let cases = [
        (without("!audiences"), Reason::Audience),
        (with("/audiences", json!(["https://kubernetes.default.svc"])), Reason::Audience),
        (without("/user/extra!authentication.kubernetes.io/pod-name"), Reason::NotOfPod),
        (without("/user/extra!authentication.kubernetes.io/pod-uid"), Reason::NotOfPod),
        (without("/user!extra"), Reason::NotOfPod),
        (with(name, json!([])), Reason::NotOfPod),
        (with(uid, json!([""])), Reason::NotOfPod),
        (with(name, json!(["gateway-1", "gateway-2"])), Reason::NotOfPod),
        (with("/user/username", json!("system:node:n1")), Reason::NotOfPod),
        (with("/user/username", json!("system:serviceaccount:team")), Reason::NotOfPod),
        (with("/user/username", json!("system:serviceaccount::app")), Reason::NotOfPod),
        (without("!user"), Reason::NotOfPod),
        (without("!authenticated"), Reason::Invalid),
    ];
    for (status, expected) in cases {
        let text = status.to_string();
        assert_eq!(reason(judge(Some(known()), true, POD, status).await), expected, "{text}");
    }
}

#[tokio::test]
async fn rejects_what_is_no_token_without_asking() {
    let long = format!("a.{}.c", "b".repeat(TOKEN_MAX));
    let no_expiry = format!("a.{}.c", URL_SAFE_NO_PAD.encode("{}"));
    let cases = [
        (String::new(), Reason::Absent),
        (long, Reason::TooLong),
        ("letmein".to_owned(), Reason::Invalid),
        ("a.b.c".to_owned(), Reason::Invalid),
        ("a.!.c".to_owned(), Reason::Invalid),
        (no_expiry, Reason::Invalid),
        (format!("{}.d", token()), Reason::Invalid),
    ];
    for (token, expected) in cases {
        // The server is gone: a request would be Unavailable.
        let (review, _) = review(Some(known()), true);
        assert_eq!(reason(review.review(token.clone(), ip(POD)).await), expected, "{token:.20}");
    }
}

#[tokio::test]
async fn a_pod_is_told_from_one_that_is_not_seen_yet() {
    let cases = [
        (None, None),
        (Some(PodAddresses { uid: "uid-0".to_owned(), ..known() }), None),
        (Some(PodAddresses { addresses: vec![], ..known() }), None),
        (Some(PodAddresses { deleted: true, ..known() }), Some(Reason::PodGone)),
    ];
    for (pod, expected) in cases {
        let text = format!("{pod:?}");
        let result = judge(pod, true, POD, good()).await;
        match expected {
            None => assert!(is_unavailable(&result), "{text}: {result:?}"),
            Some(expected) => assert_eq!(reason(result), expected, "{text}"),
        }
    }
}

#[tokio::test]
async fn a_token_is_good_from_its_pods_addresses_only() {
    let two = PodAddresses { addresses: vec![ip(POD), ip("fd00::7")], ..known() };
    let accepted = [
        (two.clone(), POD),
        (two.clone(), "fd00::7"),
        (two.clone(), "::ffff:10.1.0.7"),
        (on_node(), NODE),
        (on_node(), BRIDGE),
    ];
    for (pod, peer) in accepted {
        let result = judge(Some(pod), true, peer, good()).await;
        assert!(result.is_ok(), "{peer}: {result:?}");
    }
    let rejected = [(two.clone(), OTHER_POD), (two.clone(), NODE), (two, BRIDGE), (on_node(), OTHER_POD)];
    for (pod, peer) in rejected {
        let result = judge(Some(pod.clone()), true, peer, good()).await;
        assert_eq!(reason(result), Reason::Address, "{peer} {pod:?}");
        let unchecked = judge(Some(pod), false, peer, good()).await;
        assert!(unchecked.is_ok(), "{peer}: {unchecked:?}");
    }
}

#[tokio::test]
async fn an_api_server_at_fault_refuses_nobody() {
    for code in [403, 409, 429, 500, 503] {
        let (review, mut server) = review(Some(known()), true);
        let answered = async { server.next().await.refuse(code, "Any", "no") };
        let (result, ()) = tokio::join!(review.review(token(), ip(POD)), answered);
        assert!(is_unavailable(&result), "{code}: {result:?}");
    }
    let (review, mut server) = review(Some(known()), true);
    let cut = tokio::join!(review.review(token(), ip(POD)), async { server.next().await.cut() }).0;
    assert!(is_unavailable(&cut), "{cut:?}");
    let answered = async { server.next().await.answer(json!({ "not": "a review" })) };
    let odd = tokio::join!(review.review(token(), ip(POD)), answered).0;
    assert!(is_unavailable(&odd), "{odd:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_given_up_after_5_s() {
    let (review, mut server) = review(Some(known()), true);
    let begun = Instant::now();
    let (result, _asked) = tokio::join!(review.review(token(), ip(POD)), server.next());
    assert!(is_unavailable(&result), "{result:?}");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_16_reviews_are_under_way() {
    let (review, mut server) = review(Some(known()), true);
    let all: Vec<_> = (0..20)
        .map(|_| {
            let review = review.clone();
            tokio::spawn(async move { review.review(token(), ip(POD)).await })
        })
        .collect();
    let mut under_way = Vec::new();
    while let Some(asked) = server.within(Duration::from_secs(1)).await {
        under_way.push(asked);
    }
    assert_eq!(under_way.len(), 16);
    reviewed(under_way.pop().unwrap(), good());
    under_way.push(server.next().await);
    for asked in under_way {
        reviewed(asked, good());
    }
    for _ in 17..20 {
        reviewed(server.next().await, good());
    }
    for review in all {
        assert!(review.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_refused_waits_a_second_at_its_address() {
    let (review, mut server) = review(Some(known()), true);
    let bad = || json!({ "error": "invalid bearer token", "user": {} });
    let refused = tokio::join!(review.review(token(), ip(POD)), async { reviewed(server.next().await, bad()) }).0;
    assert_eq!(reason(refused), Reason::Invalid);
    let soon = review.review(token(), ip(POD)).await;
    assert!(is_unavailable(&soon), "{soon:?}");
    // Others do not wait, nor do other tokens from the same address.
    let neighbour = token_that_ends(2);
    let result = tokio::join!(review.review(neighbour, ip(POD)), async { reviewed(server.next().await, good()) }).0;
    assert!(result.is_ok(), "{result:?}");
    let other = tokio::join!(review.review(token(), ip(OTHER_POD)), async { reviewed(server.next().await, bad()) }).0;
    assert_eq!(reason(other), Reason::Invalid);
    tokio::time::advance(PENALTY).await;
    let later = tokio::join!(review.review(token(), ip(POD)), async { reviewed(server.next().await, good()) }).0;
    assert!(later.is_ok(), "{later:?}");
}

#[tokio::test(start_paused = true)]
async fn who_makes_up_tokens_has_few_of_them_reviewed() {
    let (review, mut server) = review(Some(known()), true);
    for round in 0..3 {
        for number in 0..PENALTIES_OF_ADDRESS_MAX as u64 {
            let made_up = review.review(token_that_ends(1000 * round + number), ip(POD));
            let bad = json!({ "error": "invalid bearer token", "user": {} });
            let result = tokio::join!(made_up, async { reviewed(server.next().await, bad) }).0;
            assert_eq!(reason(result), Reason::Invalid);
        }
        // Nobody is asked.
        let next = review.review(token_that_ends(1000 * round + 999), ip(POD)).await;
        assert!(is_unavailable(&next), "{next:?}");
        let good_elsewhere = review.review(token(), ip(OTHER_POD));
        let result = tokio::join!(good_elsewhere, async { reviewed(server.next().await, good()) }).0;
        assert_eq!(reason(result), Reason::Address);
        tokio::time::advance(PENALTY).await;
    }
    assert_eq!(review.penalties.lock().unwrap()[&ip(POD)].len(), PENALTIES_OF_ADDRESS_MAX);
}

#[tokio::test]
async fn nobody_waits_where_addresses_are_translated() {
    let (review, mut server) = review(Some(known()), false);
    for _ in 0..2 {
        let status = json!({ "error": "invalid bearer token", "user": {} });
        let answered = async { reviewed(server.next().await, status) };
        let result = tokio::join!(review.review(token(), ip(NODE)), answered).0;
        assert_eq!(reason(result), Reason::Invalid);
    }
}
