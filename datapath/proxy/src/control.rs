//! The admin thread's view of the process: the adopted configuration, the workers, and what can be asked of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use l7mp_api::status::{Applied, ConfigSource, Session, SessionPage};
use l7mp_api::{Config, Problem};
use l7mp_forwarder::ids::ListenerId;
use l7mp_forwarder::snapshot::Snapshot;
use l7mp_forwarder::snapshot::compile::{Inputs, Scopes, compile};
use tokio::sync::{Mutex, oneshot};

use crate::dns::{self, Names};
use crate::failures::Words;
use crate::ledger::{Ledger, ListenerSockets, Orders, SocketReport};
use crate::worker::{Handle, Request};

/// How long a worker may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long counters are waited for: those of a worker that is stuck are shown as they are.
const COUNTING_PATIENCE: Duration = Duration::from_millis(100);
/// Sessions of one page at the most.
pub const PAGE_MAX: usize = 1000;

/// Everything that the admin thread can do.
pub struct Control {
    /// Random at each start.
    pub instance: String,
    /// When the process started.
    pub started: Instant,
    /// The workers, by number.
    pub workers: Vec<Handle>,
    /// Puts failed connections into words.
    pub words: Words,
    /// Connections that the admin socket did not answer, for who made them.
    pub admin_refused: AtomicU64,
    draining: AtomicBool,
    state: Mutex<State>,
    published: std::sync::Mutex<Published>,
}

/// What may be looked at while a document is tried, which locks the state: nobody who only asks waits for that.
#[derive(Default)]
struct Published {
    adopted: Adopted,
    scopes: Scopes,
    sockets: Vec<ListenerSockets>,
}

/// The adopted configuration and what hangs on it.
struct State {
    config: Arc<Config>,
    source: ConfigSource,
    version: u64,
    generation: u64,
    snapshot: Arc<Snapshot>,
    scopes: Scopes,
    ledger: Ledger,
    names: Names,
}

impl State {
    /// Compiles a document into the next snapshot.
    fn compile(
        &mut self,
        config: &Config,
        listeners: &[ListenerId],
        workers: usize,
    ) -> Result<Arc<Snapshot>, Vec<Problem>> {
        let inputs = Inputs {
            config,
            version: self.generation + 1,
            workers,
            previous: &self.snapshot,
            listeners,
            resolve: &|name| self.names.addresses(name),
        };
        compile(&inputs, &mut self.scopes).map(Arc::new)
    }
}

/// A configuration as it is adopted.
#[derive(Clone, Default)]
pub struct Adopted {
    /// Counts documents, from 1; 0: none yet.
    pub version: u64,
    /// The document.
    pub config: Arc<Config>,
    /// Where it came from.
    pub source: ConfigSource,
}

/// Why a document was not adopted.
#[derive(Debug)]
pub enum ApplyError {
    /// The document is wrong, or cannot be had on this machine.
    Problems(Vec<Problem>),
    /// `If-Match` names another version than the adopted one.
    Stale(u64),
    /// A worker did not answer.
    Worker(usize),
}

impl std::fmt::Display for ApplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ApplyError::Problems(problems) => problems.iter().try_for_each(|problem| write!(f, "\n  {problem}")),
            ApplyError::Stale(version) => write!(f, "the adopted version is {version}, not the one that was named"),
            ApplyError::Worker(worker) => write!(f, "worker {worker} did not answer"),
        }
    }
}

/// What a document is applied with.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApplyOptions {
    /// Try everything, bind included, and change nothing.
    pub dry_run: bool,
    /// Only if this is the adopted version.
    pub if_version: Option<u64>,
    /// Where the document comes from.
    pub source: ConfigSource,
}

impl Control {
    /// A process without a configuration.
    pub fn new(workers: Vec<Handle>, ledger: Ledger, instance: String) -> Control {
        Control {
            instance,
            started: Instant::now(),
            workers,
            words: Words::new(ledger.unix_root()),
            admin_refused: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            state: Mutex::new(State {
                config: Arc::default(),
                source: ConfigSource::None,
                version: 0,
                generation: 0,
                snapshot: Arc::default(),
                scopes: Scopes::default(),
                ledger,
                names: Names::default(),
            }),
            published: std::sync::Mutex::default(),
        }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        *self.published() = Published {
            adopted: Adopted { version: state.version, config: Arc::clone(&state.config), source: state.source },
            scopes: state.scopes.clone(),
            sockets: state.ledger.sockets(),
        };
    }

    /// The adopted configuration.
    pub fn adopted(&self) -> Adopted {
        self.published().adopted.clone()
    }

