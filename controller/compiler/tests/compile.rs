//! What becomes of objects that are wrong, alone or together. Tests are named after the symptom that they
//! keep away.

use l7mp_api::config::{ActionTarget, Cluster, Config, Ref, Rule, Rules};
use l7mp_compiler::compile::{Compiled, HeldBack, Reason, View, compile};
use l7mp_compiler::manifest;
use l7mp_compiler::object::{Kind, ObjectId};
use l7mp_compiler::world::World;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: gw, labels: {app: gw}}
status: {phase: Running, podIP: 10.0.0.1}
";

/// A Target that every pod may use.
fn target(name: &str) -> String {
    format!(
        "{{apiVersion: l7mp.io/v1, kind: Target, metadata: {{name: {name}}}, spec: {{cluster: {{spec: {{Echo: {{}}}}}}}}}}"
    )
}

/// A VirtualService on the pod, with its `metadata` and its listener's fields.
fn service(metadata: &str, listener: &str) -> String {
    format!(
        "{{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {{{metadata}}}, \
         spec: {{selector: {{matchLabels: {{app: gw}}}}, listener: {{{listener}}}}}}}"
    )
}

/// A rule to a Target.
fn to(target: &str) -> String {
    format!("{{action: {{route: {{destinationRef: {target}}}}}}}")
}

/// A Rule of a list.
fn rule(metadata: &str, list: &str, position: &str, action: &str) -> String {
    format!(
        "{{apiVersion: l7mp.io/v1, kind: Rule, metadata: {{{metadata}}}, \
         spec: {{rulelist: {list}, {position}rule: {{action: {{{action}}}}}}}}}"
    )
}

fn world(documents: &[String]) -> World {
    let mut world = World::default();
    let text = documents.join("\n---\n");
    let read = manifest::read(&text);
    assert_eq!(read.faults, [], "{text}");
    world.reset("test", read.objects);
    world
}

fn compiled(documents: &[String]) -> Compiled {
    let mut all = vec![POD.to_owned()];
    all.extend_from_slice(documents);
    compile(&world(&all), &"default/gw".parse().unwrap(), &View::alone(&HeldBack::new())).unwrap()
}

fn listener_names(config: &Config) -> Vec<&str> {
    config.listeners.iter().map(|listener| listener.name.as_str()).collect()
}

fn cluster_names(config: &Config) -> Vec<&str> {
    config.clusters.iter().map(|cluster| cluster.name.as_str()).collect()
}

fn inline_rules(config: &Config) -> Vec<&Rule> {
    let Rules::Inline(rules) = &config.listeners[0].rules else { panic!("no inline rules: {config:?}") };
    rules
        .iter()
        .map(|rule| match rule {
            Ref::Inline(rule) => &**rule,
            Ref::Name(name) => panic!("{name} is not inline"),
        })
        .collect()
}

fn refusal(rule: &Rule) -> &str {
    match &rule.action.target {
        ActionTarget::Refuse(reason) => reason,
        ActionTarget::Route(_) | ActionTarget::Apply(_) => panic!("not refused: {rule:?}"),
    }
}

fn reasons(compiled: &Compiled) -> Vec<(String, &str, Reason)> {
    compiled.reports.iter().map(|report| (report.object.to_string(), report.path.as_str(), report.reason)).collect()
}

