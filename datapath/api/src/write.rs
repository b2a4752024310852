//! The typed document to a tree, in the canonical spelling: `spec: {UDP: {...}}`, durations as strings, what has its
//! default left out. Reading it gives the same document.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::config::{
    Action, ActionTarget, Admin, Bind, Cluster, ClusterSpec, Config, Connect, Endpoint, EndpointAt, Framing, Listener,
    ListenerMode, ListenerOptions, ListenerSpec, LoadBalancer, Policy, Ref, Retry, RetryOn, Rewrite, Route, Rule,
    RuleList, Rules, UnixKind, WebSocketPayload,
};
use crate::duration;

/// An object of the document that can be written by itself.
trait ToValue {
    fn to_value(&self) -> Value;
}

macro_rules! written_as_value {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                ToValue::to_value(self).serialize(serializer)
            }
        }
    )*};
}

written_as_value!(Config, Listener, Cluster, Route, Rule, RuleList);

impl Config {
    /// The document in its canonical spelling.
    pub fn to_value(&self) -> Value {
        ToValue::to_value(self)
    }
}

impl<'de> Deserialize<'de> for Config {
    /// As [`Config::from_value`], with all problems in one message.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Config, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Config::from_value(&value).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            D::Error::custom(lines.join("; "))
        })
    }
}

/// An object under construction: fields that are `None` or empty are left out.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn set(mut self, name: &str, value: impl Into<Value>) -> Object {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn set_some(self, name: &str, value: Option<impl Into<Value>>) -> Object {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    /// Unless it is the default.
    fn set_other<T: PartialEq + Into<Value>>(self, name: &str, value: T, default: T) -> Object {
        if value == default { self } else { self.set(name, value) }
    }

    fn set_list(self, name: &str, list: Vec<Value>) -> Object {
        if list.is_empty() { self } else { self.set(name, list) }
    }

    /// Unless it has no fields.
    fn set_object(self, name: &str, object: Object) -> Object {
        if object.0.is_empty() { self } else { self.set(name, object) }
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Value {
        Value::Object(object.0)
    }
}

fn time(value: Duration) -> String {
    duration::format(value)
}

fn all<T: ToValue>(items: &[T]) -> Vec<Value> {
    items.iter().map(ToValue::to_value).collect()
}

fn reference<T: ToValue>(reference: &Ref<T>) -> Value {
    match reference {
        Ref::Name(name) => Value::from(name.as_str()),
        Ref::Inline(object) => object.to_value(),
    }
}

fn references<T: ToValue>(list: &[Ref<T>]) -> Vec<Value> {
    list.iter().map(reference).collect()
}

/// Inline objects may have no name.
fn named(name: &str) -> Object {
    Object::default().set_other("name", name, "")
}

impl ToValue for Config {
    fn to_value(&self) -> Value {
        let Admin { log_level } = &self.admin;
        let admin = Object::default().set_some("log_level", log_level.as_deref());
        Object::default()
            .set_list("listeners", all(&self.listeners))
            .set_list("clusters", all(&self.clusters))
            .set_list("routes", all(&self.routes))
            .set_list("rules", all(&self.rules))
            .set_list("rulelists", all(&self.rulelists))
            .set_object("admin", admin)
            .into()
    }
}

impl ToValue for Listener {
    fn to_value(&self) -> Value {
        let rules = match &self.rules {
            Rules::List(name) => Value::from(name.as_str()),
            Rules::Inline(rules) => references(rules).into(),
        };
        named(&self.name)
            .set("spec", listener_spec(&self.spec))
            .set("rules", rules)
            .set_object("options", options(&self.options))
            .into()
    }
}

fn options(options: &ListenerOptions) -> Object {
    let mode = options.mode.map(|mode| match mode {
        ListenerMode::Server => "server",
        ListenerMode::Singleton => "singleton",
    });
    Object::default()
        .set_some("mode", mode)
        .set_some("idle_timeout", options.idle_timeout.map(time))
        .set_some("max_sessions", options.max_sessions)
        .set_other("remove_orphan_sessions", options.remove_orphan_sessions, true)
}

fn listener_spec(spec: &ListenerSpec) -> Value {
    let fields = match spec {
        ListenerSpec::Udp(udp) => Object::default()
            .set("port", udp.port)
            .set_some("address", udp.address.map(|address| address.to_string()))
            .set_some("connect", udp.connect.as_ref().map(connect))
            .set_other("gro", udp.gro, true),
        ListenerSpec::Tcp(tcp) => Object::default()
            .set("port", tcp.port)
            .set_some("address", tcp.address.map(|address| address.to_string()))
            .set_some("framing", framing(tcp.framing)),
        ListenerSpec::WebSocket(websocket) => Object::default()
            .set("port", websocket.port)
            .set_some("address", websocket.address.map(|address| address.to_string()))
            .set_some("path", websocket.path.as_deref())
            .set_list("subprotocols", websocket.subprotocols.iter().map(|it| it.as_str().into()).collect())
            .set_some("payload", payload(websocket.payload)),
        ListenerSpec::UnixDomainSocket(unix) => Object::default()
            .set("filename", unix.filename.as_str())
            .set_some("type", unix_kind(unix.kind))
            .set_some("mode", unix.mode.map(|mode| format!("{mode:04o}")))
            .set_some("framing", framing(unix.framing)),
    };
    Object::default().set(spec.protocol(), fields).into()
}

