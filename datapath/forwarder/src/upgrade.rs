//! The WebSocket upgrade of both roles: bytes are gathered in a link's stash until the request or the answer is whole.

use std::sync::Arc;

use serde_json::Value;

use crate::codec::websocket::handshake::{self, Expected, Refusal};
use crate::counters::{DropReason, EndReason};
use crate::forwarder::Forwarder;
use crate::ids::{LinkId, SessionIndex};
use crate::limits::HANDSHAKE_BYTES_MAX;
use crate::links::Phase;
use crate::metadata;
use crate::rules::{self, Matched};
use crate::session::{Session, SessionState};
use crate::snapshot::{ClusterProtocol, ListenerProtocol};
use crate::time::Time;
use crate::verdict::{Step, Verdict};

/// What the answer to our request must say.
#[derive(Debug)]
pub struct ClientHandshake {
    expected: Expected,
}

impl Forwarder {
    /// Bytes of a handshake. All of them are consumed: what follows the handshake waits in the stash.
    pub(crate) fn handshake_bytes(&mut self, from: LinkId, bytes: &mut [u8], now: Time) -> Step {
        let done = Step { used: bytes.len(), verdict: Verdict::Kept };
        let Some(link) = self.links.get_mut(from) else { return done };
        link.stash.extend_from_slice(bytes);
        let index = link.session;
        match self.stage_of(from) {
            Some((index, stage)) => self.read_answer(from, index, stage, now),
            None => self.read_request(from, index, now),
        }
        done
    }

    /// The server's side: the client's request, as far as it is there.
    fn read_request(&mut self, from: LinkId, index: SessionIndex, now: Time) {
        let Some(link) = self.links.get_mut(from) else { return };
        let (used, request) = match handshake::read_request(&link.stash) {
            Ok(None) => return,
            Ok(Some(found)) => found,
            Err(refusal) => return self.refuse_and_end(index, refusal, EndReason::Handshake, now),
        };
        link.stash.drain(..used);
        link.stash.shrink_to_fit();
        link.phase = Phase::Ready;
        self.press(index);
        let Some(session) = self.session_mut(index) else { return };
        let listener = Arc::clone(&session.listener);
        let ListenerProtocol::WebSocket { path, subprotocols, .. } = &listener.protocol else { return };
        if path.as_ref().is_some_and(|path| path != request.path()) {
            return self.refuse_and_end(index, Refusal::NOT_FOUND, EndReason::Handshake, now);
        }
        session.subprotocol = handshake::select_protocol(&request.protocols, subprotocols).map(String::into_boxed_str);
        session.request = Some(Box::new(request));
        match rules::decide(&listener.rules) {
            Matched::Route(rule, route) => self.open_stages(index, (rule, route), now),
            Matched::NoRule => self.refuse_and_end(index, Refusal::NOT_FOUND, EndReason::Refused, now),
            Matched::Refused(_) => self.refuse_and_end(index, Refusal::UNAVAILABLE, EndReason::Refused, now),
        }
    }

    /// Answers a client whose request goes nowhere, and ends its session.
    fn refuse_and_end(&mut self, index: SessionIndex, refusal: Refusal, reason: EndReason, now: Time) {
        self.refuse_upgrade(index, refusal);
        self.end_session(index, reason, now);
    }

    /// Sends an HTTP error to a WebSocket client that waits for its 101.
    pub(crate) fn refuse_upgrade(&mut self, index: SessionIndex, refusal: Refusal) {
        let Some(session) = self.session(index).filter(|_| self.speaks_websocket(index)) else { return };
        if session.state == SessionState::Open {
            return;
        }
        session.listener.counters[self.identity.worker].handshake_failures.add(1);
        let source = session.source_link;
        self.send_control(source, refusal.response());
    }

    /// Sends the 101 to a WebSocket client.
    pub(crate) fn accept_upgrade(&mut self, index: SessionIndex) {
        let Some(session) = self.session(index).filter(|_| self.speaks_websocket(index)) else { return };
        let Some(request) = &session.request else { return };
        let answer = request.accept(session.subprotocol.as_deref());
        let source = session.source_link;
        self.send_control(source, answer);
    }