#[test]
fn an_object_that_is_wrong_by_itself_is_reported_with_document_and_path() {
    let service = |listener: &str| service("name: bad", listener);
    let table = [
        (service("spec: {UDP: {prt: 1}}"), "spec.listener.spec.UDP.prt", "unknown field `prt`"),
        (service("spec: {UDP: {port: 70000}}"), "spec.listener.spec.UDP.port", "70000"),
        (service("spec: {UDP: {port: 1}, TCP: {port: 1}}"), "spec.listener.spec", "exactly one key"),
        (service("spec: {SCTP: {port: 1}}"), "spec.listener.spec", "unknown name"),
        (service("spec: {UDP: {port: 1, address: here}}"), "spec.listener.spec.UDP.address", "IP address"),
        (service("spec: {UDP: {port: 1}}, options: {idleTimeout: 5 parsecs}"), "spec.listener.options.idleTimeout", "5 parsecs"),
        (
            service("spec: {UnixDomainSocket: {filename: /s, mode: '999'}}"),
            "spec.listener.spec.UnixDomainSocket.mode",
            "octal",
        ),
        (service("spec: {UDP: {port: 1}}, rules: [{action: {}}]"), "spec.listener.rules[0].action", "exactly one of route"),
        (
            service("spec: {UDP: {port: 1}}, rules: [{action: {apply: a, refuse: b}}]"),
            "spec.listener.rules[0].action",
            "exactly one of route",
        ),
        (
            service("spec: {UDP: {port: 1}}, rules: [{action: {route: {ingress: [{}]}}}]"),
            "spec.listener.rules[0].action.route",
            "destination and destinationRef",
        ),
        (service("spec: {UDP: {port: 1}}, rulesRef: a/b"), "spec.listener.rulesRef", "no slash"),
        (
            "{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {name: bad}, spec: {listener: {spec: {UDP: {port: 1}}}}}"
                .to_owned(),
            "spec.selector",
            "is needed",
        ),
        (
            target("bad").replace("cluster: {spec", "selector: {matchService: a/b}, cluster: {spec"),
            "spec.selector.matchService",
            "matchNamespace",
        ),
        (
            target("bad").replace("cluster: {spec", "selector: {matchServices: x}, cluster: {spec"),
            "spec.selector.matchServices",
            "unknown field",
        ),
        (
            target("bad").replace("cluster: {spec", "selector: {matchExpressions: [{key: a, operator: In}]}, cluster: {spec"),
            "spec.selector.matchExpressions[0].values",
            "In needs at least one value",
        ),
        (
            target("bad").replace("cluster: {spec", "selector: {matchFields: [{key: spec.x, operator: Exists}]}, cluster: {spec"),
            "spec.selector.matchFields[0].key",
            "not one of metadata.name",
        ),
        (target("bad").replace("cluster:", "linkedVirtualService: x, cluster:"), "spec", "exactly one of cluster"),
        (
            target("bad").replace("Echo: {}}", "UDP: {port: 1}}, endpoints: [{spec: {address: a, weight: 0}}]"),
            "spec.cluster.endpoints[0].spec.weight",
            "between 1 and 1000",
        ),
        (
            target("bad").replace("Echo: {}}", "UDP: {}}, endpoints: [{selector: {}}]"),
            "spec.cluster.endpoints[0].selector",
            "needs the port",
        ),
        (
            target("bad").replace("Echo: {}}", "UDP: {port: 1}}, endpoints: [{selector: {}, spec: {address: a}}]"),
            "spec.cluster.endpoints[0]",
            "exactly one of spec and selector",
        ),
        (target("Bad_Name"), "metadata.name", "not a name"),
    ];
    for (document, path, message) in table {
        let text = format!("{POD}---\n{}\n---\n{document}\n---\n{}", target("before"), target("after"));
        let read = manifest::read(&text);
        let fault = read.faults.first().unwrap_or_else(|| panic!("accepted: {document}"));
        assert_eq!((fault.document, fault.problem.path.as_str()), (3, path), "{document}: {fault}");
        assert!(fault.problem.message.contains(message), "{document}: {fault}");
        assert_eq!(read.objects.len(), 3, "its neighbours stay: {document}");
    }
}

