//! The world: the forwarder in the middle, and the events around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use l7mp_api::Config;
use l7mp_forwarder::counters::WorkerCounters;
use l7mp_forwarder::ids::{LinkId, ListenerId};
use l7mp_forwarder::snapshot::Snapshot;
use l7mp_forwarder::snapshot::compile::{Inputs, Scopes, compile};
use l7mp_forwarder::time::Time;
use l7mp_forwarder::{Forwarder, Identity};

use crate::Summary;
use crate::client::Client;
use crate::endpoint::{Mood, Server};
use crate::event::{Agenda, Event};
use crate::model::Model;
use crate::network::{Conn, Far};
use crate::random::Random;
use crate::scenario::Scenario;
use crate::wire::Wire;

/// The clock starts here, so that nothing depends on its origin.
const START: Time = Time::from_nanos(1_000_000_000_000);
/// A world that is not at rest by then has a session that never ends.
const END: Duration = Duration::from_secs(3600);
/// Turns at one time: more, and the forwarder asks for turns and does nothing in them.
const TURNS_MAX: u32 = 100;

/// Everything.
pub struct World {
    pub(crate) random: Random,
    pub(crate) now: Time,
    pub(crate) forwarder: Forwarder,
    pub(crate) agenda: Agenda,
    pub(crate) scenario: Scenario,
    pub(crate) clients: Vec<Client>,
    pub(crate) servers: Vec<Server>,
    /// What each server speaks, by the cluster that names it.
    pub(crate) server_wires: Vec<Wire>,
    pub(crate) conns: Vec<Conn>,
    pub(crate) sockets: BTreeMap<LinkId, usize>,
    pub(crate) model: Model,
    pub(crate) scopes: Scopes,
    pub(crate) verbose: bool,
    /// Listeners whose sessions have ever passed something that forgets boundaries.
    raw: BTreeSet<String>,
    ids: BTreeMap<String, ListenerId>,
    snapshot: Arc<Snapshot>,
    version: u64,
}

impl World {
    /// A world of a seed.
    pub fn new(seed: u64, verbose: bool) -> World {
        let mut random = Random::new(seed);
        let scenario = Scenario::new(&mut random);
        let identity = Identity { worker: 0, workers: 1, seed };
        let mut world = World {
            random,
            now: START,
            forwarder: Forwarder::new(identity, Arc::new(WorkerCounters::default())),
            agenda: Agenda::default(),
            scenario,
            clients: Vec::new(),
            servers: Vec::new(),
            server_wires: Vec::new(),
            conns: Vec::new(),
            sockets: BTreeMap::new(),
            model: Model::default(),
            scopes: Scopes::default(),
            verbose,
            raw: BTreeSet::new(),
            ids: BTreeMap::new(),
            snapshot: Arc::default(),
            version: 0,
        };
        world.people();
        world
    }

    /// Milliseconds since the start.
    pub fn millis(&self) -> u128 {
        self.now.since(START).as_millis()
    }

    /// The configuration.
    pub fn document(&self) -> String {
        self.scenario.document()
    }

    /// The configuration's servers and clients, and what is going to happen to them.
    fn people(&mut self) {
        for n in 0..self.random.of(1..=8) {
            let listener = self.scenario.listeners[self.random.below(self.scenario.listeners.len())].clone();
            let complete = self.must_be_complete(&listener.chain, listener.wire);
            let talkative = self.random.chance(15);
            let messages = if talkative { self.random.of(60..=200) } else { self.random.of(1..=40) };
            self.clients.push(Client::new(listener.name, listener.wire, messages as u32, talkative, complete));
            let at = self.random.of(0..=800);
            self.plan(at, Event::Act(n as usize));
        }
        if self.scenario.calm {
            return;
        }
        for _ in 0..self.random.of(0..=4) {
            let at = self.random.of(50..=3000);
            self.plan(at, Event::Change);
        }
        for _ in 0..self.random.of(0..=8) {
            let at = self.random.of(0..=4000);
            self.plan(at, Event::Mood);
        }
        for _ in 0..self.random.of(0..=2) {
            let at = self.random.of(100..=3000);
            self.plan(at, Event::Delete);
        }
        if self.random.chance(15) {
            let at = self.random.of(500..=3000);
            self.plan(at, Event::Drain);
        }
    }

    /// Whether a client of a calm world gets every answer.
    fn must_be_complete(&self, chain: &[usize], wire: Wire) -> bool {
        let answers = chain.iter().all(|&cluster| {
            let cluster = &self.scenario.clusters[cluster];
            cluster.wire.map_or(!cluster.discard, |wire| !wire.is_lossy() && !cluster.servers.is_empty())
        });
        self.scenario.calm && !wire.is_lossy() && answers
    }

