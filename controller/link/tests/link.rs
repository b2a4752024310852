//! Both ends of the stream over real TLS on loopback.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use l7mp_api::config::{Cluster, ClusterSpec, LoadBalancer};
use l7mp_api::{Config, Problem};
use l7mp_link::certificates::{Lifetimes, Material, server_config};
use l7mp_link::client::{Hello, Link, LinkError, Place, Told, tls_config};
use l7mp_link::server::{
    Authority, BoxFuture, Counters, Denied, FromAgent, Identity, Leadership, Reason, Sender, Server, StreamId, Timing,
    Turned,
};
use l7mp_link::{Configuration, Origin, Report, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The longest that a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(20);
const NAME: &str = "l7mp-operator.default.svc";

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it happens in time")
}

/// Waits until it is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An authority of paper: tokens and what is said of them.
#[derive(Default)]
struct Paper {
    tokens: Mutex<HashMap<String, Result<Identity, Denied>>>,
    reviews: AtomicUsize,
    peers: Mutex<Vec<IpAddr>>,
}

impl Paper {
    fn say(&self, token: &str, answer: Result<Identity, Denied>) {
        self.tokens.lock().unwrap().insert(token.to_owned(), answer);
    }

    fn refuse(&self, token: &str, reason: Reason) {
        self.say(token, Err(Denied::Refused { reason, message: format!("it is {}", reason.name()) }));
    }
}

impl Authority for Paper {
    fn review(&self, token: String, peer: IpAddr) -> BoxFuture<'_, Result<Identity, Denied>> {
        self.reviews.fetch_add(1, Ordering::Relaxed);
        self.peers.lock().unwrap().push(peer);
        let invalid = Err(Denied::Refused { reason: Reason::Invalid, message: "nobody signed it".to_owned() });
        let answer = self.tokens.lock().unwrap().get(&token).cloned().unwrap_or(invalid);
        Box::pin(async move { answer })
    }
}

fn pod(name: &str) -> Identity {
    Identity { namespace: "default".to_owned(), pod: name.to_owned(), uid: format!("uid-{name}"), expires: None }
}

/// An operator of paper around the real server.
struct Operator {
    address: SocketAddr,
    paper: Arc<Paper>,
    counters: Arc<Counters>,
    events: mpsc::Receiver<FromAgent>,
    leadership: watch::Sender<Leadership>,
    tls: watch::Sender<Arc<rustls::ServerConfig>>,
    material: Material,
    server: JoinHandle<std::io::Result<()>>,
}

impl Operator {
    async fn start() -> Operator {
        let timing = Timing {
            patience: Duration::from_millis(300),
            review: Duration::from_secs(2),
            review_pauses: (Duration::from_millis(10), Duration::from_millis(10)),
        };
        let material = Material::create(&[NAME.to_owned()], SystemTime::now(), &Lifetimes::default()).unwrap();
        let (tls, on_tls) = watch::channel(server_config(&material.serving).unwrap());
        let (leadership, on_leadership) = watch::channel(Leadership::Here { term: 1 });
        let (events_sender, events) = mpsc::channel(64);
        let listener = TcpListener::bind("[::]:0").await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let (paper, counters) = (Arc::new(Paper::default()), Arc::new(Counters::default()));
        paper.say("good", Ok(pod("gw")));
        let server = Server {
            tls: on_tls,
            authority: Arc::clone(&paper) as Arc<dyn Authority>,
            leadership: on_leadership,
            events: events_sender,
            counters: Arc::clone(&counters),
            timing,
        };
        let server = tokio::spawn(server.serve(listener));
        Operator { address, paper, counters, events, leadership, tls, material, server }
    }

    async fn open_with(&self, token: &str, ca: &str, hello: Hello) -> Result<Link, LinkError> {
        let place = Place { dial: self.address.to_string(), name: NAME.to_owned() };
        soon(Link::open(&place, tls_config(ca.as_bytes()).unwrap(), token, hello)).await
    }

    async fn open(&self, token: &str) -> Result<Link, LinkError> {
        self.open_with(token, &self.material.bundle(), Hello::default()).await
    }