    /// Adopts a document that [`Config::read`] or [`Config::check`] found right: all of it, on every worker, or nothing.
    ///
    /// # Errors
    ///
    /// See [`ApplyError`]; nothing has changed then, except after [`ApplyError::Worker`].
    pub async fn apply(&self, config: Config, options: ApplyOptions) -> Result<Applied, ApplyError> {
        let mut state = self.state.lock().await;
        if options.if_version.is_some_and(|wanted| wanted != state.version) {
            return Err(ApplyError::Stale(state.version));
        }
        let mut warnings = config.warnings();
        let same = state.version > 0 && *state.config == config;
        if same {
            if !options.dry_run {
                state.source = options.source;
                self.publish(&state);
            }
            return Ok(Applied { version: state.version, changed: false, warnings });
        }
        let forbidden = state.ledger.forbidden(&config);
        if !forbidden.is_empty() {
            return Err(ApplyError::Problems(forbidden));
        }
        warnings.extend(state.names.learn(&config).await);
        let config = Arc::new(config);
        let Some(orders) = self.adopt(&mut state, &config, options.dry_run).await? else {
            return Ok(Applied { version: state.version, changed: true, warnings });
        };
        // The books are made before the workers are told: whatever happens while they are waited for, what they run is
        // what is said to be adopted.
        state.names.retain(&config);
        state.config = config;
        state.source = options.source;
        state.version += 1;
        self.publish(&state);
        self.hand_out(&state.snapshot, orders).await?;
        Ok(Applied { version: state.version, changed: true, warnings })
    }

    /// Resolves the names of the adopted document again; a change of addresses is a new snapshot.
    ///
    /// # Errors
    ///
    /// As [`Control::apply`].
    pub async fn refresh_names(&self) -> Result<(), ApplyError> {
        let names = self.state.lock().await.names.list();
        let fresh = dns::resolve(names).await;
        let mut state = self.state.lock().await;
        if !state.names.merge(fresh) {
            return Ok(());
        }
        let config = Arc::clone(&state.config);
        if let Some(orders) = self.adopt(&mut state, &config, false).await? {
            self.publish(&state);
            self.hand_out(&state.snapshot, orders).await?;
        }
        Ok(())
    }

    /// Compiles a document and binds what it needs. Answers what the workers have to be told; `None` in a dry run.
    async fn adopt(
        &self,
        state: &mut State,
        config: &Arc<Config>,
        dry_run: bool,
    ) -> Result<Option<Vec<Orders>>, ApplyError> {
        let plan = state.ledger.plan(&config.listeners).await.map_err(ApplyError::Problems)?;
        let snapshot = state.compile(config, &plan.listeners, self.workers.len()).map_err(ApplyError::Problems)?;
        if dry_run {
            return Ok(None);
        }
        let previous = Arc::clone(&state.snapshot);
        let outlives = |id: ListenerId| {
            previous.listeners.get(&id).is_some_and(|listener| {
                !listener.remove_orphan_sessions && listener.counters.iter().any(|c| c.sessions_active.get() > 0)
            })
        };
        let orders = state.ledger.commit(plan, outlives).map_err(|error| {
            ApplyError::Problems(vec![Problem::new("listeners", format!("cannot hand the sockets out: {error}"))])
        })?;
        state.generation += 1;
        state.snapshot = Arc::clone(&snapshot);
        state.scopes.retain(&snapshot);
        Ok(Some(orders))
    }

    /// Tells every worker, and waits until all have adopted.
    async fn hand_out(&self, snapshot: &Arc<Snapshot>, orders: Vec<Orders>) -> Result<(), ApplyError> {
        let mut answers = Vec::new();
        for (n, (worker, orders)) in self.workers.iter().zip(orders).enumerate() {
            let (done, answer) = oneshot::channel();
            let Orders { listen, unlisten } = orders;
            if !worker.send(Request::Adopt { snapshot: Arc::clone(snapshot), listen, unlisten, done }) {
                return Err(ApplyError::Worker(n));
            }
            answers.push(answer);
        }
        for (n, answer) in answers.into_iter().enumerate() {
            if !matches!(tokio::time::timeout(ANSWER_PATIENCE, answer).await, Ok(Ok(()))) {
                return Err(ApplyError::Worker(n));
            }
        }
        Ok(())
    }

    /// Closes the sockets of listeners that left the document, once their last session has ended.
    pub fn close_orphans(&self) {
        // While a document is tried there is time: this is called again soon.
        let Ok(mut state) = self.state.try_lock() else { return };
        let active: HashMap<String, u64> = state
            .scopes
            .listeners
            .iter()
            .map(|(name, counters)| (name.clone(), counters.iter().map(|c| c.sessions_active.get()).sum()))
            .collect();
        let gone = state.ledger.close_orphans(|name| active.get(name).is_some_and(|&sessions| sessions > 0));
        if gone.is_empty() {
            return;
        }
        self.publish(&state);
        for worker in &self.workers {
            worker.send(Request::Unlisten(gone.clone()));
        }
    }

