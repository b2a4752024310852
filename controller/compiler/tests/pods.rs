//! Which pods an object goes to, and which pods are endpoints.

mod common;

use std::sync::Arc;

use common::{app, cluster, compiled, compiled_for, endpoints, object, pod, proxy, reports, world};
use l7mp_compiler::compile::{HeldBack, Port, Serving, Transport, Use, View};
use l7mp_compiler::object::{Kind, ObjectId, PodName};
use l7mp_compiler::references::references;
use l7mp_compiler::selected::selected_pods;
use l7mp_compiler::world::World;

const READY: &str = "conditions: [{type: Ready, status: 'True'}]";
const LEAVING: &str = ", deletionTimestamp: '2026-01-01T00:00:00Z'";

/// A Target on every pod of its namespace, whose endpoints are the pods of `selector`.
fn target(selector: &str) -> String {
    let cluster = format!("cluster: {{spec: {{UDP: {{port: 7}}}}, endpoints: [{{selector: {selector}}}]}}");
    object("Target", "name: t", &format!("selector: {{matchLabels: {{app: gw}}}}, {cluster}"))
}

fn gateway() -> String {
    proxy("name: gw, labels: {app: gw}", "10.0.0.1")
}

/// A pod of the workers in some state.
fn worker(name: &str, metadata: &str, address: &str, status: &str) -> String {
    pod(&format!("name: {name}, labels: {{app: w}}{metadata}"), "", address, status)
}

fn selected(world: &World, kind: Kind, namespace: &str, name: &str) -> Vec<String> {
    let object = world.get(&ObjectId::new(kind, namespace, name)).unwrap();
    selected_pods(world, object).iter().map(ToString::to_string).collect()
}

#[test]
fn ready_pods_take_sessions_and_the_others_keep_theirs() {
    let text = [
        gateway(),
        target("{matchLabels: {app: w}}"),
        worker("ready", "", "10.0.0.2", READY),
        worker("leaving", LEAVING, "10.0.0.3", READY),
        worker("unready", "", "10.0.0.4", "conditions: [{type: Ready, status: 'False'}]"),
        worker("silent", "", "10.0.0.5", "phase: Running"),
        worker("homeless", "", "", READY),
        worker("odd", "", "nonsense", READY),
        worker("done", LEAVING, "10.0.0.6", &format!("phase: Failed, {READY}")),
        worker("over", "", "10.0.0.8", &format!("phase: Succeeded, {READY}")),
        worker("elsewhere", ", namespace: other", "10.0.0.7", READY),
        worker("both", "", "", &format!("{READY}, podIPs: [{{ip: 'fd00::1'}}, {{ip: 10.0.0.9}}]")),
    ];
    let compiled = compiled(&text.concat());
    assert_eq!(
        endpoints(cluster(&compiled, "default/t")),
        ["fd00::1", "10.0.0.3 draining", "10.0.0.2", "10.0.0.5 unready", "10.0.0.4 unready"]
    );
    assert_eq!(reports(&compiled), [""; 0]);
}

#[test]
fn without_a_ready_pod_the_unready_ones_serve_and_then_those_that_are_ending() {
    let unready = worker("unready", "", "10.0.0.4", "phase: Running");
    let leaving = worker("leaving", LEAVING, "10.0.0.3", READY);
    let degraded = |message: &str| vec![format!("Target default/t: spec.cluster.endpoints: {message} (Degraded)")];
    for (pods, expected, message) in [
        (
            format!("{unready}{leaving}"),
            vec!["10.0.0.3 draining", "10.0.0.4 unready"],
            "no endpoint is ready: those that are not take sessions (1)",
        ),
        (leaving, vec!["10.0.0.3 draining"], "no endpoint is left but those that are ending, which take sessions (1)"),
        (String::new(), vec![], "there is no endpoint: sessions cannot be opened until there is one"),
    ] {
        let compiled = compiled(&format!("{}{}{pods}", gateway(), target("{matchLabels: {app: w}}")));
        assert_eq!(endpoints(cluster(&compiled, "default/t")), expected);
        assert_eq!(reports(&compiled), degraded(message));
    }
}

