//! Which statuses are to be written, and when. Pure: the time is a parameter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use l7mp_compiler::object::ObjectId;
use l7mp_crds::{Condition, ConditionStatus, Status};
use tokio::time::Instant;

use super::News;

/// Waits of the writer.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// At most one write of an object in so long (5 s).
    pub interval: Duration,
    /// A status that may be about to change again waits so long (250 ms): changes come in bursts. An object that
    /// became Ready is written at once.
    pub settle: Duration,
    /// The pause after a failed write (1 s), doubled with each further one.
    pub retry: Duration,
    /// The longest such pause (30 s).
    pub retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let ms = Duration::from_millis;
        Timing { interval: ms(5_000), settle: ms(250), retry: ms(1_000), retry_max: ms(30_000) }
    }
}

/// One write of a status.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Whose.
    pub id: ObjectId,
    /// Of which object of that name.
    pub uid: Option<String>,
    /// The version of it that the status was judged from; the API server refuses to write to another one.
    pub version: Option<String>,
    /// What the API server had before.
    pub before: Option<Status>,
    /// What it is to have.
    pub status: Status,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The API server has it, as the object's version of this name.
    Written(Option<String>),
    /// The object has changed, or there is none of the name any more: the watch will say so.
    Outdated,
    /// The API server finds the status wrong: a fault of ours. Not tried again before it changes, or much later.
    Refused(String),
    /// Anything else: tried again.
    Failed(String),
}

/// Everything that is to be written.
#[derive(Debug)]
pub struct Desk {
    timing: Timing,
    entries: BTreeMap<ObjectId, Entry>,
    /// Entries that are to be written, by when.
    queue: BTreeSet<(Instant, ObjectId)>,
}

#[derive(Debug, Default)]
struct Entry {
    uid: Option<String>,
    version: Option<String>,
    present: Option<Status>,
    desired: Option<Status>,
    /// Since when the two differ.
    differs: Option<Instant>,
    /// When it was written last, and before that.
    written: Option<Instant>,
    written_before: Option<Instant>,
    /// The last write found another version.
    outdated: bool,
    /// The end of the pause after failures.
    paused: Option<Instant>,
    failures: u32,
    /// A write is under way.
    writing: bool,
    /// Its place in the queue.
    due: Option<Instant>,
}

impl Entry {
    fn differs(&self) -> bool {
        self.desired.as_ref().is_some_and(|desired| !self.present.as_ref().is_some_and(|now| same(now, desired)))
    }

    fn becomes_ready(&self) -> bool {
        is_ready(self.desired.as_ref()) && !is_ready(self.present.as_ref())
    }

    fn due(&self, timing: &Timing) -> Option<Instant> {
        let differs = self.differs.filter(|_| !self.writing)?;
        let settled = if self.becomes_ready() { differs } else { differs + timing.settle };
        let again = self.written.map_or(settled, |written| written + timing.interval);
        Some(settled.max(again).max(self.paused.unwrap_or(settled)))
    }
}

impl Desk {
    /// Knows of nothing yet.
    pub fn new(timing: Timing) -> Desk {
        Desk { timing, entries: BTreeMap::new(), queue: BTreeSet::new() }
    }

