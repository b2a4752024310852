//! What the writer asks of the API server, and what it makes of the answers.

use std::collections::VecDeque;

use http_body_util::BodyExt as _;
use hyper::{Request as HttpRequest, Response};
use kube::client::Body;
use l7mp_compiler::object::Kind;
use l7mp_crds::{Condition, ConditionStatus, Status};
use tower_test::mock;

use super::*;

/// A request as the API server got it: method and URL, content type, body.
type Got = (String, String, Value);

/// A writer, and an API server that answers with these codes, then with 200.
struct Test {
    news: mpsc::UnboundedSender<News>,
    standing: watch::Sender<Standing>,
    got: mpsc::UnboundedReceiver<Got>,
    metrics: Arc<Metrics>,
}

const LEADS: Standing = Standing::Mine { epoch: 1, term: 1, renewed: true };

impl Test {
    fn new(standing: Standing, codes: &[u16]) -> Test {
        let (service, mut handle) = mock::pair::<HttpRequest<Body>, Response<Body>>();
        let mut codes: VecDeque<u16> = codes.iter().copied().collect();
        let (sender, got) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap();
                let kind = parts.headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
                let code = codes.pop_front().unwrap_or(200);
                let answer =
                    json!({"kind": "Status", "status": "Failure", "code": code, "reason": "R", "message": "M"});
                let answer = Body::from(answer.to_string().into_bytes());
                send.send_response(Response::builder().status(code).body(answer).unwrap());
                let _ = sender.send((format!("{} {}", parts.method, parts.uri), kind.unwrap_or_default(), body));
            }
        });
        let client = kube::Client::new(service, "default");
        let metrics = Arc::<Metrics>::default();
        let (news, said) = mpsc::unbounded_channel();
        let standing = watch::Sender::new(standing);
        let events = Events::start(client.clone(), "operator-0", Arc::clone(&metrics));
        tokio::spawn(run(client, said, standing.subscribe(), events, Arc::clone(&metrics)));
        Test { news, standing, got, metrics }
    }

    fn present(&self, name: &str) {
        let present = Present { uid: Some(format!("uid-of-{name}")), version: Some("5".to_owned()), status: None };
        self.news.send(News::Present(id(name), present)).unwrap();
    }

    fn desire(&self, name: &str, ready: ConditionStatus, message: &str) {
        let condition = Condition {
            kind: "Ready".to_owned(),
            status: ready,
            observed_generation: Some(2),
            last_transition_time: String::new(),
            reason: "R".to_owned(),
            message: message.to_owned(),
        };
        let accepted = Condition { kind: "Accepted".to_owned(), ..condition.clone() };
        let status = Status { pods: 1, conditions: vec![accepted, condition], ..Status::default() };
        let update = StatusUpdate { id: id(name), uid: Some(format!("uid-of-{name}")), status };
        self.news.send(News::Desired(update)).unwrap();
    }

    /// The next request; the clock of the test jumps ahead to it.
    async fn next(&mut self) -> Option<Got> {
        timeout(Duration::from_secs(300), self.got.recv()).await.ok().flatten()
    }
}

fn id(name: &str) -> ObjectId {
    ObjectId::new(Kind::VirtualService, "ns", name)
}

const TRUE: ConditionStatus = ConditionStatus::True;
const FALSE: ConditionStatus = ConditionStatus::False;

#[tokio::test(start_paused = true)]
async fn a_status_is_applied_to_the_subresource_of_that_object_alone() {
    let mut test = Test::new(LEADS, &[]);
    test.present("a");
    test.desire("a", TRUE, "");
    let (request, kind, body) = test.next().await.unwrap();
    assert_eq!(
        request.replace('?', "&").split('&').collect::<Vec<_>>(),
        [
            "PATCH /apis/l7mp.io/v1/namespaces/ns/virtualservices/a/status",
            "",
            "force=true",
            "fieldManager=l7mp-controller"
        ]
    );
    assert_eq!(kind, "application/apply-patch+yaml");
    assert_eq!(body["apiVersion"], "l7mp.io/v1");
    assert_eq!(body["kind"], "VirtualService");
    assert_eq!(body["metadata"], json!({"name": "a", "namespace": "ns", "resourceVersion": "5"}));
    assert_eq!(body["status"]["conditions"][1]["type"], "Ready");
    let time = body["status"]["conditions"][1]["lastTransitionTime"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    assert_eq!(test.next().await, None, "it is written once");
    assert_eq!(test.metrics.status_writes.get(["written"]), 1);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_turns_bad_gets_an_event() {
    let mut test = Test::new(LEADS, &[]);
    test.present("a");
    test.desire("a", FALSE, "spec.listener is wrong");
    let (request, ..) = test.next().await.unwrap();
    assert!(request.starts_with("PATCH "), "{request}");
    let (request, _, body) = test.next().await.unwrap();
    assert_eq!(request.trim_end_matches(['?', '&']), "POST /apis/events.k8s.io/v1/namespaces/ns/events");
    assert_eq!((&body["type"], &body["note"]), (&json!("Warning"), &json!("spec.listener is wrong")));
    assert_eq!(body["regarding"]["uid"], "uid-of-a");
    test.desire("a", TRUE, "");
    let (request, ..) = test.next().await.unwrap();
    assert!(request.starts_with("PATCH "), "{request}");
    let (_, _, body) = test.next().await.unwrap();
    assert_eq!((&body["type"], &body["reason"]), (&json!("Normal"), &json!("Ready")));
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_with_a_renewed_lease_writes() {
    for standing in [
        Standing::Nobody,
        Standing::Other { identity: "b@1.2.3.4:7800".to_owned() },
        Standing::Mine { epoch: 1, term: 1, renewed: false },
    ] {
        let mut test = Test::new(standing.clone(), &[]);
        test.present("a");
        test.desire("a", TRUE, "");
        assert_eq!(test.next().await, None, "{standing:?}");
        test.standing.send_replace(LEADS);
        assert!(test.next().await.is_some(), "it writes once it leads: {standing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_api_server_is_tried_again_and_an_outdated_object_when_the_watch_says_how_it_is() {
    let mut test = Test::new(LEADS, &[429, 503, 500]);
    test.present("a");
    test.desire("a", TRUE, "");
    let began = Instant::now();
    for _ in 0..4 {
        test.next().await.unwrap();
    }
    assert!(began.elapsed() >= Duration::from_secs(15), "at most one attempt in 5 s: {:?}", began.elapsed());
    assert_eq!((test.metrics.status_writes.get(["failed"]), test.next().await), (3, None));
    assert_eq!(test.metrics.status_writes.get(["written"]), 1);
    for code in [404, 409] {
        let mut test = Test::new(LEADS, &[code]);
        test.present("a");
        test.desire("a", TRUE, "");
        test.next().await.unwrap();
        let began = Instant::now();
        test.next().await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(29), "{code}: {:?}", began.elapsed());
        assert_eq!(test.metrics.status_writes.get(["outdated"]), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn many_objects_are_written_with_few_requests_at_once() {
    let mut test = Test::new(LEADS, &[]);
    for number in 0..100 {
        test.present(&format!("o{number}"));
        test.desire(&format!("o{number}"), TRUE, "");
    }
    for _ in 0..100 {
        test.next().await.unwrap();
    }
    assert_eq!(test.next().await, None);
}