fn connect(connect: &Connect) -> Object {
    Object::default()
        .set_some("address", connect.address.map(|address| address.to_string()))
        .set_some("port", connect.port)
}

/// `None`: the default.
fn framing(framing: Framing) -> Option<&'static str> {
    match framing {
        Framing::Raw => None,
        Framing::Line => Some("line"),
        Framing::U16be => Some("u16be"),
        Framing::U32be => Some("u32be"),
    }
}

/// `None`: the default.
fn payload(payload: WebSocketPayload) -> Option<&'static str> {
    match payload {
        WebSocketPayload::Binary => None,
        WebSocketPayload::Text => Some("text"),
    }
}

/// `None`: the default.
fn unix_kind(kind: UnixKind) -> Option<&'static str> {
    match kind {
        UnixKind::Stream => None,
        UnixKind::Seqpacket => Some("seqpacket"),
        UnixKind::Dgram => Some("dgram"),
    }
}

impl ToValue for Cluster {
    fn to_value(&self) -> Value {
        named(&self.name)
            .set("spec", cluster_spec(&self.spec))
            .set_list("endpoints", all(&self.endpoints))
            .set_object("loadbalancer", loadbalancer(&self.loadbalancer))
            .set_some("drain_timeout", self.drain_timeout.map(time))
            .into()
    }
}

fn cluster_spec(spec: &ClusterSpec) -> Value {
    let fields = match spec {
        ClusterSpec::Udp(udp) => Object::default()
            .set_some("port", udp.port)
            .set_some("bind", udp.bind.as_ref().map(bind))
            .set_other("gro", udp.gro, true),
        ClusterSpec::Tcp(tcp) => Object::default()
            .set_some("port", tcp.port)
            .set_some("bind", tcp.bind.as_ref().map(bind))
            .set_some("framing", framing(tcp.framing)),
        ClusterSpec::WebSocket(websocket) => Object::default()
            .set_some("port", websocket.port)
            .set_some("path", websocket.path.as_deref())
            .set_some("host", websocket.host.as_deref())
            .set_some("subprotocol", websocket.subprotocol.as_deref())
            .set_some("payload", payload(websocket.payload)),
        ClusterSpec::UnixDomainSocket(unix) => Object::default()
            .set_some("filename", unix.filename.as_deref())
            .set_some("type", unix_kind(unix.kind))
            .set_some("framing", framing(unix.framing)),
        ClusterSpec::Echo | ClusterSpec::Discard => Object::default(),
    };
    Object::default().set(spec.protocol(), fields).into()
}

fn bind(bind: &Bind) -> Object {
    let address = match bind.addresses.as_slice() {
        [] => None,
        [one] => Some(Value::from(one.to_string())),
        several => Some(several.iter().map(ToString::to_string).collect()),
    };
    Object::default().set_some("address", address).set_other("port", bind.port, 0)
}

impl ToValue for Endpoint {
    fn to_value(&self) -> Value {
        let spec = match &self.at {
            EndpointAt::Address { address, port } => {
                Object::default().set("address", address.as_str()).set_some("port", *port)
            }
            EndpointAt::Filename(filename) => Object::default().set("filename", filename.as_str()),
        };
        Object::default()
            .set_some("name", self.name.as_deref())
            .set("spec", spec.set_other("weight", self.weight, 1))
            .set_other("ready", self.ready, true)
            .set_other("draining", self.draining, false)
            .into()
    }
}

fn loadbalancer(loadbalancer: &LoadBalancer) -> Object {
    let policy = match loadbalancer.policy {
        Policy::ConsistentHash => "ConsistentHash",
        Policy::HashRing => "HashRing",
        Policy::RoundRobin => "RoundRobin",
        Policy::Trivial => "Trivial",
    };
    Object::default()
        .set_other("policy", policy, "Trivial")
        .set_some("key", loadbalancer.key.as_deref())
        .set_some("table_size", loadbalancer.table_size)
}

impl ToValue for Route {
    fn to_value(&self) -> Value {
        let retry = if self.retry == Retry::default() { None } else { Some(retry(&self.retry)) };
        named(&self.name)
            .set("destination", reference(&self.destination))
            .set_list("ingress", references(&self.ingress))
            .set_list("egress", references(&self.egress))
            .set_some("retry", retry)
            .into()
    }
}

fn retry(retry: &Retry) -> Value {
    let retry_on = match retry.retry_on {
        RetryOn::Never => "never",
        RetryOn::ConnectFailure => "connect-failure",
        RetryOn::Disconnect => "disconnect",
        RetryOn::Always => "always",
    };
    json!({"retry_on": retry_on, "num_retries": retry.num_retries, "timeout": time(retry.timeout)})
}

impl ToValue for RuleList {
    fn to_value(&self) -> Value {
        named(&self.name).set("rules", references(&self.rules)).into()
    }
}

impl ToValue for Rule {
    fn to_value(&self) -> Value {
        named(&self.name).set_some("match", self.matches.clone()).set("action", action(&self.action)).into()
    }
}

fn action(action: &Action) -> Object {
    let rewrite = |rewrite: &Rewrite| json!({"path": rewrite.path, "value": rewrite.value});
    let object = Object::default().set_list("rewrite", action.rewrite.iter().map(rewrite).collect());
    match &action.target {
        ActionTarget::Route(route) => object.set("route", reference(route)),
        ActionTarget::Apply(list) => object.set("apply", list.as_str()),
        ActionTarget::Refuse(reason) => object.set("refuse", reason.as_str()),
    }
}
