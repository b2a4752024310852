//! What a reference means: Targets, VirtualServices and plain Services, with consent across namespaces.

mod common;

use common::{app, cluster, compiled, destination, endpoints, object, proxy, reports, world};
use l7mp_api::config::{ClusterSpec, Policy};
use l7mp_compiler::compile::Reason;
use l7mp_compiler::object::{Kind, ObjectId};
use l7mp_compiler::references::references;

/// A gateway whose one rule leads to `reference`, and other documents.
fn gateway(reference: &str, others: &str) -> String {
    let rule = format!("{{action: {{route: {{destinationRef: '{reference}'}}}}}}");
    let listener =
        format!("selector: {{matchLabels: {{app: gw}}}}, listener: {{spec: {{UDP: {{port: 1}}}}, rules: [{rule}]}}");
    format!(
        "{}{}{others}",
        proxy("name: gw, labels: {app: gw}", "10.0.0.1"),
        object("VirtualService", "name: vs", &listener)
    )
}

fn target(metadata: &str) -> String {
    object("Target", metadata, "cluster: {spec: {Echo: {}}}")
}

fn listener(metadata: &str, spec: &str) -> String {
    object(
        "VirtualService",
        metadata,
        &format!("selector: {{matchLabels: {{app: w}}}}, listener: {{spec: {{{spec}}}}}"),
    )
}

fn service(metadata: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Service, metadata: {{{metadata}}}, spec: {{{spec}}}}}\n")
}

fn slice(metadata: &str, rest: &str) -> String {
    format!("---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{{metadata}}}, {rest}}}\n")
}

/// What a reference is refused with: its reason and its message, which the rule and its report agree on.
fn refused(reference: &str, others: &str) -> (Reason, String) {
    let compiled = compiled(&gateway(reference, others));
    let why = destination(&compiled).unwrap_err().to_owned();
    let path = "spec.listener.rules[0].action.route.destinationRef";
    let report = compiled.reports.iter().find(|report| report.path == path);
    let report = report.unwrap_or_else(|| panic!("{reference}: {:?}", compiled.reports));
    assert_eq!(report.message, format!("{why}: rules that use this route refuse their sessions"));
    assert_eq!(report.object, ObjectId::new(Kind::VirtualService, "default", "vs"));
    // Without the pod, the same is said of what does not depend on it.
    let world = world(&gateway(reference, others));
    let found = references(&world, world.get(&report.object).unwrap());
    if report.reason != Reason::TargetNotOnPod {
        assert!(found.contains(report), "{found:?}");
    }
    (report.reason, why)
}

#[test]
fn a_name_is_a_target_then_a_virtual_service_then_a_service() {
    let all = format!(
        "{}{}{}",
        target("name: x"),
        listener("name: x", "UDP: {port: 7}"),
        service("name: x", "ports: [{port: 53, protocol: UDP}]")
    );
    let (without_target, only_service) = (all.split_once("---\n").unwrap().1.split_once("---\n").unwrap().1, {
        service("name: x", "ports: [{port: 53, protocol: UDP}]")
    });
    let without_target = format!("---\n{without_target}");
    for (reference, others, expected) in [
        ("x", &all, "default/x"),
        ("default/x", &all, "default/x"),
        ("/apis/l7mp.io/v1/namespaces/default/targets/x", &all, "default/x"),
        ("/l7mp.io/v1/Target/default/x", &all, "default/x"),
        ("x", &without_target, "default/x/listener"),
        ("/apis/l7mp.io/v1/namespaces/default/virtualservices/x", &all, "default/x/listener"),
        ("/l7mp.io/v1/VirtualService/default/x", &all, "default/x/listener"),
        ("x", &only_service, "default/x:53"),
        ("x:53", &all, "default/x:53"),
        ("/api/v1/namespaces/default/services/x", &all, "default/x:53"),
        ("/api/v1/namespaces/default/services/x:53", &all, "default/x:53"),
    ] {
        let compiled = compiled(&gateway(reference, others));
        assert_eq!(destination(&compiled), Ok(expected), "{reference}");
    }
}

#[test]
fn a_path_of_one_kind_never_means_another() {
    let others = target("name: x");
    for (reference, message) in [
        ("/apis/l7mp.io/v1/namespaces/default/virtualservices/x", "there is no VirtualService default/x"),
        ("/api/v1/namespaces/default/services/x", "there is no Service default/x"),
        ("x:80", "there is no Service default/x"),
        ("y", "there is no Target, VirtualService or Service default/y"),
    ] {
        assert_eq!(refused(reference, &others), (Reason::RefNotFound, message.to_owned()));
    }
    assert_eq!(refused("a/b/c", &others).0, Reason::InvalidReference);
}