#[test]
fn of_two_pods_at_one_address_the_better_one_counts() {
    let target = target("{matchLabels: {app: w}}");
    let old = worker("a-old", LEAVING, "10.0.0.9", READY);
    let new = worker("b-new", "", "10.0.0.9", READY);
    let compiled_one = compiled(&format!("{}{target}{old}{new}", gateway()));
    assert_eq!(endpoints(cluster(&compiled_one, "default/t")), ["10.0.0.9"]);
    assert_eq!(cluster(&compiled_one, "default/t").endpoints[0].name.as_deref(), Some("default/b-new"));
    assert_eq!(reports(&compiled_one), [""; 0], "a gateway on the host's network that is replaced is no fault");

    let twin = worker("c-twin", "", "10.0.0.9", READY);
    let twice = target.replace(
        "endpoints: [",
        "endpoints: [{selector: {matchFields: [{key: metadata.name, operator: In, values: [b-new]}]}}, ",
    );
    let twice = twice.replace("}}]}", "}}, {spec: {address: '::ffff:10.0.0.9'}}]}");
    let compiled = compiled(&format!("{}{twice}{new}{twin}", gateway()));
    let left_out = "has the address and port of default/b-new: left out (DuplicateEndpoint)";
    assert_eq!(
        reports(&compiled),
        [
            format!("Target default/t: spec.cluster.endpoints[1]: default/c-twin {left_out}"),
            format!("Target default/t: spec.cluster.endpoints[2]: endpoints[2] {left_out}"),
        ]
    );
}

#[test]
fn an_object_goes_to_the_selected_pods_that_have_a_proxy() {
    let service = object("VirtualService", "name: vs", "selector: {}, listener: {spec: {UDP: {port: 1}}}");
    let rule =
        object("Rule", "name: r", "rulelist: l, selector: {matchLabels: {app: gw}}, rule: {action: {refuse: x}}");
    let native = pod("name: native", "initContainers: [{name: l7mp, restartPolicy: Always}]", "", "");
    let text =
        [gateway(), app("name: app, labels: {app: gw}", "10.0.0.2"), native, service, rule, target("{}")].concat();
    let mut world = world(&text);
    assert_eq!(selected(&world, Kind::VirtualService, "default", "vs"), ["default/gw", "default/native"]);
    assert_eq!(selected(&world, Kind::Rule, "default", "r"), ["default/gw"]);
    assert_eq!(selected(&world, Kind::Target, "default", "t"), ["default/gw"]);
    world.give_proxies(["default/app".parse().unwrap()]);
    assert_eq!(selected(&world, Kind::Target, "default", "t"), ["default/app", "default/gw"], "as `local` is told");
}

#[test]
fn a_selector_of_another_namespace_needs_the_consent_of_the_pod() {
    let text = |annotations: &str| {
        let far = proxy(&format!("name: far, namespace: other, labels: {{app: w}}{annotations}"), "10.0.0.2");
        let selector = "selector: {matchNamespace: other, matchLabels: {app: w}}";
        let service =
            object("VirtualService", "name: vs", &format!("{selector}, listener: {{spec: {{UDP: {{port: 1}}}}}}"));
        [gateway(), far, service, target("{matchNamespace: other, matchLabels: {app: w}}")].concat()
    };
    let advice = "annotate it with l7mp.io/accept-from: \"default\"";
    for annotations in ["", ", annotations: {l7mp.io/accept-from: someone}"] {
        let world = world(&text(annotations));
        assert_eq!(selected(&world, Kind::VirtualService, "default", "vs"), [""; 0]);
        let far = compiled_for(&world, "other/far", &View::alone(&HeldBack::new()));
        assert_eq!((far.config.listeners.len(), far.selected.len()), (0, 0));
        let said = format!("picks Pod other/far, which does not accept namespace default: not there; {advice}");
        assert_eq!(reports(&far), [format!("VirtualService default/vs: spec.selector: {said} (NoConsent)")]);

        let near = compiled_for(&world, "default/gw", &View::alone(&HeldBack::new()));
        assert_eq!(endpoints(cluster(&near, "default/t")), [""; 0]);
        let said = format!("Pod other/far does not accept namespace default: left out; {advice} (NoConsent)");
        assert_eq!(reports(&near)[1], format!("Target default/t: spec.cluster.endpoints[0].selector: {said}"));
        let object = world.get(&ObjectId::new(Kind::VirtualService, "default", "vs")).unwrap();
        assert!(references(&world, object)[0].to_string().ends_with(&said));
    }
    for annotations in
        [", annotations: {l7mp.io/accept-from: 'a, default'}", ", annotations: {l7mp.io/accept-from: '*'}"]
    {
        let world = world(&text(annotations));
        assert_eq!(selected(&world, Kind::VirtualService, "default", "vs"), ["other/far"]);
        let far = compiled_for(&world, "other/far", &View::alone(&HeldBack::new()));
        assert_eq!((far.config.listeners.len(), reports(&far).len()), (1, 0));
        let near = compiled_for(&world, "default/gw", &View::alone(&HeldBack::new()));
        assert_eq!(endpoints(cluster(&near, "default/t")), ["10.0.0.2"]);
    }
}

