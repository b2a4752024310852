//! The loop: the one task that owns the fleet. What watches and agents say goes in, configurations and statuses
//! come out; nothing in it waits for the network.

mod claims;
mod said;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use claims::Claims;
use l7mp_compiler::object::{Kind, Object, ObjectId, PodName};
use l7mp_crds::ConditionStatus;
use l7mp_fleet::{Fleet, Proxy, Push, StatusUpdate};
use l7mp_link::server::{FromAgent, Identity, Leadership, StreamId};
use l7mp_link::{Configuration, Origin, Report, Version};
use said::Said;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::operator::http::Tick;
use crate::operator::lease::{RAISE_MAX, Standing};
use crate::operator::metrics::{Gauges, Metrics};
use crate::operator::pods::Pods;
use crate::operator::read::Seen;
use crate::operator::status::News;
use crate::operator::watch::Change;

/// The most messages of one kind that are taken before the fleet turns.
const BATCH_MAX: usize = 4_096;

/// How often gauges are counted anew.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

// What the fleet blames objects for is what agents are not sent.
const _: () = assert!(l7mp_fleet::DOCUMENT_BYTES_MAX == l7mp_link::limits::DOCUMENT_BYTES_MAX);

/// What the loop listens to.
pub struct Inputs {
    /// From the watches.
    pub changes: mpsc::Receiver<Change>,
    /// From the agents' streams.
    pub agents: mpsc::Receiver<FromAgent>,
    /// From the election.
    pub standing: watch::Receiver<Standing>,
    /// From `/healthz`.
    pub ticks: mpsc::Receiver<Tick>,
}