    /// The client's side: sends our request.
    pub(crate) fn upgrade(&mut self, link: LinkId, index: SessionIndex, stage: usize, now: Time) {
        let mut nonce = [0; 16];
        for word in nonce.chunks_exact_mut(4) {
            word.copy_from_slice(&self.random_word());
        }
        let Some(session) = self.session(index) else { return };
        let ClusterProtocol::WebSocket { path, host, subprotocol, .. } = &session.stages[stage].cluster.protocol else {
            return;
        };
        let address = endpoint_of(session, link, stage);
        let (target, headers) = target_and_headers(session, path.as_deref());
        let offered = subprotocol.as_deref().or(session.subprotocol.as_deref());
        let host = host.as_deref().unwrap_or(&address);
        match handshake::request(host, &target, offered, &headers, nonce) {
            Ok((bytes, expected)) => {
                self.handshakes.insert(link, ClientHandshake { expected });
                if let Some(link) = self.links.get_mut(link) {
                    link.phase = Phase::Handshake;
                }
                self.send_control(link, bytes);
                self.press_link(link);
            }
            Err(_) => self.upgrade_failed(link, index, stage, now),
        }
    }

    /// The client's side: the server's answer, as far as it is there.
    fn read_answer(&mut self, from: LinkId, index: SessionIndex, stage: usize, now: Time) {
        let Some(handshake) = self.handshakes.get(&from) else { return };
        let Some(link) = self.links.get_mut(from) else { return };
        match handshake::read_response(&link.stash, &handshake.expected) {
            Ok(None) if link.stash.len() < HANDSHAKE_BYTES_MAX => {}
            Ok(Some((used, _))) => {
                link.stash.drain(..used);
                link.stash.shrink_to_fit();
                self.handshakes.remove(&from);
                self.link_ready(from, index, stage, now);
            }
            Ok(None) | Err(_) => self.upgrade_failed(from, index, stage, now),
        }
    }

    fn upgrade_failed(&mut self, link: LinkId, index: SessionIndex, stage: usize, now: Time) {
        if let Some(session) = self.session(index) {
            session.stages[stage].cluster.counters[self.identity.worker].handshake_failures.add(1);
        }
        self.link_failed(link, index, stage, DropReason::OpenFailed, now);
    }
}

/// The address of the endpoint that a link of a stage connects to.
fn endpoint_of(session: &Session, link: LinkId, stage: usize) -> String {
    let stage = &session.stages[stage];
    let successor = stage.successor.as_ref().filter(|(successor, _)| *successor == link);
    let endpoint = successor.map(|(_, endpoint)| endpoint).or(stage.endpoint.as_ref());
    endpoint.map(|endpoint| endpoint.address.to_string()).unwrap_or_default()
}

/// The path and the headers of our request. The path: a rewritten `HTTP.url`, then the cluster's, then the client's
/// own, then `/`. The headers: the client's, rewrites applied.
fn target_and_headers(session: &Session, path: Option<&str>) -> (String, Vec<(String, String)>) {
    let rewrites = session.decided.as_ref().map(|(rule, _)| &rule.rewrite[..]).unwrap_or_default();
    let touches = |prefix: &str| rewrites.iter().any(|rewrite| rewrite.path.trim_matches('/').starts_with(prefix));
    let metadata = touches("HTTP").then(|| metadata::of(session));
    let rewritten = metadata.as_ref().filter(|_| touches("HTTP/url")).and_then(url);
    let request = session.request.as_deref();
    let target = rewritten
        .or_else(|| path.map(str::to_owned))
        .or_else(|| request.map(|request| request.target.clone()))
        .unwrap_or_else(|| "/".to_owned());
    let headers = match metadata.as_ref().filter(|_| touches("HTTP/headers")) {
        Some(metadata) => headers(metadata),
        None => request.map(|request| request.headers.clone()).unwrap_or_default(),
    };
    (target, headers)
}

/// The rewritten URL: a string, or the original's object.
fn url(metadata: &Value) -> Option<String> {
    match metadata::lookup(metadata, "/HTTP/url")? {
        Value::String(url) => Some(url.clone()),
        url => {
            let path = url.get("path")?.as_str()?;
            let query = url.get("query").and_then(Value::as_str).filter(|query| !query.is_empty());
            Some(query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")))
        }
    }
}

fn headers(metadata: &Value) -> Vec<(String, String)> {
    let Some(Value::Object(headers)) = metadata::lookup(metadata, "/HTTP/headers") else { return Vec::new() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}
