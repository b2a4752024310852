//! Clients that talk all the time, what each of them saw, and what the proxies counted meanwhile.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use l7mp_ci::testbed::client::{Answer, Client};
use l7mp_ci::testbed::{Binaries, Options, Profile, Role, Testbed};

/// For what must come, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A line without an answer for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// A testbed whose proxies have their configurations.
pub fn running(options: Options) -> Testbed {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    let mut testbed = Testbed::start(BINARIES.get_or_init(binaries), options).unwrap();
    wait_ready(&mut testbed);
    testbed
}

/// Built as this test is.
fn binaries() -> Binaries {
    let profile = if cfg!(debug_assertions) { Profile::Debug } else { Profile::Release };
    Binaries::find_or_build(profile, env!("CARGO_BIN_EXE_l7mp-ci").into()).unwrap()
}

pub fn wait_ready(testbed: &mut Testbed) {
    if let Err(error) = testbed.wait_ready(PATIENCE, |_| false) {
        panic!("{error:#}\n{}", testbed.logs(30));
    }
}

pub fn first_name(testbed: &Testbed, role: Role) -> String {
    testbed.pods_of(role).next().unwrap().name.clone()
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
    /// What is not an answer to a line of its own, or comes again, or before an earlier one.
    pub strange: Vec<String>,
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
    pub fn wait_for(&self, testbed: &Testbed, more: usize, who: impl Fn(usize) -> bool) -> Duration {
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
            assert!(start.elapsed() < PATIENCE, "clients {silent:?} get too few answers\n{}", testbed.logs(30));
            std::thread::sleep(l7mp_ci::process::POLL);
        }
    }

    /// Waits until every client has `more` answers than now.
    pub fn wait(&self, testbed: &Testbed, more: usize) -> Duration {
        self.wait_for(testbed, more, |_| true)
    }

    /// No more lines; late answers are waited for.
    pub fn finish(self) -> Vec<Story> {
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
    let mut story = Story { address, lines: Vec::new(), strange: Vec::new() };
    let mut newest = None;
    let mut listen = |story: &mut Story, until: Instant, all: bool| {
        while let Some(text) = client.receive(until.saturating_duration_since(Instant::now())).unwrap() {
            for answer in Answer::parse_all(&text).unwrap_or_else(|| panic!("client {name} got {text:?}")) {
                match place(story, name, &answer, newest) {
                    Some(line) => {
                        story.lines[line].1 =
                            Some(Answered { at: Instant::now(), ends: (answer.transcoder, answer.worker) });
                        newest = Some(line);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    None => story.strange.push(format!("{} (after line {newest:?})", answer.line)),
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

/// The line that an answer belongs to: one of ours, for the first time, newer than those before.
fn place(story: &Story, name: usize, answer: &Answer, newest: Option<usize>) -> Option<usize> {
    let line: usize = answer.line.strip_prefix(&format!("client {name} line "))?.parse().ok()?;
    let (_, earlier) = story.lines.get(line)?;
    (earlier.is_none() && newest.is_none_or(|newest| newest < line)).then_some(line)
}

/// Every sample of a proxy's `/metrics`.
pub fn metrics(testbed: &Testbed, pod: &str) -> BTreeMap<String, f64> {
    let answer = testbed.get(pod, "/metrics").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    samples.map(sample).collect()
}

/// Sessions of a proxy: names, and the endpoints of their stages. All pages.
pub fn sessions(testbed: &Testbed, pod: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let mut path = "/api/v1/sessions?limit=50".to_owned();
    loop {
        let answer = testbed.get(pod, &path).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page = answer.json();
        for session in page["sessions"].as_array().unwrap() {
            let stages = session["ingress"].as_array().into_iter().flatten().chain([&session["destination"]]);
            let endpoints = stages.map(|stage| stage["endpoint"].as_str().unwrap().to_owned()).collect();
            all.insert(session["name"].as_str().unwrap().to_owned(), endpoints);
        }
        let Some(cursor) = page["cursor"].as_str() else { return all };
        path = format!("/api/v1/sessions?limit=50&cursor={cursor}");
    }
}

/// Every message that came into a proxy has gone out, or is counted with a reason.
pub fn assert_books_balance(testbed: &mut Testbed, pod: &str) {
    let books = |testbed: &Testbed| {
        let samples = metrics(testbed, pod);
        let sum = |prefix: &str| -> f64 {
            samples.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
        };
        let fates =
            ["l7mp_messages_out_total", "l7mp_messages_dropped_total", "l7mp_messages_held", "l7mp_messages_queued"];
        (sum("l7mp_messages_in_total"), fates.map(sum))
    };
    let balanced = |testbed: &Testbed| {
        let (arrived, fates) = books(testbed);
        arrived == fates.iter().sum::<f64>()
    };
    if testbed.wait_until(Duration::from_secs(5), "the books balance", balanced).is_err() {
        panic!("{pod}: in, [out, dropped, held, queued] = {:?}\n{}", books(testbed), testbed.logs(30));
    }
}
