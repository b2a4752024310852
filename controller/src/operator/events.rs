//! Kubernetes Events (`events.k8s.io`) on objects that turn bad, and when they are well again.
//!
//! They follow the written status, so a new leader repeats nothing. They are an extra: what cannot be sent at once
//! is counted and dropped, and never in the way of a status.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use l7mp_compiler::object::ObjectId;
use l7mp_crds::{Condition, ConditionStatus, Status};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::operator::metrics::Metrics;
use crate::operator::read::reference;
use crate::operator::status::condition;

/// Who says it.
const CONTROLLER: &str = "l7mp.io/controller";

/// The same words about the same object are not repeated so soon.
const REPEAT: Duration = Duration::from_secs(600);

/// Words that are remembered for that.
const REMEMBERED_MAX: usize = 2_048;

/// So many Events may come at once, and one more with each [`REFILL`].
const BURST: u32 = 25;

/// See [`BURST`].
const REFILL: Duration = Duration::from_secs(2);

/// Events that wait for being sent.
const WAITING_MAX: usize = 64;

/// The API server's limit of a note, in bytes.
const NOTE_MAX: usize = 1_024;

/// The API server's limit of a reporting instance, in bytes.
const INSTANCE_MAX: usize = 128;

/// The longest part of an Event's name that is its object's, in bytes.
const NAME_MAX: usize = 220;

/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Reasons of `Programmed` that say nothing bad: it is under way, or said by another condition.
const QUIET: [&str; 3] = ["Pending", "NotAccepted", "NotReferenced"];

/// The reason of `Programmed` that is bad only for an object that was in force: pods begin without an agent.
const UNREACHABLE: &str = "Unreachable";

/// Says what happens to objects.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Sender<Note>,
    metrics: Arc<Metrics>,
    limit: Limit,
}

/// One Event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// On which object.
    pub id: ObjectId,
    /// Its UID.
    pub uid: Option<String>,
    /// `Warning`, else `Normal`.
    pub is_warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What may be said now.
#[derive(Debug)]
struct Limit {
    said: HashMap<Note, Instant>,
    tokens: u32,
    refilled: Instant,
}

impl Events {
    /// Sends Events as `instance`, the name of this pod, until the value is dropped.
    pub fn start(client: kube::Client, instance: &str, metrics: Arc<Metrics>) -> Events {
        let (queue, notes) = mpsc::channel(WAITING_MAX);
        tokio::spawn(send_all(client, notes, cut(instance, INSTANCE_MAX).to_owned(), Arc::clone(&metrics)));
        Events { queue, metrics, limit: Limit::new(Instant::now()) }
    }

    /// An object's status was written: says what of it is bad, and was not before, and that it is well again.
    pub fn report(&mut self, id: &ObjectId, uid: Option<&str>, before: Option<&Status>, after: &Status) {
        for note in notes(id, uid, before, after) {
            if note.is_warning {
                tracing::warn!(object = %id, reason = %note.reason, "{}", note.message);
            } else {
                tracing::info!(object = %id, reason = %note.reason, "{}", note.message);
            }
            let result = if !self.limit.allows(&note, Instant::now()) {
                "limited"
            } else if self.queue.try_send(note).is_err() {
                "dropped"
            } else {
                continue;
            };
            self.metrics.events.add([result]);
        }
    }
}

/// What there is to say about a change of status.
fn notes(id: &ObjectId, uid: Option<&str>, before: Option<&Status>, after: &Status) -> Vec<Note> {
    let note = |is_warning, reason: &str, message: &str| Note {
        id: id.clone(),
        uid: uid.map(str::to_owned),
        is_warning,
        reason: reason.to_owned(),
        message: cut(message, NOTE_MAX).to_owned(),
    };
    let bad: Vec<&Condition> = after.conditions.iter().filter(|condition| is_bad(condition)).collect();
    let was_in_force = before.is_some_and(|before| before.programmed > 0);
    let is_news = |now: &&&Condition| {
        (now.reason != UNREACHABLE || was_in_force)
            && condition(before, &now.kind)
                .is_none_or(|last| !is_bad(last) || (&last.reason, &last.message) != (&now.reason, &now.message))
    };
    let mut notes: Vec<Note> =
        bad.iter().filter(is_news).map(|condition| note(true, &condition.reason, &condition.message)).collect();
    let was_bad = before.is_some_and(|before| before.conditions.iter().any(is_bad));
    let is_ready = condition(Some(after), "Ready").is_some_and(|ready| ready.status == ConditionStatus::True);
    if was_bad && bad.is_empty() && is_ready {
        notes.push(note(
            false,
            "Ready",
            &format!("in force on {} of {} pods, nothing is wrong", after.programmed, after.pods),
        ));
    }
    notes
}

fn is_bad(condition: &Condition) -> bool {
    match condition.kind.as_str() {
        // It sums up the others.
        "Ready" => false,
        "Degraded" => condition.status == ConditionStatus::True,
        "Programmed" => condition.status == ConditionStatus::False && !QUIET.contains(&condition.reason.as_str()),
        _ => condition.status == ConditionStatus::False,
    }
}

impl Limit {
    fn new(now: Instant) -> Limit {
        Limit { said: HashMap::new(), tokens: BURST, refilled: now }
    }

    fn allows(&mut self, note: &Note, now: Instant) -> bool {
        let earned = (now - self.refilled).as_millis() / REFILL.as_millis();
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
            self.refilled = now;
        }
        self.said.retain(|_, said| now - *said < REPEAT);
        if self.tokens == 0 || self.said.contains_key(note) || self.said.len() >= REMEMBERED_MAX {
            return false;
        }
        self.tokens -= 1;
        self.said.insert(note.clone(), now);
        true
    }
}