    /// Takes news.
    pub fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::Present(id, present) => {
                let entry = self.entries.entry(id.clone()).or_default();
                if entry.uid != present.uid {
                    // Another object of the name.
                    let (writing, due) = (entry.writing, entry.due);
                    *entry = Entry { uid: present.uid, writing, due, ..Entry::default() };
                }
                entry.present = present.status;
                if entry.version != present.version && std::mem::take(&mut entry.outdated) {
                    (entry.paused, entry.written) = (None, entry.written_before);
                }
                entry.version = present.version;
                self.look(&id, now);
            }
            News::Gone(id) => {
                if let Some(due) = self.entries.remove(&id).and_then(|entry| entry.due) {
                    self.queue.remove(&(due, id));
                }
            }
            News::Desired(update) => {
                let Some(entry) = self.entries.get_mut(&update.id) else { return };
                if update.uid.is_some() && update.uid != entry.uid {
                    return;
                }
                entry.desired = Some(update.status);
                self.look(&update.id, now);
            }
            News::Restart => {
                let ids: Vec<ObjectId> = self.entries.keys().cloned().collect();
                for id in ids {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.paused = entry.paused.max(Some(now + self.timing.settle));
                    }
                    self.look(&id, now);
                }
            }
        }
    }

    /// What is to be written by now, at most so many; `wall` is the time for conditions that change (RFC 3339).
    pub fn take(&mut self, most: usize, now: Instant, wall: &str) -> Vec<Write> {
        let due: Vec<_> = self.queue.iter().take(most).take_while(|(due, _)| *due <= now).cloned().collect();
        let mut writes = Vec::new();
        for key in due {
            self.queue.remove(&key);
            let (_, id) = key;
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.due = None;
            let Some(mut status) = entry.desired.clone() else { continue };
            keep_times(&mut status, entry.present.as_ref(), wall);
            entry.writing = true;
            entry.written_before = entry.written.replace(now);
            let (uid, version) = (entry.uid.clone(), entry.version.clone());
            writes.push(Write { id, uid, version, before: entry.present.clone(), status });
        }
        writes
    }

    /// When something is to be written next.
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// How many statuses wait.
    pub fn unwritten(&self) -> usize {
        self.queue.len()
    }

    /// A write has ended.
    pub fn done(&mut self, write: &Write, outcome: &Outcome, now: Instant) {
        let Some(entry) = self.entries.get_mut(&write.id) else { return };
        entry.writing = false;
        if entry.uid == write.uid {
            match outcome {
                Outcome::Written(version) => {
                    entry.present = Some(write.status.clone());
                    (entry.failures, entry.paused) = (0, None);
                    // What the watch said meanwhile is this write, or newer.
                    if entry.version == write.version {
                        entry.version.clone_from(version);
                    }
                }
                // The watch may have brought the newer version before the answer came.
                Outcome::Outdated if entry.version != write.version => entry.written = entry.written_before,
                Outcome::Outdated => {
                    entry.outdated = true;
                    entry.paused = Some(now + self.timing.retry_max);
                }
                Outcome::Refused(_) => entry.paused = Some(now + self.timing.retry_max),
                Outcome::Failed(_) => {
                    let pause = self.timing.retry.saturating_mul(1 << entry.failures.min(16));
                    entry.paused = Some(now + pause.min(self.timing.retry_max));
                    entry.failures += 1;
                }
            }
        }
        self.look(&write.id, now);
    }

    /// Puts an entry at its place in the queue.
    fn look(&mut self, id: &ObjectId, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.differs = if entry.differs() { entry.differs.or(Some(now)) } else { None };
        let due = entry.due(&self.timing);
        if let Some(last) = entry.due.take() {
            self.queue.remove(&(last, id.clone()));
        }
        if let Some(due) = due {
            entry.due = Some(due);
            self.queue.insert((due, id.clone()));
        }
    }
}

/// The condition of that name.
pub(crate) fn condition<'a>(status: Option<&'a Status>, kind: &str) -> Option<&'a Condition> {
    status?.conditions.iter().find(|condition| condition.kind == kind)
}

fn is_ready(status: Option<&Status>) -> bool {
    condition(status, "Ready").is_some_and(|ready| ready.status == ConditionStatus::True)
}

/// Whether two statuses say the same; when a condition became what it is says nothing.
fn same(a: &Status, b: &Status) -> bool {
    let timeless = |status: &Status| {
        let mut status = status.clone();
        for condition in &mut status.conditions {
            condition.last_transition_time.clear();
        }
        status
    };
    timeless(a) == timeless(b)
}

