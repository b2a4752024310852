//! Random work on many links of every kind, with a seed: nothing is lost uncounted, misrouted or leaked.

mod common;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use common::*;
use l7mp_engine::sockets::{self, UnixKind};
use l7mp_engine::{ListenerKind, Settings};
use l7mp_forwarder::address::EndpointAddr;
use l7mp_forwarder::ids::LinkId;
use l7mp_forwarder::verdict::{CloseHow, Command, Transport};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }
}

struct Chaos {
    world: World,
    random: Random,
    endpoints: Vec<(Transport, EndpointAddr)>,
    live: Vec<LinkId>,
    closed: Vec<LinkId>,
    _dir: tempfile::TempDir,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let settings = Settings {
            large_buffers: 32,
            stream_buffers: 32,
            small_buffers: 32,
            registered_files: 50,
            // As on older kernels, too.
            ring_flags_first: seed as usize % 4,
            ..Settings::default()
        };
        let mut world = World::with(settings);
        world.keep = false;
        let dir = tempfile::tempdir().unwrap();
        let mut endpoints = Vec::new();
        for gro in [true, false] {
            let (_, at) = world.udp("127.0.0.1:0", gro);
            endpoints.push((Transport::Udp { bind: None, gro: !gro }, EndpointAddr::inet(at)));
        }
        // Nobody listens there.
        endpoints.push((Transport::Udp { bind: None, gro: true }, EndpointAddr::inet("127.0.0.1:9".parse().unwrap())));
        endpoints.push((Transport::Tcp { bind: None }, EndpointAddr::inet("127.0.0.1:9".parse().unwrap())));
        let fd = sockets::bind_tcp("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        endpoints.push((Transport::Tcp { bind: None }, EndpointAddr::inet(sockets::local_addr(fd.as_fd()).unwrap())));
        world.listen(900, fd, ListenerKind::Tcp);
        let unix = [
            (UnixKind::Stream, ListenerKind::UnixStream, Transport::UnixStream),
            (UnixKind::Seqpacket, ListenerKind::UnixSeqpacket, Transport::UnixSeqpacket),
            (UnixKind::Dgram, ListenerKind::UnixDgram, Transport::UnixDgram),
        ];
        for (at, (kind, listener, transport)) in unix.into_iter().enumerate() {
            let path: PathBuf = dir.path().join(format!("{at}"));
            let fd = sockets::bind_unix(None, &path, kind, 0o600).unwrap();
            world.listen(901 + at as u32, fd, listener);
            endpoints.push((transport, EndpointAddr::Unix(path.into())));
        }
        Chaos { world, random: Random(seed), endpoints, live: Vec::new(), closed: Vec::new(), _dir: dir }
    }

    fn link(&mut self) -> Option<LinkId> {
        let count = self.live.len();
        (count > 0).then(|| self.live[self.random.below(count)])
    }

    /// One random deed.
    fn act(&mut self) {
        let link = self.link();
        match (self.random.below(100), link) {
            (0..15, _) => {
                let at = self.random.below(self.endpoints.len());
                let (transport, remote) = self.endpoints[at].clone();
                let link = self.world.open(transport, remote);
                self.live.push(link);
            }
            (15..55, Some(link)) => {
                self.world.lossy = self.random.below(2) == 0;
                let len = [0, 1, 100, 1200, 5000, 60_000][self.random.below(6)];
                for at in 0..1 + self.random.below(8) {
                    self.world.send(link, pattern(len, at));
                }
            }
            (55..70, Some(link)) => self.world.engine.execute(Command::Resume(link)),
            (70..80, Some(link)) => self.world.engine.execute(Command::Pause(link)),
            (80..83, Some(link)) => self.world.engine.execute(Command::Shutdown(link)),
            (83..90, Some(link)) => self.close(link),
            _ => {
                // Attach whoever connected; some echo, some only read, some are not wanted.
                for (_, accepted) in std::mem::take(&mut self.world.accepted) {
                    if self.random.below(5) == 0 {
                        self.world.engine.refuse(accepted);
                        continue;
                    }
                    let link = self.world.fresh_link();
                    self.world.engine.attach(accepted, link);
                    self.live.push(link);
                    if self.random.below(2) == 0 {
                        self.world.next.insert(link, link);
                    }
                    if self.random.below(2) == 0 {
                        self.world.engine.execute(Command::Resume(link));
                    }
                }
                self.world.turn(Duration::ZERO);
            }
        }
    }

    fn close(&mut self, link: LinkId) {
        let how = if self.random.below(2) == 0 { CloseHow::Flush } else { CloseHow::Abort };
        self.world.close(link, how);
        self.live.retain(|other| *other != link);
        self.closed.push(link);
    }

    fn finish(mut self, seed: u64) {
        for link in self.live.clone() {
            self.close(link);
        }
        let flows: Vec<_> = self.world.flows.values().chain(self.world.unix_flows.values()).copied().collect();
        self.world.next.clear();
        self.world.accepted.clear();
        let closed = self.closed.clone();
        // What lingers ends within its time.
        self.world.until("all closed", |w| {
            w.accepted.clear();
            closed.iter().all(|link| w.diary(*link).closed == 1)
        });
        // Late peers may have opened flows meanwhile.
        self.world.settle();
        let late: Vec<_> = self.world.flows.values().chain(self.world.unix_flows.values()).copied().collect();
        for flow in &late {
            self.world.close(*flow, CloseHow::Abort);
        }
        self.world.until("flows closed", |w| late.iter().all(|link| w.diary(*link).closed == 1));
        assert!(flows.iter().all(|flow| late.contains(flow)));
        for link in closed.iter().chain(&late) {
            let diary = &self.world.diaries[link];
            assert_eq!(diary.sent + diary.lost_total(), diary.given, "seed {seed}, {link:?}: {diary:?}");
            assert!(
                diary.broken.len() <= 1 && diary.closed == 1 && diary.ended <= 1,
                "seed {seed}, {link:?}: {diary:?}"
            );
        }
        assert_eq!(self.world.engine.stats().stale, 0, "seed {seed}");
        self.world.assert_buffers_back();
        let all = || self.world.diaries.values();
        let reasons: BTreeSet<_> = all().flat_map(|diary| diary.lost.keys()).collect();
        println!(
            "seed {seed}: {} links, {} sent, {} lost {reasons:?}, {} broken, {} blocked, {} copies",
            all().count(),
            all().map(|diary| diary.sent).sum::<u32>(),
            all().map(Diary::lost_total).sum::<u32>(),
            all().filter(|diary| !diary.broken.is_empty()).count(),
            all().filter(|diary| diary.blocked > 0).count(),
            self.world.engine.stats().payload_copies,
        );
    }
}

#[test]
fn nothing_is_lost_uncounted_or_leaked() {
    let seeds = std::env::var("L7MP_SEEDS").map_or(8, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        let mut chaos = Chaos::new(seed);
        for _ in 0..1500 {
            chaos.act();
        }
        chaos.finish(seed);
    }
}
