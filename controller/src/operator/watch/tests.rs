//! A watch, against an API server that lists, watches, and fails.

use std::collections::VecDeque;

use hyper::{Request, Response};
use kube::client::Body;
use serde_json::json;
use tokio::time::timeout;
use tower_test::mock;

use super::*;

/// One answer: code and body.
type Answer = (u16, String);

/// Follows Targets of an API server that gives these answers in turn; then nothing more happens.
fn follow_targets(answers: Vec<Answer>) -> (mpsc::Receiver<Change>, mpsc::UnboundedReceiver<String>, Arc<Metrics>) {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let mut answers: VecDeque<Answer> = answers.into();
    let (asked_sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let _ = asked_sender.send(request.uri().to_string());
            match answers.pop_front() {
                Some((code, body)) => {
                    send.send_response(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap());
                }
                None => open.push(send),
            }
        }
    });
    let client = kube::Client::new(service, "default");
    let (changes_sender, changes) = mpsc::channel(100);
    let metrics = Arc::<Metrics>::default();
    tokio::spawn(follow::<kinds::Target>(client, changes_sender, Arc::clone(&metrics)));
    (changes, asked, metrics)
}

fn target(name: &str, version: u32, spec: &Value) -> Value {
    json!({
        "apiVersion": "l7mp.io/v1", "kind": "Target", "spec": spec,
        "metadata": {"name": name, "namespace": "n", "uid": name, "generation": 1, "resourceVersion": version.to_string()},
    })
}

fn echo(name: &str, version: u32) -> Value {
    target(name, version, &json!({"cluster": {"spec": {"Echo": {}}}}))
}

fn list(version: u32, items: &[Value]) -> Answer {
    let list = json!({
        "apiVersion": "l7mp.io/v1", "kind": "TargetList",
        "metadata": {"resourceVersion": version.to_string()}, "items": items,
    });
    (200, list.to_string())
}

fn events(events: &[(&str, Value)]) -> Answer {
    let lines = events.iter().map(|(kind, object)| json!({"type": kind, "object": object}).to_string() + "\n");
    (200, lines.collect())
}

fn failure(code: u16) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": "R", "message": format!("failure {code}")})
}

/// The next change, in a few words; the clock of the test jumps ahead to it.
async fn next(changes: &mut mpsc::Receiver<Change>) -> String {
    let word = |seen: &Seen| match &seen.object {
        Ok(_) => seen.id().name,
        Err(rejected) => format!("!{}", rejected.id.name),
    };
    match timeout(Duration::from_secs(120), changes.recv()).await.expect("nothing comes") {
        Some(Change::Reset(_, all)) => format!("= {}", all.iter().map(word).collect::<Vec<_>>().join(" ")),
        Some(Change::Apply(seen)) => format!("+ {}", word(&seen)),
        Some(Change::Delete(id)) => format!("- {}", id.name),
        None => "end".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn objects_are_listed_then_followed() {
    let (mut changes, mut asked, metrics) = follow_targets(vec![
        list(5, &[echo("a", 3), echo("b", 4)]),
        events(&[("MODIFIED", echo("a", 6)), ("ADDED", echo("c", 7)), ("DELETED", echo("b", 8))]),
    ]);
    for expected in ["= a b", "+ a", "+ c", "- b"] {
        assert_eq!(next(&mut changes).await, expected);
    }
    let first = asked.recv().await.unwrap();
    assert!(first.starts_with("/apis/l7mp.io/v1/targets?") && first.contains("limit=250"), "{first}");
    let second = asked.recv().await.unwrap();
    assert!(second.contains("watch=true") && second.contains("resourceVersion=5"), "{second}");
    assert_eq!(metrics.watch_events.get(["Target", "init"]), 2);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_object_takes_no_other_with_it() {
    let wrong = |name: &str, version| target(name, version, &json!({"cluster": {"spec": {"UDP": {"port": "x"}}}}));
    let (mut changes, _, metrics) = follow_targets(vec![
        list(5, &[echo("a", 3), wrong("b", 4), echo("c", 5)]),
        events(&[
            ("ADDED", wrong("d", 6)),
            ("ADDED", json!({"metadata": {"name": "e", "resourceVersion": "7"}})),
            ("ADDED", echo("f", 8)),
        ]),
    ]);
    for expected in ["= a !b c", "+ !d", "+ !e", "+ f"] {
        assert_eq!(next(&mut changes).await, expected);
    }
    assert_eq!(metrics.watch_errors.get(["Target"]), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let (mut changes, mut asked, _) = follow_targets(vec![
        list(5, &[echo("a", 3)]),
        events(&[("MODIFIED", echo("a", 6))]),
        (200, "{\"type\":\"ADDED\",\"obj".to_owned()),
        events(&[("ADDED", echo("b", 7))]),
    ]);
    for expected in ["= a", "+ a", "+ b"] {
        assert_eq!(next(&mut changes).await, expected);
    }
    let mut requests = Vec::new();
    while let Ok(request) = asked.try_recv() {
        requests.push(request);
    }
    assert!(requests[2..4].iter().all(|request| request.contains("resourceVersion=6")), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_is_listed_anew_and_nothing_is_forgotten_meanwhile() {
    let (mut changes, _, metrics) = follow_targets(vec![
        list(5, &[echo("a", 3), echo("b", 4)]),
        events(&[("ERROR", failure(410))]),
        (503, failure(503).to_string()),
        list(9, &[echo("b", 4), echo("c", 8)]),
    ]);
    assert_eq!(next(&mut changes).await, "= a b");
    // The next thing that is said is the whole new list: no deletion of what it was waiting for.
    assert_eq!(next(&mut changes).await, "= b c");
    assert_eq!(metrics.watch_errors.get(["Target"]), 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_cannot_begin_at_its_version_lists_anew() {
    let (mut changes, _, _) =
        follow_targets(vec![list(5, &[echo("a", 3)]), (410, failure(410).to_string()), list(9, &[echo("b", 8)])]);
    assert_eq!(next(&mut changes).await, "= a");
    assert_eq!(next(&mut changes).await, "= b");
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_with_pauses() {
    let refusals = [(403, failure(403).to_string()), (429, failure(429).to_string()), (500, "no JSON".to_owned())];
    let mut answers: Vec<Answer> = refusals.iter().cycle().take(9).cloned().collect();
    answers.push(list(1, &[echo("a", 1)]));
    let began = tokio::time::Instant::now();
    let (mut changes, _, metrics) = follow_targets(answers);
    assert_eq!(next(&mut changes).await, "= a");
    assert_eq!(metrics.watch_errors.get(["Target"]), 9);
    assert!(began.elapsed() > Duration::from_secs(25), "{:?}", began.elapsed());
}
