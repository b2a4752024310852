//! What the operator may do is what it does: each right of the chart is used, nothing else is asked, and gateways and
//! sidecars ask nothing of the API server. The API server's audit log is the witness.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::installed::{Kubernetes, PATIENCE};

/// The operator's service account.
const OPERATOR: &str = "system:serviceaccount:default:l7mp-operator";

/// One of each kind, so that each gets a status; the Rule is bad, so that there is an Event.
const OBJECTS: &str = "
apiVersion: l7mp.io/v1
kind: VirtualService
metadata: {name: rights, namespace: default}
spec:
  selector: {matchLabels: {app: l7mp-ingress}}
  listener: {spec: {UDP: {port: 9779}}, rulesRef: rights}
---
apiVersion: l7mp.io/v1
kind: Target
metadata: {name: rights, namespace: default}
spec: {cluster: {spec: {Echo: {}}}}
---
apiVersion: l7mp.io/v1
kind: Route
metadata: {name: rights, namespace: default}
spec: {destinationRef: rights}
---
apiVersion: l7mp.io/v1
kind: Rule
metadata: {name: rights, namespace: default}
spec: {rulelist: rights, rule: {action: {routeRef: nowhere}}}
";

/// Something that a role allows, or that was asked: group, resource with its subresource, verb, name if there is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    resource: String,
    verb: String,
    name: Option<String>,
}

impl Right {
    /// Whether this right of a role allows a request.
    fn allows(&self, asked: &Right) -> bool {
        let same = (&self.group, &self.resource, &self.verb) == (&asked.group, &asked.resource, &asked.verb);
        same && (self.name.is_none() || self.name == asked.name)
    }
}

/// The single rights of a Role or ClusterRole.
fn rights(kubernetes: &Kubernetes, role: &str) -> BTreeSet<Right> {
    let role: Value = serde_json::from_str(&kubernetes.kubectl(&format!("get {role} -o json"))).unwrap();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let mut names: Vec<Option<String>> = texts(&rule["resourceNames"]).into_iter().map(Some).collect();
        if names.is_empty() {
            names.push(None);
        }
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    for name in &names {
                        let (group, resource, verb) = (group.clone(), resource.clone(), verb.clone());
                        assert!(
                            ![&group, &resource, &verb].contains(&&"*".to_owned()),
                            "everything is too much: {rule}"
                        );
                        rights.insert(Right { group, resource, verb, name: name.clone() });
                    }
                }
            }
        }
    }
    rights
}

/// A request of the audit log.
struct Asked {
    who: String,
    right: Right,
    code: u64,
    line: String,
}

impl Asked {
    fn read(line: &str) -> Asked {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (what, verb) = (&event["objectRef"], text(&event["verb"]));
        let resource = match what["subresource"].as_str() {
            Some(subresource) => format!("{}/{subresource}", text(&what["resource"])),
            None => text(&what["resource"]),
        };
        let name = what["name"].as_str().map(str::to_owned);
        Asked {
            who: text(&event["user"]["username"]),
            right: Right { group: text(&what["apiGroup"]), resource, verb, name },
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
            line: line.to_owned(),
        }
    }

    /// What it needed: to apply what was not there takes the right to create it, too.
    fn needed(&self) -> Vec<Right> {
        let mut needed = vec![self.right.clone()];
        if self.right.verb == "patch" && self.code == 201 {
            needed.push(Right { verb: "create".to_owned(), ..self.right.clone() });
        }
        needed
    }
}