/// A condition that was so before became so when it did.
fn keep_times(status: &mut Status, before: Option<&Status>, wall: &str) {
    for now in &mut status.conditions {
        let kept = condition(before, &now.kind).filter(|before| before.status == now.status);
        let time = kept.map(|before| before.last_transition_time.as_str()).filter(|time| !time.is_empty());
        now.last_transition_time = time.unwrap_or(wall).to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::read::Present;
    use l7mp_compiler::object::Kind;
    use l7mp_fleet::StatusUpdate;

    const WALL: &str = "2026-11-22T12:00:00Z";

    fn id() -> ObjectId {
        ObjectId::new(Kind::Target, "n", "a")
    }

    fn status(ready: ConditionStatus, pods: u32) -> Status {
        let condition = Condition {
            kind: "Ready".to_owned(),
            status: ready,
            observed_generation: Some(1),
            last_transition_time: String::new(),
            reason: "R".to_owned(),
            message: String::new(),
        };
        Status { pods, conditions: vec![condition], ..Status::default() }
    }

    fn written() -> Outcome {
        Outcome::Written(Some("written".to_owned()))
    }

    const TRUE: ConditionStatus = ConditionStatus::True;
    const FALSE: ConditionStatus = ConditionStatus::False;

    struct Test {
        desk: Desk,
        start: Instant,
        now: Duration,
        version: u32,
    }

    impl Test {
        fn new(present: Option<Status>) -> Test {
            let desk = Desk::new(Timing::default());
            let mut test = Test { desk, start: Instant::now(), now: Duration::ZERO, version: 0 };
            test.present("u", present);
            test
        }

        fn present(&mut self, uid: &str, status: Option<Status>) {
            self.version += 1;
            let version = Some(self.version.to_string());
            let present = Present { uid: Some(uid.to_owned()), version, status };
            self.desk.hear(News::Present(id(), present), self.start + self.now);
        }

        fn desire(&mut self, status: Status) {
            let update = StatusUpdate { id: id(), uid: Some("u".to_owned()), status };
            self.desk.hear(News::Desired(update), self.start + self.now);
        }

        fn at(&mut self, ms: u64) {
            self.now = Duration::from_millis(ms);
        }

        fn take(&mut self) -> Option<Write> {
            self.desk.take(8, self.start + self.now, WALL).pop()
        }

        fn done(&mut self, write: &Write, outcome: &Outcome) {
            self.desk.done(write, outcome, self.start + self.now);
        }

        /// When the next write is due, in milliseconds.
        fn next(&self) -> Option<u128> {
            self.desk.next().map(|due| (due - self.start).as_millis())
        }

        fn write(&mut self) -> Write {
            let write = self.take().unwrap();
            self.done(&write, &written());
            write
        }
    }

    #[test]
    fn what_the_api_server_has_is_not_written() {
        let mut has = status(TRUE, 2);
        has.conditions[0].last_transition_time = "2020-01-01T00:00:00Z".to_owned();
        let mut test = Test::new(Some(has));
        test.desire(status(TRUE, 2));
        assert_eq!((test.next(), test.desk.unwritten()), (None, 0));
        test.desire(status(TRUE, 3));
        test.desire(status(TRUE, 2));
        assert_eq!(test.next(), None, "it went back to what it was");
    }

    #[test]
    fn an_object_that_becomes_ready_is_written_at_once_and_another_once_it_settles() {
        let mut test = Test::new(None);
        test.desire(status(FALSE, 1));
        assert_eq!(test.next(), Some(250));
        assert_eq!(test.take(), None);
        test.at(100);
        test.desire(status(TRUE, 1));
        assert!(test.next() <= Some(100));
        assert_eq!(test.write().status.pods, 1);
        test.at(9_000);
        test.desire(status(FALSE, 1));
        assert_eq!(test.next(), Some(9_250));
        test.at(9_240);
        test.desire(status(TRUE, 1));
        assert_eq!(test.next(), None, "an edit that its proxies took at once");
    }

    #[test]
    fn an_object_is_written_once_in_five_seconds_and_the_latest_status_wins() {
        let mut test = Test::new(None);
        test.desire(status(TRUE, 0));
        test.write();
        let mut times = vec![0];
        for ms in (10..20_000).step_by(10) {
            test.at(ms);
            test.desire(status(if ms % 20 == 0 { TRUE } else { FALSE }, ms as u32));
            if let Some(write) = test.take() {
                assert_eq!(u64::from(write.status.pods), ms);
                test.done(&write, &written());
                times.push(ms);
            }
        }
        assert_eq!(times, [0, 5_000, 10_000, 15_000]);
    }

    #[test]
    fn a_status_that_changes_while_it_is_written_is_written_again() {
        let mut test = Test::new(None);
        test.desire(status(TRUE, 1));
        let write = test.take().unwrap();
        test.desire(status(TRUE, 2));
        assert_eq!(test.next(), None, "one write at a time");
        test.done(&write, &written());
        assert_eq!(test.next(), Some(5_000));
        test.at(5_000);
        assert_eq!(test.write().status.pods, 2);
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_is_the_same() {
        let mut before = status(TRUE, 1);
        before.conditions[0].last_transition_time = "2020-01-01T00:00:00Z".to_owned();
        let mut test = Test::new(Some(before));
        test.desire(status(TRUE, 2));
        test.at(500);
        assert_eq!(test.write().status.conditions[0].last_transition_time, "2020-01-01T00:00:00Z");
        test.at(6_000);
        test.desire(status(FALSE, 2));
        test.at(6_500);
        assert_eq!(test.write().status.conditions[0].last_transition_time, WALL);
    }

    #[test]
    fn a_status_that_somebody_else_wrote_is_written_again() {
        let mut test = Test::new(None);
        test.desire(status(TRUE, 1));
        let ours = test.write();
        test.present("u", Some(ours.status.clone()));
        assert_eq!(test.next(), None, "our own write comes back through the watch");
        test.at(7_000);
        test.present("u", None);
        assert_eq!(test.write().status.pods, 1);
    }

    #[test]
    fn failed_writes_are_tried_again_with_growing_pauses_and_refused_ones_much_later() {
        let mut test = Test::new(None);
        test.desire(status(TRUE, 1));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            test.now = Duration::from_millis(test.next().unwrap() as u64);
            let write = test.take().unwrap();
            test.done(&write, &Outcome::Failed("busy".to_owned()));
            pauses.push(test.next().unwrap() - test.now.as_millis());
        }
        assert_eq!(pauses, [5_000, 5_000, 5_000, 8_000, 16_000, 30_000, 30_000]);
        test.now = Duration::from_millis(test.next().unwrap() as u64);
        let write = test.take().unwrap();
        test.done(&write, &Outcome::Refused("wrong".to_owned()));
        assert_eq!(test.next().unwrap() - test.now.as_millis(), 30_000);
    }

    #[test]
    fn an_object_that_changed_meanwhile_is_written_once_the_watch_says_how() {
        let mut test = Test::new(None);
        test.desire(status(TRUE, 1));
        let write = test.take().unwrap();
        assert_eq!(write.version.as_deref(), Some("1"));
        test.at(10);
        test.done(&write, &Outcome::Outdated);
        assert_eq!(test.next(), Some(30_010), "in case that the watch never says it");
        test.at(20);
        test.present("u", None);
        assert!(test.next() <= Some(20), "nothing was written, so nothing is waited for");
        let write = test.take().unwrap();
        assert_eq!(write.version.as_deref(), Some("2"));
        // The watch may be faster than the answer.
        test.present("u", None);
        test.done(&write, &Outcome::Outdated);
        assert!(test.next() <= Some(20));
        assert_eq!(test.write().version.as_deref(), Some("3"));
        test.at(9_000);
        test.desire(status(TRUE, 2));
        test.at(9_500);
        assert_eq!(test.take().unwrap().version.as_deref(), Some("written"), "our own write makes no conflict");
    }

    #[test]
    fn another_object_of_the_name_gets_no_status_of_the_last_one() {
        let mut test = Test::new(None);
        test.desire(status(TRUE, 1));
        let write = test.take().unwrap();
        test.present("another", None);
        test.done(&write, &written());
        assert_eq!(test.next(), None);
        test.desire(status(TRUE, 1));
        assert_eq!(test.next(), None, "its UID is the last one's");
        test.desk.hear(News::Gone(id()), test.start);
        test.desire(status(TRUE, 1));
        assert_eq!(test.next(), None);
    }

    #[test]
    fn a_new_leadership_may_correct_what_the_last_one_left() {
        let mut test = Test::new(None);
        test.desire(status(TRUE, 1));
        test.at(60_000);
        test.desk.hear(News::Restart, test.start + test.now);
        assert_eq!((test.take(), test.next()), (None, Some(60_250)));
        test.desire(status(TRUE, 2));
        test.at(60_500);
        assert_eq!(test.write().status.pods, 2);
    }
}