#[test]
fn a_dangling_reference_disables_its_rule_and_not_its_listener() {
    let rules = [
        to("there"),
        to("absent"),
        to("a/b/c"),
        to("/apis/l7mp.io/v1/namespaces/default/routes/there"),
        "{action: {routeRef: absent}}".to_owned(),
        "{action: {apply: absent}}".to_owned(),
        "{match: {op: x}, action: {route: {destinationRef: there, ingress: [{clusterRef: other/x}]}}}".to_owned(),
    ];
    let listener = format!("spec: {{UDP: {{port: 1}}}}, rulesRef: nolist, rules: [{}]", rules.join(", "));
    let compiled = compiled(&[target("there"), service("name: vs", &listener)]);
    let rules = inline_rules(&compiled.config);
    assert!(matches!(rules[0].action.target, ActionTarget::Route(_)));
    assert_eq!(refusal(rules[1]), "there is no Target, VirtualService or Service default/absent");
    assert!(refusal(rules[2]).contains("\"a/b/c\" does not name a Target"));
    assert!(refusal(rules[3]).contains("/routes/there\" does not name a Target"));
    assert_eq!(refusal(rules[4]), "there is no Route default/absent");
    assert_eq!(refusal(rules[5]), "no Rule of namespace default has rulelist \"absent\"");
    assert_eq!(refusal(rules[6]), "there is no Target, VirtualService or Service other/x");
    assert_eq!(rules[6].matches, Some(serde_json::json!({"op": "x"})), "a refusal keeps its condition");
    assert_eq!(refusal(rules[7]), "no Rule of namespace default has rulelist \"nolist\"");
    let not_found = compiled.reports.iter().filter(|report| report.reason == Reason::RefNotFound).count();
    assert_eq!((not_found, compiled.reports.len()), (5, 7));
}

#[test]
fn a_route_with_a_dangling_reference_is_left_out_and_its_rules_refuse() {
    let route = "{apiVersion: l7mp.io/v1, kind: Route, metadata: {name: r}, \
                 spec: {destinationRef: there, egress: [{clusterRef: absent}]}}";
    let listener = "spec: {UDP: {port: 1}}, rules: [{action: {routeRef: r}}, {action: {routeRef: r}}]";
    let compiled = compiled(&[target("there"), route.to_owned(), service("name: vs", listener)]);
    for rule in inline_rules(&compiled.config) {
        assert_eq!(
            refusal(rule),
            "Route default/r is not usable: there is no Target, VirtualService or Service default/absent"
        );
    }
    assert_eq!((compiled.config.routes.len(), cluster_names(&compiled.config).len()), (0, 0));
    assert_eq!(
        reasons(&compiled),
        [
            ("VirtualService default/vs".to_owned(), "spec.listener.rules[0].action.routeRef", Reason::RefNotUsable),
            ("VirtualService default/vs".to_owned(), "spec.listener.rules[1].action.routeRef", Reason::RefNotUsable),
            ("Route default/r".to_owned(), "spec.egress[0].clusterRef", Reason::RefNotFound),
        ]
    );
}

#[test]
fn a_target_of_other_pods_is_refused_and_one_of_this_pod_comes_unreferenced() {
    let mine = target("mine").replace("spec: {cluster", "spec: {selector: {}, cluster");
    let theirs = target("theirs").replace("spec: {cluster", "spec: {selector: {matchLabels: {app: x}}, cluster");
    let listener = format!("spec: {{UDP: {{port: 1}}}}, rules: [{}]", to("theirs"));
    let compiled = compiled(&[mine, theirs, target("unused"), service("name: vs", &listener)]);
    assert_eq!(cluster_names(&compiled.config), ["default/mine"]);
    let path = "spec.listener.rules[0].action.route.destinationRef";
    assert_eq!(reasons(&compiled), [("VirtualService default/vs".to_owned(), path, Reason::TargetNotOnPod)]);
}

#[test]
fn of_two_that_want_one_port_the_older_wins() {
    let old = "creationTimestamp: '2026-01-01T00:00:00Z'";
    let new = "creationTimestamp: '2026-02-01T00:00:00Z'";
    let udp = "spec: {UDP: {port: 1}}";
    let table = [
        (format!("name: a, {new}"), format!("name: b, {old}"), "default/b"),
        (format!("name: a, {old}"), format!("name: b, {old}"), "default/a"),
        ("name: a".to_owned(), format!("name: b, {new}"), "default/b"),
        ("name: b".to_owned(), "name: a".to_owned(), "default/a"),
    ];
    for (first, second, winner) in table {
        let compiled =
            compiled(&[service(&first, udp), service(&second, udp), service("name: c", "spec: {TCP: {port: 1}}")]);
        assert_eq!(listener_names(&compiled.config), [winner, "default/c"], "{first} {second}");
        assert_eq!(compiled.reports.len(), 1);
        assert_eq!(compiled.reports[0].reason, Reason::PortConflict);
        assert!(compiled.reports[0].message.contains(winner), "{}", compiled.reports[0]);
    }
}

