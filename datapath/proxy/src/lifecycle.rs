//! Start, signals, draining, the end.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use l7mp_api::Config;
use l7mp_api::status::ConfigSource;
use l7mp_forwarder::Identity;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::admin;
use crate::cli::Args;
use crate::control::{ApplyError, ApplyOptions, Control};
use crate::cores;
use crate::dns;
use crate::ledger::{self, Ledger};
use crate::open_files;
use crate::trouble::{self, Trouble};
use crate::worker::{Handle, Worker};

/// How often orphaned sockets are looked at, and whether a drain is over.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// Sets the log level that the document asks for.
pub type SetLevel = Box<dyn Fn(&str)>;

/// Runs the proxy until a signal ends it.
///
/// # Errors
///
/// Why it could not start, or which worker died of what.
pub fn run(args: Args, set_level: SetLevel) -> anyhow::Result<()> {
    let config = args.config.as_deref().map(read).transpose()?;
    let unix_root = args.unix_root.as_deref().map(open_root).transpose()?;
    let admin_socket = args.admin_socket.clone().unwrap_or_else(l7mp_api::socket::default_path);
    let (died, mut death) = oneshot::channel();
    let workers = start_workers(&args, unix_root.clone(), died)?;
    let ledger =
        Ledger::new(workers.len(), ledger::Settings { bind: args.bind, unix_root, admin_socket: admin_socket.clone() });
    let instance = format!("{:016x}", random_seed()?);
    let control = Arc::new(Control::new(workers, ledger, instance));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let listener = admin::bind(&admin_socket)?;
        let admin = admin::Admin::new(Arc::clone(&control)).features(features()).drain_timeout(args.drain_timeout);
        let admin = admin.refuse_process(std::process::id());
        tokio::spawn(admin.clone().serve(listener));
        if let Some(address) = args.http {
            let listener = tokio::net::TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot serve HTTP on {address} (--http)"))?;
            tokio::spawn(admin.clone().serve_http(listener));
        }
        let signals = Signals::new()?;
        if let Some(config) = config {
            apply_file(&control, config, args.config.as_deref().unwrap_or(Path::new(""))).await?;
        }
        info!(workers = control.workers.len(), admin = %admin_socket.display(), "l7mp-proxy is up");
        serve(&args, &control, signals, &mut death, &set_level).await
    });
    runtime.block_on(control.remove_files());
    // The file of the admin socket goes with the task that serves it: another proxy's is not touched.
    drop(runtime);
    outcome
}

/// The signals that the proxy answers.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next request to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Everything after the start, until a signal or a death ends it.
async fn serve(
    args: &Args,
    control: &Arc<Control>,
    mut signals: Signals,
    death: &mut oneshot::Receiver<String>,
    set_level: &SetLevel,
) -> anyhow::Result<()> {
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    let mut refresh = tokio::time::interval(dns::REFRESH);
    let mut look = tokio::time::interval(trouble::LOOK);
    let mut trouble = Trouble::default();
    let mut level = None;
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => drop(tokio::spawn(reload(args.config.clone(), Arc::clone(control)))),
            message = &mut *death => bail!(message.unwrap_or_else(|_| "a worker is gone".to_owned())),
            _ = refresh.tick() => {
                let control = Arc::clone(control);
                tokio::spawn(async move {
                    if let Err(error) = control.refresh_names().await {
                        warn!("new addresses could not be adopted: {error}");
                    }
                });
            }
            _ = look.tick() => control.scopes(|scopes| trouble.look(scopes, &control.words)),
            _ = housekeeping.tick() => {
                control.close_orphans();
                let wanted = control.adopted().config.admin.log_level.clone();
                if wanted != level {
                    set_level(wanted.as_deref().unwrap_or("info"));
                    level = wanted;
                }
            }
        }
    }
    tokio::select! {
        () = drain(control, args.drain_timeout) => Ok(()),
        () = signals.end() => {
            info!("a second signal: ending at once");
            Ok(())
        }
        message = death => bail!(message.unwrap_or_else(|_| "a worker is gone".to_owned())),
    }
}

/// No new sessions; waits until none is left, and ends those that outstay the time.
async fn drain(control: &Control, timeout: Duration) {
    let sessions = control.drain().await;
    info!(sessions, "draining for at most {}", l7mp_api::duration::format(timeout));
    let deadline = Instant::now() + timeout;
    while control.session_count() > 0 && Instant::now() < deadline {
        tokio::time::sleep(HOUSEKEEPING).await;
    }
    let left = control.session_count();
    if left > 0 {
        control.end_drained().await;
        // What is queued, and the peers' goodbyes, get one more moment.
        tokio::time::sleep(HOUSEKEEPING).await;
    }
    info!(ended = left, "drained");
}

