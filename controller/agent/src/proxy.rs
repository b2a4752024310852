//! Keeps the proxy at the newest configuration that came, whoever restarts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use l7mp_admin::{AdminError, AdminSocket};
use l7mp_api::Problem;
use l7mp_api::status::Info;
use l7mp_link::client::Bytes;
use l7mp_link::{Origin, Report, Version};
use tokio::sync::watch;

use crate::saved::{Pod, Proxy, Saved};
use crate::state::State;

/// How often the proxy is asked what it has.
const LOOK: Duration = Duration::from_millis(500);
/// Between two attempts to give a restarted proxy back what it had, when it refuses that.
const REFUSED_LOOK: Duration = Duration::from_secs(5);
/// Between two reports of the same failing clusters, whose reasons may change with every connection.
const FAILING_AGAIN: Duration = Duration::from_secs(30);

/// A configuration that came from the operator, or from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Counts what came from 1; 0 is the file's.
    pub arrival: u64,
    /// Which one it is.
    pub version: Version,
    /// The pod that it is for.
    pub pod: Pod,
    /// JSON.
    pub document: Bytes,
    /// Where its parts come from.
    pub origins: Vec<Origin>,
    /// The pod is being deleted: no new sessions.
    pub drain: bool,
}

/// How the proxy stands, for the operator and the probes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The proxy's instance; empty: it has not answered yet.
    pub instance: String,
    /// What it acknowledged last.
    pub acknowledged: Option<Version>,
    /// Why it cannot be reached, or refuses what it had; empty: it is well.
    pub trouble: String,
    /// What it said to what came last: the arrival, and the report.
    pub outcome: Option<(u64, Report)>,
    /// What it says later of what it runs: that connections of a cluster fail, or no longer do.
    pub later: Option<Report>,
}

/// What the proxy acknowledged last.
#[derive(Debug)]
struct Acknowledged {
    wanted: Arc<Wanted>,
    proxy: Proxy,
    /// What the proxy said of the document.
    warnings: Vec<Problem>,
    /// Clusters whose connections fail, as last reported.
    failing: Vec<Problem>,
    /// When that was.
    failing_at: Instant,
}

impl Acknowledged {
    fn is_in_force(&self, info: &Info) -> bool {
        self.proxy.instance == info.instance && self.proxy.config_version == info.config_version
    }
}

/// The proxy's task.
pub struct Keeper {
    admin: AdminSocket,
    saved: PathBuf,
    wanted: watch::Receiver<Option<Arc<Wanted>>>,
    standing: watch::Sender<Standing>,
    state: Arc<State>,
    acknowledged: Option<Acknowledged>,
    /// What the proxy refused: the arrival, and the instance.
    refused: Option<(u64, String)>,
}

impl Keeper {
    /// A keeper of the proxy at `admin`. `saved` is the file, `last` what was in it.
    pub fn new(
        admin: AdminSocket,
        saved: PathBuf,
        last: Option<Saved>,
        wanted: watch::Receiver<Option<Arc<Wanted>>>,
        standing: watch::Sender<Standing>,
        state: Arc<State>,
    ) -> Keeper {
        let acknowledged = last.map(|last| {
            let Saved { version, pod, proxy, drain, origins, document } = last;
            let wanted = Arc::new(Wanted { arrival: 0, version, pod, document, origins, drain });
            Acknowledged { wanted, proxy, warnings: Vec::new(), failing: Vec::new(), failing_at: Instant::now() }
        });
        let keeper = Keeper { admin, saved, wanted, standing, state, acknowledged, refused: None };
        keeper.publish_acknowledged();
        keeper
    }

