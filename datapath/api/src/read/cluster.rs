//! Clusters.

use serde_json::Value;

use super::endpoint::{self, Home};
use super::fields::{self, Fields};
use super::listener::framing_fault;
use super::{by_name_or_inline, scalars, spec};
use crate::config::{
    Bind, Cluster, ClusterSpec, Framing, LoadBalancer, Policy, Ref, TcpCluster, UdpCluster, UnixCluster, UnixKind,
    WebSocketCluster, WebSocketPayload,
};
use crate::limits::{BIND_ADDRESSES_MAX, ENDPOINTS_MAX, IDLE_TIMEOUT_MAX, TABLE_SIZE_MAX};
use crate::path::Path;
use crate::problem::Problems;

const KINDS: [&str; 6] = ["UDP", "TCP", "WebSocket", "UnixDomainSocket", "Echo", "Discard"];

pub(crate) const FRAMINGS: [(&str, Framing); 4] =
    [("raw", Framing::Raw), ("line", Framing::Line), ("u16be", Framing::U16be), ("u32be", Framing::U32be)];

pub(crate) const PAYLOADS: [(&str, WebSocketPayload); 2] =
    [("binary", WebSocketPayload::Binary), ("text", WebSocketPayload::Text)];

pub(crate) const UNIX_KINDS: [(&str, UnixKind); 3] =
    [("stream", UnixKind::Stream), ("seqpacket", UnixKind::Seqpacket), ("dgram", UnixKind::Dgram)];

const POLICIES: [(&str, Policy); 4] = [
    ("ConsistentHash", Policy::ConsistentHash),
    ("HashRing", Policy::HashRing),
    ("RoundRobin", Policy::RoundRobin),
    ("Trivial", Policy::Trivial),
];

