//! What the API server judges beyond types and bounds: rules in CEL, each with a message that says what to do.
//!
//! A rule costs what it would cost on the largest object that the bounds allow, times the lengths of the lists
//! around it; the API server refuses a kind whose rules cost too much. So the rules are few and plain, and what
//! the schema can say (ranges, patterns, enumerations) is not said here.

use kube::core::{Message, Reason, Rule};
use serde_json::{Value, json};

/// The fields of a pod that `matchFields` may name.
pub(crate) const POD_FIELDS: [&str; 6] =
    ["metadata.name", "metadata.namespace", "spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"];

/// The letters of a name of an object.
const PART: &str = "[-.a-z0-9]+";

fn rule(rule: impl Into<String>, message: impl Into<String>) -> Rule {
    Rule::new(rule).message(Message::Message(message.into())).reason(Reason::FieldValueInvalid)
}

/// Exactly one of the keys is there.
fn exactly_one(keys: &[&str], message: &str) -> Rule {
    let given: Vec<String> = keys.iter().map(|key| format!("has(self.{key})")).collect();
    match given.as_slice() {
        [first, second] => rule(format!("{first} != {second}"), message),
        given => rule(format!("[{}].exists_one(given, given)", given.join(", ")), message),
    }
}

/// The one protocol of a listener.
pub(crate) fn listener_spec() -> Value {
    json!([exactly_one(
        &["UDP", "TCP", "WebSocket", "UnixDomainSocket"],
        "needs exactly one protocol: UDP, TCP, WebSocket or UnixDomainSocket, such as {UDP: {port: 9001}}",
    )])
}

/// The one protocol of a cluster.
pub(crate) fn cluster_spec() -> Value {
    json!([exactly_one(
        &["UDP", "TCP", "WebSocket", "UnixDomainSocket", "Echo", "Discard"],
        "needs exactly one protocol: UDP, TCP, WebSocket, UnixDomainSocket, Echo or Discard, such as {UDP: {port: 9001}}",
    )])
}

/// A VirtualService names its pods.
pub(crate) fn virtual_service() -> Value {
    json!([Rule::new("has(self.selector)")
        .message("is needed: it says which pods get the listener ({} is every pod of the namespace)")
        .field_path(".selector")
        .reason(Reason::FieldValueRequired)])
}

/// Modes are for UDP, and one peer must be known where there is only one.
pub(crate) fn listener() -> Value {
    let mode = "has(self.options) && has(self.options.mode)";
    json!([
        rule(format!("!({mode}) || has(self.spec.UDP)"), "only a UDP listener has a mode; leave it out")
            .field_path(".options.mode"),
        rule(
            format!(
                "!({mode}) || self.options.mode != 'singleton' || !has(self.spec.UDP) || (has(self.spec.UDP.connect) \
                 && has(self.spec.UDP.connect.address) && has(self.spec.UDP.connect.port))"
            ),
            "singleton needs its peer: name spec.UDP.connect.address and spec.UDP.connect.port",
        )
        .field_path(".options.mode"),
    ])
}

/// One peer has an address or a port.
pub(crate) fn connect() -> Value {
    json!([rule("has(self.address) || has(self.port)", "names neither an address nor a port; give one or both")])
}

/// Framing is for byte streams.
pub(crate) fn unix_socket() -> Value {
    json!([rule(
        "!has(self.framing) || self.framing == 'raw' || !has(self.type) || self.type == 'stream'",
        "is for sockets of type stream; the other types keep the boundaries of messages themselves: leave it out",
    )
    .field_path(".framing")])
}

/// One address or several.
pub(crate) fn bind() -> Value {
    json!([rule("!(has(self.address) && has(self.addresses))", "has one of address and addresses, not both")])
}

/// `In` and `NotIn` compare with values, the others with none.
pub(crate) fn requirement() -> Value {
    json!([rule(
        "(self.operator == 'In' || self.operator == 'NotIn') == (has(self.values) && size(self.values) > 0)",
        "In and NotIn need at least one value; Exists and DoesNotExist take none",
    )
    .field_path(".values")])
}