#[test]
fn rules_of_a_list_stand_by_position_then_age_then_name() {
    let refuse = "refuse: x";
    let compiled = compiled(&[
        service("name: vs", "spec: {UDP: {port: 1}}, rulesRef: all"),
        rule("name: none-b", "all", "", refuse),
        rule("name: none-a", "all", "", refuse),
        rule("name: ten", "all", "position: 10, ", refuse),
        rule("name: two-young, creationTimestamp: '2026-03-01T00:00:00Z'", "all", "position: 2, ", refuse),
        rule("name: two-z, creationTimestamp: '2026-01-01T00:00:00Z'", "all", "position: 2, ", refuse),
        rule("name: two-a, creationTimestamp: '2026-01-01T00:00:00Z'", "all", "position: 2, ", refuse),
        rule("name: other", "another", "position: 1, ", refuse),
        rule("name: foreign, namespace: elsewhere", "all", "position: 1, ", refuse),
        rule("name: not-here", "all", "position: 1, selector: {matchLabels: {app: x}}, ", refuse),
    ]);
    assert_eq!(compiled.config.listeners[0].rules, Rules::List("default/all".to_owned()));
    let names = ["two-a", "two-z", "two-young", "ten", "none-a", "none-b"];
    let expected: Vec<Ref<Rule>> = names.iter().map(|name| Ref::Name(format!("default/{name}"))).collect();
    assert_eq!(compiled.config.rulelists.len(), 1, "lists that nothing refers to stay out");
    assert_eq!(compiled.config.rulelists[0].rules, expected);
    assert_eq!(compiled.config.rules.len(), expected.len());
}

#[test]
fn inline_rules_come_before_those_of_the_list() {
    let listener = format!("spec: {{UDP: {{port: 1}}}}, rulesRef: all, rules: [{}]", to("there"));
    let compiled =
        compiled(&[target("there"), service("name: vs", &listener), rule("name: r", "all", "", "refuse: x")]);
    let rules = inline_rules(&compiled.config);
    assert!(matches!(&rules[0].action.target, ActionTarget::Route(_)));
    assert_eq!((&rules[1].matches, &rules[1].action.target), (&None, &ActionTarget::Apply("default/all".to_owned())));
}

#[test]
fn rule_lists_that_apply_each_other_are_cut_and_the_document_stays_good() {
    let compiled = compiled(&[
        service("name: vs", "spec: {UDP: {port: 1}}, rulesRef: a"),
        rule("name: a1", "a", "", "apply: b"),
        rule("name: b1", "b", "position: 1, ", "apply: a"),
        rule("name: b2", "b", "position: 2, ", "apply: c"),
        rule("name: c1", "c", "", "refuse: end"),
        rule("name: d1", "d", "", "apply: d"),
    ]);
    let loops: Vec<_> = compiled.reports.iter().map(|report| (report.object.name.as_str(), report.reason)).collect();
    assert_eq!(loops, [("a1", Reason::RuleListLoop), ("b1", Reason::RuleListLoop)]);
    let text = serde_json::to_string(&compiled.config).unwrap();
    assert_eq!(Config::read(&text), Ok(compiled.config));
}

