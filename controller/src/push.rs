//! Keeps one proxy at its configuration.
//!
//! The proxy is asked every half second which process it is and which configuration it has; whatever
//! differs from what it acknowledged last (a restart, another hand, a changed world) is pushed whole.
//! An error that the proxy reports is laid to the object that it came from: that object is held back, the
//! rest is pushed at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use l7mp_api::status::{Applied, Info};
use l7mp_api::{Config, Problem};
use thiserror::Error;
use tokio::sync::watch;

use l7mp_admin::{AdminError, AdminSocket};
use l7mp_compiler::compile::{Compiled, HeldBack, Report, UnknownPod, View, compile};
use l7mp_compiler::held::{Pauses, Quarantine};
use l7mp_compiler::object::{ObjectId, PodName};
use l7mp_compiler::world::World;

/// How many changed objects a line of log names.
const NAMED_MAX: usize = 3;

/// How often, and how patiently.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two looks at a proxy that is well.
    pub poll: Duration,
    /// Between attempts at one that is not.
    pub retry: Pauses,
    /// Before a refused object is tried again.
    pub hold: Pauses,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            poll: Duration::from_millis(500),
            retry: Pauses { first: Duration::from_millis(100), max: Duration::from_secs(1) },
            hold: Pauses { first: Duration::from_secs(1), max: Duration::from_secs(60) },
        }
    }
}

/// Keeps one proxy at its configuration.
pub struct Pusher {
    proxy: PodName,
    admin: AdminSocket,
    timing: Timing,
    worlds: watch::Receiver<Arc<World>>,
    quarantine: Quarantine,
    desired: Option<Desired>,
    acknowledged: Option<Acknowledged>,
    /// What has been said about the objects, and what the proxy has said: said once.
    reports: BTreeSet<Report>,
    warnings: Vec<Problem>,
    failures: u32,
    last_failure: String,
    /// The world that the proxy's Pod was missing from, and that this has been said of.
    without_pod: Option<Arc<World>>,
}