    pub(crate) fn plan(&mut self, millis: u64, event: Event) {
        self.agenda.plan(self.now + Duration::from_millis(millis), event);
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>8} {}", self.millis(), what());
        }
    }

    /// Adopts the scenario as it is now.
    pub(crate) fn configure(&mut self) -> Result<(), String> {
        let document = self.scenario.document();
        self.say(|| document.clone());
        let config = Config::read(&document).map_err(|problems| format!("{problems:?}"))?;
        while self.servers.len() < self.scenario.server_count() {
            let slow = self.random.chance(25);
            let rate = if slow { self.random.of(20..=200) as usize } else { 1 << 20 };
            self.servers.push(Server { mood: Mood::Serves, rate });
            self.server_wires.push(Wire::Udp);
        }
        for cluster in &self.scenario.clusters {
            for (server, _) in &cluster.servers {
                self.server_wires[*server] = cluster.wire.unwrap_or(Wire::Udp);
            }
        }
        for listener in &self.scenario.listeners {
            let chain = listener.chain.iter().filter_map(|&cluster| self.scenario.clusters[cluster].wire);
            if chain.chain([listener.wire]).any(Wire::is_raw) {
                self.raw.insert(listener.name.clone());
            }
        }
        let fresh = self.ids.len() as u32;
        let listeners: Vec<ListenerId> = (fresh..)
            .zip(&config.listeners)
            .map(|(id, listener)| *self.ids.entry(listener.name.clone()).or_insert(ListenerId(id)))
            .collect();
        self.version += 1;
        let inputs = Inputs {
            config: &config,
            version: self.version,
            workers: 1,
            previous: &self.snapshot,
            listeners: &listeners,
            resolve: &|_| Vec::new(),
        };
        let snapshot = compile(&inputs, &mut self.scopes).map_err(|problems| format!("{problems:?}"))?;
        self.snapshot = Arc::new(snapshot);
        self.forwarder.adopt(Arc::clone(&self.snapshot));
        Ok(())
    }

    pub(crate) fn listener(&self, client: usize) -> ListenerId {
        self.ids[&self.clients[client].listener]
    }

    pub(crate) fn is_raw(&self, client: usize) -> bool {
        self.raw.contains(&self.clients[client].listener)
    }

    /// Whether anything on the ways of this world forgets boundaries: a server does not know whose session it serves.
    pub(crate) fn any_raw(&self) -> bool {
        !self.raw.is_empty()
    }

    /// Runs until nothing happens any more.
    ///
    /// # Errors
    ///
    /// What was not as it must be.
    pub fn run(&mut self) -> Result<Summary, String> {
        self.configure()?;
        self.turn_end()?;
        let mut turns = 0;
        while let Some(at) = self.next_time() {
            turns = if at <= self.now { turns + 1 } else { 0 };
            if turns > TURNS_MAX {
                return Err("turns without end".to_owned());
            }
            self.now = self.now.max(at);
            if self.now > START + END {
                return Err(format!("does not come to rest: {:?}", self.forwarder.audit()));
            }
            while let Some(event) = self.agenda.take(self.now) {
                self.happens(event)?;
                self.execute()?;
                self.check()?;
            }
            self.turn_end()?;
        }
        self.check_the_end()?;
        let counters = self.forwarder.counters();
        Ok(Summary {
            messages: self.model.passed,
            dropped: counters.dropped.total(),
            sessions: counters.sessions_opened.get(),
            millis: self.millis() as u64,
        })
    }

    fn turn_end(&mut self) -> Result<(), String> {
        self.forwarder.expire(self.now);
        self.execute()?;
        self.check()
    }

    fn next_time(&self) -> Option<Time> {
        self.agenda.next_time().into_iter().chain(self.forwarder.deadline()).min()
    }

    fn happens(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Act(client) => self.act(client),
            Event::Leave(client) => self.leave(client),
            Event::Datagram(client, bytes) => self.datagram(client, bytes),
            Event::ToPeer(conn, parcel) => self.at_peer(conn, parcel),
            Event::ToKernel(conn, parcel) => self.at_kernel(conn, parcel),
            Event::Read(conn) => self.read(conn),
            Event::Pump(conn) => self.pump(conn),
            Event::Blocked(conn) => self.report_blocked(conn),
            Event::Connected(conn) => self.connected(conn),
            Event::Closed(conn) => self.closed(conn),
            Event::Lingered(conn) => self.lingered(conn),
            Event::Change => {
                self.scenario.change(&mut self.random);
                self.configure()
            }
            Event::Mood => {
                self.change_mood();
                Ok(())
            }
            Event::Delete => {
                self.delete();
                Ok(())
            }
            Event::Drain => {
                self.say(|| "drains".to_owned());
                self.forwarder.drain();
                Ok(())
            }
        }
    }

    /// A server changes its mood.
    fn change_mood(&mut self) {
        if self.servers.is_empty() {
            return;
        }
        let server = self.random.below(self.servers.len());
        let moods = [Mood::Serves, Mood::Serves, Mood::Dead, Mood::Dead, Mood::Silent, Mood::Fickle];
        let mood = self.random.pick(&moods);
        self.say(|| format!("server {server}: {mood:?}"));
        self.servers[server].mood = mood;
        if mood == Mood::Dead {
            for conn in 0..self.conns.len() {
                if self.conns[conn].far == Far::Server(server) && self.conns[conn].connected {
                    self.peer_breaks(conn);
                }
            }
        }
    }

    fn delete(&mut self) {
        let sessions = self.forwarder.list(None, 0, 100, self.now).sessions;
        if sessions.is_empty() {
            return;
        }
        let name = &sessions[self.random.below(sessions.len())].name;
        self.say(|| format!("delete {name}"));
        self.forwarder.delete(name, self.now);
    }
}
