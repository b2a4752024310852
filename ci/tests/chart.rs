//! The Helm chart and the manifests of `deploy/`, as they are rendered: no cluster is needed, only helm; without one the
//! tests of the chart say so and end. What an API server says of the objects is the cluster's tests' affair.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The oldest Kubernetes that the chart is for: a helm of any build renders for that one.
const KUBERNETES: &str = "1.33.0";
/// The namespace that the chart is rendered for; not `default`, so that nothing takes that for granted.
const NAMESPACE: &str = "games";
/// The user of proxies and agents.
const USER: u64 = 65532;

/// Options that are rendered in one test or another: all of them at once, and the chart as it is.
const EVERYTHING: &[&str] = &[
    "tls.existingSecret=mine",
    "serviceMonitor.enabled=true",
    "serviceMonitor.labels.release=prometheus",
    "networkPolicy.enabled=true",
    "networkPolicy.nodeIpBlocks={10.0.0.0/16,fd00::/64}",
    "networkPolicy.apiServerIpBlocks={10.0.0.1/32}",
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring",
    "seccompInstaller.enabled=true",
    "seccompInstaller.kubeletDir=/var/lib/k0s/kubelet",
    "ingress.seccompProfile.type=Localhost",
    "ingress.seccompProfile.localhostProfile=profiles/l7mp.json",
    "ingress.metrics.proxy=$(HOST_IP):7803",
    "ingress.metrics.agent=$(HOST_IP):7812",
    "ingress.privilegedPorts=true",
    "ingress.workers=null",
    "ingress.drainSeconds=20",
    "ingress.updateStrategy=OnDelete",
    "ingress.podLabels.tier=edge",
    "ingress.podAnnotations.l7mp\\.io/accept-from=*",
    "ingress.tolerations[0].operator=Exists",
    "ingress.nodeSelector.role=edge",
    "ingress.priorityClassName=system-node-critical",
    "ingress.extraArgs={--busy-poll=50us}",
    "image.repository=registry.example:5000/l7mp",
    "image.tag=0.2.0",
    "image.pullSecrets[0].name=regcred",
    "operator.replicas=3",
    "operator.nodeSelector.role=system",
];

fn deploy() -> PathBuf {
    l7mp_ci::workspace().join("deploy")
}

fn chart() -> PathBuf {
    deploy().join("helm/l7mp")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a YAML text; those of comments alone are none.
fn documents(text: &str) -> Vec<Value> {
    let parsed =
        format!("\n{text}").split("\n---").map(|part| serde_saphyr::from_str(part).unwrap()).collect::<Vec<_>>();
    parsed.into_iter().filter(|document: &Value| !document.is_null()).collect()
}

/// helm: that of `L7MP_HELM`, of PATH, or the one that `cargo cluster` has built.
fn helm_program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("L7MP_HELM") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("helm")).find(|file| file.is_file());
    in_path.or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))?;
        let built = std::fs::read_dir(cache.join("l7mp/cluster")).ok()?;
        built.filter_map(|entry| Some(entry.ok()?.path().join("bin/helm"))).find(|file| file.is_file())
    })
}

/// helm, in an environment of its own. `None`, with a message, where there is none.
fn helm(arguments: &[&str]) -> Option<Output> {
    let Some(program) = helm_program() else {
        eprintln!("skipped: there is no helm; L7MP_HELM=/path/to/helm names one, `cargo cluster up` builds one");
        return None;
    };
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(&program).args(arguments).env("HELM_CACHE_HOME", home.path()).output();
    Some(output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display())))
}

/// `helm template` with these values set.
fn template(values: &[&str]) -> Option<Output> {
    let chart = chart();
    let mut arguments =
        vec!["template", "l7mp", chart.to_str().unwrap(), "--namespace", NAMESPACE, "--kube-version", KUBERNETES];
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    helm(&arguments)
}

/// The rendered objects.
struct Rendered(Vec<Value>);

