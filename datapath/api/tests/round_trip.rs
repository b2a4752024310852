//! Any document that the types can hold legally is written and read back as the same document.

use std::net::IpAddr;
use std::time::Duration;

use l7mp_api::Config;
use l7mp_api::config::*;
use serde_json::{Value, json};

/// SplitMix64: a seed is a document.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn port(&mut self) -> u16 {
        u16::try_from(1 + self.below(65_535)).expect("a port")
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Dice) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| make(self))
    }

    fn some<T>(&mut self, most: u64, mut make: impl FnMut(&mut Dice, usize) -> T) -> Vec<T> {
        (0..self.below(most + 1) as usize).map(|index| make(self, index)).collect()
    }

    fn ip(&mut self) -> IpAddr {
        self.pick(&["127.0.0.1", "10.1.2.3", "::1", "fd00::17"]).parse().expect("an address")
    }

    fn time(&mut self) -> Duration {
        let unit = self.pick(&[1, 1_000, 60_000, 3_600_000]);
        Duration::from_millis(unit * self.pick(&[1, 1]) + self.pick(&[0, 0, 7]) * u64::from(unit < 3_600_000))
    }
}

fn framing(dice: &mut Dice) -> Framing {
    dice.pick(&[Framing::Raw, Framing::Line, Framing::U16be, Framing::U32be])
}

fn unix(dice: &mut Dice) -> (UnixKind, Framing) {
    match dice.pick(&[UnixKind::Stream, UnixKind::Seqpacket, UnixKind::Dgram]) {
        UnixKind::Stream => (UnixKind::Stream, framing(dice)),
        other => (other, Framing::Raw),
    }
}

fn listener(dice: &mut Dice, index: usize) -> Listener {
    // One port each: addresses cannot collide.
    let port = 1_000 + index as u16;
    let address = dice.maybe(Dice::ip);
    let payload = dice.pick(&[WebSocketPayload::Binary, WebSocketPayload::Text]);
    let spec = match dice.below(4) {
        0 => {
            let peer = |dice: &mut Dice| Connect { address: address.or(Some(dice.ip())), port: dice.maybe(Dice::port) };
            ListenerSpec::Udp(UdpListener { port, address, connect: dice.maybe(peer), gro: dice.below(2) == 0 })
        }
        1 => ListenerSpec::Tcp(TcpListener { port, address, framing: framing(dice) }),
        2 => ListenerSpec::WebSocket(WebSocketListener {
            port,
            address,
            path: dice.maybe(|_| "/a/b?c=%20".to_owned()),
            subprotocols: dice.some(3, |_, index| format!("proto.{index}")),
            payload,
        }),
        _ => {
            let (kind, framing) = unix(dice);
            let mode = dice.maybe(|dice| dice.pick(&[0o600, 0o7, 0o660, 0]));
            ListenerSpec::UnixDomainSocket(UnixListener {
                filename: format!("/run/{index} \"ü\""),
                kind,
                mode,
                framing,
            })
        }
    };
    let mode = match &spec {
        ListenerSpec::Udp(udp) if udp.connect.as_ref().is_some_and(|connect| connect.port.is_some()) => {
            dice.maybe(|dice| dice.pick(&[ListenerMode::Server, ListenerMode::Singleton]))
        }
        _ => None,
    };
    let rules = match dice.below(2) {
        0 => Rules::List("list-0".to_owned()),
        _ => Rules::Inline(dice.some(3, |dice, _| rule_ref(dice))),
    };
    let options = ListenerOptions {
        mode,
        idle_timeout: dice.maybe(Dice::time),
        max_sessions: dice.maybe(|dice| 1 + dice.below(1_000) as u32),
        remove_orphan_sessions: dice.below(2) == 0,
    };
    Listener { name: format!("listener-{index}"), spec, rules, options }
}

fn cluster(dice: &mut Dice, name: String) -> Cluster {
    let bind = |dice: &mut Dice| Bind { addresses: dice.some(3, |dice, _| dice.ip()), port: dice.pick(&[0, 9]) };
    let port = Some(dice.port());
    let spec = match dice.below(6) {
        0 => ClusterSpec::Udp(UdpCluster { port, bind: dice.maybe(bind), gro: dice.below(2) == 0 }),
        1 => ClusterSpec::Tcp(TcpCluster { port, bind: dice.maybe(bind), framing: framing(dice) }),
        2 => ClusterSpec::WebSocket(WebSocketCluster {
            port,
            path: dice.maybe(|_| "/".to_owned()),
            host: dice.maybe(|_| "example.org:80".to_owned()),
            subprotocol: dice.maybe(|_| "l7mp".to_owned()),
            payload: dice.pick(&[WebSocketPayload::Binary, WebSocketPayload::Text]),
        }),
        3 => {
            let (kind, framing) = unix(dice);
            ClusterSpec::UnixDomainSocket(UnixCluster { filename: dice.maybe(|_| "a b".to_owned()), kind, framing })
        }
        4 => ClusterSpec::Echo,
        _ => ClusterSpec::Discard,
    };
    let endpoints = match &spec {
        ClusterSpec::Echo | ClusterSpec::Discard => Vec::new(),
        other => {
            let on_disk = matches!(other, ClusterSpec::UnixDomainSocket(_));
            dice.some(4, |dice, index| endpoint(dice, on_disk, index))
        }
    };
    let loadbalancer = LoadBalancer {
        policy: dice.pick(&[Policy::ConsistentHash, Policy::HashRing, Policy::RoundRobin, Policy::Trivial]),
        key: dice.maybe(|_| "/HTTP/headers/x-user".to_owned()),
        table_size: dice.maybe(|dice| dice.pick(&[5, 101, 65_537, 5_000_011])),
    };
    Cluster { name, spec, endpoints, loadbalancer, drain_timeout: dice.maybe(Dice::time) }
}

