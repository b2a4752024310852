//! The engine: one turn, one `io_uring_enter`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry as Submission, Flags};
use io_uring::{opcode, types};
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::time::Time;
use l7mp_forwarder::verdict::{Command, Frame, Payload};

use crate::buffers::{Buffers, Class};
use crate::event::{Event, Received};
use crate::files::Files;
use crate::links::{Links, Phase};
use crate::listeners::Listeners;
use crate::outbox::Entry;
use crate::probe::{self, Features, StartError};
use crate::receive::Shapes;
use crate::ring::{Completion, Ring};
use crate::send::{Piece, Trains};
use crate::settings::{BusyPoll, Settings, Stats};
use crate::stream::Gathers;
use crate::token::{Op, Token};

/// Looks at the clock once per so many looks at the ring while polling.
const LOOKS_PER_CLOCK: u32 = 64;

/// Moves bytes between sockets, for one worker. Made in the thread that runs it.
pub struct Engine {
    // The ring is dropped first: it cancels what is in flight, so nothing outlives the memory that it points to.
    pub(crate) ring: Ring,
    pub(crate) buffers: Buffers,
    pub(crate) trains: Trains,
    pub(crate) gathers: Gathers,
    pub(crate) shapes: Box<Shapes>,
    wake_value: Box<u64>,
    pub(crate) links: Links,
    pub(crate) listeners: Listeners,
    pub(crate) files: Files,
    /// Receives and accepts that the worker has not seen yet.
    completions: VecDeque<Completion>,
    /// Everything else that it has not seen yet.
    pub(crate) events: VecDeque<Event>,
    /// Who waits for buffers, by class.
    pub(crate) readers: [VecDeque<Reader>; 3],
    /// Links with something to send and nothing in flight.
    pub(crate) dirty: Vec<LinkId>,
    /// Links whose socket is closed once nothing is in flight.
    pub(crate) closing: Vec<LinkId>,
    pub(crate) closing_listeners: Vec<u32>,
    pub(crate) missed_cancels: Vec<LinkId>,
    pub(crate) timers: Timers,
    pub(crate) settings: Settings,
    pub(crate) stats: Stats,
    pub(crate) now: Time,
    features: Features,
    waker: Waker,
    wake_armed: bool,
    /// Completions that are still this turn's.
    turn_left: usize,
    /// The ring refused an operation; the next `wait` says so.
    fault: Option<io::Error>,
}

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reader {
    /// A link.
    Link(LinkId),
    /// The listener in a slot.
    Listener(u32),
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A closing link took too long.
    Linger(LinkId),
    /// A full Unix dgram peer may have room again.
    Retry(LinkId),
    /// A listener may try again.
    Reader(Reader),
}

/// The engine's own few timers, soonest first.
#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(Time, Timer)>>);

impl Timers {
    /// Sets a timer.
    pub fn push(&mut self, at: Time, timer: Timer) {
        self.0.push(Reverse((at, timer)));
    }

    fn soonest(&self) -> Option<Time> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    fn pop(&mut self, now: Time) -> Option<Timer> {
        if self.soonest()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, timer))| timer)
    }
}

/// Ends the engine's wait from another thread.
#[derive(Clone, Debug)]
pub struct Waker {
    fd: Arc<OwnedFd>,
}

impl Waker {
    /// Makes the engine return [`Event::Woken`]. Several calls may make one event.
    pub fn wake(&self) {
        // EAGAIN would mean that it was woken 2^64 - 2 times and looked at none of them.
        let _ = rustix::io::write(&*self.fd, &1_u64.to_ne_bytes());
    }
}