impl Rendered {
    fn with(values: &[&str]) -> Option<Rendered> {
        let output = template(values)?;
        assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
        Some(Rendered(documents(std::str::from_utf8(&output.stdout).unwrap())))
    }

    fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    #[track_caller]
    fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name}"))
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Vec<&str> {
    array(value).iter().map(|text| text.as_str().unwrap()).collect()
}

fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

#[track_caller]
fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = array(&pod["initContainers"]).iter().chain(array(&pod["containers"]));
    all.into_iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no container {name}"))
}

/// The names of the volumes that a container mounts.
fn mounts(container: &Value) -> Vec<&str> {
    array(&container["volumeMounts"]).iter().map(|mount| mount["name"].as_str().unwrap()).collect()
}

/// Everything that a container may do beyond its own process is given up.
#[track_caller]
fn assert_confined(container: &Value) {
    let security = &container["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
    assert_eq!(security["readOnlyRootFilesystem"], true, "{container}");
    assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"], "{container}");
    assert!(container["resources"]["limits"]["memory"].is_string(), "{container}");
    assert!(container["resources"]["limits"]["cpu"].is_null(), "throttling is latency: {container}");
}

/// What proxy and agent have in every pod: names, files, probes, nothing of the app's.
#[track_caller]
fn assert_proxy_pod(pod: &Value) {
    assert_eq!(pod["automountServiceAccountToken"], false);
    let (proxy, agent) = (container(pod, "l7mp"), container(pod, "l7mp-agent"));
    for part in [proxy, agent] {
        assert_confined(part);
        assert_eq!(part["imagePullPolicy"], "IfNotPresent");
        assert_eq!(part["terminationMessagePolicy"], "FallbackToLogsOnError");
        assert!(part["livenessProbe"].is_null() && part["startupProbe"].is_null() && part["ports"].is_null(), "{part}");
        assert!(part["readinessProbe"]["exec"].is_object(), "{part}");
        let admin = array(&part["volumeMounts"]).iter().find(|mount| mount["name"] == "l7mp").unwrap();
        assert_eq!(admin["mountPath"], "/run/l7mp");
    }
    assert_eq!(texts(&proxy["command"]), ["/usr/bin/l7mp-proxy"]);
    assert!(texts(&proxy["args"]).contains(&"--admin-socket=/run/l7mp/admin.sock"));
    assert_eq!(texts(&agent["command"]), ["/usr/bin/l7mp-agent"]);
    assert_eq!(mounts(agent), ["l7mp", "l7mp-token", "l7mp-ca"]);
    for other in array(&pod["containers"]).iter().filter(|other| !["l7mp", "l7mp-agent"].contains(&name(other))) {
        assert!(mounts(other).iter().all(|mount| !mount.starts_with("l7mp")), "{other}");
    }
    let volume = |wanted| array(&pod["volumes"]).iter().find(|volume| name(volume) == wanted).unwrap();
    assert!(volume("l7mp")["emptyDir"].is_object());
    let token = &volume("l7mp-token")["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!((token["audience"].as_str(), token["path"].as_str()), (Some("l7mp-operator"), Some("token")));
    assert!((600..=3600).contains(&token["expirationSeconds"].as_u64().unwrap()));
    let ca = &volume("l7mp-ca")["configMap"];
    // What is optional and comes after the pod's start, the kubelet finds a minute later.
    assert_eq!(*ca, serde_json::json!({"name": "l7mp-ca"}));
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap()
}

#[test]
fn helm_finds_nothing_to_complain_of() {
    let chart = chart();
    let Some(output) = helm(&["lint", "--strict", "--kube-version", KUBERNETES, chart.to_str().unwrap()]) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("[WARNING]"), "{said}");
}

#[test]
fn every_object_has_its_namespace_and_nothing_is_for_default() {
    for values in [&[][..], EVERYTHING] {
        let Some(rendered) = Rendered::with(values) else { return };
        let cluster_wide = ["ClusterRole", "ClusterRoleBinding", "Namespace", "CustomResourceDefinition"];
        for object in &rendered.0 {
            let kind = object["kind"].as_str().unwrap();
            let namespace = object["metadata"]["namespace"].as_str();
            let expected = match () {
                () if cluster_wide.contains(&kind) => None,
                () if object["metadata"]["name"] == "l7mp-seccomp" => Some("l7mp-seccomp"),
                () => Some(NAMESPACE),
            };
            assert_eq!(namespace, expected, "{kind} {}", object["metadata"]["name"]);
            // What is generated has no labels of ours, and its documentation may speak of the namespace `default`.
            if kind != "CustomResourceDefinition" {
                assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "Helm", "{object}");
                assert!(!object.to_string().contains("default.svc"), "{object}");
            }
        }
    }
}

