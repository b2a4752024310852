//! An API server of tests: what it was asked, and answers as the test says.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower_test::mock::{self, SendResponse};

/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(3_600);

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// The API server's end of a client.
pub(super) struct Server {
    handle: mock::Handle<Request<Body>, Answer>,
    put_back: VecDeque<Asked>,
}

/// One request, not answered yet.
pub(super) struct Asked {
    pub(super) method: Method,
    /// Path and query.
    pub(super) uri: String,
    /// `Null` without a body.
    pub(super) body: Value,
    answer: SendResponse<Answer>,
}

/// Where a watch's events are sent; dropping it ends the watch.
pub(super) type Watch = mpsc::UnboundedSender<Value>;

impl Server {
    pub(super) fn new() -> (Client, Server) {
        let (service, handle) = mock::pair::<Request<Body>, Answer>();
        (Client::new(service, "default"), Server { handle, put_back: VecDeque::new() })
    }

    /// The next request. With a paused clock the time that it takes to come is the test's time.
    pub(super) async fn next(&mut self) -> Asked {
        if let Some(asked) = self.put_back.pop_front() {
            return asked;
        }
        let next = tokio::time::timeout(PATIENCE, self.handle.next_request());
        let (request, answer) = next.await.expect("a request comes").expect("the client is there");
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Asked { method: parts.method, uri: parts.uri.to_string(), body, answer }
    }

    /// The next request, which is this one.
    pub(super) async fn expect(&mut self, method: Method, uri: &str) -> Asked {
        let asked = self.next().await;
        assert_eq!((&asked.method, asked.uri.as_str()), (&method, uri));
        asked
    }

    /// The next request within `time`, if one comes.
    pub(super) async fn within(&mut self, time: Duration) -> Option<Asked> {
        tokio::time::timeout(time, self.next()).await.ok()
    }

    /// `next` is to give this one again.
    pub(super) fn put_back(&mut self, asked: Asked) {
        self.put_back.push_back(asked);
    }
}

impl Asked {
    pub(super) fn answer(self, body: Value) {
        self.answer_with(200, body);
    }

    pub(super) fn answer_with(self, status: u16, body: Value) {
        let body = Full::from(serde_json::to_vec(&body).unwrap()).map_err(|never| match never {}).boxed_unsync();
        self.answer.send_response(Response::builder().status(status).body(body).unwrap());
    }

    /// As the API server refuses.
    pub(super) fn refuse(self, code: u16, reason: &str, message: &str) {
        self.answer_with(
            code,
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                "reason": reason, "message": message }),
        );
    }

    pub(super) fn not_found(self) {
        self.refuse(404, "NotFound", "not found");
    }

    /// The connection breaks.
    pub(super) fn cut(self) {
        self.answer.send_error("the connection is reset");
    }

    /// A watch begins.
    pub(super) fn watch(self) -> Watch {
        let (sender, receiver) = mpsc::unbounded_channel::<Value>();
        let events = stream::unfold(receiver, |mut receiver| async move {
            let event = receiver.recv().await?;
            let line = Bytes::from(format!("{event}\n"));
            Some((Ok(Frame::data(line)), receiver))
        });
        self.answer.send_response(Response::new(StreamBody::new(events).boxed_unsync()));
        sender
    }
}

/// A clock that tests set.
#[derive(Clone)]
pub(super) struct Time(Arc<Mutex<std::time::SystemTime>>);

impl Time {
    pub(super) fn new() -> Time {
        Time(Arc::new(Mutex::new(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))))
    }

    pub(super) fn now(&self) -> std::time::SystemTime {
        *self.0.lock().unwrap()
    }

    pub(super) fn pass(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }

    pub(super) fn go_back(&self, time: Duration) {
        *self.0.lock().unwrap() -= time;
    }

    pub(super) fn clock(&self) -> super::Clock {
        let time = self.clone();
        Arc::new(move || time.now())
    }
}