#[test]
fn a_virtual_service_is_dialled_on_its_pods_that_have_a_proxy() {
    let others = format!(
        "{}{}{}",
        listener("name: x", "WebSocket: {port: 8888, path: /play}"),
        proxy("name: w-1, labels: {app: w}", "10.0.0.2"),
        app("name: w-2, labels: {app: w}", "10.0.0.3"),
    );
    let compiled = compiled(&gateway("x", &others));
    let dialled = cluster(&compiled, "default/x/listener");
    let ClusterSpec::WebSocket(web) = &dialled.spec else { panic!("{dialled:?}") };
    assert_eq!((web.port, web.path.as_deref()), (Some(8888), Some("/play")));
    assert_eq!(endpoints(dialled), ["10.0.0.2"]);
    assert_eq!(dialled.loadbalancer.policy, Policy::ConsistentHash);
    let uses: Vec<String> =
        compiled.uses.iter().map(|used| format!("{} {} {}", used.pod, used.service, used.port)).collect();
    assert_eq!(uses, ["default/w-1 VirtualService default/x TCP port 8888"]);
}

#[test]
fn what_cannot_be_dialled_says_why() {
    let own = refused("vs", "");
    assert_eq!(own.0, Reason::InvalidReference);
    assert!(own.1.contains("VirtualService default/vs would send its sessions to itself"), "{}", own.1);
    let zero = refused("x", &listener("name: x", "UDP: {port: 0}"));
    assert!(zero.0 == Reason::RefNotUsable && zero.1.contains("port 0, which the kernel chooses"), "{}", zero.1);
    let external = service("name: x", "type: ExternalName, ports: [{port: 80}]");
    let tls = service("name: x", "ports: [{name: web, port: 443, appProtocol: kubernetes.io/wss}]");
    let sctp = service("name: x", "ports: [{port: 80, protocol: SCTP}]");
    let two = service("name: x", "ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]");
    let none = service("name: x", "clusterIP: None");
    for (reference, service, reason, message) in [
        (
            "x",
            &external,
            Reason::UnsupportedService,
            "Service default/x is of type ExternalName, which has no endpoints; write a Target with its DNS name",
        ),
        (
            "x",
            &sctp,
            Reason::UnsupportedService,
            "port SCTP 80 of Service default/x is SCTP, and only UDP and TCP can be dialled",
        ),
        (
            "x",
            &tls,
            Reason::UnsupportedService,
            "port web (TCP 443) of Service default/x has appProtocol kubernetes.io/wss, and TLS is not supported yet: let \
             the Service's pods speak WebSocket without it, on a port with appProtocol kubernetes.io/ws",
        ),
        (
            "x",
            &two,
            Reason::InvalidReference,
            "Service default/x has several ports (dns (UDP 53), dns-tcp (TCP 53)): write default/x:PORT",
        ),
        (
            "x:53",
            &two,
            Reason::InvalidReference,
            "Service default/x has several ports 53 (dns (UDP 53), dns-tcp (TCP 53)): write default/x:PORTNAME",
        ),
        (
            "x:http",
            &two,
            Reason::RefNotFound,
            "Service default/x has no port http; it has dns (UDP 53), dns-tcp (TCP 53)",
        ),
        ("x", &none, Reason::RefNotFound, "Service default/x has no ports"),
    ] {
        assert_eq!(refused(reference, service), (reason, message.to_owned()));
    }
}