pub(crate) fn cluster_ref(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Ref<Cluster> {
    by_name_or_inline(value, at, problems, stand_in, |value, at, problems| cluster(value, at, false, problems))
}

pub(crate) fn stand_in() -> Cluster {
    let (spec, loadbalancer) = (ClusterSpec::Discard, LoadBalancer::default());
    Cluster { name: String::new(), spec, endpoints: Vec::new(), loadbalancer, drain_timeout: None }
}

pub(crate) fn cluster(value: &Value, at: &Path<'_>, named: bool, problems: &mut Problems) -> Cluster {
    let Some(mut fields) = Fields::open(value, at, problems) else {
        return stand_in();
    };
    let name = fields.name(named);
    let mut broken_port = false;
    let spec = fields.must("spec", |value, at, problems| {
        spec::spec(value, at, problems, &KINDS, |kind, fields| {
            let spec = cluster_spec(kind, fields);
            broken_port = spec.port().is_none() && fields.has("port");
            spec
        })
    });
    let home = Home::of(spec.as_ref(), broken_port);
    let endpoints =
        fields.list("endpoints", ENDPOINTS_MAX, |value, at, problems| endpoint::endpoint(value, at, &home, problems));
    endpoint::refuse_twins(&endpoints, &fields.at().key("endpoints"), &home, fields.problems);
    let loadbalancer = fields.optional("loadbalancer", |v, at, p| loadbalancer(v, at, endpoints.len(), p));
    let drain_timeout = fields.optional("drain_timeout", |v, at, p| scalars::duration(v, at, p, IDLE_TIMEOUT_MAX));
    fields.finish();
    Cluster {
        name,
        spec: spec.unwrap_or(ClusterSpec::Discard),
        endpoints: endpoints.into_iter().flatten().collect(),
        loadbalancer: loadbalancer.unwrap_or_default(),
        drain_timeout,
    }
}

fn cluster_spec(kind: &'static str, fields: &mut Fields<'_>) -> ClusterSpec {
    match kind {
        "UDP" => ClusterSpec::Udp(UdpCluster {
            port: fields.optional("port", scalars::port),
            bind: fields.optional("bind", bind),
            gro: fields.optional("gro", scalars::boolean).unwrap_or(true),
        }),
        "TCP" => ClusterSpec::Tcp(TcpCluster {
            port: fields.optional("port", scalars::port),
            bind: fields.optional("bind", bind),
            framing: fields.optional("framing", |v, at, p| scalars::one_of(v, at, p, &FRAMINGS)).unwrap_or_default(),
        }),
        "WebSocket" => ClusterSpec::WebSocket(WebSocketCluster {
            port: fields.optional("port", scalars::port),
            path: fields.optional("path", scalars::url_path),
            host: fields.optional("host", scalars::host_header),
            subprotocol: fields.optional("subprotocol", scalars::token),
            payload: fields.optional("payload", |v, at, p| scalars::one_of(v, at, p, &PAYLOADS)).unwrap_or_default(),
        }),
        "UnixDomainSocket" => {
            let filename = fields.optional("filename", scalars::filename);
            let kind = fields.optional("type", |v, at, p| scalars::one_of(v, at, p, &UNIX_KINDS));
            let framing = framing_of(fields, kind);
            ClusterSpec::UnixDomainSocket(UnixCluster { filename, kind: kind.unwrap_or_default(), framing })
        }
        "Echo" => ClusterSpec::Echo,
        _ => ClusterSpec::Discard,
    }
}

/// The `framing` of a Unix socket. `kind` is what could be read of its `type`.
pub(crate) fn framing_of(fields: &mut Fields<'_>, kind: Option<UnixKind>) -> Framing {
    let framing = fields.optional("framing", |v, at, p| scalars::one_of(v, at, p, &FRAMINGS)).unwrap_or_default();
    if let Some(fault) = kind.and_then(|kind| framing_fault(kind, framing)) {
        let at = fields.at().key("framing");
        fields.problems.push(&at, fault);
    }
    framing
}

/// `{address: one or several, port}`
fn bind(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Bind> {
    let mut fields = Fields::open(value, at, problems)?;
    let addresses = fields.optional("address", |value, at, problems| {
        Some(match value {
            Value::Array(_) => fields::list(value, at, BIND_ADDRESSES_MAX, problems, &mut scalars::host_ip),
            one => vec![scalars::host_ip(one, at, problems)],
        })
    });
    let port = fields.optional("port", scalars::port_or_zero).unwrap_or(0);
    fields.finish();
    Some(Bind { addresses: addresses.unwrap_or_default().into_iter().flatten().collect(), port })
}

fn loadbalancer(value: &Value, at: &Path<'_>, endpoints: usize, problems: &mut Problems) -> Option<LoadBalancer> {
    let mut fields = Fields::open(value, at, problems)?;
    let loadbalancer = LoadBalancer {
        policy: fields.optional("policy", |v, at, p| scalars::one_of(v, at, p, &POLICIES)).unwrap_or_default(),
        key: fields.optional("key", scalars::metadata_path),
        table_size: fields.optional("table_size", |v, at, p| table_size(v, at, endpoints, p)),
    };
    fields.finish();
    Some(loadbalancer)
}

fn table_size(value: &Value, at: &Path<'_>, endpoints: usize, problems: &mut Problems) -> Option<u32> {
    let size = scalars::integer(value, at, problems, 2..=TABLE_SIZE_MAX)?;
    if !is_prime(size) {
        problems.push(at, format!("{size} is not a prime; the next one is {}", next_prime(size)));
        return None;
    }
    if (size as usize) < endpoints {
        let next = next_prime(u32::try_from(endpoints).unwrap_or(TABLE_SIZE_MAX));
        problems.push(at, format!("{size} slots are too few for {endpoints} endpoints; the next prime is {next}"));
        return None;
    }
    Some(size)
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

/// The smallest prime from `number` on. Below the table's bound, which is prime, there always is one.
fn next_prime(number: u32) -> u32 {
    (number.max(2)..).find(|number| is_prime(*number)).unwrap_or(TABLE_SIZE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::TABLE_SIZE_DEFAULT;

    #[test]
    fn the_bound_and_the_default_of_a_table_are_primes() {
        assert!(is_prime(TABLE_SIZE_MAX) && is_prime(TABLE_SIZE_DEFAULT));
        assert_eq!((next_prime(65_536), next_prime(0), next_prime(4)), (65_537, 2, 5));
    }
}
