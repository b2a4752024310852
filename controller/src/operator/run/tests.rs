//! The loop, turn by turn, with agents and an API server made of plain values.

use std::io;
use std::sync::Mutex;

use l7mp_api::Problem;
use l7mp_crds::{Condition, Status};
use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::operator::read::read;

const MINE: Standing = Standing::Mine { epoch: 9, term: 3, renewed: true };

/// What an agent was told, oldest first.
type Told = Arc<Mutex<Vec<Configuration>>>;

struct Test {
    operator: Operator,
    news: mpsc::UnboundedReceiver<News>,
    leadership: watch::Receiver<Leadership>,
    overtaken: watch::Receiver<Option<Version>>,
    synced: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
}

impl Test {
    fn new() -> Test {
        let (news_sender, news) = mpsc::unbounded_channel();
        let leadership = watch::Sender::new(Leadership::Nobody);
        let synced = watch::Sender::new(false);
        let metrics = Arc::<Metrics>::default();
        let (said, filled) = (leadership.subscribe(), synced.subscribe());
        let (overtaken, asked) = watch::channel(None);
        let (pods, counted) = (Pods::default(), Arc::clone(&metrics));
        let outputs = Outputs { pods, news: news_sender, leadership, overtaken, synced, metrics: counted };
        let ms = Duration::from_millis;
        let timing = l7mp_fleet::Timing { debounce: ms(50), linger: ms(10_000), grace: ms(30_000) };
        let operator = Operator::new(Fleet::new(timing), outputs);
        Test { operator, news, leadership: said, overtaken: asked, synced: filled, metrics }
    }

    /// A gateway pod and a VirtualService for it, listed; every other kind is empty.
    fn with_a_gateway() -> Test {
        let mut test = Test::new();
        for (kind, objects) in [
            (Kind::VirtualService, vec![service(1)]),
            (Kind::Target, Vec::new()),
            (Kind::Route, Vec::new()),
            (Kind::Rule, Vec::new()),
            (Kind::Service, Vec::new()),
            (Kind::EndpointSlice, Vec::new()),
            (Kind::Pod, vec![pod()]),
        ] {
            assert!(!*test.synced.borrow());
            let seen = objects.into_iter().map(|object| read(kind, object)).collect();
            test.operator.change(Change::Reset(kind, seen));
        }
        test
    }

    fn apply(&mut self, kind: Kind, object: Value) {
        self.operator.change(Change::Apply(Box::new(read(kind, object))));
    }

    /// Lets changes settle, and turns.
    async fn turn(&mut self) {
        advance(Duration::from_millis(60)).await;
        self.operator.turn();
    }

    /// Lets so much time pass that what is not answered yet is said.
    async fn settle(&mut self) {
        for _ in 0..15 {
            self.turn().await;
        }
    }

    fn connect(&mut self, stream: u64, holds: Option<Version>) -> Told {
        self.connect_as(&identity(), stream, holds)
    }

    fn connect_as(&mut self, identity: &Identity, stream: u64, holds: Option<Version>) -> Told {
        let told = Told::default();
        let heard = Arc::clone(&told);
        let tell: Tell = Box::new(move |configuration| {
            heard.lock().unwrap().push(configuration);
            true
        });
        self.operator.connected(
            Agent { stream: StreamId(stream), tell, said: Said::default() },
            proxy(identity),
            holds,
        );
        told
    }

    fn hear(&mut self, stream: u64, report: Report) {
        self.operator.hear(FromAgent::Report { stream: StreamId(stream), identity: identity(), report });
    }

    /// The last status that is desired of the service, of what was said since the last call.
    fn desired(&mut self) -> Option<Status> {
        let mut last = None;
        while let Ok(news) = self.news.try_recv() {
            if let News::Desired(update) = news {
                assert_eq!(update.id.name, "v");
                last = Some(update.status);
            }
        }
        last
    }
}