/// Whom the loop tells.
pub struct Outputs {
    /// The index of pods.
    pub pods: Pods,
    /// The writer of status.
    pub news: mpsc::UnboundedSender<News>,
    /// The agents' port.
    pub leadership: watch::Sender<Leadership>,
    /// The election: what an agent holds that this leadership has not made.
    pub overtaken: watch::Sender<Option<Version>>,
    /// Whether every kind was listed once.
    pub synced: watch::Sender<bool>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// The state of the loop.
pub struct Operator {
    fleet: Fleet,
    outputs: Outputs,
    agents: BTreeMap<Proxy, Agent>,
    claims: Claims,
    /// The leadership that the fleet works for.
    term: Option<(u64, u64)>,
    /// Our objects that the API server has.
    ours: BTreeSet<ObjectId>,
    /// What is wrong with which object: kind of condition, reason.
    problems: BTreeMap<ObjectId, Vec<(String, String)>>,
}

/// A connected agent.
struct Agent {
    stream: StreamId,
    tell: Tell,
    said: Said,
}

/// Hands a configuration to an agent's stream; whether the stream is still there.
type Tell = Box<dyn Fn(Configuration) -> bool + Send>;

impl Operator {
    /// Knows nothing yet.
    pub fn new(fleet: Fleet, outputs: Outputs) -> Operator {
        Operator {
            fleet,
            outputs,
            agents: BTreeMap::new(),
            claims: Claims::default(),
            term: None,
            ours: BTreeSet::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Works until the watches or the election are gone.
    pub async fn run(mut self, mut inputs: Inputs) {
        let mut gauges = every(GAUGES_EVERY);
        self.stand(&inputs.standing.borrow_and_update().clone());
        loop {
            let deadline = self.term.and(self.fleet.deadline()).map(Instant::from_std);
            tokio::select! {
                change = inputs.changes.recv() => match change {
                    Some(change) => self.change(change),
                    None => return,
                },
                said = inputs.agents.recv() => match said {
                    Some(said) => self.hear(said),
                    None => return,
                },
                changed = inputs.standing.changed() => match changed {
                    Ok(()) => {}
                    Err(_) => return,
                },
                Some(tick) = inputs.ticks.recv() => {
                    // Whoever asked may have gone.
                    let _ = tick.send(());
                    continue;
                }
                _ = gauges.tick() => {
                    self.gauge();
                    continue;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
            for _ in 0..BATCH_MAX {
                let Ok(change) = inputs.changes.try_recv() else { break };
                self.change(change);
            }
            for _ in 0..BATCH_MAX {
                let Ok(said) = inputs.agents.try_recv() else { break };
                self.hear(said);
            }
            let standing = inputs.standing.borrow_and_update().clone();
            self.stand(&standing);
            self.turn();
        }
    }

    /// Takes what a watch says.
    fn change(&mut self, change: Change) {
        let now = now();
        match change {
            Change::Apply(seen) => {
                let id = seen.id();
                if let Ok(Object::Pod(pod)) = &seen.object {
                    self.outputs.pods.apply(pod);
                }
                self.report_rejected(&seen);
                self.fleet.apply(seen.object, now);
                self.present(id, seen.present);
            }
            Change::Delete(id) => {
                self.fleet.delete(&id, now);
                self.gone(&id);
            }
            Change::Reset(kind, all) => self.reset(kind, all, now),
        }
    }

    fn reset(&mut self, kind: Kind, all: Vec<Seen>, now: std::time::Instant) {
        if kind == Kind::Pod {
            self.outputs.pods.reset(all.iter().filter_map(|seen| match &seen.object {
                Ok(Object::Pod(pod)) => Some(pod),
                _ => None,
            }));
        }
        let mut gone: BTreeSet<ObjectId> = self.ours.iter().filter(|id| id.kind == kind).cloned().collect();
        let mut objects = Vec::with_capacity(all.len());
        let mut present = Vec::new();
        for seen in all {
            self.report_rejected(&seen);
            if kind.is_ours() {
                let id = seen.id();
                gone.remove(&id);
                present.push((id, seen.present));
            }
            objects.push(seen.object);
        }
        tracing::debug!("{} {}, {} gone", objects.len(), kind.plural(), gone.len());
        self.fleet.reset(kind, objects, now);
        for (id, present_one) in present {
            self.present(id, present_one);
        }
        for id in gone {
            self.gone(&id);
        }
        if self.fleet.is_synced() && !self.outputs.synced.send_replace(true) {
            tracing::info!("every kind is listed; this replica is ready");
        }
    }

    fn report_rejected(&self, seen: &Seen) {
        let Err(rejected) = &seen.object else { return };
        self.outputs.metrics.rejected.add([rejected.id.kind.as_str()]);
        for problem in &rejected.problems {
            tracing::warn!(object = %rejected.id, "not used: {problem}");
        }
    }

    /// The API server has an object of ours.
    fn present(&mut self, id: ObjectId, present: Option<crate::operator::read::Present>) {
        let Some(present) = present else { return };
        if let Some(status) = &present.status {
            self.fleet.seed_status(&id, status.clone());
        }
        self.ours.insert(id.clone());
        self.tell(News::Present(id, present));
    }

    fn gone(&mut self, id: &ObjectId) {
        if id.kind == Kind::Pod {
            self.outputs.pods.delete(&PodName { namespace: id.namespace.clone(), name: id.name.clone() });
        }
        if self.ours.remove(id) {
            self.problems.remove(id);
            self.tell(News::Gone(id.clone()));
        }
    }

    /// The writer ends only with the process.
    fn tell(&self, news: News) {
        let _ = self.outputs.news.send(news);
    }

    /// Takes what an agent says. A stream that was followed by another of the same pod says nothing any more.
    fn hear(&mut self, said: FromAgent) {
        let now = now();
        match said {
            FromAgent::Connected { stream, identity, holds, sender } => {
                let tell = Box::new(move |configuration| sender.try_send(configuration).is_ok());
                self.connected(Agent { stream, tell, said: Said::default() }, proxy(&identity), holds);
            }
            FromAgent::Report { stream, identity, report } => {
                let proxy = proxy(&identity);
                if self.agents.get(&proxy).is_some_and(|agent| agent.stream == stream) {
                    self.report(&proxy, report, now);
                }
            }
            FromAgent::Disconnected { stream, identity } => {
                let proxy = proxy(&identity);
                if self.agents.get(&proxy).is_some_and(|agent| agent.stream == stream) {
                    tracing::debug!(pod = %proxy.pod, "its agent is gone");
                    self.agents.remove(&proxy);
                    self.fleet.disconnect(&proxy, now);
                }
            }
        }
    }

    fn connected(&mut self, agent: Agent, proxy: Proxy, holds: Option<Version>) {
        let held = holds.map_or_else(|| "nothing of ours".to_owned(), |version| format!("version {version}"));
        tracing::debug!(pod = %proxy.pod, "its agent is connected, its proxy has {held}");
        if let Some(version) = holds.filter(|version| self.is_ahead(*version)) {
            self.ahead(&proxy, version);
        } else {
            let holds = holds.and_then(|version| self.sequence(version));
            self.fleet.connect(&proxy, holds, now());
        }
        self.agents.insert(proxy, agent);
    }

    /// An agent would refuse what this leadership has for it, and is told something once the term is above its own.
    /// Nothing proves what it says, so each is believed once in a while, and not all of it.
    fn ahead(&mut self, Proxy { pod, uid }: &Proxy, version: Version) {
        if self.term.is_some_and(|(_, own)| version.term.saturating_sub(own) > RAISE_MAX) {
            tracing::warn!(
                %pod, %version,
                "its agent says that it has a version of a term which is not to be believed; if it is true, delete \
                the Lease, and another one begins a new count"
            );
            return;
        }
        if !self.claims.believes(uid, now()) {
            tracing::info!(%pod, %version, "its agent has a later version than ours once more; the term is not raised");
            return;
        }
        tracing::info!(%pod, %version, "its agent has a later version than ours, and waits for a later term");
        let is_newer = |last: &Version| last.epoch != version.epoch || last.is_older_than(&version);
        self.outputs.overtaken.send_if_modified(|last| {
            let news = last.as_ref().is_none_or(is_newer);
            *last = if news { Some(version) } else { *last };
            news
        });
    }

    /// Whether a version of our Lease is newer than any that this leadership has made: the Lease was restored from a
    /// backup, and counts terms anew that were there before.
    fn is_ahead(&self, version: Version) -> bool {
        self.term.is_some_and(|(epoch, term)| {
            Version { epoch, term, sequence: self.fleet.sequence() }.is_older_than(&version)
        })
    }

    /// What is no answer to something that the proxy was told is left alone, before a word of it is read.
    fn report(&mut self, proxy: &Proxy, report: Report, now: std::time::Instant) {
        let Some(Agent { said, .. }) = self.agents.get(proxy) else { return };
        let pod = &proxy.pod;
        match report {
            Report::Applied { version, warnings } => {
                let Some(sequence) = self.expected(proxy, version) else { return };
                self.outputs.metrics.acknowledgements.fetch_add(1, Relaxed);
                tracing::debug!(%pod, %version, "its proxy runs what it was told");
                said.warned(pod, version, &warnings, now);
                self.fleet.acknowledge(proxy, sequence, warnings, now);
            }
            Report::Refused { version, errors } => {
                let Some(sequence) = self.expected(proxy, version) else { return };
                self.outputs.metrics.refusals.fetch_add(1, Relaxed);
                said.refused(pod, version, &errors, now);
                self.fleet.refuse(proxy, sequence, errors, now);
            }
            Report::Trouble(message) if message.is_empty() => {
                said.reached(pod, now);
                self.fleet.trouble(proxy, None, now);
            }
            Report::Trouble(message) => {
                said.troubled(pod, &message, now);
                self.fleet.trouble(proxy, Some(message), now);
            }
        }
    }

    /// The number of a configuration that the proxy was told by the present leadership.
    fn expected(&self, proxy: &Proxy, version: Version) -> Option<u64> {
        self.sequence(version).filter(|sequence| self.fleet.expects(proxy, *sequence))
    }

    /// The number of a configuration of the present leadership.
    fn sequence(&self, version: Version) -> Option<u64> {
        (self.term == Some((version.epoch, version.term))).then_some(version.sequence)
    }

    /// Takes the result of the election.
    fn stand(&mut self, standing: &Standing) {
        let term = match standing {
            Standing::Mine { epoch, term, .. } => Some((*epoch, *term)),
            Standing::Nobody | Standing::Other { .. } => None,
        };
        if term != self.term {
            self.term = term;
            if term.is_some() {
                self.begin();
            }
        }
        self.outputs.metrics.leads.store(term.is_some(), Relaxed);
        let leadership = match (standing, standing.address()) {
            (Standing::Mine { term, .. }, _) => Leadership::Here { term: *term },
            (_, Some(address)) => Leadership::There { address: address.to_owned() },
            (_, None) => Leadership::Nobody,
        };
        self.outputs.leadership.send_if_modified(|last| {
            let changed = *last != leadership;
            *last = leadership;
            changed
        });
    }

    /// A leadership of this replica begins.
    fn begin(&mut self) {
        let now = now();
        self.fleet.restart(now);
        self.tell(News::Restart);
        for proxy in self.agents.keys() {
            self.fleet.connect(proxy, None, now);
        }
    }

    /// Compiles what is due, and passes it on.
    fn turn(&mut self) {
        let (Some((epoch, term)), true) = (self.term, self.fleet.is_synced()) else { return };
        let began = Instant::now();
        let is_due = self.fleet.deadline().is_some_and(|deadline| deadline <= began.into_std());
        let pushes = self.fleet.turn(began.into_std());
        if is_due || !pushes.is_empty() {
            self.outputs.metrics.compiled(began.elapsed());
        }
        for push in pushes {
            self.push(push, Version { epoch, term, sequence: 0 });
        }
        for update in self.fleet.statuses(now()) {
            self.note_problems(&update);
            self.tell(News::Desired(update));
        }
    }

    fn push(&mut self, push: Push, version: Version) {
        let Push { proxy, sequence, config, origins, drain } = push;
        let Some(agent) = self.agents.get(&proxy) else { return };
        let version = Version { sequence, ..version };
        tracing::info!(pod = %proxy.pod, %version, drain, "told what its proxy is to have");
        let origins = origins.into_iter().map(|(path, object, at)| Origin { path, object: object.to_string(), at });
        let configuration = Configuration { version, config, origins: origins.collect(), drain };
        // An agent that has just gone says so, and is told when it comes back.
        if (agent.tell)(configuration) {
            self.outputs.metrics.pushes.fetch_add(1, Relaxed);
        }
    }

    fn note_problems(&mut self, update: &StatusUpdate) {
        let is_wrong = |kind: &str, status| match kind {
            "Degraded" => status == ConditionStatus::True,
            _ => status != ConditionStatus::True,
        };
        let wrong = update.status.conditions.iter().filter(|condition| is_wrong(&condition.kind, condition.status));
        let wrong: Vec<_> = wrong.map(|condition| (condition.kind.clone(), condition.reason.clone())).collect();
        if wrong.is_empty() {
            self.problems.remove(&update.id);
        } else {
            self.problems.insert(update.id.clone(), wrong);
        }
    }

    fn gauge(&self) {
        let counts = self.fleet.counts();
        let mut problems = BTreeMap::new();
        for (id, wrong) in &self.problems {
            for (condition, reason) in wrong {
                *problems.entry((id.kind.as_str(), condition.clone(), reason.clone())).or_default() += 1;
            }
        }
        let objects = counts.objects.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        self.outputs.metrics.gauge(|gauges| {
            *gauges = Gauges {
                agents: self.agents.len(),
                proxies: counts.proxies,
                queue: counts.queued,
                objects,
                problems,
                unwritten: gauges.unwritten,
            };
        });
    }
}

fn proxy(identity: &Identity) -> Proxy {
    let pod = PodName { namespace: identity.namespace.clone(), name: identity.pod.clone() };
    Proxy { pod, uid: identity.uid.clone() }
}

/// The time, as the fleet reads it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests;
