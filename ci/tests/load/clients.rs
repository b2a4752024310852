//! Clients that talk all the time, and what each of them saw.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use l7mp_ci::testbed::client::{Answer, Client};

/// For what must come, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A line without an answer for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// What a test shows when its clients wait in vain.
pub trait Diagnosis {
    /// States and the ends of logs.
    fn diagnosis(&self) -> String;
}

/// Transcoder and worker of a client.
pub type Ends = (String, String);

/// An answered line.
#[derive(Clone, Debug)]
pub struct Answered {
    pub at: Instant,
    pub ends: Ends,
}

/// What one client did and saw.
#[derive(Clone, Debug)]
pub struct Story {
    /// Where its answers go.
    pub address: SocketAddr,
    /// When each line was sent, and what came back.
    pub lines: Vec<(Instant, Option<Answered>)>,
    /// What is not an answer to a line of its own, or comes again.
    pub strange: Vec<String>,
    /// Answers that came after one to a newer line.
    pub overtaken: usize,
}

impl Story {
    /// Transcoder and worker of the last line that was answered before `time`.
    pub fn ends_at(&self, time: Instant) -> Option<&Ends> {
        let mut before = self.lines.iter().filter_map(|(_, answer)| answer.as_ref()).filter(|answer| answer.at < time);
        before.next_back().map(|answer| &answer.ends)
    }

    /// When the lines were sent that got no answer.
    pub fn lost(&self) -> impl Iterator<Item = Instant> {
        self.lines.iter().filter(|(_, answer)| answer.is_none()).map(|(sent, _)| *sent)
    }

    /// The longest time without an answer, from its first line to its last one.
    pub fn longest_silence(&self) -> Duration {
        let (Some((first, _)), Some((last, _))) = (self.lines.first(), self.lines.last()) else {
            return Duration::ZERO;
        };
        let mut times: Vec<Instant> =
            self.lines.iter().filter_map(|(_, answer)| Some(answer.as_ref()?.at)).chain([*first]).collect();
        times.sort_unstable();
        // Answers that are missing at the end.
        times.extend((times.last() < Some(last)).then_some(*last));
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The lines that were sent from a time on, and before another one.
    pub fn sent_between(&self, from: Instant, to: Instant) -> usize {
        self.lines.iter().filter(|(sent, _)| (from..to).contains(sent)).count()
    }

    /// The different ends, in the order in which they came.
    pub fn all_ends(&self) -> Vec<&Ends> {
        let mut all: Vec<&Ends> = self.lines.iter().filter_map(|(_, answer)| Some(&answer.as_ref()?.ends)).collect();
        all.dedup();
        all
    }
}

/// Clients in threads of their own, each with a line every `pause`.
pub struct Load {
    stop: Arc<AtomicBool>,
    addresses: Vec<SocketAddr>,
    answered: Vec<Arc<AtomicUsize>>,
    threads: Vec<JoinHandle<Story>>,
}

impl Load {
    pub fn start(gateway: SocketAddr, clients: usize, pause: Duration) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered: Vec<Arc<AtomicUsize>> = (0..clients).map(|_| Arc::default()).collect();
        let sockets: Vec<Client> = (0..clients).map(|_| Client::new(gateway).unwrap()).collect();
        let addresses = sockets.iter().map(|client| client.socket().local_addr().unwrap()).collect();
        let start = |(name, (client, answered)): (usize, (Client, &Arc<AtomicUsize>))| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(answered));
            std::thread::spawn(move || talk(&client, name, pause, &stop, &answered))
        };
        let threads = sockets.into_iter().zip(&answered).enumerate().map(start).collect();
        Load { stop, addresses, answered, threads }
    }

    /// Where each client is, for the names of its sessions.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until every one of `who` has `more` answers than now; the time that it took.
    pub fn wait_for(&self, place: &impl Diagnosis, more: usize, who: impl Fn(usize) -> bool) -> Duration {
        let start = Instant::now();
        let counts = || self.answered.iter().map(|count| count.load(Ordering::Relaxed));
        let wanted: Vec<usize> = counts().map(|count| count + more).collect();
        loop {
            let silent: Vec<usize> = counts()
                .zip(&wanted)
                .enumerate()
                .filter(|(n, (is, want))| who(*n) && is < want)
                .map(|(n, _)| n)
                .collect();
            if silent.is_empty() {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "clients {silent:?} get too few answers\n{}", place.diagnosis());
            std::thread::sleep(l7mp_ci::process::POLL);
        }
    }

    /// Waits until every client has `more` answers than now.
    pub fn wait(&self, place: &impl Diagnosis, more: usize) -> Duration {
        self.wait_for(place, more, |_| true)
    }

    /// No more lines; late answers are waited for. Every answer came in the order of the lines.
    pub fn finish(self) -> Vec<Story> {
        let stories = self.finish_in_any_order();
        for (name, story) in stories.iter().enumerate() {
            assert_eq!(story.overtaken, 0, "client {name} got answers to newer lines first");
        }
        stories
    }

    /// As [`Load::finish`], over a network that may change the order, as the kernel's queues between namespaces do
    /// when a sender moves from one busy core to another.
    pub fn finish_in_any_order(self) -> Vec<Story> {
        self.stop.store(true, Ordering::Relaxed);
        let stories: Vec<Story> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        for (name, story) in stories.iter().enumerate() {
            assert_eq!(story.strange, [""; 0], "client {name}");
        }
        stories
    }
}

fn talk(client: &Client, name: usize, pause: Duration, stop: &AtomicBool, answered: &AtomicUsize) -> Story {
    let address = client.socket().local_addr().unwrap();
    let mut story = Story { address, lines: Vec::new(), strange: Vec::new(), overtaken: 0 };
    let mut newest = None;
    let mut listen = |story: &mut Story, until: Instant, all: bool| {
        while let Some(text) = client.receive(until.saturating_duration_since(Instant::now())).unwrap() {
            for answer in Answer::parse_all(&text).unwrap_or_else(|| panic!("client {name} got {text:?}")) {
                match place(story, name, &answer) {
                    Some(line) => {
                        story.overtaken += usize::from(newest.is_some_and(|newest| newest > line));
                        story.lines[line].1 =
                            Some(Answered { at: Instant::now(), ends: (answer.transcoder, answer.worker) });
                        newest = newest.max(Some(line));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    None => story.strange.push(format!("{} of {} (after line {newest:?})", answer.line, answer.worker)),
                }
            }
            if all && story.lines.last().is_none_or(|(_, answer)| answer.is_some()) {
                return;
            }
        }
    };
    // Not all in the same millisecond, every time.
    let start = Instant::now() + pause * (name as u32 % 16) / 16;
    listen(&mut story, start, false);
    while !stop.load(Ordering::Relaxed) {
        let line = story.lines.len();
        client.send(&format!("client {name} line {line}")).unwrap();
        story.lines.push((Instant::now(), None));
        listen(&mut story, start + pause * (line as u32 + 1), false);
    }
    listen(&mut story, Instant::now() + LOST_AFTER, true);
    story
}

/// The line that an answer belongs to: one of ours, for the first time.
fn place(story: &Story, name: usize, answer: &Answer) -> Option<usize> {
    let line: usize = answer.line.strip_prefix(&format!("client {name} line "))?.parse().ok()?;
    let (_, earlier) = story.lines.get(line)?;
    earlier.is_none().then_some(line)
}
