//! What the admin API shows of sessions, and of connections that failed.

use l7mp_api::status;

use crate::counters::Failure;
use crate::forwarder::Forwarder;
use crate::ids::{LinkId, SessionIndex};
use crate::limits::SESSIONS_PER_TURN;
use crate::links::Phase;
use crate::metadata;
use crate::session::{Session, SessionState, Source, Stage, StageWait};
use crate::snapshot::Cluster;
use crate::time::Time;

/// Some sessions of a worker, and where the rest begins.
#[derive(Debug, Default)]
pub struct Listing {
    /// In the order of their slots.
    pub sessions: Vec<status::Session>,
    /// The slot to go on with; `None`: these were the last.
    pub next: Option<usize>,
}

impl Forwarder {
    /// Up to `limit` sessions from slot `start` on, of one listener or of all. Looks at up to 1,024 slots.
    pub fn list(&self, listener: Option<&str>, start: usize, limit: usize, now: Time) -> Listing {
        let mut listing = Listing::default();
        let end = (start + SESSIONS_PER_TURN).min(self.sessions.capacity());
        for slot in start..end {
            if listing.sessions.len() >= limit {
                listing.next = Some(slot);
                return listing;
            }
            let wanted =
                self.sessions.get(slot).filter(|session| listener.is_none_or(|name| *session.listener.name == *name));
            if wanted.is_some() {
                listing.sessions.extend(self.describe(SessionIndex(slot as u32), now));
            }
        }
        listing.next = (end < self.sessions.capacity()).then_some(end);
        listing
    }

    /// One session by its name.
    pub fn show(&self, name: &str, now: Time) -> Option<status::Session> {
        self.find(name).and_then(|index| self.describe(index, now))
    }

    /// Keeps for the admin API what the kernel said of a link that could not be connected. To be called before
    /// [`Forwarder::failed`], which forgets the link.
    pub fn keep_failure(&self, link: LinkId, errno: i32, now: Time) {
        let Some((index, stage)) = self.stage_of(link) else { return };
        let Some(stage) = self.session(index).and_then(|session| session.stages.get(stage)) else { return };
        let successor = stage.successor.as_ref().filter(|(successor, _)| *successor == link);
        let Some(endpoint) = successor.map(|(_, endpoint)| endpoint).or(stage.endpoint.as_ref()) else { return };
        stage.counters.last_failure.set(Failure { errno, endpoint: endpoint.address.clone(), at: now });
    }

    fn describe(&self, index: SessionIndex, now: Time) -> Option<status::Session> {
        let session = self.session(index)?;
        let mut stages: Vec<status::Stage> = session.stages.iter().map(|stage| self.stage(stage)).collect();
        if stages.is_empty()
            && let Some((_, route)) = &session.decided
        {
            stages = route.stages.iter().map(|cluster| unopened(cluster)).collect();
        }
        let at = session.decided.as_ref().map_or(0, |(_, route)| route.destination).min(stages.len());
        let (ingress, rest) = stages.split_at(at);
        Some(status::Session {
            name: session.name(),
            listener: session.listener.name.to_string(),
            worker: self.identity.worker,
            status: self.status(session),
            metadata: metadata::of(session),
            source: self.source_stage(session),
            destination: rest.first().cloned().unwrap_or_default(),
            ingress: ingress.to_vec(),
            egress: rest.get(1..).unwrap_or_default().to_vec(),
            age_ms: millis(now.since(session.born)),
            idle_ms: millis(now.since(self.last_seen(index))),
        })
    }

    fn status(&self, session: &Session) -> status::SessionStatus {
        match session.state {
            SessionState::Handshake | SessionState::Opening => status::SessionStatus::Init,
            SessionState::Open if session.ready() => status::SessionStatus::Connected,
            SessionState::Open => status::SessionStatus::Disconnected,
            SessionState::Backoff => status::SessionStatus::Finalizing,
        }
    }

    fn source_stage(&self, session: &Session) -> status::Stage {
        let endpoint = match &session.source {
            Source::Udp(downstream) | Source::Stream(downstream) => downstream.peer.socket_addr().to_string(),
            Source::Unix => String::new(),
            Source::UnixDgram(name) => name.to_string(),
        };
        status::Stage {
            endpoint,
            protocol: session.listener.protocol.name().to_owned(),
            status: self.link_status(session.source_link),
            ..status::Stage::default()
        }
    }

    fn stage(&self, stage: &Stage) -> status::Stage {
        status::Stage {
            cluster: stage.cluster.name.to_string(),
            endpoint: stage.endpoint.as_ref().map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
            protocol: stage.cluster.protocol.name().to_owned(),
            status: match stage.waits {
                StageWait::Retry(_) => status::StageStatus::Retrying,
                StageWait::Connect(_) | StageWait::Nothing => self.link_status(stage.link),
            },
            retries: stage.attempts,
        }
    }

    fn link_status(&self, link: LinkId) -> status::StageStatus {
        match self.links.get(link) {
            Some(link) if link.read_ended => status::StageStatus::End,
            Some(link) => match link.phase {
                Phase::Opening => status::StageStatus::Init,
                Phase::Handshake | Phase::Ready => status::StageStatus::Connected,
                Phase::Open => status::StageStatus::Ready,
                Phase::Closing => status::StageStatus::Finalizing,
            },
            None => status::StageStatus::Disconnected,
        }
    }
}

/// A stage of a session that could not be opened.
fn unopened(cluster: &Cluster) -> status::Stage {
    status::Stage {
        cluster: cluster.name.to_string(),
        protocol: cluster.protocol.name().to_owned(),
        status: status::StageStatus::Disconnected,
        ..status::Stage::default()
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