fn endpoint(dice: &mut Dice, on_disk: bool, index: usize) -> Endpoint {
    let at = if on_disk {
        EndpointAt::Filename(format!("/run/{index}"))
    } else {
        let host = dice.pick(&["h", "H.example."]);
        EndpointAt::Address { address: format!("{index}{host}"), port: dice.maybe(Dice::port) }
    };
    let name = dice.maybe(|_| format!("endpoint-{index}"));
    Endpoint { name, at, weight: 1 + dice.below(1_000) as u32, ready: dice.below(2) == 0, draining: dice.below(2) == 0 }
}

fn cluster_ref(dice: &mut Dice) -> Ref<Cluster> {
    match dice.below(3) {
        0 => Ref::Inline(Box::new(cluster(dice, String::new()))),
        1 => {
            let name = format!("inline-{}", dice.next());
            Ref::Inline(Box::new(cluster(dice, name)))
        }
        _ => Ref::Name("cluster-0".to_owned()),
    }
}

fn route(dice: &mut Dice, name: String) -> Route {
    let retry = Retry {
        retry_on: dice.pick(&[RetryOn::Never, RetryOn::ConnectFailure, RetryOn::Disconnect, RetryOn::Always]),
        num_retries: dice.below(101) as u32,
        timeout: dice.time(),
    };
    Route {
        name,
        destination: cluster_ref(dice),
        ingress: dice.some(3, |dice, _| cluster_ref(dice)),
        egress: dice.some(3, |dice, _| cluster_ref(dice)),
        retry: dice.maybe(|_| retry).unwrap_or_default(),
    }
}

fn constant(dice: &mut Dice) -> Value {
    let float = f64::from_bits(dice.next());
    let values = [
        json!(null),
        json!(true),
        json!("\u{0}é\"\\"),
        json!(-5),
        json!(u64::MAX),
        json!({"a": [1, {}]}),
        json!(float),
    ];
    dice.pick(&values)
}

fn rule(dice: &mut Dice, name: String) -> Rule {
    let target = match dice.below(4) {
        0 => ActionTarget::Route(Ref::Name("route-0".to_owned())),
        1 => ActionTarget::Route(Ref::Inline(Box::new(route(dice, String::new())))),
        2 => ActionTarget::Apply("last".to_owned()),
        _ => ActionTarget::Refuse("why not: \"é\"".to_owned()),
    };
    let rewrite = dice.some(3, |dice, index| Rewrite { path: format!("labels/{index}/"), value: constant(dice) });
    Rule { name, matches: None, action: Action { rewrite, target } }
}

fn rule_ref(dice: &mut Dice) -> Ref<Rule> {
    match dice.below(2) {
        0 => Ref::Inline(Box::new(rule(dice, String::new()))),
        _ => Ref::Name("rule-0".to_owned()),
    }
}

fn config(dice: &mut Dice) -> Config {
    let mut config = Config {
        listeners: dice.some(4, listener),
        clusters: vec![cluster(dice, "cluster-0".to_owned()), cluster(dice, "/l7mp.io/v1/Target/é".to_owned())],
        routes: vec![route(dice, "route-0".to_owned())],
        rules: vec![rule(dice, "rule-0".to_owned())],
        rulelists: vec![RuleList { name: "list-0".to_owned(), rules: dice.some(3, |dice, _| rule_ref(dice)) }],
        admin: Admin { log_level: dice.maybe(|_| "debug".to_owned()) },
    };
    config.rulelists.push(RuleList { name: "last".to_owned(), rules: Vec::new() });
    config
}

#[test]
fn a_document_reads_back_as_it_was() {
    for seed in 0..2_000 {
        let config = config(&mut Dice(seed));
        assert_eq!(config.check(), [], "seed {seed}");
        let json = serde_json::to_string(&config).expect("a document is JSON");
        assert_eq!(Config::read(&json).as_ref(), Ok(&config), "seed {seed}: {json}");
        if seed % 10 == 0 {
            let yaml = serde_saphyr::to_string(&config).expect("a document is YAML");
            assert_eq!(Config::read(&yaml).as_ref(), Ok(&config), "seed {seed}: {yaml}");
        }
        config.warnings();
    }
}

/// Whatever a text says, reading it ends, with a document or with problems that have messages.
#[test]
fn a_damaged_document_never_panics() {
    for seed in 0..3_000 {
        let mut dice = Dice(seed);
        let mut text = serde_json::to_string(&config(&mut dice)).expect("a document is JSON").into_bytes();
        for _ in 0..=dice.below(4) {
            let at = dice.below(text.len() as u64) as usize;
            let byte = dice.pick(b"{}[]:,\"\\-0179 \nax#&*|>!%'");
            match dice.below(3) {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => drop(text.drain(at..(at + 9).min(text.len()))),
            }
        }
        let text = String::from_utf8_lossy(&text);
        match Config::read(&text) {
            Ok(config) => assert_eq!(config.check(), [], "seed {seed}: {text}"),
            Err(problems) => {
                assert!(
                    !problems.is_empty() && problems.iter().all(|problem| !problem.message.is_empty()),
                    "seed {seed}"
                );
            }
        }
    }
}
