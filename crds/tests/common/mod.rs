//! Right and wrong objects, for the rules as `kube-cel` runs them and as an API server does.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A wrong object, and what is said of it.
pub struct Wrong {
    pub kind: &'static str,
    /// Its spec, as YAML.
    pub spec: &'static str,
    /// Where it is wrong.
    pub path: &'static str,
    /// Part of what the API server says.
    pub message: &'static str,
}

/// An object of a kind.
pub fn object(kind: &str, spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
    json!({"apiVersion": "l7mp.io/v1", "kind": kind, "metadata": {"name": "tried"}, "spec": spec})
}

/// The five manifests of the first task.
pub fn first_task() -> Vec<PathBuf> {
    yaml_files("../deploy/examples/first-task")
        .into_iter()
        .filter(|path| name(path).starts_with(char::is_numeric))
        .collect()
}

/// The manifests that the compiler is tested with.
pub fn golden() -> Vec<PathBuf> {
    yaml_files("../controller/compiler/tests/golden/breadth")
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// The objects of our kinds in a file.
pub fn objects(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let documents = text.split("\n---").map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    documents.filter(|document| document["apiVersion"] == "l7mp.io/v1").collect()
}

/// Objects that are right, beside those of the examples: each form that the documentation names.
pub const GOOD: &[(&str, &str)] = &[
    (
        "Target",
        "cluster: {spec: {UDP: {port: 9}}, endpoints: [{spec: {address: host.example.org}}, {spec: {address: '::1', weight: 1000}}]}",
    ),
    ("Target", "cluster: {spec: {TCP: {}}, endpoints: [{spec: {address: _a.b., port: 65535}}]}"),
    ("Target", "cluster: {spec: {TCP: {port: 1, bind: {address: 10.0.0.1, port: 0}, framing: u16be}}}"),
    ("Target", "cluster: {spec: {UDP: {port: 1, bind: {addresses: ['fd00::1', 10.0.0.1]}, gro: false}}}"),
    ("Target", "cluster: {spec: {UnixDomainSocket: {type: dgram}}, endpoints: [{spec: {filename: /run/a.sock}}]}"),
    ("Target", "cluster: {spec: {UnixDomainSocket: {framing: line}}, endpoints: [{spec: {address: '/run/a b.sock'}}]}"),
    ("Target", "cluster: {spec: {WebSocket: {port: 80, path: '/a?b', host: 'h:80', subprotocol: a.b, payload: text}}}"),
    ("Target", "cluster: {spec: {Echo: {}}, drainTimeout: 24h, loadbalancer: {policy: Trivial, tableSize: 5000011}}"),
    ("Target", "cluster: {spec: {Discard: {}}, endpoints: [], drainTimeout: 1}"),
    ("Target", "linkedVirtualService: a/b\nselector: {matchService: web, matchNamespace: games}"),
    ("Target", "linkedVirtualService: /l7mp.io/v1/VirtualService/a/b\nupdateOwners: true"),
    ("Route", "destinationRef: name"),
    ("Route", "destinationRef: web:80"),
    ("Route", "destinationRef: games/web:http"),
    ("Route", "destinationRef: /l7mp.io/v1/Target/a/b"),
    ("Route", "destinationRef: /l7mp.io/v1/VirtualService/a/b"),
    ("Route", "destinationRef: /apis/l7mp.io/v1/namespaces/a/targets/b.c"),
    ("Route", "destinationRef: /apis/l7mp.io/v1/namespaces/a/virtualservices/b"),
    ("Route", "destinationRef: /api/v1/namespaces/a/services/b:80"),
    ("Route", "destinationRef: a\nretry: {retry_on: connect-failure, num_retries: 0, timeout: '250'}"),
    ("Route", "destinationRef: a\nretry: {retry_on: disconnect, num_retries: 100, timeout: 60m}"),
    ("Rule", "rulelist: Ü_list\nrule: {match: anything, action: {refuse: ''}}"),
    (
        "Rule",
        "rulelist: l\nposition: 0\nselector: {}\nrule: {match: {op: and, apply: [{op: defined, path: /a}]}, action: {apply: m}}",
    ),
    ("Rule", "rulelist: l\nrule: {match: 5, action: {rewrite: [{path: /, valueStr: ''}], routeRef: a/b}}"),
    ("VirtualService", "selector: {}\nlistener: {spec: {UDP: {port: 0}}}"),
    (
        "VirtualService",
        "selector: {}\nlistener: {spec: {UDP: {port: 65535, connect: {address: 10.0.0.1, port: 1}}}, options: {mode: singleton, idleTimeout: 1ms}}",
    ),
    (
        "VirtualService",
        "selector: {matchLabels: {a: '', b/c: D_e.f}}\nlistener: {spec: {TCP: {port: 1, address: '::', framing: line}}, options: {maxSessions: 1}}",
    ),
    (
        "VirtualService",
        "selector: {matchExpressions: [{key: a, operator: Exists}, {key: a, operator: NotIn, values: [x]}]}\nlistener: {spec: {WebSocket: {port: 1, path: /, subprotocols: [a]}}}",
    ),
    (
        "VirtualService",
        "selector: {matchFields: [{key: status.podIP, operator: DoesNotExist}]}\nlistener: {spec: {UnixDomainSocket: {filename: /a, mode: '0660', type: stream, framing: line}}}",
    ),
];

macro_rules! wrong {
    ($($kind:ident $spec:literal at $path:literal says $message:literal;)*) => {
        &[$(Wrong { kind: stringify!($kind), spec: $spec, path: $path, message: $message }),*]
    };
}

/// Objects that are wrong, each in one way.
pub const WRONG: &[Wrong] = wrong! {
    VirtualService "listener: {spec: {UDP: {port: 1}}}" at "spec.selector" says "it says which pods get the listener";
    VirtualService "selector: {}" at "spec.listener" says "Required value";
    VirtualService "selector: {}\nlistener: {}" at "spec.listener.spec" says "Required value";
    VirtualService "selector: {}\nlistener: {spec: {}}" at "spec.listener.spec" says "needs exactly one protocol: UDP, TCP, WebSocket or UnixDomainSocket";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}, TCP: {port: 1}}}" at "spec.listener.spec" says "needs exactly one protocol";
    VirtualService "selector: {}\nlistener: {spec: {UPD: {port: 1}}}" at "spec.listener.spec.UPD" says "unknown field";
    VirtualService "selector: {}\nlistener: {spec: {Echo: {}}}" at "spec.listener.spec.Echo" says "unknown field";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {}}}" at "spec.listener.spec.UDP.port" says "Required value";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 70000}}}" at "spec.listener.spec.UDP.port" says "should be less than or equal to 65535";
    VirtualService "selector: {}\nlistener: {spec: {TCP: {port: -1}}}" at "spec.listener.spec.TCP.port" says "should be greater than or equal to 0";
    VirtualService "selector: {}\nlistener: {spec: {TCP: {port: '1'}}}" at "spec.listener.spec.TCP.port" says "must be of type integer";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1, address: 10.0.0.256}}}" at "spec.listener.spec.UDP.address" says "is not an IP address";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1, connect: {}}}}" at "spec.listener.spec.UDP.connect" says "names neither an address nor a port";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1, connect: {port: 0}}}}" at "spec.listener.spec.UDP.connect.port" says "should be greater than or equal to 1";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, options: {mode: singleton}}" at "spec.listener.options.mode" says "singleton needs its peer";
    VirtualService "selector: {}\nlistener: {spec: {TCP: {port: 1}}, options: {mode: server}}" at "spec.listener.options.mode" says "only a UDP listener has a mode";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, options: {mode: many}}" at "spec.listener.options.mode" says "Unsupported value";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, options: {idleTimeout: 25h}}" at "spec.listener.options.idleTimeout" says "is not a duration from 1ms to 24h";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, options: {idleTimeout: -5}}" at "spec.listener.options.idleTimeout" says "is not a duration";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, options: {idleTimeout: 0}}" at "spec.listener.options.idleTimeout" says "is not a duration";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, options: {idleTimeout: 5 minutes}}" at "spec.listener.options.idleTimeout" says "is not a duration";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, options: {maxSessions: 0}}" at "spec.listener.options.maxSessions" says "should be greater than or equal to 1";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, rulesRef: a/b}" at "spec.listener.rulesRef" says "is not the name of a rule list";
    VirtualService "selector: {}\nlistener: {spec: {UnixDomainSocket: {filename: run/a.sock}}}" at "spec.listener.spec.UnixDomainSocket.filename" says "is not the path of a socket";
    VirtualService "selector: {}\nlistener: {spec: {UnixDomainSocket: {filename: ''}}}" at "spec.listener.spec.UnixDomainSocket.filename" says "is not the path of a socket";
    VirtualService "selector: {}\nlistener: {spec: {UnixDomainSocket: {filename: /a, mode: '0999'}}}" at "spec.listener.spec.UnixDomainSocket.mode" says "is not an octal mode such as \"0660\"";
    VirtualService "selector: {}\nlistener: {spec: {UnixDomainSocket: {filename: /a, mode: 660}}}" at "spec.listener.spec.UnixDomainSocket.mode" says "must be of type string";
    VirtualService "selector: {}\nlistener: {spec: {UnixDomainSocket: {filename: /a, type: dgram, framing: line}}}" at "spec.listener.spec.UnixDomainSocket.framing" says "is for sockets of type stream";
    VirtualService "selector: {}\nlistener: {spec: {WebSocket: {port: 1, path: play}}}" at "spec.listener.spec.WebSocket.path" says "is not a path: it begins with /";
    VirtualService "selector: {}\nlistener: {spec: {WebSocket: {port: 1, subprotocols: ['a b']}}}" at "spec.listener.spec.WebSocket.subprotocols[0]" says "should match";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, rules: [{}]}" at "spec.listener.rules[0].action" says "Required value";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, rules: [{action: {}}]}" at "spec.listener.rules[0].action" says "needs exactly one of route (inline), routeRef";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, rules: [{action: {apply: a, refuse: b}}]}" at "spec.listener.rules[0].action" says "needs exactly one of route";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, rules: [{action: {route: a}}]}" at "spec.listener.rules[0].action.route" says "must be of type object";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, rules: [{action: {route: {ingress: []}}}]}" at "spec.listener.rules[0].action.route" says "needs exactly one of destination";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, rules: [{action: {route: {destinationRef: a, ingress: [{}]}}}]}" at "spec.listener.rules[0].action.route.ingress[0]" says "needs exactly one of cluster";
    VirtualService "selector: {}\nlistener: {spec: {UDP: {port: 1}}, rules: [{action: {route: {destinationRef: a, egress: [{clusterRef: a/b/c}]}}}]}" at "spec.listener.rules[0].action.route.egress[0].clusterRef" says "does not name a Target, VirtualService or Service";
    VirtualService "selector: {matchExpressions: [{key: a, operator: In}]}\nlistener: {spec: {UDP: {port: 1}}}" at "spec.selector.matchExpressions[0].values" says "In and NotIn need at least one value";
    VirtualService "selector: {matchExpressions: [{key: a, operator: Exists, values: [x]}]}\nlistener: {spec: {UDP: {port: 1}}}" at "spec.selector.matchExpressions[0].values" says "Exists and DoesNotExist take none";
    VirtualService "selector: {matchExpressions: [{key: a, operator: Equals, values: [x]}]}\nlistener: {spec: {UDP: {port: 1}}}" at "spec.selector.matchExpressions[0].operator" says "Unsupported value";
    VirtualService "selector: {matchFields: [{key: spec.hostname, operator: Exists}]}\nlistener: {spec: {UDP: {port: 1}}}" at "spec.selector.matchFields[0].key" says "Unsupported value";
    VirtualService "selector: {matchFields: [{key: spec.nodeName, operator: NotIn}]}\nlistener: {spec: {UDP: {port: 1}}}" at "spec.selector.matchFields[0].values" says "In and NotIn need at least one value";
    VirtualService "selector: {matchNamespace: Games}\nlistener: {spec: {UDP: {port: 1}}}" at "spec.selector.matchNamespace" says "is not a name";
    VirtualService "selector: {matchLabels: {a: 'b c'}}\nlistener: {spec: {UDP: {port: 1}}}" at "spec.selector.matchLabels.a" says "should match";
    Target "updateOwners: true" at "spec" says "needs exactly one of cluster and linkedVirtualService";
    Target "linkedVirtualService: a\ncluster: {spec: {Echo: {}}}" at "spec" says "needs exactly one of cluster and linkedVirtualService";
    Target "linkedVirtualService: /apis/l7mp.io/v1/namespaces/a/targets/b" at "spec.linkedVirtualService" says "does not name a VirtualService; write NAME, NAMESPACE/NAME";
    Target "selector: {matchService: a.b}\ncluster: {spec: {Echo: {}}}" at "spec.selector.matchService" says "is not a name";
    Target "cluster: {spec: {UDP: {port: 0}}}" at "spec.cluster.spec.UDP.port" says "should be greater than or equal to 1";
    Target "cluster: {spec: {UDP: {port: 1}, Echo: {}}}" at "spec.cluster.spec" says "needs exactly one protocol";
    Target "cluster: {spec: {Echo: {}}, endpoints: [{selector: {}}]}" at "spec.cluster.endpoints" says "Echo and Discard have no endpoints";
    Target "cluster: {spec: {UDP: {port: 1}}, endpoints: [{}]}" at "spec.cluster.endpoints[0]" says "needs exactly one of spec (a fixed endpoint) and selector";
    Target "cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {address: a}, selector: {}}]}" at "spec.cluster.endpoints[0]" says "needs exactly one of spec";
    Target "cluster: {spec: {UDP: {}}, endpoints: [{selector: {}}]}" at "spec.cluster.endpoints" says "a selector of pods needs that of the cluster";
    Target "cluster: {spec: {TCP: {}}, endpoints: [{spec: {address: a, port: 1}}, {spec: {address: b}}]}" at "spec.cluster.endpoints" says "the endpoints have no port";
    Target "cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {filename: /a}}]}" at "spec.cluster.endpoints" says "needs spec.address, an IP address or a DNS name, and no filename";
    Target "cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {address: '10.0.0.1:80'}}]}" at "spec.cluster.endpoints[0].spec.address" says "a port goes into the field port";
    Target "cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {address: 10.0.0.256}}]}" at "spec.cluster.endpoints[0].spec.address" says "is neither an IP address nor a DNS name";
    Target "cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {address: 'a b'}}]}" at "spec.cluster.endpoints[0].spec.address" says "should match";
    Target "cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {address: a, weight: 0}}]}" at "spec.cluster.endpoints[0].spec.weight" says "should be greater than or equal to 1";
    Target "cluster: {spec: {UDP: {port: 1}}, endpoints: [{spec: {address: a, weight: 1001}}]}" at "spec.cluster.endpoints[0].spec.weight" says "should be less than or equal to 1000";
    Target "cluster: {spec: {UnixDomainSocket: {}}, endpoints: [{selector: {}}]}" at "spec.cluster.endpoints" says "pods have addresses";
    Target "cluster: {spec: {UnixDomainSocket: {}}, endpoints: [{spec: {address: host}}]}" at "spec.cluster.endpoints" says "needs spec.filename, from / on";
    Target "cluster: {spec: {UnixDomainSocket: {}}, endpoints: [{spec: {filename: a.sock}}]}" at "spec.cluster.endpoints[0].spec.filename" says "is not the path of a socket";
    Target "cluster: {spec: {UDP: {port: 1, bind: {address: [10.0.0.1]}}}}" at "spec.cluster.spec.UDP.bind.address" says "must be of type string";
    Target "cluster: {spec: {UDP: {port: 1, bind: {address: 10.0.0.1, addresses: [10.0.0.2]}}}}" at "spec.cluster.spec.UDP.bind" says "not both";
    Target "cluster: {spec: {UDP: {port: 1, bind: {addresses: [host]}}}}" at "spec.cluster.spec.UDP.bind.addresses[0]" says "is not an IP address";
    Target "cluster: {spec: {Echo: {}}, drainTimeout: 1d}" at "spec.cluster.drainTimeout" says "is not a duration from 1ms to 24h";
    Target "cluster: {spec: {Echo: {}}, loadbalancer: {policy: Random}}" at "spec.cluster.loadbalancer.policy" says "Unsupported value";
    Target "cluster: {spec: {Echo: {}}, loadbalancer: {tableSize: 5000012}}" at "spec.cluster.loadbalancer.tableSize" says "should be less than or equal to 5000011";
    Target "cluster: {spec: {Echo: {}}, loadbalancer: {key: labels//x}}" at "spec.cluster.loadbalancer.key" says "is not a path into the metadata";
    Target "cluster: {spec: {WebSocket: {port: 1, host: 'a b'}}}" at "spec.cluster.spec.WebSocket.host" says "should match";
    Route "{}" at "spec" says "needs exactly one of destination (a cluster, inline) and destinationRef";
    Route "destinationRef: ''" at "spec.destinationRef" says "does not name a Target, VirtualService or Service";
    Route "destinationRef: a\ndestination: {spec: {Echo: {}}}" at "spec" says "needs exactly one of destination";
    Route "destinationRef: /apis/l7mp.io/v1/namespaces/a/routes/b" at "spec.destinationRef" says "does not name a Target, VirtualService or Service";
    Route "destinationRef: Upper" at "spec.destinationRef" says "does not name a Target, VirtualService or Service";
    Route "destinationRef: a\nretry: {retry_on: 5xx}" at "spec.retry.retry_on" says "Unsupported value";
    Route "destinationRef: a\nretry: {num_retries: 101}" at "spec.retry.num_retries" says "should be less than or equal to 100";
    Route "destinationRef: a\nretry: {timeout: 2h}" at "spec.retry.timeout" says "is not a duration from 1ms to 1h";
    Route "destinationRef: a\ningress: [{clusterRef: b, cluster: {spec: {Echo: {}}}}]" at "spec.ingress[0]" says "needs exactly one of cluster (inline) and clusterRef";
    Route "destinationRef: a\negress: [{cluster: {spec: {Echo: {}, Discard: {}}}}]" at "spec.egress[0].cluster.spec" says "needs exactly one protocol";
    Rule "rule: {action: {refuse: x}}" at "spec.rulelist" says "Required value";
    Rule "rulelist: a b\nrule: {action: {refuse: x}}" at "spec.rulelist" says "is not the name of a rule list";
    Rule "rulelist: a\nposition: -1\nrule: {action: {refuse: x}}" at "spec.position" says "should be greater than or equal to 0";
    Rule "rulelist: a\nrule: {action: {apply: ''}}" at "spec.rule.action.apply" says "is not the name of a rule list";
    Rule "rulelist: a\nrule: {action: {routeRef: a/b/c}}" at "spec.rule.action.routeRef" says "does not name a Route; write NAME, NAMESPACE/NAME";
    Rule "rulelist: a\nrule: {action: {refuse: \"a\\nb\"}}" at "spec.rule.action.refuse" says "is not one line of text";
    Rule "rulelist: a\nrule: {action: {refuse: a, rewrite: [{path: a//b, valueStr: x}]}}" at "spec.rule.action.rewrite[0].path" says "is not a path into the metadata";
    Rule "rulelist: a\nrule: {action: {refuse: a, rewrite: [{path: /a, valueStr: 5}]}}" at "spec.rule.action.rewrite[0].valueStr" says "must be of type string";
};
