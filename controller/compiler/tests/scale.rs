//! A cluster of 10,000 pods and 1,000 proxies: what is compiled is right, and what it costs is printed.
//!
//! `cargo test -p l7mp-compiler --release --test scale -- --nocapture` prints figures worth reading.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use common::{cluster, endpoints};
use l7mp_compiler::compile::{Compiled, HeldBack, Port, Serving, View, compile};
use l7mp_compiler::dependencies::Change;
use l7mp_compiler::dependents::Dependents;
use l7mp_compiler::object::{Kind, Object, ObjectId, PodName};
use l7mp_compiler::world::World;
use l7mp_crds::{
    Container, Endpoint, EndpointPort, EndpointSlice, ObjectMeta, ObjectRef, Pod, PodCondition, PodIp, Service,
    ServicePort,
};

/// Groups of one gateway deployment and its workers; they are spread over namespaces.
const GROUPS: usize = 200;
const NAMESPACES: usize = 20;
const GATEWAYS: usize = 5;
const WORKERS: usize = 45;
const PROXIES: usize = GROUPS * GATEWAYS;
const PODS: usize = PROXIES + GROUPS * WORKERS;
/// Each group has five Targets of nine pods each.
const TARGETS: usize = 5;
const PODS_PER_TARGET: usize = WORKERS / TARGETS;

struct Everyone;

impl Serving for Everyone {
    fn serves(&self, _: &PodName, _: &ObjectId, _: Port) -> bool {
        true
    }
}

fn namespace(group: usize) -> String {
    format!("games-{}", group % NAMESPACES)
}