#[test]
fn match_service_is_one_more_term() {
    let service = |selector: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{{selector}ports: [{{port: 1}}]}}}}\n"
        )
    };
    let pods = [
        app("name: a, labels: {app: w, tier: '1'}", "10.0.0.2"),
        app("name: b, labels: {app: w, tier: '2'}", "10.0.0.3"),
        app("name: c, labels: {tier: '2'}", "10.0.0.4"),
    ]
    .concat();
    let by_service = "{matchService: s, matchLabels: {tier: '2'}}";
    let path = "Target default/t: spec.cluster.endpoints[0].selector.matchService";
    let none = "there is no endpoint: sessions cannot be opened until there is one";
    let empty = format!("Target default/t: spec.cluster.endpoints: {none} (Degraded)");
    for (service, expected, said) in [
        (service("selector: {app: w}, "), vec!["10.0.0.3"], vec![]),
        (
            service(""),
            vec![],
            vec![
                empty.clone(),
                format!(
                    "{path}: Service default/s has no selector, so it stands for no pods: use labels here (UnsupportedService)"
                ),
            ],
        ),
        (String::new(), vec![], vec![empty, format!("{path}: there is no Service default/s (RefNotFound)")]),
    ] {
        let text = [gateway(), pods.clone(), service, target(by_service)].concat();
        let compiled = compiled(&text);
        assert_eq!(endpoints(cluster(&compiled, "default/t")), expected);
        assert_eq!(reports(&compiled), said);
    }
    let on = object("VirtualService", "name: vs", "selector: {matchService: s}, listener: {spec: {UDP: {port: 1}}}");
    let with = compiled(&[gateway(), service("selector: {app: gw}, "), on.clone()].concat());
    assert_eq!(with.config.listeners.len(), 1);
    let without = compiled(&[gateway(), on].concat());
    assert_eq!(without.config.listeners.len(), 0);
    assert_eq!(
        reports(&without),
        ["VirtualService default/vs: spec.selector.matchService: there is no Service default/s (RefNotFound)"]
    );
}

/// Listeners that were acknowledged, as `POD SERVICE PORT`.
struct Acknowledged(&'static [&'static str]);

impl Serving for Acknowledged {
    fn serves(&self, pod: &PodName, service: &ObjectId, port: Port) -> bool {
        self.0.contains(&format!("{} {} {}", pod.name, service.name, port.number).as_str())
    }
}

#[test]
fn an_endpoint_with_a_listener_is_used_once_its_proxy_has_acknowledged_it() {
    let worker = |name: &str, address| proxy(&format!("name: {name}, labels: {{app: w}}"), address);
    let on = |name: &str, port: u16| {
        let listener = format!("selector: {{matchLabels: {{app: w}}}}, listener: {{spec: {{UDP: {{port: {port}}}}}}}");
        object("VirtualService", &format!("name: {name}"), &listener)
    };
    let text = [
        gateway(),
        target("{matchLabels: {app: w}}"),
        worker("w-1", "10.0.0.2"),
        worker("w-2", "10.0.0.3"),
        app("name: w-3, labels: {app: w}", "10.0.0.4"),
        on("seven", 7),
        on("twin", 7),
        on("eight", 8),
    ]
    .concat();
    let world = world(&text);
    let held = HeldBack::new();
    let told = |uses: &std::collections::BTreeSet<Use>| -> Vec<String> {
        uses.iter().map(|used| format!("{} {} {}", used.pod.name, used.service.name, used.port.number)).collect()
    };
    let both = ["w-1 seven 7", "w-1 twin 7"];
    for (acknowledged, addresses, uses, waits) in [
        (&[][..], vec!["10.0.0.4"], vec![], [&both[..], &["w-2 seven 7", "w-2 twin 7"]].concat()),
        (
            &["w-1 eight 8", "w-2 seven 8"],
            vec!["10.0.0.4"],
            vec![],
            [&both[..], &["w-2 seven 7", "w-2 twin 7"]].concat(),
        ),
        (&["w-2 twin 7"], vec!["10.0.0.3", "10.0.0.4"], vec!["w-2 twin 7"], both.to_vec()),
        (
            &["w-2 twin 7", "w-1 seven 7"],
            vec!["10.0.0.2", "10.0.0.3", "10.0.0.4"],
            vec!["w-1 seven 7", "w-2 twin 7"],
            vec![],
        ),
    ] {
        let serving = Acknowledged(acknowledged);
        let view = View { held: &held, serving: Some(&serving), lingering: &[] };
        let compiled = compiled_for(&world, "default/gw", &view);
        assert_eq!(endpoints(cluster(&compiled, "default/t")), addresses);
        assert_eq!((told(&compiled.uses), told(&compiled.waits)), (strings(&uses), strings(&waits)));
        assert_eq!(reports(&compiled), [""; 0], "to be waited for is no fault");
    }
    let compiled = compiled_for(&world, "default/gw", &View::alone(&held));
    assert_eq!(endpoints(cluster(&compiled, "default/t")).len(), 3, "`local` waits for nobody");
    let port = Port { transport: Transport::Udp, number: 7 };
    assert!(compiled.uses.iter().all(|used| used.port == port) && compiled.waits.is_empty());
}

