//! One worker: a thread with its own ring, its own sockets and its own sessions.
//!
//! The loop in [`Worker::turn`] is the spine of the datapath: one `io_uring_enter`, everything that happened, what is
//! due, and the slow work that came of it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use l7mp_api::status;
use l7mp_engine::{Engine, Event, ListenerSocket, Received, Settings, Source, Stats, Waker};
use l7mp_forwarder::address::{ClientAddr, LocalAddr, UnixName};
use l7mp_forwarder::counters::{Counter, DropReason, WorkerCounters};
use l7mp_forwarder::ids::{LinkId, ListenerId};
use l7mp_forwarder::report::Listing;
use l7mp_forwarder::snapshot::Snapshot;
use l7mp_forwarder::time::Time;
use l7mp_forwarder::verdict::{Downstream, Verdict};
use l7mp_forwarder::{Forwarder, Identity};
use tokio::sync::oneshot;

/// Requests that wait for one worker.
const REQUESTS_MAX: usize = 256;

/// What the admin thread asks of a worker. Each is answered once, between two turns.
pub enum Request {
    /// Take over a configuration, and the sockets that it brings and no longer needs.
    Adopt {
        /// The configuration.
        snapshot: Arc<Snapshot>,
        /// Sockets to listen on from now on.
        listen: Vec<(ListenerId, ListenerSocket)>,
        /// Listeners whose sockets are closed.
        unlisten: Vec<ListenerId>,
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
    /// Close the sockets of listeners that left the configuration, and whose last session has ended.
    Unlisten(Vec<ListenerId>),
    /// List sessions.
    List {
        /// Of this listener, or of all.
        listener: Option<String>,
        /// Where to begin.
        start: usize,
        /// At most so many.
        limit: usize,
        /// The answer.
        reply: oneshot::Sender<Listing>,
    },
    /// Show one session.
    Show(String, oneshot::Sender<Option<status::Session>>),
    /// End one session.
    Delete(String, oneshot::Sender<bool>),
    /// Take no new sessions.
    Drain(oneshot::Sender<()>),
    /// End up to a turn's worth of the sessions; answers whether none is left.
    EndDrained(oneshot::Sender<bool>),
    /// Answer once everything that was sent is counted: the kernel says nothing of a datagram that it took, so that the
    /// last ones of a worker that waits are counted when it turns again.
    Settle(oneshot::Sender<()>),
}

/// What the other threads see of a worker.
#[derive(Debug, Default)]
pub struct Shared {
    /// What the forwarder counts.
    pub counters: Arc<WorkerCounters>,
    /// What the engine counts, as of the last turn.
    pub engine: EngineCounters,
    /// When the present turn began, in nanoseconds of the engine's clock; 0 while the worker waits.
    pub busy_since: Counter,
}

/// [`Stats`], readable by other threads.
#[derive(Debug, Default)]
pub struct EngineCounters {
    /// Turns of the loop.
    pub turns: Counter,
    /// Completions handled.
    pub completions: Counter,
    /// Calls of `io_uring_enter`.
    pub enters: Counter,
    /// Payloads copied by the engine.
    pub payload_copies: Counter,
    /// Receives that found no buffer.
    pub no_buffers: Counter,
    /// Completion queue overflows.
    pub overflows: Counter,
    /// Fewest free buffers of any class since the start.
    pub buffers_low: Counter,
}

impl EngineCounters {
    fn publish(&self, stats: &Stats) {
        let pools = [stats.large, stats.stream, stats.small];
        self.turns.set(stats.turns);
        self.completions.set(stats.completions);
        self.enters.set(stats.enters);
        self.payload_copies.set(stats.payload_copies);
        self.no_buffers.set(stats.enobufs);
        self.overflows.set(stats.cq_overflows);
        self.buffers_low.set(pools.map(|pool| u64::from(pool.free_min)).into_iter().min().unwrap_or_default());
    }
}

/// The admin thread's end of a worker.
pub struct Handle {
    /// What it shows.
    pub shared: Arc<Shared>,
    requests: SyncSender<Request>,
    waker: Waker,
}

impl Handle {
    /// Queues a request and wakes the worker. False when too many wait, or the worker is gone.
    pub fn send(&self, request: Request) -> bool {
        match self.requests.try_send(request) {
            Ok(()) => {
                self.waker.wake();
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

/// A worker inside its thread.
pub struct Worker {
    engine: Engine,
    forwarder: Forwarder,
    requests: Receiver<Request>,
    shared: Arc<Shared>,
    /// Who is told at the end of this turn.
    settling: Vec<oneshot::Sender<()>>,
}

impl Worker {
    /// Makes the ring; to be called in the thread that runs the worker.
    ///
    /// # Errors
    ///
    /// Why there is no ring, and what to change.
    pub fn new(identity: Identity, settings: Settings) -> Result<(Worker, Handle), l7mp_engine::StartError> {
        let engine = Engine::new(settings)?;
        let shared = Arc::new(Shared::default());
        let (sender, requests) = sync_channel(REQUESTS_MAX);
        let handle = Handle { shared: Arc::clone(&shared), requests: sender, waker: engine.waker() };
        let forwarder = Forwarder::new(identity, Arc::clone(&shared.counters));
        Ok((Worker { engine, forwarder, requests, shared, settling: Vec::new() }, handle))
    }

    /// Turns until the kernel refuses to go on.
    ///
    /// # Errors
    ///
    /// What the kernel said; the process cannot go on without this worker.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            self.turn()?;
        }
    }

    /// One turn: one `io_uring_enter`.
    fn turn(&mut self) -> io::Result<()> {
        self.shared.busy_since.set(0);
        let now = self.engine.wait(self.forwarder.deadline())?;
        self.shared.busy_since.set(now.as_nanos());
        while let Some(event) = self.engine.next_event() {
            self.handle(event, now);
            self.execute();
        }
        self.forwarder.expire(now);
        self.execute();
        self.shared.engine.publish(&self.engine.stats());
        for done in self.settling.drain(..) {
            let _ = done.send(());
        }
        Ok(())
    }

    /// The slow work that an event made. It goes out before the next event's messages, which may be of the same session.
    fn execute(&mut self) {
        while let Some(command) = self.forwarder.next_command() {
            self.engine.execute(command);
        }
    }

    fn handle(&mut self, event: Event, now: Time) {
        match event {
            Event::Received { link, bytes } => self.received(link, bytes, now),
            Event::Datagram { listener, peer, local, bytes } => self.datagram(listener, peer, local, bytes, now),
            Event::UnixDatagram { listener, peer, bytes } => self.unix_datagram(listener, peer, bytes, now),
            Event::Accepted { listener, socket } => {
                let from = socket.peer().zip(socket.local()).map(|(peer, local)| Downstream { peer, local });
                match self.forwarder.accepted(listener, from, now) {
                    Some(link) => self.engine.attach(socket, link),
                    None => self.engine.refuse(socket),
                }
            }
            Event::Opened(link) => self.forwarder.opened(link, now),
            Event::Failed { link, error, errno } => {
                self.forwarder.keep_failure(link, errno, now);
                self.forwarder.failed(link, error, now);
            }
            Event::Ended(link) => self.forwarder.ended(link, now),
            Event::Broken(link, error) => self.forwarder.broken(link, error, now),
            Event::Blocked(link) => self.forwarder.blocked(link),
            Event::Drained(link) => self.forwarder.drained(link),
            Event::Sent { link, messages, bytes } => self.forwarder.sent(link, messages, bytes),
            Event::Lost { link: _, messages, reason } => self.forwarder.lost(messages, reason),
            Event::Oversized(Source::Link(_) | Source::Listener(_)) => self.forwarder.oversized(),
            Event::Closed(link) => self.forwarder.closed(link),
            Event::Woken => self.requests(now),
        }
    }

    /// Bytes of a link: message by message.
    fn received(&mut self, link: LinkId, bytes: Received, now: Time) {
        for datagram in bytes.datagrams() {
            let mut at = datagram.start;
            loop {
                let rest = &mut self.engine.bytes(&bytes)[at..datagram.end];
                let step = self.forwarder.step(link, rest, now);
                match step.verdict {
                    Verdict::Forward(frame) | Verdict::Reply(frame) => self.engine.send(frame, Some((&bytes, at))),
                    Verdict::Kept | Verdict::Dropped(_) => {}
                }
                at += step.used;
                if at >= datagram.end || step.used == 0 {
                    break;
                }
            }
        }
        self.engine.release(bytes);
    }

    /// A datagram, or a train, of a listener's peer.
    fn datagram(&mut self, listener: ListenerId, peer: ClientAddr, local: LocalAddr, bytes: Received, now: Time) {
        match self.forwarder.source(listener, local, peer, now) {
            Ok(link) => {
                self.execute();
                self.received(link, bytes, now);
            }
            Err(reason) => self.refuse(listener, bytes, reason),
        }
    }

    fn unix_datagram(&mut self, listener: ListenerId, peer: Option<UnixName>, bytes: Received, now: Time) {
        let Some(peer) = peer else { return self.refuse(listener, bytes, DropReason::NoPeerAddress) };
        match self.forwarder.unix_source(listener, peer, now) {
            Ok(link) => {
                self.execute();
                self.received(link, bytes, now);
            }
            Err(reason) => self.refuse(listener, bytes, reason),
        }
    }

    /// Datagrams that get no session.
    fn refuse(&mut self, listener: ListenerId, bytes: Received, reason: DropReason) {
        let messages = bytes.datagrams().count() as u64;
        self.forwarder.refuse(listener, messages, bytes.len() as u64, reason);
        self.engine.release(bytes);
    }

    /// What the admin thread asked for. A caller that no longer waits for its answer is not an error.
    fn requests(&mut self, now: Time) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Adopt { snapshot, listen, unlisten, done } => {
                    for (listener, socket) in listen {
                        self.engine.listen(listener, socket);
                    }
                    self.forwarder.adopt(snapshot);
                    self.execute();
                    for listener in unlisten {
                        self.engine.unlisten(listener);
                    }
                    let _ = done.send(());
                }
                Request::Unlisten(listeners) => {
                    for listener in listeners {
                        self.engine.unlisten(listener);
                    }
                }
                Request::List { listener, start, limit, reply } => {
                    let _ = reply.send(self.forwarder.list(listener.as_deref(), start, limit, now));
                }
                Request::Show(name, reply) => {
                    let _ = reply.send(self.forwarder.show(&name, now));
                }
                Request::Delete(name, reply) => {
                    let _ = reply.send(self.forwarder.delete(&name, now));
                }
                Request::Drain(reply) => {
                    self.forwarder.drain();
                    let _ = reply.send(());
                }
                Request::EndDrained(reply) => {
                    let _ = reply.send(self.forwarder.end_drained(now));
                }
                Request::Settle(done) => self.settling.push(done),
            }
        }
    }
}

#[cfg(test)]
mod tests;