#[test]
fn kinds_outlive_the_release() {
    let Some(rendered) = Rendered::with(&[]) else { return };
    for object in rendered.0.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        assert_eq!(
            object["metadata"]["annotations"]["helm.sh/resource-policy"], "keep",
            "{}",
            object["metadata"]["name"]
        );
    }
    assert!(!chart().join("crds").exists(), "Helm never upgrades what is in crds/");
}

#[test]
fn the_operator_is_two_replicas_that_need_no_privilege() {
    let Some(rendered) = Rendered::with(&[]) else { return };
    let deployment = rendered.get("Deployment", "l7mp-operator");
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let (pod, operator) = (pod(deployment), container(pod(deployment), "operator"));
    assert_confined(operator);
    assert_eq!(pod["securityContext"]["runAsUser"], USER);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(operator["image"], "docker.io/l7mp/l7mp:0.1.0");
    assert_eq!(texts(&operator["command"]), ["/usr/bin/l7mp-controller", "operator"]);
    assert_eq!(texts(&operator["args"]), ["--listen=[::]:7800", "--http=[::]:7801"]);
    let environment: Vec<_> = array(&operator["env"]).iter().map(name).collect();
    assert_eq!(environment, ["POD_NAME", "POD_NAMESPACE", "POD_IP", "RUST_LOG"]);
    assert_eq!(operator["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(operator["livenessProbe"]["httpGet"]["path"], "/healthz");
    let service = rendered.get("Service", "l7mp-operator");
    assert_eq!(service["spec"]["ports"][0]["port"], 7800);
    assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
    let budget = rendered.get("PodDisruptionBudget", "l7mp-operator");
    assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
    let Some(alone) = Rendered::with(&["operator.replicas=1"]) else { return };
    assert!(alone.find("PodDisruptionBudget", "l7mp-operator").is_none(), "it would keep a node from being drained");
}

#[test]
fn rights_are_named_one_by_one_and_only_the_operator_has_any() {
    let Some(rendered) = Rendered::with(&[]) else { return };
    for (kind, name) in [("ClusterRole", "l7mp-operator"), ("Role", "l7mp-operator")] {
        for rule in array(&rendered.get(kind, name)["rules"]) {
            let named = ["apiGroups", "resources", "verbs"].map(|field| texts(&rule[field])).concat();
            assert!(!named.contains(&"*"), "{rule}");
            // Whoever reads Secrets or writes ConfigMaps of all names owns the cluster.
            let delicate = ["secrets", "configmaps"].iter().any(|resource| named.contains(resource));
            assert!(!delicate || !texts(&rule["resourceNames"]).is_empty(), "{rule}");
        }
    }
    for object in rendered.0.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("Binding")) {
        let subjects: Vec<_> = array(&object["subjects"]).iter().map(name).collect();
        assert_eq!(subjects, ["l7mp-operator"]);
    }
    assert_eq!(rendered.get("ServiceAccount", "l7mp-ingress")["automountServiceAccountToken"], false);
    // With a certificate of the user's, nothing is to be kept in a Secret.
    let Some(rendered) = Rendered::with(&["tls.existingSecret=mine"]) else { return };
    assert!(!rendered.get("Role", "l7mp-operator").to_string().contains("secrets"));
}

#[test]
fn the_gateway_is_on_the_nodes_network_and_one_per_node_at_a_time() {
    let Some(rendered) = Rendered::with(&[]) else { return };
    let daemonset = rendered.get("DaemonSet", "l7mp-ingress");
    assert_eq!(daemonset["spec"]["template"]["metadata"]["labels"]["app"], "l7mp-ingress");
    assert_eq!(daemonset["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], 0);
    let pod = pod(daemonset);
    assert_proxy_pod(pod);
    assert_eq!(
        (pod["hostNetwork"].as_bool(), pod["dnsPolicy"].as_str()),
        (Some(true), Some("ClusterFirstWithHostNet"))
    );
    assert_eq!(pod["securityContext"]["runAsUser"], USER);
    let (proxy, agent) = (container(pod, "l7mp"), container(pod, "l7mp-agent"));
    let arguments = ["--admin-socket=/run/l7mp/admin.sock", "--workers=2", "--drain-timeout=5s"];
    assert_eq!(texts(&proxy["args"]), arguments, "no metrics for whoever reaches the node");
    assert_eq!(pod["terminationGracePeriodSeconds"], 15);
    assert!(proxy["securityContext"]["seccompProfile"].is_null());
    assert_eq!(texts(&agent["args"])[0], format!("--operator=l7mp-operator.{NAMESPACE}.svc:7800"));
    // Labels that change with a version would restart every gateway when the chart is upgraded.
    let labels = daemonset["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
    assert!(labels.keys().all(|label| !label.contains("version") && !label.contains("chart")), "{labels:?}");
    let Some(without) = Rendered::with(&["ingress.enabled=false"]) else { return };
    assert!(without.0.iter().all(|object| object["metadata"]["name"] != "l7mp-ingress"));
}

#[test]
fn options_do_what_they_say() {
    let Some(rendered) = Rendered::with(EVERYTHING) else { return };
    let gateway = pod(rendered.get("DaemonSet", "l7mp-ingress"));
    let strategy = &rendered.get("DaemonSet", "l7mp-ingress")["spec"]["updateStrategy"];
    assert_eq!(*strategy, serde_json::json!({"type": "OnDelete"}));
    let proxy = container(gateway, "l7mp");
    assert_eq!(
        texts(&proxy["args"])[1..],
        ["--drain-timeout=20s", "--http=$(HOST_IP):7803", "--busy-poll=50us"],
        "workers: null leaves it to the proxy"
    );
    assert_eq!(proxy["image"], "registry.example:5000/l7mp:0.2.0");
    assert!(array(&proxy["env"]).iter().any(|variable| name(variable) == "HOST_IP"));
    assert_eq!(gateway["terminationGracePeriodSeconds"], 30);
    // The kernel gives capabilities to no user but root here; proxy and agent have to be the same one.
    assert_eq!(gateway["securityContext"]["runAsUser"], 0);
    assert_eq!(texts(&proxy["securityContext"]["capabilities"]["add"]), ["NET_BIND_SERVICE"]);
    assert!(container(gateway, "l7mp-agent")["securityContext"]["capabilities"]["add"].is_null());
    assert_eq!(proxy["securityContext"]["seccompProfile"]["localhostProfile"], "profiles/l7mp.json");
    assert_eq!(gateway["tolerations"][0]["operator"], "Exists");
    assert_eq!(gateway["priorityClassName"], "system-node-critical");
    assert_eq!(gateway["imagePullSecrets"][0]["name"], "regcred");
    let operator = pod(rendered.get("Deployment", "l7mp-operator"));
    assert_eq!(operator["nodeSelector"]["role"], "system");
    assert_eq!(operator["volumes"][0]["secret"]["secretName"], "mine");
    assert!(texts(&container(operator, "operator")["args"]).contains(&"--tls-cert=/etc/l7mp/tls/tls.crt"));
    let monitor = rendered.get("ServiceMonitor", "l7mp-operator");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let ports = array(&rendered.get("Service", "l7mp-operator")["spec"]["ports"]);
    assert!(ports.iter().any(|port| port["name"] == monitor["spec"]["endpoints"][0]["port"]));
}

/// The probe runs with the environment of its container, and not with its arguments.
#[test]
fn the_agents_probe_asks_where_the_agent_listens() {
    for address in ["127.0.0.1:7812", "$(HOST_IP):7812", "[$(HOST_IP)]:7812"] {
        let Some(rendered) = Rendered::with(&[&format!("ingress.metrics.agent={address}")]) else { return };
        let agent = container(pod(rendered.get("DaemonSet", "l7mp-ingress")), "l7mp-agent");
        assert_eq!(texts(&agent["readinessProbe"]["exec"]["command"]), ["/usr/bin/l7mp-agent", "check"]);
        assert!(texts(&agent["args"]).iter().all(|argument| !argument.starts_with("--http")), "{agent}");
        let variables: Vec<_> = array(&agent["env"]).iter().map(name).collect();
        assert_eq!(variables, ["RUST_LOG", "HOST_IP", "L7MP_HTTP"], "$(HOST_IP) is known to those after it");
        assert_eq!(agent["env"][1]["valueFrom"]["fieldRef"]["fieldPath"], "status.hostIP");
        assert_eq!(agent["env"][2]["value"], address);
    }
    let Some(rendered) = Rendered::with(&[]) else { return };
    let agent = container(pod(rendered.get("DaemonSet", "l7mp-ingress")), "l7mp-agent");
    assert_eq!(array(&agent["env"]).iter().map(name).collect::<Vec<_>>(), ["RUST_LOG"], "both have one default");
}

#[test]
fn a_network_policy_lets_agents_and_nodes_in() {
    let Some(rendered) = Rendered::with(EVERYTHING) else { return };
    let policy = &rendered.get("NetworkPolicy", "l7mp-operator")["spec"];
    assert_eq!(policy["podSelector"], rendered.get("Deployment", "l7mp-operator")["spec"]["selector"]);
    let [agents, metrics] = array(&policy["ingress"]) else { panic!("{policy}") };
    assert_eq!((agents["ports"][0]["port"].as_u64(), metrics["ports"][0]["port"].as_u64()), (Some(7800), Some(7801)));
    let blocks: Vec<_> = array(&agents["from"]).iter().filter_map(|from| from["ipBlock"]["cidr"].as_str()).collect();
    assert_eq!(blocks, ["10.0.0.0/16", "fd00::/64"]);
    assert_eq!(texts(&policy["policyTypes"]), ["Ingress", "Egress"]);
    let bare = ["networkPolicy.enabled=true", "ingress.enabled=false"];
    let Some(rendered) = Rendered::with(&bare) else { return };
    let policy = &rendered.get("NetworkPolicy", "l7mp-operator")["spec"];
    assert_eq!(texts(&policy["policyTypes"]), ["Ingress"], "without the API server's address nothing is closed");
    assert_eq!(array(&policy["ingress"]).len(), 1, "nobody may scrape");
}

#[test]
fn the_seccomp_profile_is_written_from_a_namespace_of_its_own() {
    let Some(rendered) = Rendered::with(EVERYTHING) else { return };
    let namespace = rendered.get("Namespace", "l7mp-seccomp");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
    let profile = rendered.get("ConfigMap", "l7mp-seccomp")["data"]["l7mp.json"].as_str().unwrap();
    let committed: Value = serde_json::from_str(&read(&deploy().join("seccomp/l7mp.json"))).unwrap();
    assert_eq!(serde_json::from_str::<Value>(profile).unwrap(), committed);
    let installer = pod(rendered.get("DaemonSet", "l7mp-seccomp"));
    assert_eq!(installer["volumes"][0]["hostPath"]["path"], "/var/lib/k0s/kubelet/seccomp");
    assert_confined(container(installer, "install"));
    let Some(default) = Rendered::with(&[]) else { return };
    assert!(default.find("Namespace", "l7mp-seccomp").is_none());
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    let table: &[(&[&str], &str)] = &[
        (&["ingress.worker=3"], "at '/ingress': additional properties 'worker' not allowed"),
        (&["operator.replicas=two"], "at '/operator/replicas': got string, want integer"),
        (&["operator.replicas=0"], "at '/operator/replicas'"),
        (&["image.pullPolicy=Sometimes"], "at '/image/pullPolicy': value must be one of"),
        (&["image.repository=l7mp:0.1.0"], "at '/image/repository'"),
        (&["ingress.drainSeconds=5s"], "at '/ingress/drainSeconds': got string, want integer"),
        (&["ingress.resources.limits.memory=1GB"], "at '/ingress/resources/limits/memory'"),
        (&["ingress.metrics.proxy=localhost"], "at '/ingress/metrics/proxy'"),
        (&["ingress.seccompProfile.type=Localhost"], "missing property 'localhostProfile'"),
        (&["ingress.extraArgs={busy-poll}"], "at '/ingress/extraArgs/0'"),
        (&["serviceMonitor.interval=often"], "at '/serviceMonitor/interval'"),
        (&["seccompInstaller.kubeletDir=kubelet"], "at '/seccompInstaller/kubeletDir'"),
        (&["networkPolicy.nodeIpBlocks={10.0.0.1}"], "at '/networkPolicy/nodeIpBlocks/0'"),
        (&["networkPolicy.enabled=true"], "networkPolicy.nodeIpBlocks is empty"),
        (&["ingress.podLabels.app=mine"], "ingress.podLabels.app: the label app"),
    ];
    for (values, expected) in table {
        let Some(output) = template(values) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{values:?}: {said}");
    }
}

#[test]
fn a_kubernetes_without_native_sidecars_is_refused() {
    let chart = chart();
    let Some(output) = helm(&["template", "l7mp", chart.to_str().unwrap(), "--kube-version", "1.32.9"]) else { return };
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("kubeVersion"));
}

#[test]
fn every_value_is_documented_and_in_the_schema() {
    let text = read(&chart().join("values.yaml"));
    let mut last = "";
    for line in text.lines() {
        let (trimmed, is_quantity) = (line.trim_start(), ["requests:", "limits:"].iter().any(|key| line.contains(key)));
        let is_key = !trimmed.starts_with(['#', '-']) && trimmed.contains(':') && !is_quantity;
        assert!(!is_key || last.trim_start().starts_with('#'), "no comment above {trimmed:?}");
        last = line;
    }
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    compare(&values, &schema, "");
}

/// Each value has its property, and each property its default; what is free-form in the schema may hold anything.
fn compare(values: &Value, schema: &Value, at: &str) {
    let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object()) else { return };
    assert_eq!(schema["additionalProperties"], false, "{at}");
    for (key, value) in values {
        compare(value, properties.get(key).unwrap_or_else(|| panic!("{at}.{key} is not in the schema")), key);
    }
    for key in properties.keys().filter(|key| *key != "global") {
        assert!(values.contains_key(key), "{at}.{key} has no default in values.yaml");
    }
}

#[test]
fn examples_have_the_proxy_as_a_native_sidecar() {
    let mut found = 0;
    for file in [
        "first-task/transcoder-deployment.yaml",
        "first-task/worker-deployment.yaml",
        "chain-seqpacket.yaml",
        "restricted.yaml",
    ] {
        for object in documents(&read(&deploy().join("examples").join(file))) {
            if object["kind"] != "Deployment" {
                continue;
            }
            found += 1;
            let pod = pod(&object);
            assert_proxy_pod(pod);
            let order: Vec<_> = array(&pod["initContainers"]).iter().map(name).collect();
            assert_eq!(order, ["l7mp", "l7mp-agent"], "{file}: the proxy first");
            for sidecar in array(&pod["initContainers"]) {
                assert_eq!(sidecar["restartPolicy"], "Always", "{file}");
                assert_eq!(sidecar["securityContext"]["runAsUser"], USER, "{file}");
                assert_eq!(sidecar["image"], "docker.io/l7mp/l7mp:0.1.0", "{file}");
            }
            let drain = texts(&container(pod, "l7mp")["lifecycle"]["preStop"]["exec"]["command"]);
            assert_eq!(
                drain,
                ["/usr/bin/l7mpctl", "--socket", "/run/l7mp/admin.sock", "drain", "--after", "2s"],
                "{file}"
            );
            let is_default = container(pod, "l7mp")["securityContext"]["seccompProfile"].is_null();
            assert_eq!(is_default, file != "restricted.yaml", "{file}");
            for app in array(&pod["containers"]) {
                assert_confined(app);
                assert_ne!(app["securityContext"]["runAsUser"], USER, "{file}: the app is another user");
                assert_eq!(app["image"], "docker.io/l7mp/first-task:0.1.0", "{file}");
                assert!(app["readinessProbe"].is_object(), "{file}");
            }
        }
    }
    assert_eq!(found, 4);
}

#[test]
fn the_examples_apps_outlive_the_message_that_ends_them() {
    for file in ["first-task/transcoder-deployment.yaml", "first-task/worker-deployment.yaml"] {
        let [deployment] = &documents(&read(&deploy().join("examples").join(file)))[..] else { panic!("{file}") };
        assert_eq!(deployment["spec"]["replicas"], 2, "{file}");
        let pod = pod(deployment);
        let app = &pod["containers"][0];
        let sleep = app["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        assert!(
            sleep + 15 < pod["terminationGracePeriodSeconds"].as_u64().unwrap(),
            "{file}: and the proxy has its time"
        );
    }
}

#[test]
fn the_seccomp_profile_allows_io_uring_and_no_more_than_a_proxy_needs() {
    let text = read(&deploy().join("seccomp/l7mp.json"));
    assert_eq!(text, read(&chart().join("files/seccomp.json")), "the chart's copy differs");
    let profile: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed: Vec<_> = array(&profile["syscalls"])
        .iter()
        .filter(|group| group["action"] == "SCMP_ACT_ALLOW")
        .flat_map(|group| texts(&group["names"]))
        .collect();
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register", "recvmsg", "sendmsg", "execve"] {
        assert!(allowed.contains(&call), "{call}");
    }
    for call in ["ptrace", "mount", "bpf", "unshare", "setns", "keyctl", "init_module", "process_vm_readv", "clone3"] {
        assert!(!allowed.contains(&call), "{call}");
    }
}

#[test]
fn the_image_has_every_program_and_no_privilege() {
    let text = read(&deploy().join("Dockerfile"));
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "FROM scratch");
    let copied = lines.iter().find(|line| line.starts_with("COPY")).unwrap();
    for program in ["l7mp-proxy", "l7mp-controller", "l7mp-agent", "l7mpctl"] {
        assert!(copied.split(' ').any(|word| word == program), "{program}");
    }
    assert!(lines.contains(&"USER 65532:65532") && !text.contains("RUN "));
}

/// The kinds are templates of the chart; `l7mp-controller crds --helm --out deploy/helm/l7mp/templates/crds` writes them.
#[test]
fn the_kinds_of_the_chart_are_those_of_the_code() {
    let directory = chart().join("templates/crds");
    for file in l7mp_crds::helm() {
        let path = directory.join(&file.name);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == file.text,
            "{} is stale: `cargo run -p l7mp-controller -- crds --helm --out {}`",
            path.display(),
            directory.display()
        );
    }
    let there = std::fs::read_dir(&directory).unwrap().count();
    assert_eq!(there, l7mp_crds::helm().len(), "a file that nothing generates");
}