/// Time since this process first asked, on a monotonic clock.
pub fn now() -> Time {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    // One second ahead of the origin, so that no time that is told is `Time::ZERO`.
    let elapsed = ORIGIN.get_or_init(Instant::now).elapsed() + Duration::from_secs(1);
    Time::from_nanos(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}

impl Engine {
    /// Sets up a ring for this thread, its buffers and its waker.
    pub fn new(settings: Settings) -> Result<Engine, StartError> {
        let counts = [settings.large_buffers, settings.stream_buffers, settings.small_buffers];
        if counts.iter().any(|count| !count.is_power_of_two() || *count > 1 << 15) {
            return Err(StartError::Settings("buffer counts must be powers of two between 1 and 32768"));
        }
        let submissions = settings.submissions.max(64);
        let ring = Ring::new(submissions, settings.completions.max(submissions), settings.ring_flags_first)?;
        probe::check_operations(ring.features())?;
        let buffers =
            Buffers::new(&ring, counts).map_err(|error| StartError::from_step("registering receive buffers", error))?;
        // Before 6.13 the kernel frees unregistered files in the order of their registration, behind the oldest operation
        // in flight: a listener's would keep every closed socket open.
        let registered = if probe::kernel_is_at_least((6, 13)) { settings.registered_files } else { 0 };
        let files = Files::new(&ring, registered);
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map_err(|error| StartError::from_step("eventfd", error.into()))?;
        let features =
            Features { kernel: probe::kernel(), ring: ring.features().to_vec(), registered_files: files.slots() };
        Ok(Engine {
            ring,
            buffers,
            trains: Trains::new(),
            gathers: Gathers::default(),
            shapes: Box::new(Shapes::new()),
            wake_value: Box::new(0),
            links: Links::default(),
            listeners: Listeners::default(),
            files,
            completions: VecDeque::with_capacity(settings.completions as usize),
            events: VecDeque::with_capacity(256),
            readers: Default::default(),
            dirty: Vec::with_capacity(64),
            closing: Vec::with_capacity(64),
            closing_listeners: Vec::new(),
            missed_cancels: Vec::new(),
            timers: Timers::default(),
            settings,
            stats: Stats::default(),
            now: now(),
            features,
            waker: Waker { fd: Arc::new(eventfd) },
            wake_armed: false,
            turn_left: 0,
            fault: None,
        })
    }

    /// Ends `wait` from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// The time.
    pub fn now(&self) -> Time {
        now()
    }

    /// What the kernel has.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Counters and levels.
    pub fn stats(&self) -> Stats {
        let [large, stream, small] = self.buffers.stats();
        Stats { enters: self.ring.enters, large, stream, small, ..self.stats }
    }

    /// Submits everything of the last turn, and waits for an event, the deadline, or a wake. Says what time it is then.
    /// Does not wait while events are left from before. An error is fatal.
    pub fn wait(&mut self, deadline: Option<Time>) -> io::Result<Time> {
        self.stats.turns += 1;
        self.push_train();
        self.pump();
        if self.has_readers() || self.buffers.is_half_used() {
            // Buffers of what was sent are wanted back before anybody reads.
            self.submit_and_collect();
            self.unpin_if_scarce();
            self.pump();
        }
        self.finish_listeners();
        if !self.closing.is_empty() {
            self.submit_and_collect();
            if self.trains.is_empty() {
                self.finish_closing();
            }
        }
        self.buffers.publish();
        self.arm();
        if self.completions.is_empty() && self.events.is_empty() {
            self.block(deadline);
        } else {
            self.submit();
        }
        self.now = now();
        self.collect();
        while let Some(timer) = self.timers.pop(self.now) {
            match timer {
                Timer::Linger(link) => self.linger_over(link),
                Timer::Retry(link) => self.retry(link),
                Timer::Reader(reader) => self.queue_reader(reader),
            }
        }
        self.turn_left = self.completions.len();
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(self.now),
        }
    }

    /// The next event of this turn. The worker takes them all before it waits again. What is read while it does so
    /// belongs to the next turn: a sender that is faster than we are must not make a turn without end.
    pub fn next_event(&mut self) -> Option<Event> {
        while self.turn_left > 0 {
            self.turn_left -= 1;
            let completion = self.completions.pop_front()?;
            let Some(token) = Token::unpack(completion.user_data) else { continue };
            let event = match token.op {
                Op::Receive => self.link_received(token, completion),
                Op::ListenerReceive => self.listener_received(token, completion),
                Op::Accept => self.accepted(token, completion),
                Op::Wake => {
                    self.wake_armed = false;
                    Some(Event::Woken)
                }
                Op::Train | Op::Ordered | Op::Connect | Op::Cancel => None,
            };
            if event.is_some() {
                return event;
            }
        }
        self.events.pop_front()
    }

    /// The payload of a received buffer.
    pub fn bytes(&mut self, received: &Received) -> &mut [u8] {
        self.buffers.bytes(received)
    }

    /// Queues a frame for its link. `from` is the buffer that its payload lies in, and where in it the bytes began that
    /// its range counts from. The buffer may be released at once: what is queued holds it.
    pub fn send(&mut self, frame: Frame, from: Option<(&Received, usize)>) {
        let Frame { to, head, payload, newline, lossy, messages } = frame;
        let (phase, kind, shut) = match self.links.get(to) {
            Some(link) if link.write_error.is_some() => return self.lose(to, messages, DropReason::Disconnected),
            Some(link) => (link.phase, link.kind, link.shut),
            None => return self.lose(to, messages, DropReason::Closed),
        };
        match phase {
            Phase::Open if !shut => {}
            Phase::Dead => return self.lose(to, messages, DropReason::Disconnected),
            _ => return self.lose(to, messages, DropReason::Closed),
        }
        let piece = match payload {
            Payload::Owned(bytes) => Piece::Owned(bytes),
            Payload::Received(range) => {
                let piece = from.and_then(|(received, base)| {
                    let (start, end) = (base.checked_add(range.start)?, base.checked_add(range.end)?);
                    let len = end.checked_sub(start).filter(|_| end <= received.len())?;
                    let start = received.start + start as u32;
                    Some(Piece::Received { class: received.class, buffer: received.buffer, start, len: len as u32 })
                });
                debug_assert!(piece.is_some(), "a frame names bytes that were not received");
                match piece {
                    Some(piece) => piece,
                    None => return self.lose(to, messages, DropReason::SendError),
                }
            }
        };
        if kind.is_udp() {
            let piece = if head.is_empty() && !newline { piece } else { self.framed(&head, &piece, newline) };
            self.send_datagram(to, piece, messages);
        } else {
            self.enqueue(to, Entry { head, piece, newline, lossy, messages });
        }
    }

    /// A datagram with something around its payload, which no codec for UDP makes, is copied together.
    fn framed(&mut self, head: &[u8], piece: &Piece, newline: bool) -> Piece {
        let mut bytes = head.to_vec();
        match piece {
            Piece::Owned(payload) => bytes.extend_from_slice(payload),
            Piece::Received { class, buffer, start, len } => {
                let received = Received { class: *class, buffer: *buffer, start: *start, len: *len, stride: 0 };
                bytes.extend_from_slice(self.buffers.bytes(&received));
            }
        }
        if newline {
            bytes.push(b'\n');
        }
        self.stats.payload_copies += 1;
        Piece::Owned(bytes)
    }

    /// Gives a received buffer back, after its last frame was queued. It returns to the kernel once they have left.
    pub fn release(&mut self, received: Received) {
        self.buffers.drop_use(received.class, received.buffer);
    }

    /// Does slow work.
    pub fn execute(&mut self, command: Command) {
        match command {
            Command::Open { link, transport, remote } => self.open(link, &transport, &remote),
            Command::OpenFlow { link, listener, peer, local } => {
                self.open_flow(link, listener, peer.socket_addr(), local.socket_addr());
            }
            Command::OpenUnixFlow { link, listener, peer } => self.open_unix_flow(link, listener, &peer),
            Command::Send(frame) => self.send(frame, None),
            Command::Resume(link) => self.resume(link),
            Command::Pause(link) => {
                if self.links.get(link).is_some_and(|link| link.is_open()) {
                    self.stop_reading(link);
                }
            }
            Command::Shutdown(link) => self.shutdown_link(link),
            Command::Close { link, how } => self.close(link, how),
        }
    }

    /// Queues an operation.
    ///
    /// # Safety
    ///
    /// As [`Ring::push`].
    pub(crate) unsafe fn push(&mut self, entry: &Submission) {
        // SAFETY: as the caller promises.
        if let Err(error) = unsafe { self.ring.push(entry) } {
            self.fault.get_or_insert(error);
        }
    }

    /// Makes room for `count` operations that belong together.
    pub(crate) fn reserve(&mut self, count: usize) {
        if self.ring.room() < count {
            self.submit();
        }
    }

    /// Cancels an operation. `name` is what the cancellation's failure is reported as.
    pub(crate) fn cancel(&mut self, operation: Token, name: Token) {
        let cancel =
            opcode::AsyncCancel::new(operation.pack()).build().flags(Flags::SKIP_SUCCESS).user_data(name.pack());
        // SAFETY: a cancellation by user data points to no memory.
        unsafe { self.push(&cancel) };
    }

    /// Sends all that is queued, and takes back what it used. Ordered sends may stay in flight.
    pub(crate) fn flush(&mut self) {
        self.push_train();
        self.pump();
        self.submit_and_collect();
    }

    fn submit_and_collect(&mut self) {
        self.push_train();
        self.submit();
        self.collect();
    }

    fn submit(&mut self) {
        if let Err(error) = self.ring.submit() {
            self.fault.get_or_insert(error);
        }
    }

    /// Arms whatever should read and does not.
    fn arm(&mut self) {
        self.cancel_again();
        self.arm_readers();
        if self.wake_armed {
            return;
        }
        self.wake_armed = true;
        let value: *mut u64 = &mut *self.wake_value;
        let read =
            opcode::Read::new(types::Fd(self.waker.fd.as_fd().as_raw_fd()), value.cast(), size_of::<u64>() as u32)
                .build()
                .user_data(Token::new(Op::Wake, 0, 0).pack());
        // SAFETY: the value is boxed in the engine, is used for nothing else, and is dropped after the ring; so is the
        // eventfd.
        unsafe { self.push(&read) };
    }

    /// Submits, and waits for a completion or the next deadline.
    fn block(&mut self, deadline: Option<Time>) {
        let deadline = match (deadline, self.timers.soonest()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let mut now = now();
        if self.settings.busy_poll != BusyPoll::Off {
            self.submit();
            now = match self.poll(now, deadline) {
                Some(now) => now,
                None => return,
            };
        }
        let timeout = deadline.map(|deadline| deadline.since(now));
        if let Err(error) = self.ring.submit_and_wait(timeout) {
            self.fault.get_or_insert(error);
        }
    }

    /// Looks for completions without sleeping. `None`: there are some, or the deadline passed. Otherwise: sleep now.
    fn poll(&mut self, start: Time, deadline: Option<Time>) -> Option<Time> {
        let until = match self.settings.busy_poll {
            BusyPoll::Off => start,
            BusyPoll::For(duration) => start + duration,
            BusyPoll::Always => Time::from_nanos(u64::MAX),
        };
        let mut now = start;
        while now < until && deadline.is_none_or(|deadline| now < deadline) {
            for _ in 0..LOOKS_PER_CLOCK {
                if self.ring.is_ready() {
                    // Deferred work becomes completions only when we enter for it.
                    self.submit();
                    if self.ring.is_ready() {
                        return None;
                    }
                }
                std::hint::spin_loop();
            }
            now = crate::engine::now();
        }
        if deadline.is_some_and(|deadline| now >= deadline) { None } else { Some(now) }
    }

    /// Reads all completions. Those that end sends and connects are dealt with at once, the others wait for
    /// [`Engine::next_event`].
    fn collect(&mut self) {
        loop {
            while let Some(completion) = self.ring.completion() {
                self.stats.completions += 1;
                self.sort(completion);
            }
            if !self.ring.has_overflow() {
                break;
            }
            self.stats.cq_overflows += 1;
            self.submit();
        }
        // While an entry is not submitted, its train is not sent.
        if self.ring.is_idle() && !self.trains.is_empty() {
            self.retire_trains();
        }
        self.buffers.publish();
    }

    fn sort(&mut self, completion: Completion) {
        let Some(token) = Token::unpack(completion.user_data) else {
            self.stats.stale += 1;
            return;
        };
        match token.op {
            Op::Receive | Op::ListenerReceive => {
                if let Some(buffer) = completion.buffer() {
                    self.buffers.take(token.class, buffer);
                }
                self.completions.push_back(completion);
            }
            Op::Accept | Op::Wake => self.completions.push_back(completion),
            Op::Train => self.train_failed(token, -completion.result),
            Op::Ordered => self.ordered_completed(token, completion.result),
            Op::Connect => self.connect_completed(token, completion.result),
            Op::Cancel => self.cancel_missed(token),
        }
    }
}

impl Drop for Engine {
    /// Connections that were accepted and that nobody saw are closed.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.collect();
            while self.next_event().is_some() {}
        }
    }
}

/// Nothing of `Class` is missing in `Engine::readers`.
const _: () = assert!(Class::ALL.len() == 3);