/// SIGHUP: reads `--config` again.
async fn reload(file: Option<PathBuf>, control: Arc<Control>) {
    let Some(file) = file.as_deref() else {
        warn!("SIGHUP: there is no --config to read again");
        return;
    };
    if control.adopted().source == ConfigSource::Api {
        warn!("SIGHUP refused: the configuration was put through the admin API since; put {} there", file.display());
        return;
    }
    match read(file) {
        Ok(config) => {
            if let Err(error) = apply_file(&control, config, file).await {
                error!("SIGHUP: nothing has changed: {error:#}");
            }
        }
        Err(error) => error!("SIGHUP: nothing has changed: {error:#}"),
    }
}

async fn apply_file(control: &Control, config: Config, file: &Path) -> anyhow::Result<()> {
    let options = ApplyOptions { source: ConfigSource::File, ..ApplyOptions::default() };
    match control.apply(config, options).await {
        Ok(applied) => {
            for warning in &applied.warnings {
                warn!("{}: {warning}", file.display());
            }
            info!(version = applied.version, changed = applied.changed, "adopted {}", file.display());
            Ok(())
        }
        Err(error) => Err(anyhow!("{}: {error}", file.display())),
    }
}

/// Reads a document; every error is on a line of its own.
fn read(file: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Config::read(&text).map_err(|problems| anyhow!("{}: {}", file.display(), ApplyError::Problems(problems)))
}

fn open_root(directory: &Path) -> anyhow::Result<Arc<OwnedFd>> {
    use rustix::fs::{Mode, OFlags, open};
    let opened = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    opened.map(Arc::new).with_context(|| format!("cannot open the directory {} (--unix-root)", directory.display()))
}

/// Starts the worker threads. `died` is told when one of them ends, which none should.
fn start_workers(
    args: &Args,
    unix_root: Option<Arc<OwnedFd>>,
    died: oneshot::Sender<String>,
) -> anyhow::Result<Vec<Handle>> {
    let count = cores::workers(args.workers, args.cores.as_ref());
    open_files::raise(count)?;
    let (deaths, first_death) = mpsc::channel::<String>();
    let mut handles = Vec::new();
    for worker in 0..count {
        let identity = Identity { worker, workers: count, seed: random_seed()? };
        let settings = l7mp_engine::Settings {
            busy_poll: args.busy_poll.unwrap_or_default(),
            unix_root: unix_root.clone(),
            ..l7mp_engine::Settings::default()
        };
        let (cores, deaths) = (args.cores.clone(), deaths.clone());
        let (started, start) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("worker {worker}"));
        thread.spawn(move || {
            let obituary = Obituary { worker, deaths };
            let pinned = cores.map_or(Ok(()), |cores| cores::pin(worker, &cores));
            if let Err(error) = pinned {
                let _ = started.send(Err(anyhow!("cannot pin worker {worker} to its core (--cores): {error}")));
                return;
            }
            match Worker::new(identity, settings) {
                Err(error) => drop(started.send(Err(anyhow::Error::new(error).context("cannot start the datapath")))),
                Ok((worker_loop, handle)) => {
                    let _ = started.send(Ok(handle));
                    if let Err(error) = worker_loop.run() {
                        obituary.send(&error.to_string());
                    }
                }
            }
        })?;
        handles.push(start.recv().map_err(|_| anyhow!("worker {worker} died while it started"))??);
    }
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
        drop(deaths);
        let message = first_death.recv().unwrap_or_else(|_| "the workers are gone".to_owned());
        let _ = died.send(message);
    })?;
    Ok(handles)
}

/// Tells the admin thread that a worker is no more, also when it panicked.
struct Obituary {
    worker: usize,
    deaths: mpsc::Sender<String>,
}

impl Obituary {
    fn send(&self, cause: &str) {
        let worker = self.worker;
        let _ = self.deaths.send(format!("worker {worker} died: {cause}; the proxy cannot go on without it"));
    }
}

impl Drop for Obituary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.send("it panicked, see above");
        }
    }
}

/// What the engine finds in this kernel, by name.
fn features() -> Vec<String> {
    let names =
        |features: l7mp_engine::Features| features.ring.iter().map(|feature| feature.name().to_owned()).collect();
    l7mp_engine::probe().map(names).unwrap_or_default()
}

/// Unpredictable bits from the kernel.
fn random_seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("no randomness")?;
    Ok(u64::from_ne_bytes(bytes))
}