    /// A page of sessions: those of one worker after the other. `cursor` is what the page before ended with.
    pub async fn sessions(&self, listener: Option<&str>, limit: usize, cursor: Option<(usize, usize)>) -> SessionPage {
        let (first, mut start) = cursor.unwrap_or_default();
        let mut page = SessionPage::default();
        let limit = limit.clamp(1, PAGE_MAX);
        for (n, worker) in self.workers.iter().enumerate().skip(first) {
            loop {
                let (reply, answer) = oneshot::channel();
                let left = limit - page.sessions.len();
                worker.send(Request::List { listener: listener.map(str::to_owned), start, limit: left, reply });
                let Ok(Ok(listing)) = tokio::time::timeout(ANSWER_PATIENCE, answer).await else { break };
                page.sessions.extend(listing.sessions);
                let Some(next) = listing.next else { break };
                start = next;
                if page.sessions.len() >= limit {
                    page.cursor = Some(format!("{n}.{next}"));
                    return page;
                }
            }
            start = 0;
            if page.sessions.len() >= limit && n + 1 < self.workers.len() {
                page.cursor = Some(format!("{}.0", n + 1));
                return page;
            }
        }
        page
    }

    /// One session by its name.
    pub async fn session(&self, name: &str) -> Option<Session> {
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            worker.send(Request::Show(name.to_owned(), reply));
            if let Ok(Ok(Some(session))) = tokio::time::timeout(ANSWER_PATIENCE, answer).await {
                return Some(session);
            }
        }
        None
    }

    /// Ends one session; false: there is none of that name.
    pub async fn delete_session(&self, name: &str) -> bool {
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            worker.send(Request::Delete(name.to_owned(), reply));
            if let Ok(Ok(true)) = tokio::time::timeout(ANSWER_PATIENCE, answer).await {
                return true;
            }
        }
        false
    }

    /// Takes no new sessions from now on. Returns once every worker knows, with the number of sessions that live.
    pub async fn drain(&self) -> u64 {
        self.draining.store(true, Ordering::Relaxed);
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            worker.send(Request::Drain(reply));
            let _ = tokio::time::timeout(ANSWER_PATIENCE, answer).await;
        }
        self.session_count()
    }

    /// Ends every session, because the time to drain is over.
    pub async fn end_drained(&self) {
        for worker in &self.workers {
            for _ in 0..10_000 {
                let (reply, answer) = oneshot::channel();
                worker.send(Request::EndDrained(reply));
                match tokio::time::timeout(ANSWER_PATIENCE, answer).await {
                    Ok(Ok(false)) => {}
                    Ok(Ok(true) | Err(_)) | Err(_) => break,
                }
            }
        }
    }

    /// Whether no new sessions are taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether a configuration is adopted, an empty one too.
    pub fn is_configured(&self) -> bool {
        self.published().adopted.version > 0
    }

    /// Sessions that live, those in backoff included.
    pub fn session_count(&self) -> u64 {
        self.workers.iter().map(|worker| worker.shared.counters.sessions_active.get()).sum()
    }

    /// Waits until the workers have counted what they have done.
    pub async fn settle(&self) {
        let deadline = tokio::time::Instant::now() + COUNTING_PATIENCE;
        let ask = |worker: &Handle| {
            let (done, answer) = oneshot::channel();
            worker.send(Request::Settle(done)).then_some(answer)
        };
        let answers: Vec<_> = self.workers.iter().filter_map(ask).collect();
        for answer in answers {
            let _ = tokio::time::timeout_at(deadline, answer).await;
        }
    }

    /// Clusters whose connections failed a moment ago, each with its path in the adopted document and the reason.
    pub fn failing(&self) -> Vec<Problem> {
        let published = self.published();
        self.words.failing(&published.adopted.config, &published.scopes, l7mp_engine::now())
    }

    /// Calls `visit` with the counters of every listener and cluster: name, then one per worker.
    pub fn scopes<R>(&self, visit: impl FnOnce(&Scopes) -> R) -> R {
        visit(&self.published().scopes)
    }

    /// The listening sockets: listener's name, bound address, and datagrams that the kernel dropped.
    pub fn sockets(&self) -> Vec<SocketReport> {
        self.published().sockets.iter().map(ListenerSockets::report).collect()
    }

    /// Removes the files of Unix listeners; before the process exits.
    pub async fn remove_files(&self) {
        self.state.lock().await.ledger.clear();
    }
}