/// A Target is a cluster, or stands for a VirtualService.
pub(crate) fn target() -> Value {
    json!([exactly_one(&["cluster", "linkedVirtualService"], "needs exactly one of cluster and linkedVirtualService")])
}

/// Endpoints fit the protocol of their cluster.
pub(crate) fn cluster() -> Value {
    let remote = "(has(self.spec.UDP) || has(self.spec.TCP) || has(self.spec.WebSocket))";
    let port = "((has(self.spec.UDP) && has(self.spec.UDP.port)) || (has(self.spec.TCP) && has(self.spec.TCP.port)) \
                || (has(self.spec.WebSocket) && has(self.spec.WebSocket.port)))";
    json!([
        rule(
            "!(has(self.spec.Echo) || has(self.spec.Discard)) || !has(self.endpoints) || size(self.endpoints) == 0",
            "Echo and Discard have no endpoints; leave them out",
        )
        .field_path(".endpoints"),
        rule(
            format!(
                "!{remote} || !has(self.endpoints) || self.endpoints.all(e, !has(e.spec) || \
                 (has(e.spec.address) && !has(e.spec.filename)))"
            ),
            "an endpoint of a UDP, TCP or WebSocket cluster needs spec.address, an IP address or a DNS name, and no filename",
        )
        .field_path(".endpoints"),
        rule(
            format!(
                "!{remote} || {port} || !has(self.endpoints) || \
                 self.endpoints.all(e, has(e.spec) && has(e.spec.port))"
            ),
            "the endpoints have no port: name it in the cluster (such as spec.UDP.port), or in each endpoint (spec.port); \
             a selector of pods needs that of the cluster",
        )
        .field_path(".endpoints"),
        rule(
            "!has(self.spec.UnixDomainSocket) || !has(self.endpoints) || self.endpoints.all(e, !has(e.selector))",
            "an endpoint of a UnixDomainSocket cluster is the filename of a socket (spec.filename); pods have addresses",
        )
        .field_path(".endpoints"),
        rule(
            "!has(self.spec.UnixDomainSocket) || !has(self.endpoints) || self.endpoints.all(e, !has(e.spec) || \
             (has(e.spec.filename) ? !has(e.spec.address) && !has(e.spec.port) : \
             has(e.spec.address) && e.spec.address.startsWith('/')))",
            "an endpoint of a UnixDomainSocket cluster needs spec.filename, from / on, and neither address nor port",
        )
        .field_path(".endpoints"),
    ])
}

/// An endpoint is fixed, or the pods of a selector.
pub(crate) fn endpoint() -> Value {
    json!([exactly_one(&["spec", "selector"], "needs exactly one of spec (a fixed endpoint) and selector (pods)")])
}

/// A route ends somewhere.
pub(crate) fn route() -> Value {
    json!([exactly_one(
        &["destination", "destinationRef"],
        "needs exactly one of destination (a cluster, inline) and destinationRef (the name of a Target)",
    )])
}

/// A hop is a cluster.
pub(crate) fn chain_item() -> Value {
    json!([exactly_one(
        &["cluster", "clusterRef"],
        "needs exactly one of cluster (inline) and clusterRef (the name of a Target)",
    )])
}

/// A rule does one thing.
pub(crate) fn action() -> Value {
    json!([exactly_one(
        &["route", "routeRef", "apply", "refuse"],
        "needs exactly one of route (inline), routeRef (the name of a Route), apply (a rule list) and refuse (a reason)",
    )])
}

/// The names that a Target or VirtualService or Service goes by. The rule stands deep in lists and costs by its
/// length: names that begin or end with a dot or dash, and ports behind the name of a Target, find no object.
pub(crate) fn destination_ref() -> Value {
    json!([rule(
        format!(
            "self.matches('^(/apis/l7mp[.]io/v1/namespaces/{PART}/(targets|virtualservices)/|\
             /l7mp[.]io/v1/(Target|VirtualService)/{PART}/|/api/v1/namespaces/{PART}/services/|({PART}/)?)\
             {PART}(:[-a-z0-9]+)?$')"
        ),
        "does not name a Target, VirtualService or Service; write NAME, NAMESPACE/NAME, \
         /l7mp.io/v1/Target/NAMESPACE/NAME or /apis/l7mp.io/v1/namespaces/NAMESPACE/targets/NAME; \
         the port of a Service goes behind its name, as in NAME:PORT",
    )])
}