/// What is logged by this thread while it lives, as `--log json` writes it.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn new() -> Log {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&text);
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || Kept(Arc::clone(&kept)));
        Log { text, _guard: tracing::subscriber::set_default(log.finish()) }
    }

    /// The lines since the last call.
    fn lines(&self) -> Vec<Value> {
        let text = std::mem::take(&mut *self.text.lock().unwrap());
        String::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn service(generation: u32) -> Value {
    json!({
        "metadata": {"name": "v", "namespace": "n", "uid": "uid-v", "generation": generation},
        "spec": {"selector": {"matchLabels": {"app": "gateway"}}, "listener": {
            "spec": {"UDP": {"port": 9000 + generation}},
            "rules": [{"action": {"route": {"destination": {"spec": {"Echo": {}}}}}}],
        }},
    })
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "gateway", "namespace": "n", "uid": "uid-p", "labels": {"app": "gateway"}},
        "spec": {"containers": [{"name": "l7mp"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    })
}

fn identity() -> Identity {
    Identity { namespace: "n".to_owned(), pod: "gateway".to_owned(), uid: "uid-p".to_owned(), expires: None }
}

fn version(sequence: u64) -> Version {
    Version { epoch: 9, term: 3, sequence }
}

fn ready(status: &Status) -> &Condition {
    status.conditions.iter().find(|condition| condition.kind == "Ready").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connected_proxy_is_told_and_its_answer_becomes_a_status() {
    let mut test = Test::with_a_gateway();
    assert!(*test.synced.borrow());
    test.operator.stand(&MINE);
    let told = test.connect(1, None);
    test.turn().await;
    let first = told.lock().unwrap().pop().unwrap();
    assert_eq!((first.version.epoch, first.version.term, first.config.listeners.len()), (9, 3, 1));
    assert!(first.origins.iter().any(|origin| origin.object == "VirtualService n/v"));
    test.settle().await;
    assert_ne!(ready(&test.desired().unwrap()).status, ConditionStatus::True);
    test.hear(1, Report::Applied { version: first.version, warnings: Vec::new() });
    test.turn().await;
    let status = test.desired().unwrap();
    assert_eq!((ready(&status).status, status.programmed), (ConditionStatus::True, 1));
    assert!(told.lock().unwrap().is_empty(), "it is told once");
}

#[tokio::test(start_paused = true)]
async fn our_own_status_on_the_watch_makes_no_work() {
    let mut test = Test::with_a_gateway();
    test.operator.stand(&MINE);
    let told = test.connect(1, None);
    test.turn().await;
    let version = told.lock().unwrap().pop().unwrap().version;
    test.hear(1, Report::Applied { version, warnings: Vec::new() });
    test.turn().await;
    let status = test.desired().unwrap();
    let compiled = test.operator.fleet.counts().compiled;
    for resource_version in 0..5 {
        let mut object = service(1);
        object["metadata"]["resourceVersion"] = json!(resource_version.to_string());
        object["metadata"]["managedFields"] = json!([{"manager": "l7mp-controller"}]);
        object["status"] = serde_json::to_value(&status).unwrap();
        test.apply(Kind::VirtualService, object);
        test.turn().await;
    }
    assert_eq!(test.operator.fleet.counts().compiled, compiled);
    assert!(told.lock().unwrap().is_empty() && test.desired().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_becomes_a_status_and_an_object_that_cannot_be_read_too() {
    let mut test = Test::with_a_gateway();
    test.operator.stand(&MINE);
    let told = test.connect(1, None);
    test.turn().await;
    let version = told.lock().unwrap().pop().unwrap().version;
    let errors = vec![Problem { path: "listeners[0].spec".to_owned(), message: "port 9001 is taken".to_owned() }];
    test.hear(1, Report::Refused { version, errors });
    test.turn().await;
    let status = test.desired().unwrap();
    assert!(ready(&status).message.contains("port 9001 is taken"), "{status:?}");
    assert_eq!(test.metrics.refusals.load(Relaxed), 1);
    let mut wrong = service(2);
    wrong["spec"]["listener"]["spec"]["UDP"]["port"] = json!("x");
    test.apply(Kind::VirtualService, wrong);
    test.turn().await;
    let status = test.desired().unwrap();
    assert_eq!(status.conditions[0].kind, "Accepted");
    assert!(status.conditions[0].message.contains("spec.listener.spec.UDP.port"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_has_counts_only_if_it_is_of_this_leadership() {
    for (holds, tells) in [
        (None, true),
        (Some(Version { epoch: 9, term: 2, sequence: 1 }), true),
        (Some(Version { epoch: 8, term: 3, sequence: 1 }), true),
        (Some(version(1)), false),
    ] {
        let mut test = Test::with_a_gateway();
        test.operator.stand(&MINE);
        let told = test.connect(1, None);
        test.turn().await;
        assert_eq!(told.lock().unwrap().pop().unwrap().version, version(1));
        test.operator.hear(FromAgent::Disconnected { stream: StreamId(1), identity: identity() });
        test.turn().await;
        let told = test.connect(2, holds);
        test.turn().await;
        assert_eq!(!told.lock().unwrap().is_empty(), tells, "{holds:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_replaced_says_nothing_any_more() {
    let mut test = Test::with_a_gateway();
    test.operator.stand(&MINE);
    test.connect(1, None);
    test.turn().await;
    let told = test.connect(2, None);
    test.turn().await;
    let now = told.lock().unwrap().pop().unwrap().version;
    test.desired();
    test.hear(1, Report::Applied { version: now, warnings: Vec::new() });
    test.operator.hear(FromAgent::Disconnected { stream: StreamId(1), identity: identity() });
    test.turn().await;
    assert_eq!(test.desired(), None);
    assert_eq!(test.operator.agents.len(), 1);
    test.hear(2, Report::Applied { version: now, warnings: Vec::new() });
    test.turn().await;
    assert_eq!(ready(&test.desired().unwrap()).status, ConditionStatus::True);
}

#[tokio::test(start_paused = true)]
async fn a_follower_compiles_nothing_and_says_who_leads() {
    let mut test = Test::with_a_gateway();
    assert_eq!(*test.leadership.borrow_and_update(), Leadership::Nobody);
    test.operator.stand(&Standing::Other { identity: "b@10.0.0.2:7800".to_owned() });
    assert_eq!(*test.leadership.borrow(), Leadership::There { address: "10.0.0.2:7800".to_owned() });
    test.turn().await;
    assert_eq!((test.operator.fleet.counts().compiled, test.desired()), (0, None));
    test.operator.stand(&MINE);
    assert_eq!(*test.leadership.borrow(), Leadership::Here { term: 3 });
    test.settle().await;
    assert!(test.desired().is_some());
}

#[tokio::test(start_paused = true)]
async fn another_term_tells_everybody_again() {
    let mut test = Test::with_a_gateway();
    test.operator.stand(&MINE);
    let told = test.connect(1, None);
    test.turn().await;
    let first = told.lock().unwrap().pop().unwrap().version;
    test.hear(1, Report::Applied { version: first, warnings: Vec::new() });
    test.turn().await;
    test.operator.stand(&Standing::Mine { epoch: 9, term: 3, renewed: false });
    test.turn().await;
    assert!(told.lock().unwrap().is_empty(), "a late renewal is no other leadership");
    test.operator.stand(&Standing::Mine { epoch: 9, term: 4, renewed: true });
    test.turn().await;
    let again = told.lock().unwrap().pop().unwrap().version;
    assert_eq!(again.term, 4);
    assert!(first.is_older_than(&again));
}

#[tokio::test(start_paused = true)]
async fn objects_that_a_new_list_lacks_are_gone() {
    let mut test = Test::with_a_gateway();
    test.operator.stand(&MINE);
    let told = test.connect(1, None);
    test.turn().await;
    test.operator.change(Change::Reset(Kind::VirtualService, Vec::new()));
    let mut gone = false;
    while let Ok(news) = test.news.try_recv() {
        gone |= matches!(news, News::Gone(id) if id.name == "v");
    }
    assert!(gone);
    // Nothing uses the listener, so it goes without delay once that is known.
    for _ in 0..220 {
        test.turn().await;
    }
    let last = told.lock().unwrap().pop().unwrap();
    assert_eq!(last.config.listeners.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_ahead_of_this_leadership_waits_for_a_later_one() {
    for (holds, is_ahead) in [
        (Version { epoch: 9, term: 4, sequence: 0 }, true),
        (Version { epoch: 9, term: 3, sequence: 2 }, true),
        (Version { epoch: 9, term: 3, sequence: 1 }, false),
        (Version { epoch: 9, term: 2, sequence: 99 }, false),
        (Version { epoch: 8, term: 4, sequence: 0 }, false),
    ] {
        let mut test = Test::with_a_gateway();
        test.operator.stand(&MINE);
        test.turn().await;
        assert_eq!(test.operator.fleet.sequence(), 1, "made, and nobody was told yet");
        let told = test.connect(1, Some(holds));
        test.turn().await;
        assert_eq!(*test.overtaken.borrow(), is_ahead.then_some(holds));
        assert_eq!(told.lock().unwrap().is_empty(), is_ahead, "{holds:?}");
        if is_ahead {
            test.operator.stand(&Standing::Mine { epoch: 9, term: 5, renewed: true });
            test.turn().await;
            let version = told.lock().unwrap().pop().unwrap().version;
            assert!(holds.is_older_than(&version), "{version} after {holds}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_agents_that_are_ahead_the_foremost_counts() {
    let mut test = Test::with_a_gateway();
    test.operator.stand(&MINE);
    for (term, expected) in [(6, 6), (8, 8), (7, 8)] {
        let identity = Identity { uid: format!("uid-{term}"), ..identity() };
        test.connect_as(&identity, term, Some(Version { epoch: 9, term, sequence: 1 }));
        assert_eq!(test.overtaken.borrow().unwrap().term, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_says_again_and_again_that_it_is_ahead_is_believed_once_an_hour() {
    let mut test = Test::with_a_gateway();
    test.operator.stand(&MINE);
    let ahead = |term| Some(Version { epoch: 9, term, sequence: 1 });
    let other = Identity { uid: "uid-o".to_owned(), pod: "other".to_owned(), ..identity() };
    test.connect(1, ahead(u64::MAX));
    assert_eq!(*test.overtaken.borrow(), None, "nobody has that, and it hides nothing that others say");
    test.connect(2, ahead(9_000));
    assert_eq!(*test.overtaken.borrow(), ahead(9_000));
    test.operator.stand(&Standing::Mine { epoch: 9, term: 9_001, renewed: true });
    test.connect(3, ahead(18_000));
    assert_eq!(*test.overtaken.borrow(), ahead(9_000));
    test.connect_as(&other, 4, ahead(9_002));
    assert_eq!(*test.overtaken.borrow(), ahead(9_002));
    advance(Duration::from_secs(3_600)).await;
    test.connect(5, ahead(18_000));
    assert_eq!(*test.overtaken.borrow(), ahead(18_000));
}

#[tokio::test(start_paused = true)]
async fn lines_of_the_log_name_pods_and_objects_in_fields() {
    let mut test = Test::with_a_gateway();
    let log = Log::new();
    test.operator.stand(&MINE);
    let told = test.connect(1, None);
    test.turn().await;
    let version = told.lock().unwrap().pop().unwrap().version;
    test.hear(1, Report::Refused { version, errors: vec![Problem::new("listeners[0]", "no")] });
    let mut wrong = service(2);
    wrong["spec"]["listener"]["spec"]["UDP"]["port"] = json!("x");
    test.apply(Kind::VirtualService, wrong);
    let fields: Vec<_> = log.lines().iter().map(|line| [line["pod"].clone(), line["object"].clone()]).collect();
    let (pod, object) = (json!("n/gateway"), json!("VirtualService n/v"));
    let nothing = Value::Null;
    assert_eq!(fields, [[pod.clone(), nothing.clone()], [pod, nothing.clone()], [nothing, object]]);
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_says_without_end_is_a_line_a_second() {
    let mut test = Test::with_a_gateway();
    test.operator.stand(&MINE);
    let told = test.connect(1, None);
    test.turn().await;
    let version = told.lock().unwrap().pop().unwrap().version;
    let problems: Vec<Problem> = (0..200).map(|at| Problem::new(format!("rules[{at}]"), "no")).collect();
    let log = Log::new();
    // No answer to anything that it was told.
    let never = Version { sequence: 4_711, ..version };
    let before = Version { term: 2, ..version };
    for version in [never, before] {
        test.hear(1, Report::Refused { version, errors: problems.clone() });
        test.hear(1, Report::Applied { version, warnings: problems.clone() });
    }
    assert_eq!(log.lines(), [] as [Value; 0]);
    assert_eq!(test.metrics.refusals.load(Relaxed), 0);
    for _ in 0..100 {
        test.hear(1, Report::Applied { version, warnings: problems.clone() });
        test.hear(1, Report::Trouble("no proxy answers".to_owned()));
        test.hear(1, Report::Trouble(String::new()));
    }
    test.hear(1, Report::Refused { version, errors: problems.clone() });
    advance(Duration::from_secs(1)).await;
    test.hear(1, Report::Trouble("no proxy answers".to_owned()));
    let said: Vec<_> =
        log.lines().into_iter().map(|line| (line["message"].clone(), line["left_out"].clone())).collect();
    let said: Vec<_> =
        said.iter().map(|(text, left_out)| (text.as_str().unwrap(), left_out.as_u64().unwrap())).collect();
    assert_eq!(
        said,
        [
            ("its proxy warns of what it runs: rules[0]: no, and 199 more", 0),
            ("no proxy answers", 0),
            ("its proxy is reached again", 0),
            ("its proxy refuses what it was told: rules[0]: no, and 199 more", 0),
            ("no proxy answers", 99),
        ]
    );
}
