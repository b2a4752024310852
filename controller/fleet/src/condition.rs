//! The conditions of an object, out of what its pods have said.

use l7mp_compiler::object::ObjectId;
use l7mp_crds::{Condition, ConditionStatus};

use crate::Rejected;
use crate::tally::Tally;

/// How many faults a message spells out.
const NAMED_MAX: usize = 5;

/// The longest message, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 4000;

/// What is judged about an object.
pub(crate) const ACCEPTED: &str = "Accepted";
pub(crate) const RESOLVED_REFS: &str = "ResolvedRefs";
pub(crate) const PROGRAMMED: &str = "Programmed";
pub(crate) const DEGRADED: &str = "Degraded";
pub(crate) const READY: &str = "Ready";

/// Reasons that only mean that agents have not answered yet.
pub(crate) const PENDING: &str = "Pending";
pub(crate) const UNREACHABLE: &str = "Unreachable";

/// Where an object goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// To the pods of its selector.
    Selected,
    /// To the pods whose rules refer to it.
    Referenced,
}

/// A condition whose time is filled in by whoever writes it.
pub(crate) fn condition(kind: &str, status: bool, reason: &str, message: impl Into<String>) -> Condition {
    let message: String = message.into();
    Condition {
        kind: kind.to_owned(),
        status: if status { ConditionStatus::True } else { ConditionStatus::False },
        observed_generation: None,
        last_transition_time: String::new(),
        reason: reason.to_owned(),
        message: shorten(&message, MESSAGE_CHARACTERS_MAX),
    }
}

pub(crate) fn accepted(rejected: Option<&Rejected>, in_force: Option<Option<i64>>) -> Condition {
    let Some(rejected) = rejected else { return condition(ACCEPTED, true, "Accepted", "the object is valid") };
    let problems = list(rejected.problems.iter().map(ToString::to_string));
    let rest = match in_force {
        Some(Some(generation)) => format!("; generation {generation} of it stays in force"),
        Some(None) => "; what it was before stays in force".to_owned(),
        None => "; nothing of it is in force".to_owned(),
    };
    condition(ACCEPTED, false, "Invalid", problems + &rest)
}

pub(crate) fn resolved(tally: &Tally) -> Condition {
    let Some((_, reason, _)) = tally.references.first() else {
        return condition(RESOLVED_REFS, true, "ResolvedRefs", "every reference is usable");
    };
    let messages = tally.references.iter().map(|(path, _, message)| at(path, message));
    condition(RESOLVED_REFS, false, reason.as_str(), list(messages))
}

pub(crate) fn degraded(tally: &Tally) -> Option<Condition> {
    let messages = || tally.degraded.iter().map(|(path, message)| at(path, message));
    (!tally.degraded.is_empty()).then(|| condition(DEGRADED, true, "EndpointsNotReady", list(messages())))
}

pub(crate) fn programmed(
    id: &ObjectId,
    tally: &Tally,
    placement: Placement,
    rejected: bool,
    in_force: bool,
) -> Condition {
    let (reason, mut message) = if rejected && !in_force {
        ("NotAccepted", "the object is not valid, and no earlier state of it is known".to_owned())
    } else if rejected {
        let pods = count(tally.programmed, "pod");
        ("NotAccepted", format!("the object is not valid; what it was before stays in force on {pods}"))
    } else if tally.pods == 0 {
        nowhere(id, tally, placement)
    } else if let Some(first) = tally.failing.first() {
        let said = tally.failing.iter().map(|failing| format!("Pod {}: {}", failing.pod, failing.message));
        (first.reason, list(said))
    } else if !tally.pending.is_empty() {
        let pods = list(tally.pending.iter().map(|pod| format!("Pod {pod}")));
        (PENDING, format!("not acknowledged yet by {pods}"))
    } else if tally.programmed == 0 {
        (UNREACHABLE, format!("no agent of its {} is connected", count(tally.pods, "pod")))
    } else {
        let verb = if tally.programmed == 1 { "runs" } else { "run" };
        (PROGRAMMED, format!("{} of {} {verb} it", tally.programmed, count(tally.pods, "pod")))
    };
    if tally.unreachable > 0 && reason != UNREACHABLE {
        message += &format!("; {} without a connected agent", count(tally.unreachable, "pod"));
    }
    if !tally.remarks.is_empty() {
        message += &format!("; {}", list(tally.remarks.iter().cloned()));
    }
    condition(PROGRAMMED, reason == PROGRAMMED, reason, message)
}

/// Why an object is on no pod.
fn nowhere(id: &ObjectId, tally: &Tally, placement: Placement) -> (&'static str, String) {
    match placement {
        Placement::Selected => {
            let hint = if tally.references.is_empty() { "; a pod has one when a container is named l7mp" } else { "" };
            ("NoPods", format!("spec.selector selects no pod that has a proxy{hint}"))
        }
        Placement::Referenced => {
            let kind = id.kind;
            ("NotReferenced", format!("no rule of any pod leads to this {kind}: it goes where it is referred to"))
        }
    }
}

/// All three, in one.
pub(crate) fn ready(conditions: &[Condition]) -> Condition {
    let judged = conditions.iter().filter(|condition| condition.kind != DEGRADED);
    let mut faults = judged.filter(|condition| condition.status != ConditionStatus::True);
    match faults.next() {
        None => {
            let degraded = conditions.iter().find(|condition| condition.kind == DEGRADED);
            let but = degraded.map(|condition| format!("; but {}", condition.message)).unwrap_or_default();
            condition(READY, true, READY, format!("accepted, resolved and programmed{but}"))
        }
        Some(fault) => condition(READY, false, &fault.reason, format!("not {}: {}", fault.kind, fault.message)),
    }
}

fn at(path: &str, message: &str) -> String {
    if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") }
}

/// `1 pod`, `2 pods`.
fn count(number: u32, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The first few, and how many more there are.
fn list(items: impl Iterator<Item = String>) -> String {
    let mut items = items;
    let named: Vec<String> = items.by_ref().take(NAMED_MAX).collect();
    match items.count() {
        0 => named.join("; "),
        more => format!("{}; and {more} more", named.join("; ")),
    }
}

/// At most so many characters.
pub(crate) fn shorten(text: &str, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
