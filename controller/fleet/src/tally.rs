//! One object on all its pods.

use std::collections::BTreeSet;

use l7mp_api::config::Endpoint;
use l7mp_compiler::compile::{Reason, Report};
use l7mp_compiler::object::{Kind, ObjectId};
use l7mp_compiler::references::references;
use l7mp_crds::Target;

use crate::fleet::Fleet;
use crate::proxy::{Shown, State};

/// What the pods of an object have said about it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Pods that it is for.
    pub(crate) pods: u32,
    /// Those that run this generation.
    pub(crate) programmed: u32,
    /// Those without a connected agent.
    pub(crate) unreachable: u32,
    /// Connected ones that have not acknowledged this generation yet.
    pub(crate) pending: Vec<String>,
    /// Those that do not take it, by name.
    pub(crate) failing: Vec<Failing>,
    /// What is wrong with its references: path, kind of fault, message.
    pub(crate) references: BTreeSet<(String, Reason, String)>,
    /// Endpoints that are not as they should be: path and message.
    pub(crate) degraded: BTreeSet<(String, String)>,
    /// What else is to be said about it.
    pub(crate) remarks: BTreeSet<String>,
}

/// A pod whose proxy does not take an object.
#[derive(Debug)]
pub(crate) struct Failing {
    pub(crate) pod: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What becomes of a fault.
enum Weight {
    Reference,
    Fatal,
    Degraded,
    Remark,
}

fn weight(reason: Reason) -> Weight {
    match reason {
        Reason::InvalidReference
        | Reason::RefNotFound
        | Reason::TargetNotOnPod
        | Reason::RefNotUsable
        | Reason::RuleListLoop
        | Reason::NoConsent
        | Reason::UnsupportedService => Weight::Reference,
        Reason::PortConflict => Weight::Fatal,
        Reason::Degraded => Weight::Degraded,
        Reason::DuplicateEndpoint => Weight::Remark,
    }
}

impl Fleet {
    /// Asks every pod about an object.
    pub(crate) fn tally(&self, id: &ObjectId) -> Tally {
        let mut tally = Tally::default();
        if let Some(object) = self.world.get(id) {
            for report in references(&self.world, object) {
                tally.report(&report);
            }
        }
        let since = self.facts.get(id).map_or(0, |facts| facts.since);
        for pod in self.concerned.get(id).into_iter().flatten() {
            let Some(state) = self.proxies.get(pod) else { continue };
            let Some(shown) = &state.shown else { continue };
            for report in shown.reports.iter().filter(|report| report.object == *id) {
                tally.report(report);
            }
            // A pod that is going away takes nothing any more.
            if shown.document.is_for(id) && !state.pod.terminating {
                tally.pod(id, pod.to_string(), state, shown, since);
            }
        }
        tally
    }

    /// How many endpoints of a Target take sessions, as far as one of its proxies has it.
    pub(crate) fn endpoints(&self, id: &ObjectId, target: &Target) -> Option<u32> {
        let name = format!("{}/{}", target.metadata.namespace(), target.metadata.name);
        let mut documents = self
            .concerned
            .get(id)
            .into_iter()
            .flatten()
            .filter_map(|pod| self.proxies.get(pod)?.shown.as_ref().map(|shown| &shown.document.config));
        let cluster = documents.find_map(|config| config.clusters.iter().find(|cluster| cluster.name == name))?;
        let standing = |endpoint: &Endpoint| (endpoint.draining, !endpoint.ready);
        let best = cluster.endpoints.iter().map(standing).min();
        let count = cluster.endpoints.iter().filter(|endpoint| Some(standing(endpoint)) == best).count();
        Some(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

impl Tally {
    fn report(&mut self, report: &Report) {
        let (path, message) = (report.path.clone(), report.message.clone());
        match weight(report.reason) {
            Weight::Reference => drop(self.references.insert((path, report.reason, message))),
            Weight::Degraded => drop(self.degraded.insert((path, message))),
            Weight::Remark => drop(self.remarks.insert(format!("{path}: {message}"))),
            // Counted with its pod.
            Weight::Fatal => {}
        }
    }

    fn pod(&mut self, id: &ObjectId, pod: String, state: &State, shown: &Shown, since: u64) {
        self.pods += 1;
        self.unreachable += u32::from(!state.connected);
        for (_, said) in state.warnings.iter().filter(|(object, _)| object == id) {
            self.remarks.insert(format!("Pod {pod} warns: {said}"));
        }
        let fatal = |report: &&Report| report.object == *id && matches!(weight(report.reason), Weight::Fatal);
        let failing = if let Some(said) = state.why_not() {
            Some(("ProxyNotRunning", said.to_owned()))
        } else if let Some(said) = shown.held.get(id) {
            Some(("Refused", said.clone()))
        } else if let Some(refusal) = &state.refusal {
            Some(("Refused", refusal.said.clone()))
        } else {
            shown.reports.iter().find(fatal).map(|report| (report.reason.as_str(), with_path(report)))
        };
        if let Some((reason, message)) = failing {
            self.failing.push(Failing { pod, reason, message });
        } else if runs(id, state, since) {
            self.programmed += 1;
        } else if state.connected {
            self.pending.push(pod);
        }
    }
}

/// Whether a proxy has acknowledged an object as it is since that state of the world.
fn runs(id: &ObjectId, state: &State, since: u64) -> bool {
    debug_assert!(id.kind != Kind::Pod);
    state
        .acknowledged
        .as_ref()
        .is_some_and(|told| told.revision >= since && told.document.is_for(id) && !told.held.contains_key(id))
}

fn with_path(report: &Report) -> String {
    if report.path.is_empty() { report.message.clone() } else { format!("{}: {}", report.path, report.message) }
}