    async fn event(&mut self) -> FromAgent {
        soon(self.events.recv()).await.unwrap()
    }

    async fn connected(&mut self) -> (StreamId, Identity, Option<Version>, Sender) {
        match self.event().await {
            FromAgent::Connected { stream, identity, holds, sender } => (stream, identity, holds, sender),
            other => panic!("{other:?}"),
        }
    }

    async fn disconnected(&mut self) -> StreamId {
        match self.event().await {
            FromAgent::Disconnected { stream, .. } => stream,
            other => panic!("{other:?}"),
        }
    }

    async fn report(&mut self) -> Report {
        match self.event().await {
            FromAgent::Report { report, .. } => report,
            other => panic!("{other:?}"),
        }
    }
}

fn version(sequence: u64) -> Version {
    Version { epoch: 5, term: 1, sequence }
}

fn configuration(sequence: u64) -> Configuration {
    let config = Config::read(r#"{clusters: [{name: echo, spec: {Echo: {}}}]}"#).unwrap();
    let origin = |text: &str| text.to_owned();
    let origins =
        vec![Origin { path: origin("clusters[0]"), object: origin("Target default/echo"), at: origin("spec.cluster") }];
    Configuration { version: version(sequence), config: Arc::new(config), origins, drain: sequence == 7 }
}

async fn error(link: &mut Link) -> LinkError {
    soon(async {
        loop {
            if let Err(error) = link.next().await {
                return error;
            }
        }
    })
    .await
}

#[tokio::test]
async fn configurations_go_down_and_reports_come_up() {
    let mut operator = Operator::start().await;
    let hello = Hello { holds: Some(version(3)), ..Hello::default() };
    let mut link = operator.open_with("good", &operator.material.bundle(), hello).await.unwrap();
    let (stream, identity, holds, sender) = operator.connected().await;
    assert_eq!((identity, holds), (pod("gw"), Some(version(3))));
    assert_eq!(*operator.paper.peers.lock().unwrap(), [IpAddr::from([127, 0, 0, 1])]);
    let sent = configuration(7);
    sender.try_send(sent.clone()).unwrap();
    let Told::Configuration(received) = soon(link.next()).await.unwrap() else { panic!() };
    assert_eq!((received.version, received.origins, received.drain), (sent.version, sent.origins, true));
    let text = std::str::from_utf8(&received.document).unwrap();
    assert_eq!(Config::read(text).unwrap(), *sent.config);
    let problems = vec![Problem::new("listeners[0]", "the port is taken")];
    for report in [
        Report::Applied { version: version(7), warnings: problems.clone() },
        Report::Refused { version: version(8), errors: problems },
        Report::Trouble("it is gone".to_owned()),
        Report::Trouble(String::new()),
    ] {
        link.report(report.clone()).await.unwrap();
        assert_eq!(operator.report().await, report);
    }
    assert_eq!(operator.counters.live(), 1);
    drop(link);
    assert_eq!(operator.disconnected().await, stream);
    assert_eq!(operator.counters.live(), 0);
    until("the sender is told", || sender.try_send(configuration(8)).is_err()).await;
    assert!(operator.events.try_recv().is_err());
}

#[tokio::test]
async fn a_token_that_proves_nothing_is_refused_and_counted_by_its_reason() {
    let mut operator = Operator::start().await;
    let reasons = [Reason::Expired, Reason::Audience, Reason::NotOfPod, Reason::PodGone, Reason::Address];
    for reason in reasons {
        operator.paper.refuse(reason.name(), reason);
        let error = operator.open(reason.name()).await.unwrap_err();
        assert!(matches!(&error, LinkError::Refused(said) if said.contains(reason.name())), "{error}");
        assert_eq!(operator.counters.refused(reason), 1);
    }
    let ended = Identity { expires: Some(SystemTime::now() - Duration::from_secs(1)), ..pod("gw") };
    operator.paper.say("ended", Ok(ended));
    for (token, reason, count) in [
        ("", Reason::Absent, 1),
        ("ended", Reason::Expired, 2),
        ("unknown", Reason::Invalid, 1),
        (&"x".repeat((16 << 10) + 1), Reason::TooLong, 1),
    ] {
        let error = operator.open(token).await.unwrap_err();
        assert!(matches!(error, LinkError::Refused(_)), "{error}");
        assert_eq!(operator.counters.refused(reason), count, "{reason:?}");
    }
    assert!(operator.events.try_recv().is_err());
    // Nothing of all that is in the way of a good one.
    let _link = operator.open("good").await.unwrap();
    operator.connected().await;
}

#[tokio::test]
async fn a_review_that_cannot_be_made_begins_no_stream_and_ends_none() {
    let mut operator = Operator::start().await;
    operator.paper.say("new", Err(Denied::Unavailable("the API server is away".to_owned())));
    let error = operator.open("new").await.unwrap_err();
    assert!(matches!(&error, LinkError::Unavailable(said) if said.contains("away")), "{error}");
    assert_eq!(operator.counters.turned(Turned::Unavailable), 1);

    let mut link = operator.open("good").await.unwrap();
    let (_, _, _, sender) = operator.connected().await;
    link.renew("new").await.unwrap();
    let reviews = operator.paper.reviews.load(Ordering::Relaxed);
    until("it is tried again", || operator.paper.reviews.load(Ordering::Relaxed) > reviews + 3).await;
    sender.try_send(configuration(1)).unwrap();
    assert!(matches!(soon(link.next()).await, Ok(Told::Configuration(_))));
    operator.paper.refuse("new", Reason::PodGone);
    assert!(matches!(self::error(&mut link).await, LinkError::Refused(said) if said.contains("pod_gone")));
    operator.disconnected().await;
    assert_eq!(operator.counters.refused(Reason::PodGone), 1);
}

#[tokio::test]
async fn a_token_that_ends_without_a_fresh_one_ends_its_stream_unless_nobody_can_tell() {
    let mut operator = Operator::start().await;
    let ends = |millis| Identity { expires: Some(SystemTime::now() + Duration::from_millis(millis)), ..pod("gw") };
    operator.paper.say("short", Ok(ends(400)));
    let mut link = operator.open("short").await.unwrap();
    let (_, _, _, sender) = operator.connected().await;
    operator.paper.say("short", Err(Denied::Unavailable("the API server is away".to_owned())));
    until("it is reviewed again", || operator.paper.reviews.load(Ordering::Relaxed) > 4).await;
    sender.try_send(configuration(1)).unwrap();
    assert!(matches!(soon(link.next()).await, Ok(Told::Configuration(_))));
    // A fresh token takes the place of the one that nobody can judge.
    operator.paper.say("fresh", Ok(ends(400)));
    link.renew("fresh").await.unwrap();
    operator.paper.refuse("fresh", Reason::Expired);
    assert!(matches!(error(&mut link).await, LinkError::Refused(_)));
    operator.disconnected().await;
    assert_eq!(operator.counters.refused(Reason::Expired), 1);
}

#[tokio::test]
async fn a_fresh_token_of_another_pod_ends_the_stream() {
    let mut operator = Operator::start().await;
    operator.paper.say("other", Ok(pod("other")));
    let mut link = operator.open("good").await.unwrap();
    let (_, _, _, _sender) = operator.connected().await;
    link.renew("other").await.unwrap();
    assert!(matches!(error(&mut link).await, LinkError::Refused(said) if said.contains("another pod")));
    assert_eq!(operator.counters.refused(Reason::OtherPod), 1);
}

#[tokio::test]
async fn a_newer_stream_of_a_pod_takes_the_place_of_the_older() {
    let mut operator = Operator::start().await;
    let mut first = operator.open("good").await.unwrap();
    let (older, _, _, _sender) = operator.connected().await;
    operator.paper.say("other", Ok(pod("other")));
    let _other = operator.open("other").await.unwrap();
    let (_, _, _, _other_sender) = operator.connected().await;
    let mut second = operator.open("good").await.unwrap();
    assert_eq!(operator.disconnected().await, older);
    let (newer, _, _, sender) = operator.connected().await;
    assert_ne!(newer, older);
    assert!(matches!(error(&mut first).await, LinkError::Ended(said) if said.contains("newer stream")));
    sender.try_send(configuration(1)).unwrap();
    assert!(matches!(soon(second.next()).await, Ok(Told::Configuration(_))));
    assert_eq!(operator.counters.live(), 2);
}

#[tokio::test]
async fn streams_follow_the_leader_and_stay_while_nobody_leads() {
    let mut operator = Operator::start().await;
    let mut link = operator.open("good").await.unwrap();
    let (_, _, _, sender) = operator.connected().await;
    operator.leadership.send_replace(Leadership::Nobody);
    assert!(matches!(operator.open("good").await, Err(LinkError::Unavailable(_))));
    sender.try_send(configuration(1)).unwrap();
    assert!(matches!(soon(link.next()).await, Ok(Told::Configuration(_))));
    let reviews = operator.paper.reviews.load(Ordering::Relaxed);
    operator.leadership.send_replace(Leadership::There { address: "10.0.0.9:7800".to_owned() });
    assert_eq!(soon(link.next()).await.unwrap(), Told::Elsewhere("10.0.0.9:7800".to_owned()));
    assert!(matches!(error(&mut link).await, LinkError::Ended(_)));
    operator.disconnected().await;
    let mut new = operator.open("good").await.unwrap();
    assert_eq!(soon(new.next()).await.unwrap(), Told::Elsewhere("10.0.0.9:7800".to_owned()));
    assert_eq!(operator.paper.reviews.load(Ordering::Relaxed), reviews, "who does not lead reviews nothing");
    assert_eq!(operator.counters.turned(Turned::NoLeader), 1);
    operator.leadership.send_replace(Leadership::Here { term: 2 });
    let _link = operator.open("good").await.unwrap();
    operator.connected().await;
}

#[tokio::test]
async fn certificates_are_renewed_under_live_streams_and_the_ca_after_it_was_published() {
    let mut operator = Operator::start().await;
    let mut link = operator.open("good").await.unwrap();
    let (_, _, _, sender) = operator.connected().await;
    let before = operator.material.bundle();
    let next = Material::create(&[NAME.to_owned()], SystemTime::now(), &Lifetimes::default()).unwrap();
    let both = format!("{before}{}", next.bundle());
    operator.tls.send_replace(server_config(&next.serving).unwrap());
    sender.try_send(configuration(1)).unwrap();
    assert!(matches!(soon(link.next()).await, Ok(Told::Configuration(_))));
    let error = operator.open_with("good", &before, Hello::default()).await.unwrap_err();
    assert!(matches!(&error, LinkError::Tls { name, .. } if name == NAME), "{error}");
    until("it is counted", || operator.counters.turned(Turned::Tls) == 1).await;
    let _new = operator.open_with("good", &both, Hello::default()).await.unwrap();
    operator.disconnected().await;
    operator.connected().await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_believed() {
    let operator = Operator::start().await;
    let place = Place { dial: operator.address.to_string(), name: "l7mp-operator.other.svc".to_owned() };
    let tls = tls_config(operator.material.bundle().as_bytes()).unwrap();
    let error = soon(Link::open(&place, tls, "good", Hello::default())).await.unwrap_err();
    assert!(matches!(error, LinkError::Tls { .. }), "{error}");
    assert_eq!(operator.paper.reviews.load(Ordering::Relaxed), 0, "the token was not shown");
}

#[tokio::test]
async fn who_speaks_no_tls_or_too_slowly_is_turned_away() {
    let mut operator = Operator::start().await;
    let mut plain = TcpStream::connect(operator.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(plain.read_to_end(&mut rest)).await;
    until("it is counted", || operator.counters.turned(Turned::NotTls) == 1).await;
    // Silence, and a record that never ends.
    for beginning in [&b""[..], &[0x16, 3, 1, 2, 0, 1]] {
        let count = operator.counters.turned(Turned::TooSlow);
        let mut slow = TcpStream::connect(operator.address).await.unwrap();
        slow.write_all(beginning).await.unwrap();
        let _ = soon(slow.read_to_end(&mut rest)).await;
        until("it is counted", || operator.counters.turned(Turned::TooSlow) == count + 1).await;
    }
    // TLS, and then nothing.
    let tls = tls_config(operator.material.bundle().as_bytes()).unwrap();
    let tcp = TcpStream::connect(operator.address).await.unwrap();
    let name = NAME.try_into().unwrap();
    let mut slow = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.unwrap();
    let _ = soon(slow.read_to_end(&mut rest)).await;
    until("it is counted", || operator.counters.turned(Turned::TooSlow) == 3).await;
    let _link = operator.open("good").await.unwrap();
    operator.connected().await;
}

#[tokio::test]
async fn strangers_of_one_address_are_bounded_and_do_not_shut_out_others() {
    let mut operator = Operator::start().await;
    let strangers = std::cell::RefCell::new(Vec::new());
    until("the bound is met", || {
        strangers.borrow_mut().push(std::net::TcpStream::connect(operator.address).unwrap());
        operator.counters.turned(Turned::TooMany) > 0
    })
    .await;
    // They are silent, so their time ends.
    soon(async {
        while operator.open("good").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    operator.connected().await;
    until("their time ends", || operator.counters.turned(Turned::TooSlow) >= 64).await;
}

#[tokio::test]
async fn an_agent_that_does_not_read_gets_the_latest_when_it_does() {
    let mut operator = Operator::start().await;
    let mut link = operator.open("good").await.unwrap();
    let (_, _, _, sender) = operator.connected().await;
    let mut big = configuration(0);
    let cluster = |index: usize| Cluster {
        name: format!("{index:0>1000}"),
        spec: ClusterSpec::Echo,
        endpoints: Vec::new(),
        loadbalancer: LoadBalancer::default(),
        drain_timeout: None,
    };
    big.config = Arc::new(Config { clusters: (0..1000).map(cluster).collect(), ..Config::default() });
    const LAST: u64 = 60;
    for sequence in 1..=LAST {
        sender.try_send(Configuration { version: version(sequence), ..big.clone() }).unwrap();
        // Each has the chance to be sent.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut received = Vec::new();
    while received.last() != Some(&LAST) {
        let Told::Configuration(next) = soon(link.next()).await.unwrap() else { panic!() };
        received.push(next.version.sequence);
    }
    assert!(received.is_sorted() && received.len() < 20, "{received:?}");
}

#[tokio::test]
async fn a_document_that_is_too_long_is_refused_before_it_is_sent() {
    let mut operator = Operator::start().await;
    let mut link = operator.open("good").await.unwrap();
    let (_, _, _, sender) = operator.connected().await;
    let mut long = configuration(1);
    let cluster = |index: usize| Cluster {
        name: format!("{index:0>1000}"),
        spec: ClusterSpec::Echo,
        endpoints: Vec::new(),
        loadbalancer: LoadBalancer::default(),
        drain_timeout: None,
    };
    long.config = Arc::new(Config { clusters: (0..4200).map(cluster).collect(), ..Config::default() });
    sender.try_send(long).unwrap();
    let Report::Refused { version: refused, errors } = operator.report().await else { panic!() };
    assert_eq!(refused, version(1));
    assert!(errors[0].message.contains("4194304"), "{errors:?}");
    sender.try_send(configuration(2)).unwrap();
    let Told::Configuration(next) = soon(link.next()).await.unwrap() else { panic!() };
    assert_eq!(next.version, version(2));
}

#[tokio::test]
async fn the_operators_end_and_a_dropped_sender_end_streams() {
    let mut operator = Operator::start().await;
    let mut link = operator.open("good").await.unwrap();
    let (stream, _, _, sender) = operator.connected().await;
    drop(sender);
    error(&mut link).await;
    assert_eq!(operator.disconnected().await, stream);
    let mut link = operator.open("good").await.unwrap();
    let (stream, _, _, _sender) = operator.connected().await;
    operator.server.abort();
    error(&mut link).await;
    assert_eq!(operator.disconnected().await, stream);
    assert!(matches!(operator.open("good").await, Err(LinkError::Dial { .. })));
}
