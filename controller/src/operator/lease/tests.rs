//! The election, against an API server that holds one Lease, with the clock of the test.

use std::sync::Mutex;

use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock;

use super::*;

/// What the API server has, and how it behaves.
#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    uids: u64,
    is_silent: bool,
    /// The next request of this method is done, and not answered.
    mute: Option<&'static str>,
    /// The UID of the operator's Deployment.
    deployment: Option<&'static str>,
    requests: Vec<String>,
}

impl Server {
    fn client(&self) -> kube::Client {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let api = self.clone();
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                if api.state.lock().unwrap().is_silent {
                    // Nobody answers: the request is given up by its own time limit.
                    tokio::spawn(async move {
                        sleep(Duration::from_secs(3_600)).await;
                        drop(send);
                    });
                    continue;
                }
                let (code, answer) = api.answer(&parts.method, parts.uri.path(), &body);
                if api.goes_mute(&parts.method) {
                    tokio::spawn(async move {
                        sleep(Duration::from_secs(3_600)).await;
                        drop(send);
                    });
                    continue;
                }
                send.send_response(
                    Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap(),
                );
            }
        });
        kube::Client::new(service, "ns")
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let mut state = self.state.lock().unwrap();
        state.requests.push(format!("{method} {path}"));
        let collection = "/apis/coordination.k8s.io/v1/namespaces/ns/leases";
        let named = format!("{collection}/l7mp-operator");
        let failure = |code: u16, reason: &str| {
            (code, json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}))
        };
        if path == "/apis/apps/v1/namespaces/ns/deployments/l7mp-operator" {
            return match state.deployment {
                Some(uid) => (200, json!({"metadata": {"name": "l7mp-operator", "uid": uid}})),
                None => failure(404, "NotFound"),
            };
        }
        state.version += 1;
        let version = state.version.to_string();
        match (method.as_str(), state.lease.clone()) {
            ("GET", Some(lease)) if path == named => (200, lease),
            ("GET", None) if path == named => failure(404, "NotFound"),
            ("POST", None) if path == collection => {
                let mut lease: Value = serde_json::from_slice(body).unwrap();
                state.uids += 1;
                lease["metadata"]["uid"] = json!(format!("uid-{}", state.uids));
                lease["metadata"]["resourceVersion"] = json!(version);
                state.lease = Some(lease.clone());
                (201, lease)
            }
            ("POST", Some(_)) => failure(409, "AlreadyExists"),
            ("PUT", Some(now)) if path == named => {
                let mut lease: Value = serde_json::from_slice(body).unwrap();
                if lease["metadata"]["resourceVersion"] != now["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                lease["metadata"]["resourceVersion"] = json!(version);
                state.lease = Some(lease.clone());
                (200, lease)
            }
            ("PUT", None) => failure(404, "NotFound"),
            (method, _) => panic!("{method} {path} was not expected"),
        }
    }

    /// Whether this request gets no answer though it was done.
    fn goes_mute(&self, method: &Method) -> bool {
        let mut state = self.state.lock().unwrap();
        state.mute.take_if(|mute| *mute == method.as_str()).is_some()
    }

    /// Waits until a request of this method was done and not answered.
    async fn mutes(&self, method: &'static str) {
        self.state.lock().unwrap().mute = Some(method);
        let muted = async {
            while self.state.lock().unwrap().mute.is_some() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), muted).await.expect("never asked");
    }

    fn lease(&self) -> Value {
        self.state.lock().unwrap().lease.clone().unwrap()
    }

    /// Puts the Lease back to what a backup had.
    fn restore(&self, transitions: u32) {
        let mut state = self.state.lock().unwrap();
        let lease = state.lease.as_mut().unwrap();
        lease["spec"]["leaseTransitions"] = json!(transitions);
        lease["metadata"]["resourceVersion"] = json!("of the backup");
    }

    fn owners(&self) -> Vec<String> {
        let owners = self.lease()["metadata"]["ownerReferences"].clone();
        let uid = |owner: &Value| format!("{} {}", owner["kind"].as_str().unwrap(), owner["uid"].as_str().unwrap());
        owners.as_array().map(|owners| owners.iter().map(uid).collect()).unwrap_or_default()
    }

    fn silence(&self, is_silent: bool) {
        self.state.lock().unwrap().is_silent = is_silent;
    }

    fn candidate(&self, identity: &str) -> Running {
        let api = Api::namespaced(self.client(), "ns");
        let candidate = Candidate::new(api, "l7mp-operator", identity, Timing::default(), Arc::default())
            .owned_by(Api::namespaced(self.client(), "ns"));
        let (standing, overtaken) = (candidate.standing(), candidate.overtaken());
        let (stop, stopped) = watch::channel(false);
        Running { standing, overtaken, stop, task: tokio::spawn(candidate.run(stopped)) }
    }
}