#[test]
fn rule_lists_that_are_too_many_for_a_proxy_are_cut_where_those_below_are_still_usable() {
    // From l01 on; l40 is the last.
    let lists = |count: usize| -> Vec<String> {
        let of_list = |list: usize| {
            let action = if list < count { format!("apply: l{:02}", list + 1) } else { "refuse: end".to_owned() };
            rule(&format!("name: r{list:02}"), &format!("l{list:02}"), "", &action)
        };
        (1..=count).map(of_list).collect()
    };
    let all =
        |count: usize| [lists(count), vec![service("name: vs", "spec: {UDP: {port: 1}}, rulesRef: l01")]].concat();
    assert_eq!(compiled(&all(31)).reports, [], "with the listener's own rules that makes 32");

    let compiled = compiled(&all(40));
    let said =
        "rule list \"l10\" is the first of 31 that apply one another, no more may: the rule refuses its sessions";
    let expected = format!("Rule default/r09: spec.rule.action.apply: {said} (RuleListLoop)");
    assert_eq!(compiled.reports.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    let cut = compiled.config.rules.iter().filter(|rule| !matches!(rule.action.target, ActionTarget::Apply(_)));
    let cut: Vec<_> = cut.map(|rule| rule.name.as_str()).collect();
    assert_eq!(cut, ["default/r09", "default/r40"]);
}

#[test]
fn inline_clusters_get_names_from_their_objects() {
    let echo = "{spec: {Echo: {}}}";
    let route = format!(
        "{{apiVersion: l7mp.io/v1, kind: Route, metadata: {{name: x}}, spec: {{destination: {echo}, egress: [{{cluster: {echo}}}]}}}}"
    );
    let inline = format!("{{action: {{route: {{destination: {echo}, ingress: [{{cluster: {echo}}}]}}}}}}");
    let listener = format!("spec: {{UDP: {{port: 1}}}}, rulesRef: l, rules: [{{action: {{routeRef: x}}}}, {inline}]");
    let action = format!("route: {{destination: {echo}}}");
    let compiled = compiled(&[route, service("name: x", &listener), rule("name: x", "l", "", &action)]);
    assert_eq!(
        cluster_names(&compiled.config),
        [
            "default/x/inline-eb9bbf9a",
            "default/x/route/destination",
            "default/x/route/inline-eb9bbf9a",
            "default/x/rule/destination",
        ]
    );
    let find = |path: &str| compiled.origins.find(path).unwrap().to_string();
    assert_eq!(
        find("clusters[0].endpoints[0]"),
        "VirtualService default/x spec.listener.rules[1].action.route.destination.endpoints[0]",
        "of two that are the same the first"
    );
    assert_eq!(find("clusters[1]"), "Route default/x spec.destination");
    assert_eq!(find("clusters[2].spec"), "Route default/x spec.egress[0].cluster.spec");
    assert_eq!(find("clusters[3]"), "Rule default/x spec.rule.action.route.destination");
    assert_eq!(find("listeners[0].rules[1].match"), "VirtualService default/x spec.listener.rules[1].match");
    assert_eq!(find("routes[0].retry"), "Route default/x spec.retry");
    assert_eq!(find("rulelists[0].rules[0]"), "Rule default/x spec.rule");
}

/// The names of the clusters of each inline rule, in their order along the route.
fn stages(compiled: &Compiled) -> Vec<Vec<String>> {
    let name = |stage: &Ref<Cluster>| match stage {
        Ref::Name(name) => name.clone(),
        Ref::Inline(cluster) => panic!("{cluster:?} is inline"),
    };
    let of_rule = |rule: &Rule| match &rule.action.target {
        ActionTarget::Route(Ref::Inline(route)) => {
            route.ingress.iter().chain([&route.destination]).chain(&route.egress).map(name).collect()
        }
        other => panic!("{other:?}"),
    };
    inline_rules(&compiled.config).into_iter().map(of_rule).collect()
}

/// An inline cluster at an address.
fn at(address: &str, more: &str) -> String {
    format!("{{spec: {{UDP: {{port: 1}}}}, endpoints: [{{spec: {{address: {address}}}}}]{more}}}")
}

fn stages_of(rules: &[String]) -> Vec<Vec<String>> {
    stages(&compiled(&[service("name: vs", &format!("spec: {{UDP: {{port: 1}}}}, rules: [{}]", rules.join(", ")))]))
}

#[test]
fn what_is_put_before_an_inline_cluster_does_not_rename_it() {
    let rule = |destination: &str, ingress: &[&str]| {
        let ingress: Vec<String> = ingress.iter().map(|address| format!("{{cluster: {}}}", at(address, ""))).collect();
        let destination = at(destination, "");
        format!("{{action: {{route: {{destination: {destination}, ingress: [{}]}}}}}}", ingress.join(", "))
    };
    let (a, b, new) = (rule("a", &["i"]), rule("b", &[]), rule("c", &["k", "l"]));
    let before = stages_of(&[a.clone(), b.clone()]);
    let all: std::collections::BTreeSet<&String> = before.iter().flatten().collect();
    assert_eq!(all.len(), 3, "they differ: {before:?}");

    let after = stages_of(&[new.clone(), a.clone(), new, b.clone()]);
    assert_eq!((&after[1], &after[3]), (&before[0], &before[1]));
    assert_eq!(after[0], after[2], "what is the same is one cluster");
    assert!(!after[0].iter().any(|name| all.contains(name)), "no other takes a name: {after:?}");
    assert_eq!(stages_of(std::slice::from_ref(&b)), before[1..], "nor does what goes away");
    let longer = stages_of(&[rule("a", &["k", "i"]), b]);
    assert_eq!(longer[0][1..], before[0], "nor a stage before it: {longer:?}");
}

#[test]
fn the_chains_of_routes_and_rules_are_named_as_well() {
    let chain = |addresses: &[&str]| {
        let items: Vec<String> = addresses.iter().map(|address| format!("{{cluster: {}}}", at(address, ""))).collect();
        format!("destination: {}, egress: [{}]", at("d", ""), items.join(", "))
    };
    let names = |addresses: &[&str]| {
        let route = "{apiVersion: l7mp.io/v1, kind: Route, metadata: {name: x}, spec: {CHAIN}}";
        let listener = "spec: {UDP: {port: 1}}, rulesRef: l, rules: [{action: {routeRef: x}}]";
        let action = format!("route: {{{}}}", chain(addresses));
        let documents = [
            route.replace("CHAIN", &chain(addresses)),
            service("name: x", listener),
            rule("name: x", "l", "", &action),
        ];
        let compiled = compiled(&documents);
        cluster_names(&compiled.config).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let (before, after) = (names(&["a"]), names(&["b", "a"]));
    assert_eq!((before.len(), after.len()), (4, 6));
    assert!(before.iter().all(|name| after.contains(name)), "{before:?} {after:?}");
}

#[test]
fn how_an_inline_cluster_is_balanced_may_change_under_its_sessions() {
    let rule = |more: &str| format!("{{action: {{route: {{destination: {}}}}}}}", at("a", more));
    let (plain, timed, other) = (rule(""), rule(", drainTimeout: 5s"), rule(", drainTimeout: 7s"));
    let before = stages_of(std::slice::from_ref(&plain));
    assert_eq!(stages_of(std::slice::from_ref(&timed)), before);

    let rules = [&plain, &timed, &other, &timed].map(String::as_str).join(", ");
    let compiled = compiled(&[service("name: vs", &format!("spec: {{UDP: {{port: 1}}}}, rules: [{rules}]"))]);
    let names: Vec<String> = stages(&compiled).concat();
    assert_eq!((&names[0], &names[1]), (&before[0][0], &names[3]));
    assert!(names[1].starts_with(&format!("{}-", names[0])) && names[1] != names[2], "{names:?}");
    let timeout = |name: &str| {
        let cluster = compiled.config.clusters.iter().find(|cluster| cluster.name == name);
        cluster.unwrap().drain_timeout.map(|timeout| timeout.as_secs())
    };
    assert_eq!([0, 1, 2].map(|rule| timeout(&names[rule])), [None, Some(5), Some(7)], "each is what its rule says");
}

#[test]
fn what_is_wrong_with_two_inline_clusters_that_are_the_same_is_reported_of_both() {
    let rule = "{action: {route: {destination: {spec: {UDP: {port: 1}}, endpoints: [{selector: {matchService: s}}]}}}}";
    let compiled = compiled(&[service("name: vs", &format!("spec: {{UDP: {{port: 1}}}}, rules: [{rule}, {rule}]"))]);
    assert_eq!(compiled.config.clusters.len(), 1);
    let of_rule = |rule: usize| {
        let path = format!("spec.listener.rules[{rule}].action.route.destination.endpoints");
        [(path.clone(), Reason::Degraded), (format!("{path}[0].selector.matchService"), Reason::RefNotFound)]
    };
    let reports: Vec<_> = compiled.reports.iter().map(|report| (report.path.clone(), report.reason)).collect();
    assert_eq!(reports, [of_rule(0), of_rule(1)].concat());
}

#[test]
fn an_unknown_pod_is_an_error_that_names_it_and_the_pod_that_was_meant() {
    let world = world(&[
        POD.to_owned(),
        POD.replace("name: gw", "name: gateway"),
        POD.replace("name: gw", "name: far, namespace: other"),
        service("name: vs", "spec: {UDP: {port: 1}}"),
    ]);
    for (pod, meant) in [
        ("default/gatway", "; is default/gateway meant?"),
        ("default/far", "; is other/far meant?"),
        ("default/something-else", ""),
    ] {
        let error = compile(&world, &pod.parse().unwrap(), &View::alone(&HeldBack::new())).unwrap_err();
        let expected = format!("there is no Pod {pod}, and its Pod object must be among the manifests{meant}");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_port_conflict_does_not_call_an_object_older_that_is_not() {
    let udp = "spec: {UDP: {port: 1}}";
    let created = |day: u8| format!(", creationTimestamp: '2026-01-{day:02}T00:00:00Z'");
    let table = [
        (String::new(), String::new(), "comes first by namespace and name (neither has a creationTimestamp)"),
        (created(1), created(1), "is as old, and comes first by namespace and name"),
        (created(1), created(2), "is older by creationTimestamp"),
        (created(1), String::new(), "has a creationTimestamp, while this one has none"),
    ];
    for (a, b, why) in table {
        let compiled = compiled(&[service(&format!("name: a{a}"), udp), service(&format!("name: b{b}"), udp)]);
        let expected = format!("UDP port 1 belongs to VirtualService default/a, which {why}: left out on this pod");
        assert_eq!(compiled.reports[0].message, expected);
    }
}

#[test]
fn an_object_that_is_held_back_takes_only_itself_out() {
    let listener = format!("spec: {{UDP: {{port: 1}}}}, rulesRef: l, rules: [{}]", to("t"));
    let documents = [
        POD.to_owned(),
        target("t"),
        service("name: a", &listener),
        service("name: b", "spec: {UDP: {port: 2}}"),
        rule("name: r", "l", "", "refuse: x"),
    ];
    let world = world(&documents);
    let without = |kind, name| {
        let held = HeldBack::from([(ObjectId::new(kind, "default", name), "not today".to_owned())]);
        compile(&world, &"default/gw".parse().unwrap(), &View::alone(&held)).unwrap()
    };
    assert_eq!(listener_names(&without(Kind::VirtualService, "a").config), ["default/b"]);
    let compiled = without(Kind::Target, "t");
    assert_eq!(refusal(inline_rules(&compiled.config)[0]), "Target default/t is held back: not today");
    assert_eq!(listener_names(&compiled.config), ["default/a", "default/b"]);
    let compiled = without(Kind::Rule, "r");
    assert_eq!(compiled.config.rulelists[0].rules, [], "the list is there, and empty");
    let text = serde_json::to_string(&compiled.config).unwrap();
    assert_eq!(Config::read(&text), Ok(compiled.config));
}

#[test]
fn a_linked_virtual_service_is_dialled_on_the_pods_that_it_selects() {
    let target =
        "{apiVersion: l7mp.io/v1, kind: Target, metadata: {name: t}, spec: {selector: {}, linkedVirtualService: LINK}}";
    let documents = |link: &str| {
        [
            target.replace("LINK", link),
            service("name: vs", "spec: {TCP: {port: 7, framing: line}}"),
            POD.replace("name: gw", "name: gw2")
                .replace("status:", "spec: {containers: [{name: l7mp}]}\nstatus:")
                .replace("10.0.0.1}", "10.0.0.2, conditions: [{type: Ready, status: 'True'}]}"),
        ]
    };
    let good = compiled(&documents("vs"));
    let text = serde_json::to_value(&good.config.clusters).unwrap();
    assert_eq!(text[0]["spec"], serde_json::json!({"TCP": {"port": 7, "framing": "line"}}));
    assert_eq!(text[0]["endpoints"][0]["name"], "default/gw2");
    let bad = compiled(&documents("absent"));
    assert_eq!(cluster_names(&bad.config), [""; 0]);
    assert_eq!(reasons(&bad), [("Target default/t".to_owned(), "spec.linkedVirtualService", Reason::RefNotFound)]);
}
