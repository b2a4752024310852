//! Listeners.

use std::net::IpAddr;

use serde_json::Value;

use super::cluster::{FRAMINGS, PAYLOADS, UNIX_KINDS, framing_of};
use super::fields::{self, Fields};
use super::{rule, scalars, spec};
use crate::config::{
    Connect, Framing, Listener, ListenerMode, ListenerOptions, ListenerSpec, Rules, TcpListener, UdpListener, UnixKind,
    UnixListener, WebSocketListener,
};
use crate::limits::{IDLE_TIMEOUT_MAX, RULES_PER_LIST_MAX, SESSIONS_MAX, SUBPROTOCOLS_MAX};
use crate::path::Path;
use crate::problem::{Problems, quoted};

const KINDS: [&str; 4] = ["UDP", "TCP", "WebSocket", "UnixDomainSocket"];

/// Port 0 collides with nothing.
fn stand_in() -> ListenerSpec {
    ListenerSpec::Udp(UdpListener { port: 0, address: None, connect: None, gro: true })
}

pub(crate) fn listener(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Listener {
    let Some(mut fields) = Fields::open(value, at, problems) else {
        let (name, rules) = (String::new(), Rules::Inline(Vec::new()));
        return Listener { name, spec: stand_in(), rules, options: ListenerOptions::default() };
    };
    let name = fields.name(true);
    let before = fields.problems.count();
    let spec = fields.must("spec", |value, at, problems| spec::spec(value, at, problems, &KINDS, listener_spec));
    // What could not be read may be what the mode needs.
    let readable = spec.as_ref().filter(|_| fields.problems.count() == before);
    let rules = fields.optional("rules", rules).unwrap_or_else(|| Rules::Inline(Vec::new()));
    let options = fields.optional("options", |value, at, problems| options(value, at, readable, problems));
    fields.finish();
    Listener { name, spec: spec.unwrap_or_else(stand_in), rules, options: options.unwrap_or_default() }
}

fn rules(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Rules> {
    match value {
        Value::String(_) => scalars::name(value, at, problems).map(Rules::List),
        Value::Array(_) => {
            Some(Rules::Inline(fields::list(value, at, RULES_PER_LIST_MAX, problems, &mut rule::rule_ref)))
        }
        other => {
            let message = format!("expected the name of a rule list, or a list of rules, not {}", scalars::kind(other));
            problems.push(at, message);
            None
        }
    }
}

fn listener_spec(kind: &'static str, fields: &mut Fields<'_>) -> ListenerSpec {
    match kind {
        "TCP" => {
            let (port, address) = port_and_address(fields);
            let framing =
                fields.optional("framing", |v, at, p| scalars::one_of(v, at, p, &FRAMINGS)).unwrap_or_default();
            ListenerSpec::Tcp(TcpListener { port, address, framing })
        }
        "WebSocket" => ListenerSpec::WebSocket(websocket(fields)),
        "UnixDomainSocket" => ListenerSpec::UnixDomainSocket(unix(fields)),
        _ => ListenerSpec::Udp(udp(fields)),
    }
}

/// An address that cannot be read must not collide with others, as port 0 does not.
fn port_and_address(fields: &mut Fields<'_>) -> (u16, Option<IpAddr>) {
    let port = fields.must("port", scalars::port_or_zero).unwrap_or(0);
    let address = fields.optional("address", scalars::ip);
    if address.is_none() && fields.has("address") {
        return (0, None);
    }
    (port, address)
}

fn udp(fields: &mut Fields<'_>) -> UdpListener {
    let (port, address) = port_and_address(fields);
    let connect = fields.optional("connect", connect);
    let gro = fields.optional("gro", scalars::boolean).unwrap_or(true);
    if let (Some(own), Some(peer)) = (address, connect.as_ref().and_then(|connect| connect.address))
        && own.is_ipv4() != peer.is_ipv4()
        && !(own.is_ipv6() && own.is_unspecified())
    {
        let at = fields.at().key("connect");
        fields.problems.push(&at.key("address"), format!("{peer} cannot reach a listener on {own}"));
    }
    UdpListener { port, address, connect, gro }
}

fn connect(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Connect> {
    let mut fields = Fields::open(value, at, problems)?;
    let connect =
        Connect { address: fields.optional("address", scalars::host_ip), port: fields.optional("port", scalars::port) };
    if !fields.has("address") && !fields.has("port") {
        fields.problems.push(at, "names neither an address nor a port");
    }
    fields.finish();
    Some(connect)
}

fn websocket(fields: &mut Fields<'_>) -> WebSocketListener {
    let (port, address) = port_and_address(fields);
    let path = fields.optional("path", scalars::url_path);
    let subprotocols: Vec<String> =
        fields.list("subprotocols", SUBPROTOCOLS_MAX, scalars::token).into_iter().flatten().collect();
    for (index, subprotocol) in subprotocols.iter().enumerate() {
        if subprotocols[..index].contains(subprotocol) {
            let at = fields.at().key("subprotocols");
            fields.problems.push(&at, format!("{} is given twice", quoted(subprotocol)));
        }
    }
    let payload = fields.optional("payload", |v, at, p| scalars::one_of(v, at, p, &PAYLOADS)).unwrap_or_default();
    WebSocketListener { port, address, path, subprotocols, payload }
}

fn unix(fields: &mut Fields<'_>) -> UnixListener {
    let filename = fields.must("filename", scalars::filename).unwrap_or_default();
    let kind = fields.optional("type", |v, at, p| scalars::one_of(v, at, p, &UNIX_KINDS));
    let mode = fields.optional("mode", scalars::file_mode);
    let framing = framing_of(fields, kind);
    UnixListener { filename, kind: kind.unwrap_or_default(), mode, framing }
}

fn options(
    value: &Value,
    at: &Path<'_>,
    spec: Option<&ListenerSpec>,
    problems: &mut Problems,
) -> Option<ListenerOptions> {
    const MODES: [(&str, ListenerMode); 2] = [("server", ListenerMode::Server), ("singleton", ListenerMode::Singleton)];
    let mut fields = Fields::open(value, at, problems)?;
    let options = ListenerOptions {
        mode: fields.optional("mode", |v, at, p| scalars::one_of(v, at, p, &MODES)),
        idle_timeout: fields.optional("idle_timeout", |v, at, p| scalars::duration(v, at, p, IDLE_TIMEOUT_MAX)),
        max_sessions: fields.optional("max_sessions", |v, at, p| scalars::integer(v, at, p, 1..=SESSIONS_MAX)),
        remove_orphan_sessions: fields.optional("remove_orphan_sessions", scalars::boolean).unwrap_or(true),
    };
    if let (Some(mode), Some(spec)) = (options.mode, spec)
        && let Some(fault) = mode_fault(mode, spec)
    {
        let at = fields.at().key("mode");
        fields.problems.push(&at, fault);
    }
    fields.finish();
    Some(options)
}

fn mode_fault(mode: ListenerMode, spec: &ListenerSpec) -> Option<String> {
    let udp = match spec {
        ListenerSpec::Udp(udp) => udp,
        ListenerSpec::Tcp(_) | ListenerSpec::WebSocket(_) | ListenerSpec::UnixDomainSocket(_) => {
            return Some(format!("only a UDP listener has a mode; this one is {}", spec.protocol()));
        }
    };
    let names_peer = udp.connect.as_ref().is_some_and(|connect| connect.address.is_some() && connect.port.is_some());
    match mode {
        ListenerMode::Server => None,
        ListenerMode::Singleton if names_peer => None,
        ListenerMode::Singleton => Some("singleton needs `connect` with address and port".to_owned()),
    }
}

/// For `Unix` sockets that keep boundaries themselves.
pub(crate) fn framing_fault(kind: UnixKind, framing: Framing) -> Option<&'static str> {
    match (kind, framing) {
        (UnixKind::Stream, _) | (UnixKind::Seqpacket | UnixKind::Dgram, Framing::Raw) => None,
        (UnixKind::Seqpacket | UnixKind::Dgram, Framing::Line | Framing::U16be | Framing::U32be) => {
            Some("framing is for stream sockets; this type keeps the boundaries of messages itself")
        }
    }
}
