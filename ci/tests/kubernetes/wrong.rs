//! Wrong objects: each is refused by the API server with a message, or taken and explained by a condition. None of them
//! disturbs an object or a session that works.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::clients::Load;
use crate::installed::{Kubernetes, PATIENCE};

const CLIENTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(20);
/// Answers of each client before the wrong objects, while they are there, and after them.
const LINES: usize = 50;

/// What the task itself has made; none of it may change.
const WORKING: [&str; 5] =
    ["vsvc/gateway-vsvc", "vsvc/transcoder-vsvc", "tr/udp-cluster", "tr/websocket-cluster", "tr/uds-cluster"];

/// What is said of a wrong object.
enum Said {
    /// By the API server: part of its message.
    Refused(&'static str),
    /// By a condition that is not as it should be: its type, its reason, and part of its message.
    Explained(&'static str, &'static str, &'static str),
}

use Said::{Explained, Refused};

/// An object of ours in the namespace `default`.
struct Wrong {
    kind: &'static str,
    name: &'static str,
    /// As YAML in one line.
    spec: &'static str,
    said: Said,
}

const fn wrong(kind: &'static str, name: &'static str, spec: &'static str, said: Said) -> Wrong {
    Wrong { kind, name, spec, said }
}

impl Wrong {
    fn yaml(&self) -> String {
        let Wrong { kind, name, spec, .. } = self;
        format!(
            "apiVersion: l7mp.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: default, labels: {{made-by: wrong}}}}\nspec: {{{spec}}}\n"
        )
    }

    /// As kubectl names it.
    fn path(&self) -> String {
        format!("{}.l7mp.io/{}", self.kind.to_lowercase(), self.name)
    }
}

/// What some of the wrong objects point at; nothing is wrong with these by themselves.
const BESIDE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: elsewhere}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: elsewhere, labels: {app: stranger}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  # Its name makes it a pod with a proxy.
  containers: [{name: l7mp, image: 'docker.io/l7mp/first-task:0.1.0', command: [sleep, infinity]}]
---
apiVersion: l7mp.io/v1
kind: Target
metadata: {name: private, namespace: elsewhere}
spec: {cluster: {spec: {Echo: {}}}}
---
apiVersion: v1
kind: Service
metadata: {name: external, namespace: default}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: v1
kind: Service
metadata: {name: several, namespace: default}
spec: {selector: {app: worker}, ports: [{name: a, port: 1, protocol: UDP}, {name: b, port: 2, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: sctp, namespace: default}
spec: {selector: {app: worker}, ports: [{port: 5, protocol: SCTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: without-selector, namespace: default}
spec: {ports: [{port: 5}]}
";

/// A listener of the gateway that works but for what is written there.
macro_rules! gateway {
    ($port:literal, $rule:literal) => {
        concat!(
            "selector: {matchLabels: {app: l7mp-ingress}}, listener: {spec: {UDP: {port: ",
            $port,
            "}}, rules: [",
            $rule,
            "]}"
        )
    };
}

/// A listener of the gateway of which only the protocol matters.
macro_rules! listens {
    ($spec:literal) => {
        concat!(
            "selector: {matchLabels: {app: l7mp-ingress}}, listener: {spec: {",
            $spec,
            "}, rules: [{action: {refuse: never}}]}"
        )
    };
}

const VSVC: &str = "VirtualService";

/// Refused by the API server.
#[rustfmt::skip]
const REFUSED: &[Wrong] = &[
    wrong(VSVC, "two-protocols", listens!("UDP: {port: 9300}, TCP: {port: 9300}"), Refused("needs exactly one protocol")),
    wrong(VSVC, "no-protocol", listens!(""), Refused("needs exactly one protocol")),
    wrong(VSVC, "port-too-high", listens!("UDP: {port: 70000}"), Refused("should be less than or equal to 65535")),
    wrong(VSVC, "unknown-field", listens!("UDP: {port: 9300, prot: 1}"), Refused("unknown field \"spec.listener.spec.UDP.prot\"")),
    wrong(VSVC, "relative-filename", listens!("UnixDomainSocket: {filename: run/a.sock}"), Refused("is not the path of a socket; write it from / on")),
    wrong(VSVC, "bad-mode", listens!("UnixDomainSocket: {filename: /tmp/a.sock, mode: '0888'}"), Refused("is not an octal mode such as \"0660\"")),
    wrong(VSVC, "no-selector", "listener: {spec: {UDP: {port: 9300}}}", Refused("it says which pods get the listener")),
    wrong(VSVC, "in-without-values", "selector: {matchExpressions: [{key: app, operator: In}]}, listener: {spec: {UDP: {port: 9300}}}", Refused("In and NotIn need at least one value")),
    wrong(VSVC, "unknown-operator", "selector: {matchExpressions: [{key: app, operator: Gt, values: ['1']}]}, listener: {spec: {UDP: {port: 9300}}}", Refused("Unsupported value: \"Gt\"")),
    wrong(VSVC, "unknown-pod-field", "selector: {matchFields: [{key: spec.hostname, operator: Exists}]}, listener: {spec: {UDP: {port: 9300}}}", Refused("Unsupported value: \"spec.hostname\"")),
    wrong(VSVC, "no-action", gateway!("9300", "{action: {}}"), Refused("needs exactly one of route (inline), routeRef")),
    wrong(VSVC, "two-actions", gateway!("9300", "{action: {apply: a, refuse: b}}"), Refused("needs exactly one of route (inline), routeRef")),
    wrong(VSVC, "bad-reference", gateway!("9300", "{action: {route: {destinationRef: a/b/c}}}"), Refused("does not name a Target, VirtualService or Service; write NAME")),
    wrong(VSVC, "singleton-of-whom", "selector: {}, listener: {spec: {UDP: {port: 9300}}, options: {mode: singleton}}", Refused("singleton needs its peer")),
    wrong("Target", "no-weight", "cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {address: 10.0.0.1, weight: 0}}]}", Refused("should be greater than or equal to 1")),
    wrong("Target", "neither-nor", "updateOwners: true", Refused("needs exactly one of cluster and linkedVirtualService")),
    wrong("Target", "echo-of-whom", "cluster: {spec: {Echo: {}}, endpoints: [{selector: {}}]}", Refused("Echo and Discard have no endpoints")),
    wrong("Target", "no-port", "cluster: {spec: {UDP: {}}, endpoints: [{selector: {}}]}", Refused("a selector of pods needs that of the cluster")),
    wrong("Route", "two-destinations", "destinationRef: a, destination: {spec: {Echo: {}}}", Refused("needs exactly one of destination (a cluster, inline) and destinationRef")),
    wrong("Rule", "list-with-space", "rulelist: a b, rule: {action: {refuse: x}}", Refused("is not the name of a rule list")),
];

/// Taken by the API server: what is wrong is seen only together with other objects, pods and proxies.
#[rustfmt::skip]
const EXPLAINED: &[Wrong] = &[
    wrong(VSVC, "dangling-destination", gateway!("9301", "{action: {route: {destinationRef: nowhere}}}"),
        Explained("ResolvedRefs", "RefNotFound", "spec.listener.rules[0].action.route.destinationRef: there is no Target, VirtualService or Service default/nowhere")),
    wrong(VSVC, "dangling-cluster", gateway!("9302", "{action: {route: {destinationRef: udp-cluster, ingress: [{clusterRef: nowhere}]}}}"),
        Explained("ResolvedRefs", "RefNotFound", "spec.listener.rules[0].action.route.ingress[0].clusterRef: there is no Target, VirtualService or Service default/nowhere")),
    wrong(VSVC, "dangling-route", gateway!("9303", "{action: {routeRef: nowhere}}"),
        Explained("ResolvedRefs", "RefNotFound", "spec.listener.rules[0].action.routeRef: there is no Route default/nowhere")),
    wrong(VSVC, "dangling-list", "selector: {matchLabels: {app: l7mp-ingress}}, listener: {spec: {UDP: {port: 9304}}, rulesRef: nowhere}",
        Explained("ResolvedRefs", "RefNotFound", "spec.listener.rulesRef: no Rule of namespace default has rulelist \"nowhere\"")),
    wrong(VSVC, "into-the-loop", "selector: {matchLabels: {app: l7mp-ingress}}, listener: {spec: {UDP: {port: 9305}}, rulesRef: loop-a}",
        Explained("Programmed", "Programmed", "1 of 1 pod runs it")),
    wrong("Rule", "loop-a", "rulelist: loop-a, rule: {action: {apply: loop-b}}",
        Explained("ResolvedRefs", "RuleListLoop", "spec.rule.action.apply: rule list \"loop-b\" leads back to \"loop-a\"")),
    wrong("Rule", "loop-b", "rulelist: loop-b, rule: {action: {apply: loop-a}}",
        Explained("ResolvedRefs", "RuleListLoop", "spec.rule.action.apply: rule list \"loop-a\" leads back to \"loop-b\"")),
    wrong(VSVC, "unwelcome-reference", gateway!("9306", "{action: {route: {destinationRef: elsewhere/private}}}"),
        Explained("ResolvedRefs", "NoConsent", "Target elsewhere/private does not accept references from namespace default; annotate it with l7mp.io/accept-from: \"default\"")),
    wrong(VSVC, "unwelcome-listener", "selector: {matchNamespace: elsewhere, matchLabels: {app: stranger}}, listener: {spec: {UDP: {port: 9307}}}",
        Explained("ResolvedRefs", "NoConsent", "spec.selector: Pod elsewhere/stranger does not accept namespace default")),
    wrong("Target", "unwelcome-endpoint", "cluster: {spec: {UDP: {port: 9}}, endpoints: [{selector: {matchNamespace: elsewhere}}]}",
        Explained("ResolvedRefs", "NoConsent", "spec.cluster.endpoints[0].selector: Pod elsewhere/stranger does not accept namespace default")),
    wrong(VSVC, "target-of-others", gateway!("9308", "{action: {route: {destinationRef: uds-cluster}}}"),
        Explained("ResolvedRefs", "TargetNotOnPod", "Target default/uds-cluster has a selector, which does not select Pod default/l7mp-ingress-")),
    wrong(VSVC, "port-of-the-task", listens!("UDP: {port: 9001}"),
        Explained("Programmed", "PortConflict", "UDP port 9001")),
    wrong(VSVC, "port-of-the-node", listens!("TCP: {port: 6443}"),
        Explained("Programmed", "Refused", "spec.listener")),
    wrong(VSVC, "privileged-port", listens!("UDP: {port: 99}"),
        Explained("Programmed", "Refused", "spec.listener")),
    wrong(VSVC, "address-of-others", listens!("UDP: {port: 9309, address: 203.0.113.7}"),
        Explained("Programmed", "Refused", "spec.listener")),
    wrong(VSVC, "socket-nowhere", listens!("UnixDomainSocket: {filename: /not/there/a.sock}"),
        Explained("Programmed", "Refused", "spec.listener")),
    wrong(VSVC, "socket-beside-admin", listens!("UnixDomainSocket: {filename: /run/l7mp/a.sock}"),
        Explained("Programmed", "Refused", "is in the directory of the admin socket")),
    wrong(VSVC, "bad-predicate", gateway!("9310", "{match: {op: matches, path: /IP/src_addr, value: '('}, action: {refuse: never}}"),
        Explained("Programmed", "Refused", "spec.listener.rules[0].match")),
    wrong(VSVC, "no-predicate", gateway!("9311", "{match: 5, action: {refuse: never}}"),
        Explained("Programmed", "Refused", "spec.listener.rules[0].match: expected a predicate, not the number 5")),
    wrong(VSVC, "external-service", gateway!("9312", "{action: {route: {destinationRef: external}}}"),
        Explained("ResolvedRefs", "UnsupportedService", "Service default/external is of type ExternalName")),
    wrong(VSVC, "which-port", gateway!("9313", "{action: {route: {destinationRef: several}}}"),
        Explained("ResolvedRefs", "InvalidReference", "Service default/several has several ports (a (UDP 1), b (UDP 2)): write default/several:PORT")),
    wrong(VSVC, "no-such-port", gateway!("9314", "{action: {route: {destinationRef: 'several:c'}}}"),
        Explained("ResolvedRefs", "RefNotFound", "Service default/several has no port c; it has a (UDP 1), b (UDP 2)")),
    wrong(VSVC, "sctp-service", gateway!("9315", "{action: {route: {destinationRef: sctp}}}"),
        Explained("ResolvedRefs", "UnsupportedService", "is SCTP, and only UDP and TCP can be dialled")),
    wrong("Target", "no-prime", "selector: {matchLabels: {app: l7mp-ingress}}, cluster: {spec: {Echo: {}}, loadbalancer: {tableSize: 100}}",
        Explained("Programmed", "Refused", "100 is not a prime; the next one is 101")),
    wrong(VSVC, "of-a-refused-target", gateway!("9316", "{action: {route: {destinationRef: no-prime}}}"),
        Explained("ResolvedRefs", "RefNotUsable", "Target default/no-prime is held back")),
    wrong(VSVC, "no-pods", "selector: {matchLabels: {app: nobody}}, listener: {spec: {UDP: {port: 9317}}}",
        Explained("Programmed", "NoPods", "spec.selector selects no pod that has a proxy; a pod has one when a container is named l7mp")),
    wrong(VSVC, "no-such-service", "selector: {matchService: nowhere}, listener: {spec: {UDP: {port: 9318}}}",
        Explained("ResolvedRefs", "RefNotFound", "spec.selector.matchService: there is no Service default/nowhere")),
    wrong(VSVC, "pods-of-no-service", "selector: {matchService: without-selector}, listener: {spec: {UDP: {port: 9319}}}",
        Explained("ResolvedRefs", "UnsupportedService", "Service default/without-selector has no selector")),
    wrong(VSVC, "to-itself", gateway!("9320", "{action: {route: {destinationRef: to-itself}}}"),
        Explained("ResolvedRefs", "InvalidReference", "VirtualService default/to-itself would send its sessions to itself")),
    wrong("Target", "linked-to-nothing", "linkedVirtualService: nowhere",
        Explained("ResolvedRefs", "RefNotFound", "links to VirtualService default/nowhere, which does not exist")),
    wrong("Target", "no-endpoints", "selector: {matchLabels: {app: l7mp-ingress}}, cluster: {spec: {UDP: {port: 9}}, endpoints: [{selector: {matchLabels: {app: nobody}}}]}",
        Explained("Degraded", "EndpointsNotReady", "there is no endpoint: sessions cannot be opened until there is one")),
    wrong("Route", "of-no-rule", "destinationRef: udp-cluster",
        Explained("Programmed", "NotReferenced", "no rule of any pod leads to this Route")),
];

#[test]
fn wrong_objects_are_refused_or_explained_and_disturb_nothing() {
    assert!(REFUSED.len() >= 12 && EXPLAINED.len() >= 13);
    // What a run has left that was cut short.
    drop(Mess(&Kubernetes::with_chart()));
    let kubernetes = Kubernetes::with_first_task(true);
    let mess = Mess(&kubernetes);
    let settled = kubernetes.cluster.wait("condition=Ready", &WORKING, PATIENCE);
    settled.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    let before = working(&kubernetes);
    let load = Load::start(kubernetes.gateway(), CLIENTS, PAUSE);
    load.wait(kubernetes.cluster, LINES);

    for wrong in REFUSED {
        refused(&kubernetes, wrong);
    }
    kubernetes.cluster.apply(BESIDE).unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    kubernetes
        .cluster
        .wait("condition=Ready", &["pod/stranger", "--namespace=elsewhere"], PATIENCE)
        .unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    let all: Vec<String> = EXPLAINED.iter().map(Wrong::yaml).collect();
    kubernetes.cluster.apply(&all.join("---\n")).unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    for wrong in EXPLAINED {
        explained(&kubernetes, wrong);
    }
    // All of them are there.
    load.wait(kubernetes.cluster, LINES);
    assert_eq!(working(&kubernetes), before);
    show(&kubernetes);

    drop(mess);
    load.wait(kubernetes.cluster, LINES);
    let nothing_left = kubernetes
        .cluster
        .wait_until("nothing of them is left in status", PATIENCE, |_| Ok(working(&kubernetes) == before));
    nothing_left.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}: {:#?}", working(&kubernetes))));
    for (name, story) in load.finish_in_any_order().iter().enumerate() {
        assert_eq!(story.lost().count(), 0, "client {name} lost lines");
        assert_eq!(story.all_ends().len(), 1, "client {name} was moved: {:?}", story.all_ends());
    }
}

/// The wrong objects and what they point at; deleted with this value, so that no other test meets them.
struct Mess<'a>(&'a Kubernetes);

impl Drop for Mess<'_> {
    fn drop(&mut self) {
        let wrong = ["delete", "vsvc,tr,route,rule", "--namespace=default", "--selector=made-by=wrong"];
        let deleted = self.0.cluster.kubectl(&wrong).and_then(|_| self.0.cluster.delete(BESIDE));
        if let Err(error) = deleted {
            eprintln!("wrong objects are left: {error:#}");
        }
    }
}

/// The statuses of what works, whole.
fn working(kubernetes: &Kubernetes) -> BTreeMap<String, Value> {
    let one = |name: &&str| {
        let text = kubernetes.kubectl(&format!("get {name} --namespace default -o json"));
        let object: Value = serde_json::from_str(&text).unwrap();
        ((*name).to_owned(), object["status"].clone())
    };
    WORKING.iter().map(one).collect()
}

fn refused(kubernetes: &Kubernetes, wrong: &Wrong) {
    let Refused(message) = wrong.said else { panic!("{} is to be taken", wrong.path()) };
    match kubernetes.cluster.apply(&wrong.yaml()) {
        Ok(said) => panic!("{said} is wrong, but was taken"),
        Err(error) => {
            let said = format!("{error:#}");
            println!("$ kubectl apply -f {}.yaml\n{said}\n", wrong.name);
            assert!(said.contains(message), "{}: no \"{message}\" in {said}", wrong.path());
        }
    }
}

fn explained(kubernetes: &Kubernetes, wrong: &Wrong) {
    let Explained(kind, reason, message) = wrong.said else { panic!("{} is to be refused", wrong.path()) };
    let path = wrong.path();
    let status = || -> Value {
        let text = kubernetes.kubectl(&format!("get {path} --namespace default -o json"));
        serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
    };
    let is_said = |status: &Value| {
        let conditions = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        conditions.iter().any(|condition| {
            condition["type"] == kind
                && condition["reason"] == reason
                && condition["message"].as_str().is_some_and(|text| text.contains(message))
        })
    };
    let waited = kubernetes.cluster.wait_until(&format!("{path} is explained"), PATIENCE, |_| Ok(is_said(&status())));
    waited.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}: {:#}", status())));
}

/// For a person who judges the messages.
fn show(kubernetes: &Kubernetes) {
    println!("$ kubectl get vsvc,tr,route,rule\n{}", kubernetes.kubectl("get vsvc,tr,route,rule --namespace default"));
    for wrong in EXPLAINED {
        let text = kubernetes.kubectl(&format!("describe {} --namespace default", wrong.path()));
        let text = text.split_once("\nStatus:").map_or("", |(_, status)| status);
        // What says the same of every object is left out.
        let lines = text
            .lines()
            .filter(|line| !["Last Transition Time", "Observed Generation"].iter().any(|left| line.contains(left)));
        println!("$ kubectl describe {}\n{}\n", wrong.path(), lines.collect::<Vec<_>>().join("\n"));
    }
}