struct Running {
    standing: watch::Receiver<Standing>,
    overtaken: watch::Sender<Option<Version>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Waits for a standing; the clock of the test jumps ahead while everybody sleeps.
    async fn until(&mut self, what: impl FnMut(&Standing) -> bool) -> Standing {
        timeout(Duration::from_secs(600), self.standing.wait_for(what)).await.expect("never so").unwrap().clone()
    }

    async fn until_mine(&mut self) -> (u64, u64) {
        match self.until(|standing| matches!(standing, Standing::Mine { renewed: true, .. })).await {
            Standing::Mine { epoch, term, .. } => (epoch, term),
            other => panic!("{other:?}"),
        }
    }

    /// As `kill -9` does.
    fn kill(self) {
        self.task.abort();
    }
}

fn is_other(standing: &Standing) -> bool {
    matches!(standing, Standing::Other { .. })
}

#[tokio::test(start_paused = true)]
async fn the_first_makes_the_lease_and_the_second_follows_it() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    assert_eq!(first.until_mine().await, (Version::epoch_of("uid-1"), 0));
    let spec = &api.lease()["spec"];
    assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&json!("a@10.0.0.1:7800"), &json!(15)));
    let mut second = api.candidate("b@10.0.0.2:7800");
    assert_eq!(second.until(is_other).await.address(), Some("10.0.0.1:7800"));
    sleep(Duration::from_secs(120)).await;
    assert!(matches!(*first.standing.borrow(), Standing::Mine { renewed: true, .. }), "it is renewed");
    assert!(is_other(&second.standing.borrow()));
    assert_eq!(api.lease()["spec"]["leaseTransitions"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holders_lease_is_taken_when_it_was_not_renewed_for_its_duration() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    first.until_mine().await;
    let mut second = api.candidate("b@10.0.0.2:7800");
    second.until(is_other).await;
    let killed = Instant::now();
    first.kill();
    let (_, term) = second.until_mine().await;
    let took = killed.elapsed().as_secs_f64();
    assert!((13.0..=17.5).contains(&took), "{took} s");
    assert_eq!((term, &api.lease()["spec"]["leaseTransitions"]), (1, &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_holder_hands_the_lease_back() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    first.until_mine().await;
    let mut second = api.candidate("b@10.0.0.2:7800");
    second.until(is_other).await;
    first.stop.send_replace(true);
    first.task.await.unwrap();
    assert_eq!(api.lease()["spec"]["holderIdentity"], Value::Null);
    assert_eq!(api.lease()["spec"]["leaseTransitions"], 0);
    let stopped = Instant::now();
    assert_eq!(second.until_mine().await.1, 1);
    assert!(stopped.elapsed() <= Duration::from_secs(1), "{:?}", stopped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_stopped_while_a_request_is_under_way_hands_the_lease_back() {
    // A renewal that was done.
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    first.until_mine().await;
    let before = api.lease()["metadata"]["resourceVersion"].clone();
    api.mutes("PUT").await;
    assert_ne!(api.lease()["metadata"]["resourceVersion"], before);
    first.stop.send_replace(true);
    first.task.await.unwrap();
    assert_eq!(api.lease()["spec"]["holderIdentity"], Value::Null);
    // The making of the Lease, which the candidate does not know of.
    let api = Server::default();
    let first = api.candidate("a@10.0.0.1:7800");
    api.mutes("POST").await;
    assert_eq!(api.lease()["spec"]["holderIdentity"], "a@10.0.0.1:7800");
    assert!(!matches!(*first.standing.borrow(), Standing::Mine { .. }));
    first.stop.send_replace(true);
    first.task.await.unwrap();
    assert_eq!(api.lease()["spec"]["holderIdentity"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_changes_while_it_is_handed_back_is_handed_back_unless_another_has_it() {
    for (holder, left) in [("a@10.0.0.1:7800", Value::Null), ("b@10.0.0.2:7800", json!("b@10.0.0.2:7800"))] {
        let api = Server::default();
        let mut first = api.candidate("a@10.0.0.1:7800");
        first.until_mine().await;
        {
            let mut state = api.state.lock().unwrap();
            let lease = state.lease.as_mut().unwrap();
            lease["spec"]["holderIdentity"] = json!(holder);
            lease["metadata"]["resourceVersion"] = json!("other");
        }
        first.stop.send_replace(true);
        first.task.await.unwrap();
        assert_eq!(api.lease()["spec"]["holderIdentity"], left);
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_stops_leaves_the_lease_alone() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    first.until_mine().await;
    let mut second = api.candidate("b@10.0.0.2:7800");
    second.until(is_other).await;
    second.stop.send_replace(true);
    second.task.await.unwrap();
    assert_eq!(api.lease()["spec"]["holderIdentity"], "a@10.0.0.1:7800");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stays_and_says_that_nothing_may_be_written() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    let mine = first.until_mine().await;
    api.silence(true);
    let lost = Instant::now();
    first.until(|standing| matches!(standing, Standing::Mine { renewed: false, .. })).await;
    let took = lost.elapsed();
    assert!(took <= Duration::from_secs(15), "others may write after 15 s, this one stops after {took:?}");
    sleep(Duration::from_secs(600)).await;
    assert!(matches!(*first.standing.borrow(), Standing::Mine { renewed: false, .. }));
    api.silence(false);
    assert_eq!(first.until_mine().await, mine, "nobody took it: the same leadership goes on");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_api_server_moves_no_leadership() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    let mine = first.until_mine().await;
    let mut second = api.candidate("b@10.0.0.2:7800");
    second.until(is_other).await;
    api.silence(true);
    sleep(Duration::from_secs(60)).await;
    api.silence(false);
    assert_eq!(first.until_mine().await, mine);
    sleep(Duration::from_secs(60)).await;
    assert!(is_other(&second.standing.borrow()));
    // Nor does it save one that dies meanwhile.
    api.silence(true);
    first.kill();
    sleep(Duration::from_secs(60)).await;
    api.silence(false);
    let back = Instant::now();
    second.until_mine().await;
    assert!(back.elapsed() <= Duration::from_secs(20), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_holder_follows_once_it_sees_another() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    first.until_mine().await;
    {
        let mut state = api.state.lock().unwrap();
        let lease = state.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("b@10.0.0.2:7800");
        lease["spec"]["leaseTransitions"] = json!(7);
        lease["metadata"]["resourceVersion"] = json!("other");
    }
    assert_eq!(first.until(is_other).await, Standing::Other { identity: "b@10.0.0.2:7800".to_owned() });
    // The other is never heard of again.
    assert_eq!(first.until_mine().await.1, 8);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_started_again_begins_another_term_at_once() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    assert_eq!(first.until_mine().await.1, 0);
    first.kill();
    let mut again = api.candidate("a@10.0.0.1:7800");
    let started = Instant::now();
    assert_eq!(again.until_mine().await.1, 1, "its configurations count from 1 again");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again_as_another_epoch() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    let (epoch, _) = first.until_mine().await;
    api.state.lock().unwrap().lease = None;
    let other = |standing: &Standing| matches!(standing, Standing::Mine { epoch: now, .. } if *now != epoch);
    first.until(other).await;
    assert_eq!(api.lease()["metadata"]["uid"], "uid-2");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_want_a_free_lease_one_gets_it() {
    for _ in 0..20 {
        let api = Server::default();
        let (mut first, mut second) = (api.candidate("a@10.0.0.1:7800"), api.candidate("b@10.0.0.2:7800"));
        first.until(|standing| *standing != Standing::Nobody).await;
        second.until(|standing| *standing != Standing::Nobody).await;
        let leads = |running: &Running| matches!(*running.standing.borrow(), Standing::Mine { .. });
        assert_ne!(leads(&first), leads(&second));
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_one_request() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    first.until_mine().await;
    api.state.lock().unwrap().requests.clear();
    sleep(Duration::from_secs(61)).await;
    let requests = api.state.lock().unwrap().requests.clone();
    assert!((29..=31).contains(&requests.len()), "{}", requests.len());
    assert!(requests.iter().all(|request| request.starts_with("PUT ")), "{requests:?}");
}

fn held(term: u64) -> Option<Version> {
    Some(Version { epoch: Version::epoch_of("uid-1"), term, sequence: 5 })
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_holds_a_later_term_raises_the_lease_above_it() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    let (epoch, _) = first.until_mine().await;
    let asked = Instant::now();
    first.overtaken.send_replace(held(7));
    let raised = |standing: &Standing| *standing == Standing::Mine { epoch, term: 8, renewed: true };
    first.until(raised).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "at once: {:?}", asked.elapsed());
    assert_eq!(api.lease()["spec"]["leaseTransitions"], 8);
    assert_eq!(api.lease()["spec"]["holderIdentity"], "a@10.0.0.1:7800");
    // The same term as our own has configurations that we have not made: that is above it, too. Not sooner than a
    // minute after the last time.
    first.overtaken.send_replace(held(8));
    sleep(Duration::from_secs(50)).await;
    assert!(raised(&first.standing.borrow()), "{:?}", first.standing.borrow());
    first.until(|standing| *standing == Standing::Mine { epoch, term: 9, renewed: true }).await;
    // What is asked for was done.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(api.lease()["spec"]["leaseTransitions"], 9);
    // The next leader counts on.
    first.kill();
    let mut second = api.candidate("b@10.0.0.2:7800");
    assert_eq!(second.until_mine().await, (epoch, 10));
}

#[tokio::test(start_paused = true)]
async fn what_no_agent_can_hold_raises_nothing() {
    let other = Some(Version { epoch: 1, term: 7, sequence: 5 });
    for said in [held(RAISE_MAX + 1), held(u64::MAX), other] {
        let api = Server::default();
        let mut first = api.candidate("a@10.0.0.1:7800");
        let mine = first.until_mine().await;
        first.overtaken.send_replace(said);
        sleep(Duration::from_secs(600)).await;
        assert_eq!(first.until_mine().await, mine, "{said:?}");
        assert_eq!(api.lease()["spec"]["leaseTransitions"], 0, "{said:?}");
    }
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    let (epoch, _) = first.until_mine().await;
    first.overtaken.send_replace(held(RAISE_MAX));
    first.until(|standing| *standing == Standing::Mine { epoch, term: RAISE_MAX + 1, renewed: true }).await;
}

#[tokio::test(start_paused = true)]
async fn agents_that_ask_again_and_again_raise_the_lease_less_and_less_often() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    first.until_mine().await;
    let ask = async |times: u32| {
        let before = api.lease()["spec"]["leaseTransitions"].as_u64().unwrap();
        for _ in 0..times {
            first.overtaken.send_replace(held(api.lease()["spec"]["leaseTransitions"].as_u64().unwrap()));
            sleep(Duration::from_secs(10)).await;
        }
        api.lease()["spec"]["leaseTransitions"].as_u64().unwrap() - before
    };
    // At 0, 1, 3, 7, 15, 31 and 63 minutes, and then every hour.
    assert_eq!(ask(6 * 64).await, 7);
    assert_eq!(ask(6 * 30 * 21).await, 10);
    // Once nobody has asked for long (what was asked last is due in this hour), who asks is heard at once.
    sleep(RAISE_PAUSES.max + RAISE_CALM).await;
    assert_eq!(ask(1).await, 1);
    assert_eq!(ask(7).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_restored_under_its_holder_counts_on() {
    let api = Server::default();
    for _ in 0..5 {
        let mut again = api.candidate("a@10.0.0.1:7800");
        again.until_mine().await;
        again.kill();
    }
    let mut first = api.candidate("a@10.0.0.1:7800");
    let (epoch, term) = first.until_mine().await;
    assert_eq!(term, 5);
    api.restore(2);
    first.until(|standing| *standing == Standing::Mine { epoch, term: 6, renewed: true }).await;
    assert_eq!(api.lease()["spec"]["leaseTransitions"], 6);
}

#[tokio::test(start_paused = true)]
async fn the_lease_goes_away_with_the_deployment() {
    let api = Server::default();
    let mut first = api.candidate("a@10.0.0.1:7800");
    first.until_mine().await;
    assert!(api.owners().is_empty(), "an operator outside of a cluster has no Deployment");
    first.kill();
    // One that another version has made gets its owner, once.
    api.state.lock().unwrap().deployment = Some("d-1");
    for _ in 0..2 {
        let mut again = api.candidate("a@10.0.0.1:7800");
        again.until_mine().await;
        assert_eq!(api.owners(), ["Deployment d-1"]);
        again.kill();
    }
    // An uninstallation is under way: what is made now goes away as well.
    let mut last = api.candidate("a@10.0.0.1:7800");
    last.until_mine().await;
    {
        let mut state = api.state.lock().unwrap();
        (state.deployment, state.lease) = (None, None);
    }
    let made =
        |standing: &Standing| matches!(standing, Standing::Mine { epoch, .. } if *epoch == Version::epoch_of("uid-2"));
    last.until(made).await;
    assert_eq!(api.owners(), ["Deployment d-1"]);
    assert_eq!(api.lease()["metadata"]["ownerReferences"][0].get("blockOwnerDeletion"), None);
}