#[test]
fn a_service_is_dialled_at_the_addresses_of_its_slices() {
    let others = format!(
        "{}{}{}{}",
        service(
            "name: x",
            "clusterIP: 10.96.0.1, ports: [{name: a, port: 1, protocol: UDP, targetPort: http}, {name: b, port: 2}]"
        ),
        slice(
            "name: x-1, labels: {kubernetes.io/service-name: x}",
            "addressType: IPv4, ports: [{name: a, port: 7001, protocol: UDP}, {name: b, port: 7002}], endpoints: [\
             {addresses: [10.0.1.2], targetRef: {kind: Pod, name: p-2}},\
             {addresses: [10.0.1.1], targetRef: {kind: Pod, name: p-1}, conditions: {ready: true}},\
             {addresses: [10.0.1.3], conditions: {ready: false, serving: true, terminating: true}},\
             {addresses: [10.0.1.4], conditions: {ready: false}},\
             {addresses: []}, {addresses: ['not an address']}]"
        ),
        slice(
            "name: x-2, labels: {kubernetes.io/service-name: x}",
            "addressType: IPv4, ports: [{name: a, port: 7777, protocol: UDP}], endpoints: [\
             {addresses: [10.0.1.5]}, {addresses: [10.0.1.1], targetRef: {kind: Pod, name: p-1}}]"
        ),
        slice(
            "name: x-6, labels: {kubernetes.io/service-name: x}",
            "addressType: IPv6, ports: [{name: a, port: 7001, protocol: UDP}], endpoints: [{addresses: ['fd00::1']}]"
        ),
    );
    let compiled = compiled(&gateway("x:a", &others));
    let dialled = cluster(&compiled, "default/x:a");
    assert_eq!(endpoints(dialled), ["10.0.1.3 draining", "10.0.1.4 unready", "10.0.1.5:7777", "10.0.1.1", "10.0.1.2"]);
    assert!(matches!(&dialled.spec, ClusterSpec::Udp(udp) if udp.port == Some(7001)), "{dialled:?}");
    assert_eq!(dialled.loadbalancer.policy, Policy::ConsistentHash);
    assert_eq!(reports(&compiled), [""; 0]);

    let compiled = common::compiled(&gateway("x:2", &others));
    let dialled = cluster(&compiled, "default/x:b");
    assert!(matches!(&dialled.spec, ClusterSpec::Tcp(tcp) if tcp.port == Some(7002)), "{dialled:?}");
    assert_eq!(dialled.endpoints.len(), 4, "the second slice does not have that port: {dialled:?}");
}

#[test]
fn a_service_of_ipv6_alone_or_of_dns_names_is_dialled_there() {
    for (kind, address) in [("IPv6", "fd00::1"), ("FQDN", "host.example.org")] {
        let others = format!(
            "{}{}",
            service("name: x", "ports: [{port: 80, targetPort: 8080}]"),
            slice(
                "name: x-1, labels: {kubernetes.io/service-name: x}",
                &format!("addressType: {kind}, ports: [{{port: 8080}}], endpoints: [{{addresses: ['{address}']}}]")
            )
        );
        assert_eq!(endpoints(cluster(&compiled(&gateway("x", &others)), "default/x:80")), [address]);
    }
}

#[test]
fn the_app_protocol_of_a_port_makes_it_a_websocket() {
    for (port, expected) in [
        ("port: 80, appProtocol: kubernetes.io/ws", "WebSocket"),
        ("port: 80, protocol: TCP, appProtocol: kubernetes.io/ws", "WebSocket"),
        ("port: 80", "TCP"),
        ("port: 80, appProtocol: http", "TCP"),
        ("port: 80, appProtocol: example.com/kubernetes.io/ws", "TCP"),
        ("port: 80, protocol: UDP, appProtocol: kubernetes.io/ws", "UDP"),
    ] {
        let others = format!(
            "{}{}",
            service("name: x", &format!("ports: [{{{port}}}]")),
            slice(
                "name: x-1, labels: {kubernetes.io/service-name: x}",
                "addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.0.1.1]}]"
            )
        );
        let compiled = compiled(&gateway("x", &others));
        let dialled = cluster(&compiled, "default/x:80");
        let (spoken, number) = match &dialled.spec {
            ClusterSpec::WebSocket(web) => ("WebSocket", web.port),
            ClusterSpec::Tcp(tcp) => ("TCP", tcp.port),
            ClusterSpec::Udp(udp) => ("UDP", udp.port),
            other => panic!("{port}: {other:?}"),
        };
        assert_eq!((spoken, number), (expected, Some(8080)), "{port}");
        assert_eq!(endpoints(dialled), ["10.0.1.1"], "{port}");
    }
}

#[test]
fn a_service_without_endpoints_is_degraded_and_its_port_is_known() {
    let compiled = compiled(&gateway("x", &service("name: x", "ports: [{port: 80, targetPort: 8080}]")));
    assert!(matches!(&cluster(&compiled, "default/x:80").spec, ClusterSpec::Tcp(tcp) if tcp.port == Some(8080)));
    assert_eq!(
        reports(&compiled),
        [
            "VirtualService default/vs: spec.listener.rules[0].action.route.destinationRef: Service default/x: there is no endpoint: sessions cannot be opened until there is one (Degraded)"
        ]
    );
}