async fn send_all(client: kube::Client, mut notes: mpsc::Receiver<Note>, instance: String, metrics: Arc<Metrics>) {
    while let Some(note) = notes.recv().await {
        let api: Api<Event> = Api::namespaced(client.clone(), &note.id.namespace);
        let event = event(&note, &instance, Timestamp::now());
        let result = match timeout(TIMEOUT, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => "sent",
            Ok(Err(error)) => {
                tracing::debug!(object = %note.id, "no Event: {error}");
                "failed"
            }
            Err(_) => "failed",
        };
        metrics.events.add([result]);
    }
}

fn event(note: &Note, instance: &str, now: Timestamp) -> Event {
    let name = format!("{}.{:x}", cut(&note.id.name, NAME_MAX), now.as_nanosecond());
    Event {
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta { name: Some(name), namespace: Some(note.id.namespace.clone()), ..ObjectMeta::default() },
        note: Some(note.message.clone()),
        reason: Some(note.reason.clone()),
        regarding: Some(reference(&note.id, note.uid.as_deref())),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if note.is_warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

/// At most so many bytes of a text, whole characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use l7mp_compiler::object::Kind;

    fn status(conditions: &[(&str, ConditionStatus, &str)]) -> Status {
        let conditions = conditions.iter().map(|(kind, status, reason)| Condition {
            kind: (*kind).to_owned(),
            status: *status,
            observed_generation: None,
            last_transition_time: String::new(),
            reason: (*reason).to_owned(),
            message: format!("about {reason}"),
        });
        Status { conditions: conditions.collect(), ..Status::default() }
    }

    const TRUE: ConditionStatus = ConditionStatus::True;
    const FALSE: ConditionStatus = ConditionStatus::False;

    fn said(before: Option<&Status>, after: &Status) -> Vec<(bool, String)> {
        let id = ObjectId::new(Kind::Target, "n", "a");
        notes(&id, Some("u"), before, after).into_iter().map(|note| (note.is_warning, note.reason)).collect()
    }

    #[test]
    fn an_object_that_turns_bad_is_told_once_and_that_it_is_well_again_too() {
        let good = status(&[("Accepted", TRUE, "Accepted"), ("Ready", TRUE, "Ready")]);
        let bad = status(&[("Accepted", FALSE, "Invalid"), ("Ready", FALSE, "Invalid")]);
        let worse = status(&[("Accepted", FALSE, "Invalid"), ("Degraded", TRUE, "EndpointsNotReady")]);
        assert_eq!(said(None, &good), []);
        assert_eq!(said(None, &bad), [(true, "Invalid".to_owned())]);
        assert_eq!(said(Some(&good), &bad), [(true, "Invalid".to_owned())]);
        assert_eq!(said(Some(&bad), &bad), []);
        assert_eq!(said(Some(&bad), &worse), [(true, "EndpointsNotReady".to_owned())]);
        assert_eq!(said(Some(&bad), &good), [(false, "Ready".to_owned())]);
    }

    #[test]
    fn what_is_under_way_is_not_bad() {
        let pending = status(&[("Programmed", FALSE, "Pending"), ("Ready", FALSE, "Pending")]);
        let refused = status(&[("Programmed", FALSE, "Refused"), ("Ready", FALSE, "Refused")]);
        assert_eq!(said(None, &pending), []);
        assert_eq!(said(Some(&pending), &refused), [(true, "Refused".to_owned())]);
        assert_eq!(said(Some(&refused), &pending), []);
    }

    #[test]
    fn agents_that_have_not_come_yet_are_not_bad_and_those_that_are_gone_are() {
        let unreachable = status(&[("Programmed", FALSE, "Unreachable"), ("Ready", FALSE, "Unreachable")]);
        let mut in_force = status(&[("Programmed", TRUE, "Programmed"), ("Ready", TRUE, "Ready")]);
        assert_eq!(said(None, &unreachable), []);
        assert_eq!(said(Some(&in_force), &unreachable), []);
        in_force.programmed = 1;
        assert_eq!(said(Some(&in_force), &unreachable), [(true, "Unreachable".to_owned())]);
    }

    #[test]
    fn words_are_not_repeated_and_there_is_a_limit_to_their_number() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let note = |reason: u32| Note {
            id: ObjectId::new(Kind::Target, "n", "a"),
            uid: None,
            is_warning: true,
            reason: reason.to_string(),
            message: String::new(),
        };
        assert!(limit.allows(&note(0), start));
        assert!(!limit.allows(&note(0), start + REPEAT / 2));
        assert!(limit.allows(&note(0), start + REPEAT));
        let allowed = (1..1_000).filter(|reason| limit.allows(&note(*reason), start + REPEAT)).count();
        assert_eq!(allowed, BURST as usize - 1);
        assert!(limit.allows(&note(2_000), start + REPEAT + REFILL));
        assert!(!limit.allows(&note(2_001), start + REPEAT + REFILL));
    }

    #[test]
    fn an_event_is_within_the_api_servers_limits() {
        let note = Note {
            id: ObjectId::new(Kind::Target, "n", &"x".repeat(253)),
            uid: Some("u".to_owned()),
            is_warning: false,
            reason: "Ready".to_owned(),
            message: "m".to_owned(),
        };
        let event = event(&note, "pod", Timestamp::now());
        assert!(event.metadata.name.unwrap().len() <= 253);
        assert_eq!(event.regarding.unwrap().uid.as_deref(), Some("u"));
        assert_eq!(cut(&"ä".repeat(1_000), 1_023).len(), 1_022);
    }
}