/// Everything that may happen to an operator, so that it does all that it ever does.
fn live_a_whole_life(kubernetes: &Kubernetes) {
    let wait = |what: &str, done: &mut dyn FnMut() -> bool| {
        let waited = kubernetes.cluster.wait_until(what, PATIENCE, |_| Ok(done()));
        waited.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    };
    let field = |what: &str, path: &str| {
        kubernetes.kubectl(&format!("get {what} --namespace default --ignore-not-found -o jsonpath={{{path}}}"))
    };
    // It starts, with nothing that it has made before.
    kubernetes.kubectl("scale deployment l7mp-operator --replicas=0");
    wait("no operator", &mut || kubernetes.kubectl("get pods -l app=l7mp-operator -o name").is_empty());
    kubernetes.kubectl("delete lease/l7mp-operator secret/l7mp-operator-tls configmap/l7mp-ca");
    kubernetes.kubectl("scale deployment l7mp-operator --replicas=2");
    kubernetes.roll_out("deployment/l7mp-operator");
    wait("an operator leads", &mut || !field("lease l7mp-operator", ".spec.holderIdentity").is_empty());
    wait("it publishes its CA", &mut || !field("configmap l7mp-ca", ".data").is_empty());

    // Objects come, are judged, and go.
    kubernetes.cluster.apply(OBJECTS).unwrap();
    for (kind, condition) in [("vsvc", "Programmed"), ("tr", "Accepted"), ("route", "Accepted"), ("rule", "Accepted")] {
        let waited = kubernetes.cluster.wait(&format!("condition={condition}"), &[&format!("{kind}/rights")], PATIENCE);
        waited.unwrap_or_else(|error| kubernetes.fail(&format!("{error:#}")));
    }
    let events = "get events --field-selector involvedObject.kind=Rule,involvedObject.name=rights -o name";
    wait("an Event tells of the Rule", &mut || !kubernetes.kubectl(events).is_empty());
    kubernetes.cluster.delete(OBJECTS).unwrap();

    // The leader dies, and another takes over.
    let holder = || field("lease l7mp-operator", ".spec.holderIdentity");
    let before = holder();
    let pod = before.split('@').next().unwrap();
    kubernetes.kubectl(&format!("delete pod {pod} --force --grace-period=0"));
    wait("another leads", &mut || !holder().is_empty() && holder() != before);
    kubernetes.roll_out("deployment/l7mp-operator");

    // What it has made is taken away, and comes again.
    for what in ["configmap/l7mp-ca", "secret/l7mp-operator-tls"] {
        kubernetes.kubectl(&format!("delete {what}"));
        wait(&format!("{what} is there again"), &mut || !field(what, ".data").is_empty());
    }
    kubernetes.wait_ready();
}

#[test]
fn each_right_is_needed_and_nothing_else_is_asked() {
    let kubernetes = Kubernetes::with_first_task(false);
    let Ok(before) = kubernetes.cluster.audit() else {
        eprintln!("skipped: the audit log of a cluster of somebody else's is not at hand");
        return;
    };
    live_a_whole_life(&kubernetes);
    let after = kubernetes.cluster.audit().unwrap();
    // A log that was begun anew has only what came since.
    let news = after.strip_prefix(before.as_str()).unwrap_or(&after);
    let asked: Vec<Asked> = news.lines().map(Asked::read).collect();
    assert!(asked.len() > 20, "the audit log has {} lines", asked.len());

    let others: BTreeMap<&str, &str> = asked
        .iter()
        .filter(|asked| asked.who != OPERATOR)
        .map(|asked| (asked.who.as_str(), asked.line.as_str()))
        .collect();
    assert!(others.is_empty(), "only the operator may ask: {others:#?}");

    let mut granted = rights(&kubernetes, "clusterrole l7mp-operator");
    granted.extend(rights(&kubernetes, "role l7mp-operator --namespace default"));
    let (mut beyond, mut used) = (BTreeSet::new(), BTreeSet::new());
    for asked in &asked {
        assert_ne!(asked.code, 403, "refused: {}", asked.line);
        for needed in asked.needed() {
            let by: Vec<&Right> = granted.iter().filter(|right| right.allows(&needed)).collect();
            if by.is_empty() {
                beyond.insert(needed);
            }
            used.extend(by.into_iter().cloned());
        }
    }
    assert!(beyond.is_empty(), "asked, though no rule of the chart allows it: {beyond:#?}");
    let unused: Vec<&Right> = granted.difference(&used).collect();
    assert!(unused.is_empty(), "granted, but never asked: {unused:#?}");
    println!("{} requests, {} rights, each of them used:", asked.len(), granted.len());
    for Right { group, resource, verb, name } in &granted {
        println!(
            "  {verb} {resource} of \"{group}\"{}",
            name.as_ref().map(|name| format!(", {name}")).unwrap_or_default()
        );
    }
}