/// Why the proxy could not be brought up to date.
#[derive(Debug, Error)]
enum Failure {
    #[error("{0}")]
    UnknownPod(#[from] UnknownPod),
    #[error("{0}")]
    Admin(#[from] AdminError),
}

/// What the proxy should have.
struct Desired {
    world: Arc<World>,
    held: HeldBack,
    compiled: Arc<Compiled>,
}

/// What the proxy has said that it has.
struct Acknowledged {
    instance: String,
    version: u64,
    world: Arc<World>,
    compiled: Arc<Compiled>,
}

impl Acknowledged {
    fn is_in_force(&self, info: &Info) -> bool {
        self.instance == info.instance && self.version == info.config_version
    }
}

impl Pusher {
    /// A pusher for one proxy, which compiles each world that it receives.
    pub fn new(proxy: PodName, admin: AdminSocket, worlds: watch::Receiver<Arc<World>>, timing: Timing) -> Pusher {
        Pusher {
            proxy,
            admin,
            timing,
            worlds,
            quarantine: Quarantine::new(timing.hold),
            desired: None,
            acknowledged: None,
            reports: BTreeSet::new(),
            warnings: Vec::new(),
            failures: 0,
            last_failure: String::new(),
            without_pod: None,
        }
    }

    /// Keeps the proxy at its configuration until there are no more worlds.
    pub async fn run(mut self) {
        loop {
            let pause = self.turn().await.unwrap_or_else(|pause| pause);
            tokio::select! {
                changed = self.worlds.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tries until the proxy has acknowledged the present world.
    pub async fn run_once(mut self) {
        while let Err(pause) = self.turn().await {
            tokio::time::sleep(pause).await;
        }
    }

    /// One look at the proxy, and a push when it needs one. Gives the pause until the next look, as an
    /// error when the proxy could not be brought up to date.
    async fn turn(&mut self) -> Result<Duration, Duration> {
        let world = Arc::clone(&self.worlds.borrow_and_update());
        if self.without_pod.as_ref().is_some_and(|last| Arc::ptr_eq(last, &world)) {
            return Err(self.timing.poll);
        }
        match self.sync(&world).await {
            Ok(()) => {
                self.failures = 0;
                self.last_failure.clear();
                let now = Instant::now();
                let release = self.quarantine.next_release(now).map(|release| release - now);
                Ok(release.map_or(self.timing.poll, |release| release.min(self.timing.poll)))
            }
            // A Pod that nobody knows says nothing about what its proxy should have: what it has stays.
            Err(Failure::UnknownPod(error)) => {
                if self.without_pod.replace(world).is_none() {
                    tracing::error!("{error}; nothing is pushed, and its proxy keeps what it has, until it appears");
                }
                Err(self.timing.poll)
            }
            Err(Failure::Admin(error)) => {
                self.failures = self.failures.saturating_add(1);
                let failure = error.to_string();
                if failure != self.last_failure {
                    tracing::warn!("{}: {failure}; trying again", self.proxy);
                    self.last_failure = failure;
                }
                Err(self.timing.retry.after(self.failures))
            }
        }
    }

    async fn sync(&mut self, world: &Arc<World>) -> Result<(), Failure> {
        self.quarantine.refresh(world);
        // What is wrong with the objects is said whether or not the proxy answers.
        self.compile(world, self.quarantine.all())?;
        if self.without_pod.take().is_some() {
            tracing::info!("{}: its Pod is among the manifests now", self.proxy);
        }
        let mut info = self.admin.info().await?;
        loop {
            // What is known to be good goes first; objects that are to be tried again wait for it.
            let held = self.quarantine.held(Instant::now());
            let mut without = self.quarantine.all();
            let mut compiled = self.compile(world, without.clone())?;
            if without != held && self.has(&info, &compiled) {
                without.clone_from(&held);
                compiled = self.compile(world, without.clone())?;
            }
            if self.has(&info, &compiled) {
                self.quarantine.accepted(&without);
                if let Some(acknowledged) = &mut self.acknowledged {
                    acknowledged.world = Arc::clone(world);
                    acknowledged.compiled = compiled;
                }
                return Ok(());
            }
            match self.admin.put_config(&compiled.config).await {
                Ok(applied) => {
                    let version = applied.version;
                    self.acknowledge(&info, applied, world, compiled, &without);
                    info.config_version = version;
                    if without == held {
                        return Ok(());
                    }
                }
                Err(AdminError::Refused { errors }) => {
                    if !self.hold_back(&errors, world, &compiled) {
                        return Err(AdminError::Refused { errors }.into());
                    }
                    // One attempt at a time: the world may have changed meanwhile.
                    let good = self.compile(world, self.quarantine.all())?;
                    if self.has(&info, &good) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the proxy that said `info` has this configuration from us.
    fn has(&self, info: &Info, compiled: &Compiled) -> bool {
        let acknowledged = self.acknowledged.as_ref().filter(|last| last.is_in_force(info));
        acknowledged.is_some_and(|last| last.compiled.config == compiled.config)
    }

    /// What the proxy should have; compiled anew only when the world or what is held back has changed.
    fn compile(&mut self, world: &Arc<World>, held: HeldBack) -> Result<Arc<Compiled>, UnknownPod> {
        if let Some(desired) = &self.desired
            && Arc::ptr_eq(&desired.world, world)
            && desired.held == held
        {
            return Ok(Arc::clone(&desired.compiled));
        }
        let compiled = Arc::new(compile(world, &self.proxy, &View::alone(&held))?);
        for report in compiled.reports.iter().filter(|report| !self.reports.contains(report)) {
            tracing::warn!("{}: {report}", self.proxy);
        }
        // What comes and goes only because an object is held back and tried again is said once.
        let same_world = self.desired.as_ref().is_some_and(|desired| Arc::ptr_eq(&desired.world, world));
        self.reports.retain(|report| same_world || held.contains_key(&report.object));
        self.reports.extend(compiled.reports.iter().cloned());
        self.desired = Some(Desired { world: Arc::clone(world), held, compiled: Arc::clone(&compiled) });
        Ok(compiled)
    }

    /// Holds back every object that an error came from; whether there was one.
    fn hold_back(&mut self, errors: &[Problem], world: &World, compiled: &Compiled) -> bool {
        let mut blamed: BTreeMap<ObjectId, Vec<String>> = BTreeMap::new();
        for error in errors {
            if let Some(origin) = compiled.origins.find(&error.path) {
                blamed.entry(origin.object).or_default().push(format!("{}: {}", origin.path, error.message));
            }
        }
        for (id, said) in &blamed {
            let said = said.join("; ");
            let (pause, news) = self.quarantine.hold(id, said.clone(), world, Instant::now());
            if news {
                tracing::warn!("{} refuses {id}: {said}; left out, tried again in {pause:?}", self.proxy);
            }
        }
        !blamed.is_empty()
    }

    fn acknowledge(
        &mut self,
        info: &Info,
        applied: Applied,
        world: &Arc<World>,
        compiled: Arc<Compiled>,
        held: &HeldBack,
    ) {
        let again = self.quarantine.accepted(held);
        let cause = self.cause(info, world, &compiled, &again);
        let Config { listeners, clusters, .. } = &compiled.config;
        let holds = format!("{}, {}", count(listeners.len(), "listener"), count(clusters.len(), "cluster"));
        if applied.changed {
            tracing::info!("{}: {cause}: pushed version {} ({holds})", self.proxy, applied.version);
        } else {
            tracing::info!("{}: {cause}: it has that already, as version {} ({holds})", self.proxy, applied.version);
        }
        for warning in applied.warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            match compiled.origins.find(&warning.path) {
                Some(origin) => tracing::warn!("{}: {origin}: {}", self.proxy, warning.message),
                None => tracing::warn!("{}: {warning}", self.proxy),
            }
        }
        self.warnings = applied.warnings;
        let (instance, version) = (info.instance.clone(), applied.version);
        self.acknowledged = Some(Acknowledged { instance, version, world: Arc::clone(world), compiled });
    }

    /// Why the proxy needed a push, for the log.
    fn cause(&self, info: &Info, world: &World, compiled: &Compiled, again: &[ObjectId]) -> String {
        let Some(last) = &self.acknowledged else {
            return "first look".to_owned();
        };
        if last.instance != info.instance {
            return "it has restarted".to_owned();
        }
        let concerns = |id: &ObjectId| last.compiled.sources.contains(id) || compiled.sources.contains(id);
        let changed = world.changed_since(&last.world);
        let changed: Vec<&ObjectId> = changed.iter().filter(|id| concerns(id)).collect();
        if !changed.is_empty() {
            format!("{} changed", name_some(&changed))
        } else if last.version != info.config_version {
            format!("it had version {} of another hand", info.config_version)
        } else if !again.is_empty() {
            format!("{} accepted again", name_some(&again.iter().collect::<Vec<_>>()))
        } else {
            "objects left out".to_owned()
        }
    }
}

/// The first few names, and how many more there are.
fn name_some(ids: &[&ObjectId]) -> String {
    let named: Vec<String> = ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    match ids.len().saturating_sub(NAMED_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