    /// For ever.
    pub async fn run(mut self) {
        loop {
            let wait = match self.step().await {
                Ok(wait) => {
                    self.trouble(String::new());
                    wait
                }
                Err(Fault { message, wait }) => {
                    self.trouble(message);
                    wait
                }
            };
            if self.wanted.has_changed().is_err() {
                return;
            }
            tokio::select! {
                _ = self.wanted.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Looks at the proxy, and gives it what it lacks. Returns when to look again.
    async fn step(&mut self) -> Result<Duration, Fault> {
        let info = self.admin.info().await;
        self.state.proxy_answers.store(info.is_ok(), Relaxed);
        self.state.ready.store(info.as_ref().is_ok_and(|info| info.config_version > 0), Relaxed);
        let info = info?;
        self.meet(&info);
        let wanted = self.wanted.borrow_and_update().clone();
        let refused = |wanted: &Wanted| self.refused == Some((wanted.arrival, info.instance.clone()));
        let (wanted, is_new) = match (wanted.filter(|wanted| !refused(wanted)), &self.acknowledged) {
            (Some(wanted), Some(last)) if last.wanted.arrival == wanted.arrival => (wanted, false),
            (Some(wanted), _) => (wanted, true),
            (None, Some(last)) => (Arc::clone(&last.wanted), false),
            (None, None) => return Ok(LOOK),
        };
        if !self.acknowledged.as_ref().is_some_and(|last| last.is_in_force(&info) && !is_new) {
            return self.push(&info, wanted, is_new).await;
        }
        self.tell_failing(info.failing);
        if wanted.drain && !info.draining {
            let draining = self.admin.drain().await?;
            tracing::info!(sessions = draining.sessions, "the pod is being deleted: the proxy drains");
        }
        Ok(LOOK)
    }

    /// Notices another process.
    fn meet(&self, info: &Info) {
        let last = self.standing.borrow().instance.clone();
        if last == info.instance {
            return;
        }
        if last.is_empty() {
            tracing::info!(instance = info.instance, version = info.config_version, "met the proxy");
        } else {
            self.state.proxy_restarts.fetch_add(1, Relaxed);
            tracing::warn!(instance = info.instance, version = info.config_version, "the proxy has restarted");
        }
        self.standing.send_modify(|standing| standing.instance.clone_from(&info.instance));
    }

    async fn push(&mut self, info: &Info, wanted: Arc<Wanted>, is_new: bool) -> Result<Duration, Fault> {
        self.state.pushes.fetch_add(1, Relaxed);
        let cause = if is_new { "it came" } else { "the proxy had something else" };
        match self.admin.put_document(wanted.document.clone()).await {
            Ok(applied) => {
                let version = wanted.version;
                tracing::info!(%version, proxy_version = applied.version, "the proxy adopted it; pushed since {cause}");
                for warning in &applied.warnings {
                    tracing::debug!(%version, "warning: {warning}");
                }
                self.state.ready.store(true, Relaxed);
                let proxy = Proxy { instance: info.instance.clone(), config_version: applied.version };
                let report = Report::Applied { version, warnings: applied.warnings.clone() };
                let acknowledged = Acknowledged {
                    wanted: Arc::clone(&wanted),
                    proxy,
                    warnings: applied.warnings,
                    failing: Vec::new(),
                    failing_at: Instant::now(),
                };
                self.acknowledge(acknowledged, is_new.then_some(report));
                // Whether it drains is looked at next.
                Ok(Duration::ZERO)
            }
            Err(AdminError::Refused { errors }) => {
                self.state.refused.fetch_add(1, Relaxed);
                let version = wanted.version;
                for error in &errors {
                    tracing::warn!(%version, "the proxy refuses it: {error}");
                }
                if !is_new {
                    let first = errors.first().map(Problem::to_string).unwrap_or_default();
                    let message = format!("the proxy refuses what it had before it restarted: {first}");
                    return Err(Fault { message, wait: REFUSED_LOOK });
                }
                self.refused = Some((wanted.arrival, info.instance.clone()));
                let report = Report::Refused { version, errors };
                self.standing.send_modify(|standing| standing.outcome = Some((wanted.arrival, report)));
                // Its last one may be needed.
                Ok(Duration::ZERO)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The proxy has it: says so, and keeps it in the file.
    fn acknowledge(&mut self, acknowledged: Acknowledged, report: Option<Report>) {
        let arrival = acknowledged.wanted.arrival;
        self.acknowledged = Some(acknowledged);
        self.publish_acknowledged();
        if let Some(report) = report {
            self.standing.send_modify(|standing| standing.outcome = Some((arrival, report)));
        }
        let Some(Acknowledged { wanted, proxy, .. }) = &self.acknowledged else { return };
        let Wanted { version, pod, document, origins, drain, .. } = (**wanted).clone();
        let saved = Saved { version, pod, proxy: proxy.clone(), drain, origins, document };
        if let Err(error) = saved.write(&self.saved) {
            self.state.save_failures.fetch_add(1, Relaxed);
            let path = self.saved.display();
            tracing::error!("cannot write --saved {path}: {error}; a restart will need the operator");
        }
    }

    /// Reports the clusters whose connections fail when they are others than before, or fail for another reason: as
    /// warnings beside those that the proxy had of the document.
    fn tell_failing(&mut self, failing: Vec<Problem>) {
        let Some(last) = self.acknowledged.as_mut().filter(|last| last.failing != failing) else { return };
        let same = last.failing.iter().map(|problem| &problem.path).eq(failing.iter().map(|problem| &problem.path));
        if same && last.failing_at.elapsed() < FAILING_AGAIN {
            return;
        }
        (last.failing, last.failing_at) = (failing, Instant::now());
        let warnings = last.warnings.iter().chain(&last.failing).cloned().collect();
        let report = Report::Applied { version: last.wanted.version, warnings };
        self.standing.send_modify(|standing| standing.later = Some(report));
    }

    fn publish_acknowledged(&self) {
        let version = self.acknowledged.as_ref().map(|last| last.wanted.version);
        let Version { term, sequence, .. } = version.unwrap_or_default();
        self.state.term.store(term, Relaxed);
        self.state.sequence.store(sequence, Relaxed);
        self.standing.send_modify(|standing| standing.acknowledged = version);
    }

    /// Says what is wrong with the proxy, once for each thing.
    fn trouble(&self, message: String) {
        self.standing.send_if_modified(|standing| {
            if standing.trouble == message {
                return false;
            }
            match message.as_str() {
                "" => tracing::info!("the proxy is well again"),
                message => tracing::warn!("{message}"),
            }
            standing.trouble = message;
            true
        });
    }
}

/// Why a step failed, and when to try again.
struct Fault {
    message: String,
    wait: Duration,
}

impl From<AdminError> for Fault {
    fn from(error: AdminError) -> Fault {
        Fault { message: error.to_string(), wait: LOOK }
    }
}