#[test]
fn a_proxy_does_not_wait_for_itself() {
    let own = object("VirtualService", "name: vs", "selector: {}, listener: {spec: {UDP: {port: 7}}}");
    let world = world(&[gateway(), target("{matchLabels: {app: gw}}"), own].concat());
    let held = HeldBack::new();
    let view = View { held: &held, serving: Some(&Acknowledged(&[])), lingering: &[] };
    let compiled = compiled_for(&world, "default/gw", &view);
    assert_eq!(endpoints(cluster(&compiled, "default/t")), ["10.0.0.1"]);
    assert!(compiled.waits.is_empty() && compiled.uses.is_empty());
}

#[test]
fn a_listener_that_lingers_gets_a_port_that_nothing_living_wants() {
    let on = |name: &str, port: u16, to: &str| {
        let rule = format!("{{action: {{route: {{destination: {{spec: {{{to}: {{}}}}}}}}}}}}");
        let listener = format!("selector: {{}}, listener: {{spec: {{UDP: {{port: {port}}}}}, rules: [{rule}]}}");
        object("VirtualService", &format!("name: {name}"), &listener)
    };
    let before = world(&[on("moved", 1, "Discard"), on("gone", 2, "Echo"), on("taken", 3, "Echo")].concat());
    let lingering: Vec<Arc<_>> = ["moved", "gone", "taken"]
        .map(|name| Arc::clone(before.get(&ObjectId::new(Kind::VirtualService, "default", name)).unwrap()))
        .to_vec();
    let now = world(&[gateway(), on("moved", 11, "Echo"), on("new", 3, "Echo")].concat());
    let held = HeldBack::new();
    let compiled = compiled_for(&now, "default/gw", &View { held: &held, serving: None, lingering: &lingering });
    let listeners: Vec<_> = compiled.config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(listeners, ["default/gone", "default/moved", "default/moved~old0", "default/new"]);
    let clusters: Vec<_> =
        compiled.config.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.spec.protocol())).collect();
    assert_eq!(
        clusters,
        [
            ("default/gone/inline-eb9bbf9a", "Echo"),
            ("default/moved/inline-5cb560ca", "Discard"),
            ("default/moved/inline-eb9bbf9a", "Echo"),
            ("default/new/inline-eb9bbf9a", "Echo"),
        ],
        "the cluster of the listener that lingers has the name that its sessions know"
    );
    let selected: Vec<_> = compiled.selected.iter().map(ToString::to_string).collect();
    assert_eq!(selected, ["VirtualService default/moved", "VirtualService default/new"]);
    let told = compiled.origins.find("listeners[0].spec").unwrap();
    assert_eq!(told.to_string(), "VirtualService default/gone spec.listener.spec");
    let refused = HeldBack::from([(told.object, "no".to_owned())]);
    let again = compiled_for(&now, "default/gw", &View { held: &refused, serving: None, lingering: &lingering });
    assert_eq!(again.config.listeners.len(), 3, "one that the proxy refuses does not linger");
}

#[test]
fn what_is_selected_names_also_what_is_held_back_or_has_a_fault() {
    let on = |name: &str, rules: &str| {
        object(
            "VirtualService",
            &format!("name: {name}"),
            &format!("selector: {{}}, listener: {{spec: {{UDP: {{port: 1}}}}{rules}}}"),
        )
    };
    let rule = |name: &str, selector: &str| {
        object("Rule", &format!("name: {name}"), &format!("rulelist: l{selector}, rule: {{action: {{routeRef: r}}}}"))
    };
    let text = [
        gateway(),
        target("{}"),
        on("a", ", rulesRef: l"),
        on("b", ""),
        rule("here", ""),
        rule("held", ""),
        rule("elsewhere", ", selector: {matchLabels: {app: x}}"),
        object("Route", "name: r", "destinationRef: absent"),
        object("Route", "name: unused", "destinationRef: t"),
        object("Target", "name: unused", "cluster: {spec: {Echo: {}}}"),
        object("Target", "name: broken", "selector: {}, linkedVirtualService: absent"),
    ];
    let held = HeldBack::from([
        (ObjectId::new(Kind::Target, "default", "t"), "no".to_owned()),
        (ObjectId::new(Kind::Rule, "default", "held"), "no".to_owned()),
    ]);
    let compiled = compiled_for(&world(&text.concat()), "default/gw", &View::alone(&held));
    let selected: Vec<_> = compiled.selected.iter().map(ToString::to_string).collect();
    assert_eq!(
        selected,
        [
            "VirtualService default/a",
            "VirtualService default/b",
            "Target default/broken",
            "Target default/t",
            "Route default/r",
            "Rule default/held",
            "Rule default/here"
        ]
    );
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}