/// A pod as the operator keeps it: labels of a deployment, addresses, conditions, containers.
fn pod(group: usize, number: usize) -> Object {
    let is_proxy = number < GATEWAYS;
    let app = if is_proxy { format!("gateway-{group}") } else { format!("worker-{group}") };
    let mut labels: BTreeMap<String, String> = [
        ("app", app.clone()),
        ("app.kubernetes.io/name", "games".to_owned()),
        ("app.kubernetes.io/part-of", "arena".to_owned()),
        ("pod-template-hash", format!("{:010x}", group * 7_919)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if !is_proxy {
        labels.insert("shard".to_owned(), format!("{}", number % TARGETS));
    }
    let index = group * (GATEWAYS + WORKERS) + number;
    let address = format!("10.{}.{}.{}", 64 + index / 65_536, index / 256 % 256, index % 256);
    let metadata = ObjectMeta {
        name: format!("{app}-{:010x}-{number:05}", group * 7_919),
        namespace: Some(namespace(group)),
        labels,
        uid: Some(format!("00000000-0000-4000-8000-{index:012}")),
        creation_timestamp: Some("2026-11-01T00:00:00Z".to_owned()),
        ..ObjectMeta::default()
    };
    let mut pod = Pod { metadata, ..Pod::default() };
    pod.spec.node_name = Some(format!("node-{}", index % 250));
    pod.spec.service_account_name = Some("default".to_owned());
    let names = if is_proxy { vec!["app", "l7mp", "l7mp-agent"] } else { vec!["app"] };
    pod.spec.containers =
        names.iter().map(|name| Container { name: (*name).to_owned(), ..Container::default() }).collect();
    pod.status.phase = Some("Running".to_owned());
    pod.status.pod_ip = Some(address.clone());
    pod.status.pod_ips = vec![PodIp { ip: address }];
    pod.status.conditions = vec![PodCondition { kind: "Ready".to_owned(), status: "True".to_owned() }];
    Object::Pod(pod)
}

/// The objects of a group: a listener with a rule for each of its Targets, and one to its Service.
fn group(group: usize) -> Vec<Object> {
    let namespace = namespace(group);
    let mut rules = Vec::new();
    let mut text = String::new();
    for target in 0..TARGETS {
        rules.push(format!("{{match: {{x: {target}}}, action: {{route: {{destinationRef: t-{group}-{target}}}}}}}"));
        text += &format!(
            "---\n{{apiVersion: l7mp.io/v1, kind: Target, metadata: {{name: t-{group}-{target}, namespace: {namespace}}}, \
             spec: {{cluster: {{spec: {{UDP: {{port: 9999}}}}, loadbalancer: {{policy: ConsistentHash}}, \
             endpoints: [{{selector: {{matchLabels: {{app: worker-{group}, shard: '{target}'}}}}}}]}}}}}}\n"
        );
    }
    rules.push(format!("{{action: {{route: {{destinationRef: 's-{group}'}}}}}}"));
    text += &format!(
        "---\n{{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {{name: vs-{group}, namespace: {namespace}}}, \
         spec: {{selector: {{matchLabels: {{app: gateway-{group}}}}}, \
         listener: {{spec: {{UDP: {{port: 9001}}}}, rules: [{}]}}}}}}\n",
        rules.join(", ")
    );
    let read = l7mp_compiler::manifest::read(&text);
    assert_eq!(read.faults, []);
    let mut objects = read.objects;
    objects.extend(service(group, &namespace));
    objects
}

fn service(group: usize, namespace: &str) -> [Object; 2] {
    let meta = |name: String| ObjectMeta { name, namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    let mut service = Service { metadata: meta(format!("s-{group}")), ..Service::default() };
    let port = serde_json::json!({"port": 7000, "protocol": "UDP"});
    service.spec.ports = vec![serde_json::from_value::<ServicePort>(port).unwrap()];
    let mut slice = EndpointSlice { metadata: meta(format!("s-{group}-x")), ..EndpointSlice::default() };
    slice.metadata.labels.insert("kubernetes.io/service-name".to_owned(), format!("s-{group}"));
    slice.address_type = "IPv4".to_owned();
    slice.ports = vec![EndpointPort { port: Some(7000), protocol: Some("UDP".to_owned()), ..EndpointPort::default() }];
    slice.endpoints = (GATEWAYS..GATEWAYS + 10)
        .map(|number| {
            let Object::Pod(pod) = pod(group, number) else { unreachable!() };
            let target = ObjectRef { kind: "Pod".to_owned(), name: pod.metadata.name, ..ObjectRef::default() };
            let addresses = vec![pod.status.pod_ip.unwrap()];
            Endpoint { addresses, target_ref: Some(target), ..Endpoint::default() }
        })
        .collect();
    [Object::Service(service), Object::EndpointSlice(slice)]
}

fn name_of(group: usize, number: usize) -> PodName {
    PodName::of(pod(group, number).meta())
}

/// Resident bytes of this process.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The time that this thread has computed: on a busy machine it waits as long again for its turn.
fn computed() -> Duration {
    let times = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

fn timed<T>(what: &str, count: usize, run: impl FnOnce() -> T) -> (T, Duration) {
    let start = computed();
    let result = run();
    let took = computed() - start;
    println!("{what}: {took:?}, {:?} each", took / u32::try_from(count).unwrap());
    (result, took)
}

#[test]
fn ten_thousand_pods_and_a_thousand_proxies() {
    let before = resident();
    let (mut world, _) = timed("index of 10,000 pods", PODS, || {
        let mut world = World::default();
        for group_number in 0..GROUPS {
            for number in 0..GATEWAYS + WORKERS {
                world.apply("cluster", pod(group_number, number));
            }
            for object in group(group_number) {
                world.apply("cluster", object);
            }
        }
        world
    });
    assert_eq!(world.all_pods().count(), PODS);

    let held = HeldBack::new();
    let view = View { held: &held, serving: Some(&Everyone), lingering: &[] };
    let proxies: Vec<PodName> =
        (0..GROUPS).flat_map(|group| (0..GATEWAYS).map(move |number| name_of(group, number))).collect();
    assert_eq!(proxies.len(), PROXIES);
    let (compiled, took) = timed("first compilation of 1,000 proxies", PROXIES, || {
        proxies.iter().map(|proxy| compile(&world, proxy, &view).unwrap()).collect::<Vec<Compiled>>()
    });
    for compiled in &compiled {
        assert_eq!((compiled.config.listeners.len(), compiled.config.clusters.len()), (1, TARGETS + 1));
        let all: usize = compiled.config.clusters.iter().map(|cluster| cluster.endpoints.len()).sum();
        assert_eq!(all, TARGETS * PODS_PER_TARGET + 10);
        assert_eq!(compiled.reports, []);
    }
    assert!(took < Duration::from_millis(20) * u32::try_from(PROXIES).unwrap(), "even an unoptimized build: {took:?}");

    let mut dependents = Dependents::default();
    timed("dependents", PROXIES, || {
        for (proxy, compiled) in proxies.iter().zip(&compiled) {
            dependents.set(proxy, compiled.dependencies.clone());
        }
    });
    let used = resident().saturating_sub(before);
    println!("resident: {} MB", used >> 20);
    assert!(used < 150 << 20, "{} MB", used >> 20);

    one_pod_changes(&mut world, &dependents, &view);
    other_changes(&mut world, &dependents, &proxies);
}

/// A worker that is not ready any more touches its group's gateways and nobody else.
fn one_pod_changes(world: &mut World, dependents: &Dependents, view: &View<'_>) {
    let Object::Pod(mut changed) = pod(7, GATEWAYS + 3) else { unreachable!() };
    let id = ObjectId::new(Kind::Pod, changed.metadata.namespace(), &changed.metadata.name);
    let address = changed.status.pod_ip.clone().unwrap();
    changed.metadata.resource_version = Some("2".to_owned());
    let idle = Object::Pod(changed.clone());
    let before = world.get(&id).cloned().unwrap();
    let nobody = dependents.touched(world, &Change { id: &id, before: Some(&before), after: Some(&idle) });
    assert_eq!(nobody.len(), 0, "nothing that a document shows has changed");

    changed.status.conditions[0].status = "False".to_owned();
    let (documents, took) = timed("one pod's change", 1, || {
        world.apply("cluster", Object::Pod(changed));
        let change = Change { id: &id, before: Some(&before), after: world.get(&id).map(|object| &**object) };
        let touched = dependents.touched(world, &change);
        touched.into_iter().map(|proxy| (compile(world, &proxy, view).unwrap(), proxy)).collect::<Vec<_>>()
    });
    let expected: Vec<PodName> = (0..GATEWAYS).map(|number| name_of(7, number)).collect();
    assert_eq!(documents.iter().map(|(_, proxy)| proxy).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    let name = format!("{}/t-7-{}", namespace(7), (GATEWAYS + 3) % TARGETS);
    for (compiled, _) in &documents {
        assert!(endpoints(cluster(compiled, &name)).contains(&format!("{address} unready")));
    }
    assert!(took < Duration::from_millis(100), "even an unoptimized build: {took:?}");
}

/// Objects touch the proxies that have them, or will.
fn other_changes(world: &mut World, dependents: &Dependents, proxies: &[PodName]) {
    let touched = |world: &World, id: &ObjectId, before: Option<&Object>, after: Option<&Object>| -> usize {
        dependents.touched(world, &Change { id, before, after }).len()
    };
    for (kind, name) in [
        (Kind::Target, "t-7-1"),
        (Kind::Service, "s-7"),
        (Kind::EndpointSlice, "s-7-x"),
        (Kind::VirtualService, "vs-7"),
    ] {
        let id = ObjectId::new(kind, &namespace(7), name);
        let object = world.get(&id).cloned().unwrap();
        assert_eq!(touched(world, &id, Some(&object), None), GATEWAYS, "{id}");
    }
    let everywhere = "{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {name: all, namespace: games-3}, \
                      spec: {selector: {}, listener: {spec: {TCP: {port: 1}}}}}";
    let object = l7mp_compiler::manifest::read(everywhere).objects.remove(0);
    let here = proxies.iter().filter(|proxy| proxy.namespace == "games-3").count();
    assert_eq!(touched(world, &object.id(), None, Some(&object)), here);
    let new = pod(7, GATEWAYS + WORKERS);
    assert_eq!(touched(world, &new.id(), None, Some(&new)), GATEWAYS);
}

/// What one compilation for a gateway takes whose listener has the rules of list `l0000`.
fn lists(what: &str, rules: usize, rule: impl Fn(usize) -> String) -> (Compiled, Duration) {
    let mut text = common::proxy("name: gw", "10.0.0.1");
    text += &common::object(
        "VirtualService",
        "name: vs",
        "selector: {}, listener: {spec: {UDP: {port: 1}}, rulesRef: l0000}",
    );
    for number in 0..rules {
        text += &common::object("Rule", &format!("name: r{number:04}"), &rule(number));
    }
    let world = common::world(&text);
    let proxy = "default/gw".parse().unwrap();
    let held = HeldBack::new();
    timed(what, rules, || compile(&world, &proxy, &View::alone(&held)).unwrap())
}

#[test]
fn rule_lists_cost_what_they_weigh() {
    const LISTS: usize = 2_000;
    let apply = |list: usize, next: usize| format!("rulelist: l{list:04}, rule: {{action: {{apply: l{next:04}}}}}");
    let end = |list: usize| format!("rulelist: l{list:04}, rule: {{action: {{refuse: end}}}}");
    let chain = |list| if list + 1 < LISTS { apply(list, list + 1) } else { end(list) };
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 100 });

    let (compiled, took) = lists("a chain of 2,000 lists", LISTS, chain);
    assert_eq!((compiled.config.rulelists.len(), compiled.reports.len()), (LISTS, (LISTS - 1) / 31));
    assert!(took < limit, "{took:?}");

    let (compiled, took) = lists("a circle of 2,000 lists", LISTS, |list| apply(list, (list + 1) % LISTS));
    assert_eq!((compiled.config.rulelists.len(), compiled.reports.len()), (LISTS, LISTS));
    assert!(took < limit, "{took:?}");

    let (compiled, took) = lists("2,000 lists that one applies", 2 * LISTS, |rule| match rule.checked_sub(LISTS) {
        None => apply(0, rule + 1),
        Some(list) => end(list + 1),
    });
    assert_eq!((compiled.config.rulelists.len(), compiled.reports.len()), (LISTS + 1, 0));
    assert!(took < 2 * limit, "{took:?}");
}