#[test]
fn a_reference_to_another_namespace_needs_the_consent_of_what_it_names() {
    let open = ", annotations: {l7mp.io/accept-from: 'default, games'}";
    let closed = ", annotations: {l7mp.io/accept-from: games}";
    let advice = "does not accept references from namespace default; annotate it with l7mp.io/accept-from: \"default\"";
    type Make = fn(&str) -> String;
    let kinds: [(&str, &str, Make); 3] = [
        ("Target", "other/x", |meta| target(&format!("name: x, namespace: other{meta}"))),
        ("VirtualService", "other/x/listener", |meta| {
            listener(&format!("name: x, namespace: other{meta}"), "UDP: {port: 7}")
        }),
        ("Service", "other/x:80", |meta| service(&format!("name: x, namespace: other{meta}"), "ports: [{port: 80}]")),
    ];
    for (kind, name, make) in kinds {
        assert_eq!(destination(&compiled(&gateway("other/x", &make(open)))), Ok(name));
        for meta in ["", closed] {
            let expected = (Reason::NoConsent, format!("{kind} other/x {advice}"));
            assert_eq!(refused("other/x", &make(meta)), expected);
        }
    }
    let route =
        |meta: &str| object("Route", &format!("name: r, namespace: other{meta}"), "destination: {spec: {Echo: {}}}");
    let by_route =
        |meta: &str| gateway("unused", &route(meta)).replace("route: {destinationRef: 'unused'}", "routeRef: other/r");
    assert_eq!(compiled(&by_route(open)).config.routes.len(), 1);
    let refused = compiled(&by_route(""));
    assert_eq!(destination(&refused), Err(format!("Route other/r {advice}").as_str()));

    let link = |meta: &str| {
        let linked = listener(&format!("name: x, namespace: other{meta}"), "UDP: {port: 7}");
        format!("{}{linked}", object("Target", "name: t", "linkedVirtualService: other/x"))
    };
    assert_eq!(destination(&compiled(&gateway("t", &link(open)))), Ok("default/t"));
    let not_linked = compiled(&gateway("t", &link("")));
    assert_eq!(destination(&not_linked), Err(format!("VirtualService other/x {advice}").as_str()));
}

#[test]
fn references_of_an_object_that_no_pod_has_are_judged_too() {
    let text = [
        target("name: there"),
        object("Target", "name: linked", "linkedVirtualService: absent"),
        object("Target", "name: picky", "selector: {matchService: absent}, cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {address: a}}, {selector: {matchService: gone}}]}"),
        object("Route", "name: r", "destinationRef: there, egress: [{clusterRef: absent}]"),
        object("Rule", "name: rule", "rulelist: l, rule: {action: {routeRef: r}}"),
        object("VirtualService", "name: vs", "selector: {matchLabels: {app: nobody}}, listener: {spec: {UDP: {port: 1}}, rulesRef: none, rules: [{action: {apply: l}}, {action: {apply: m}}, {action: {route: {destinationRef: linked}}}]}"),
    ]
    .concat();
    let world = world(&text);
    let said = |kind, name| -> Vec<String> {
        let object = world.get(&ObjectId::new(kind, "default", name)).unwrap();
        references(&world, object).iter().map(|report| format!("{} {}", report.path, report.reason)).collect()
    };
    assert_eq!(said(Kind::Target, "there"), [""; 0]);
    assert_eq!(said(Kind::Target, "linked"), ["spec.linkedVirtualService RefNotFound"]);
    assert_eq!(
        said(Kind::Target, "picky"),
        ["spec.cluster.endpoints[1].selector.matchService RefNotFound", "spec.selector.matchService RefNotFound"]
    );
    assert_eq!(said(Kind::Route, "r"), ["spec.egress[0].clusterRef RefNotFound"]);
    assert_eq!(said(Kind::Rule, "rule"), ["spec.rule.action.routeRef RefNotUsable"]);
    assert_eq!(
        said(Kind::VirtualService, "vs"),
        [
            "spec.listener.rulesRef RefNotFound",
            "spec.listener.rules[1].action.apply RefNotFound",
            "spec.listener.rules[2].action.route.destinationRef RefNotFound"
        ]
    );
}