/// The names that a Route goes by.
pub(crate) fn route_ref() -> Value {
    reference("Route", "routes")
}

/// The names that a VirtualService goes by.
pub(crate) fn virtual_service_ref() -> Value {
    reference("VirtualService", "virtualservices")
}

fn reference(kind: &str, plural: &str) -> Value {
    json!([rule(
        format!(
            "self.matches('^(/apis/l7mp[.]io/v1/namespaces/{PART}/{plural}/|/l7mp[.]io/v1/{kind}/{PART}/|\
             ({PART}/)?){PART}$')"
        ),
        format!(
            "does not name a {kind}; write NAME, NAMESPACE/NAME, /l7mp.io/v1/{kind}/NAMESPACE/NAME or \
             /apis/l7mp.io/v1/namespaces/NAMESPACE/{plural}/NAME"
        ),
    )])
}

/// The name of a rule list.
pub(crate) fn list_name() -> Value {
    json!([rule(
        r"self.matches('^[^/\\s[:cntrl:]]+$')",
        "is not the name of a rule list: it has no slash and no white space",
    )])
}

/// The name of a namespace, or of a Service.
pub(crate) fn label_name() -> Value {
    json!([rule(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "is not a name: write lower-case letters, digits and -",
    )])
}

/// An IP address.
pub(crate) fn ip() -> Value {
    json!([rule("isIP(self)", "is not an IP address, such as 10.0.0.1 or fd00::1")])
}

/// The address of an endpoint; the original wrote the path of a Unix socket there as well.
pub(crate) fn endpoint_address() -> Value {
    json!([rule(
        "isIP(self) || self.startsWith('/') || !(self.contains(':') || self.matches('^[0-9.]+$'))",
        "is neither an IP address nor a DNS name; a port goes into the field port",
    )])
}

/// The letters of addresses: of IP addresses, DNS names and paths.
pub(crate) const ENDPOINT_ADDRESS: &str = "^(/.+|[:A-Za-z0-9_]([-.:A-Za-z0-9_]*[.:A-Za-z0-9_])?)$";

/// The path of a Unix socket.
pub(crate) fn filename() -> Value {
    json!([rule(
        "self.startsWith('/') && !self.endsWith('/')",
        "is not the path of a socket; write it from / on, such as /run/app/app.sock",
    )])
}

/// The path of a URL.
pub(crate) fn url_path() -> Value {
    json!([rule(
        "self.matches('^/[!-~]*$') && !self.contains('#')",
        "is not a path: it begins with / and has no spaces and no #",
    )])
}

/// A place in a session's metadata.
pub(crate) fn metadata_path() -> Value {
    json!([rule("!self.contains('//')", "is not a path into the metadata; write one such as /labels/session_id",)])
}

/// The reason of a refusal: one line.
pub(crate) fn reason() -> Value {
    json!([rule("self.matches('^[^[:cntrl:]]*$')", "is not one line of text")])
}

/// Permission bits.
pub(crate) fn mode() -> Value {
    json!([rule("self.matches('^0*[0-7]{1,3}$')", "is not an octal mode such as \"0660\"")])
}

/// A duration from a millisecond to `longest`.
pub(crate) fn duration(longest: &str) -> Value {
    let text = "string(self)";
    let parsed = format!("duration({text}.matches('^[0-9]+$') ? {text} + 'ms' : {text})");
    json!([rule(
        format!(
            "{text}.matches('^[0-9]{{1,9}}(ms|s|m|h)?$') && {parsed} >= duration('1ms') && \
             {parsed} <= duration('{longest}')"
        ),
        format!(
            "is not a duration from 1ms to {longest}: write milliseconds as a number, or a text such as 500ms, 60s, 5m, 1h"
        ),
    )])
}
