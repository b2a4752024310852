//! Keeps a stream to the operator that leads.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use l7mp_api::Problem;
use l7mp_link::claims::Claims;
use l7mp_link::client::{Hello, Link, LinkError, Place, Received, Told};
use l7mp_link::{Report, Version};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::files::{self, FileError, Trust};
use crate::proxy::{Standing, Wanted};
use crate::saved::Pod;
use crate::state::State;

/// How often the token's file is looked at: the kubelet replaces it after four fifths of its life.
const TOKEN_LOOK: Duration = Duration::from_secs(2);
/// An operator that has not named another one for so long takes the stream, though it may have nothing to say: its
/// proxy has what it should.
const TAKEN: Duration = Duration::from_secs(1);
/// A stream that has lasted so long has worked.
const WORKED: Duration = Duration::from_secs(5);
/// How often a replica may name another one before the operator's own name is tried again.
const HOPS_MAX: u32 = 4;
/// How often the same failure is said.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// The operator's task.
pub struct Caller {
    /// `HOST:PORT`
    pub operator: String,
    /// The name that its certificate is for.
    pub name: String,
    /// The token's file.
    pub token: PathBuf,
    /// Whom to trust.
    pub trust: Trust,
    /// Where configurations go.
    pub wanted: watch::Sender<Option<Arc<Wanted>>>,
    /// How the proxy stands.
    pub standing: watch::Receiver<Standing>,
    /// What is counted.
    pub state: Arc<State>,
    /// The newest configuration that came, the file's at first.
    pub newest: Option<Version>,
}

/// Why there is no stream now.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Caller {
    /// For ever.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut place = None;
        let mut hops = 0;
        let mut said: Option<(String, Instant)> = None;
        loop {
            let dial = place.take().unwrap_or_else(|| self.operator.clone());
            let begun = Instant::now();
            let result = self.stream(&dial).await;
            self.state.connected.store(false, Relaxed);
            if begun.elapsed() >= WORKED {
                (hops, said) = (0, None);
                backoff.reset();
            }
            match result {
                Ok(address) if hops < HOPS_MAX && address != dial => {
                    tracing::info!("{dial} says that {address} leads");
                    (place, hops) = (Some(address), hops + 1);
                    continue;
                }
                Ok(address) => tracing::warn!("{dial} says that {address} leads; beginning again"),
                Err(failure) => {
                    self.state.connect_failures.fetch_add(1, Relaxed);
                    if matches!(failure, Failure::Link(LinkError::Refused(_))) {
                        self.state.token_refused.fetch_add(1, Relaxed);
                    }
                    let message = failure.to_string();
                    if said.as_ref().is_none_or(|(last, at)| *last != message || at.elapsed() >= SAID_AGAIN) {
                        tracing::warn!("{message}");
                        said = Some((message, Instant::now()));
                    }
                }
            }
            hops = 0;
            tokio::time::sleep(backoff.next(l7mp_link::random())).await;
        }
    }

    /// One stream, until it ends; or the address of who leads.
    async fn stream(&mut self, dial: &str) -> Result<String, Failure> {
        let tls = self.trust.read()?;
        let mut token = files::token(&self.token)?;
        let pod = self.pod(&token);
        let place = Place { dial: dial.to_owned(), name: self.name.clone() };
        let mut standing = self.standing.borrow_and_update().clone();
        let hello = Hello {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            holds: standing.acknowledged,
            instance: standing.instance.clone(),
        };
        let mut link = Link::open(&place, tls, &token, hello).await?;
        if !standing.trouble.is_empty() {
            tell(&mut link, Report::Trouble(standing.trouble.clone())).await;
        }
        if let Some(later) = &standing.later {
            tell(&mut link, later.clone()).await;
        }
        let taken = tokio::time::Instant::now() + TAKEN;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(taken), if !self.state.connected.load(Relaxed) => self.taken(dial),
                told = link.next() => match told? {
                    Told::Elsewhere(address) => return Ok(address),
                    Told::Configuration(received) => {
                        self.taken(dial);
                        if let Some(report) = self.take(received, &pod) {
                            tell(&mut link, report).await;
                        }
                    }
                },
                changed = self.standing.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    let now = self.standing.borrow_and_update().clone();
                    if now.trouble != standing.trouble {
                        tell(&mut link, Report::Trouble(now.trouble.clone())).await;
                    }
                    if let Some((_, report)) = now.outcome.as_ref().filter(|_| now.outcome != standing.outcome) {
                        tell(&mut link, report.clone()).await;
                    }
                    if let Some(later) = now.later.as_ref().filter(|_| now.later != standing.later) {
                        tell(&mut link, later.clone()).await;
                    }
                    standing = now;
                }
                () = tokio::time::sleep(TOKEN_LOOK) => match files::token(&self.token) {
                    Ok(fresh) if fresh != token => {
                        self.pod(&fresh);
                        link.renew(&fresh).await?;
                        tracing::debug!("the operator was shown a fresh token");
                        token = fresh;
                    }
                    Ok(_) => {}
                    // The stream lives as long as the last one does.
                    Err(error) => tracing::debug!("{error}"),
                },
            }
        }
    }

    /// The operator takes this stream; it is said and counted once.
    fn taken(&self, dial: &str) {
        if !self.state.connected.swap(true, Relaxed) {
            tracing::info!(operator = dial, "the operator takes this stream");
            self.state.connects.fetch_add(1, Relaxed);
        }
    }

    /// Hands a configuration to the proxy's task; or says why not.
    fn take(&mut self, received: Received, pod: &Pod) -> Option<Report> {
        let Received { version, document, origins, drain } = received;
        let arrival = self.state.received.fetch_add(1, Relaxed) + 1;
        if let Some(newest) = self.newest.filter(|newest| version.is_older_than(newest)) {
            self.state.older.fetch_add(1, Relaxed);
            let message = format!("{version} is older than {newest}, which this agent has; a later leader sent that");
            tracing::warn!("refused: {message}");
            return Some(Report::Refused { version, errors: vec![Problem::new("", message)] });
        }
        self.newest = Some(version);
        tracing::debug!(%version, bytes = document.len(), drain, "a configuration came");
        let wanted = Wanted { arrival, version, pod: pod.clone(), document, origins, drain };
        self.wanted.send_replace(Some(Arc::new(wanted)));
        None
    }

    /// Whose the token is, as it says itself.
    fn pod(&self, token: &str) -> Pod {
        let claims = Claims::read(token).unwrap_or_default();
        let expires = claims.expires.and_then(|expires| expires.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.state.token_expires.store(expires.unwrap_or_default().as_secs(), Relaxed);
        pod_of(claims)
    }
}

/// Says something to the operator. One that reads no more has said why, or who leads: that is read next.
async fn tell(link: &mut Link, report: Report) {
    if let Err(error) = link.report(report).await {
        tracing::debug!("{error}");
    }
}

/// Whose a token is, as it says itself; empty where it does not.
pub fn pod_of(claims: Claims) -> Pod {
    let (name, uid) = claims.pod.unwrap_or_default();
    Pod { namespace: claims.namespace.unwrap_or_default(), name, uid }
}
