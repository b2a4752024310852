//! From the spelling of the custom resources to that of the document, where they are one to one.

use l7mp_api::config::{self as api, Retry};
use l7mp_crds as crd;

use crate::check::parse_mode;

pub(super) fn listener_spec(spec: &crd::ListenerSpec) -> api::ListenerSpec {
    match spec {
        crd::ListenerSpec::Udp(udp) => api::ListenerSpec::Udp(api::UdpListener {
            port: udp.port,
            address: udp.address,
            connect: udp.connect.as_ref().map(|peer| api::Connect { address: peer.address, port: peer.port }),
            gro: udp.gro.unwrap_or(true),
        }),
        crd::ListenerSpec::Tcp(tcp) => api::ListenerSpec::Tcp(api::TcpListener {
            port: tcp.port,
            address: tcp.address,
            framing: framing(tcp.framing),
        }),
        crd::ListenerSpec::WebSocket(web) => api::ListenerSpec::WebSocket(api::WebSocketListener {
            port: web.port,
            address: web.address,
            path: web.path.clone(),
            subprotocols: web.subprotocols.clone(),
            payload: payload(web.payload),
        }),
        crd::ListenerSpec::UnixDomainSocket(unix) => api::ListenerSpec::UnixDomainSocket(api::UnixListener {
            filename: unix.filename.clone(),
            kind: unix_kind(unix.kind),
            mode: unix.mode.as_deref().and_then(parse_mode),
            framing: framing(unix.framing),
        }),
    }
}

pub(super) fn options(options: &crd::ListenerOptions) -> api::ListenerOptions {
    let defaults = api::ListenerOptions::default();
    api::ListenerOptions {
        mode: options.mode.map(|mode| match mode {
            crd::ListenerMode::Server => api::ListenerMode::Server,
            crd::ListenerMode::Singleton => api::ListenerMode::Singleton,
        }),
        idle_timeout: options.idle_timeout.map(|timeout| timeout.0),
        max_sessions: options.max_sessions,
        remove_orphan_sessions: options.remove_orphan_sessions.unwrap_or(defaults.remove_orphan_sessions),
    }
}

pub(super) fn cluster_spec(spec: &crd::ClusterSpec) -> api::ClusterSpec {
    match spec {
        crd::ClusterSpec::Udp(udp) => api::ClusterSpec::Udp(api::UdpCluster {
            port: udp.port,
            bind: udp.bind.as_ref().map(bind),
            gro: udp.gro.unwrap_or(true),
        }),
        crd::ClusterSpec::Tcp(tcp) => api::ClusterSpec::Tcp(api::TcpCluster {
            port: tcp.port,
            bind: tcp.bind.as_ref().map(bind),
            framing: framing(tcp.framing),
        }),
        crd::ClusterSpec::WebSocket(web) => api::ClusterSpec::WebSocket(api::WebSocketCluster {
            port: web.port,
            path: web.path.clone(),
            host: web.host.clone(),
            subprotocol: web.subprotocol.clone(),
            payload: payload(web.payload),
        }),
        crd::ClusterSpec::UnixDomainSocket(unix) => api::ClusterSpec::UnixDomainSocket(api::UnixCluster {
            filename: unix.filename.clone(),
            kind: unix_kind(unix.kind),
            framing: framing(unix.framing),
        }),
        crd::ClusterSpec::Echo(crd::Nothing {}) => api::ClusterSpec::Echo,
        crd::ClusterSpec::Discard(crd::Nothing {}) => api::ClusterSpec::Discard,
    }
}

/// How to dial a listener of another pod: its protocol, port and framing.
pub(super) fn dial(spec: &crd::ListenerSpec) -> crd::ClusterSpec {
    match spec {
        crd::ListenerSpec::Udp(udp) => {
            crd::ClusterSpec::Udp(crd::UdpCluster { port: Some(udp.port), ..crd::UdpCluster::default() })
        }
        crd::ListenerSpec::Tcp(tcp) => {
            let (port, framing) = (Some(tcp.port), tcp.framing);
            crd::ClusterSpec::Tcp(crd::TcpCluster { port, framing, ..crd::TcpCluster::default() })
        }
        crd::ListenerSpec::WebSocket(web) => crd::ClusterSpec::WebSocket(crd::WebSocketCluster {
            port: Some(web.port),
            path: web.path.clone(),
            payload: web.payload,
            ..crd::WebSocketCluster::default()
        }),
        crd::ListenerSpec::UnixDomainSocket(unix) => crd::ClusterSpec::UnixDomainSocket(crd::UnixCluster {
            filename: Some(unix.filename.clone()),
            kind: unix.kind,
            framing: unix.framing,
        }),
    }
}

pub(super) fn load_balancer(balancer: &crd::LoadBalancer) -> api::LoadBalancer {
    api::LoadBalancer {
        policy: match balancer.policy {
            crd::Policy::ConsistentHash => api::Policy::ConsistentHash,
            crd::Policy::HashRing => api::Policy::HashRing,
            crd::Policy::RoundRobin => api::Policy::RoundRobin,
            crd::Policy::Trivial => api::Policy::Trivial,
        },
        key: balancer.key.clone(),
        table_size: balancer.table_size,
    }
}

pub(super) fn retry(retry: Option<&crd::Retry>) -> Retry {
    let defaults = Retry::default();
    let Some(retry) = retry else { return defaults };
    Retry {
        retry_on: match retry.retry_on {
            crd::RetryOn::Never => api::RetryOn::Never,
            crd::RetryOn::ConnectFailure => api::RetryOn::ConnectFailure,
            crd::RetryOn::Disconnect => api::RetryOn::Disconnect,
            crd::RetryOn::Always => api::RetryOn::Always,
        },
        num_retries: retry.num_retries.unwrap_or(defaults.num_retries),
        timeout: retry.timeout.map_or(defaults.timeout, |timeout| timeout.0),
    }
}

fn bind(bind: &crd::Bind) -> api::Bind {
    let addresses = bind.address.iter().chain(&bind.addresses).copied().collect();
    api::Bind { addresses, port: bind.port }
}

fn framing(framing: crd::Framing) -> api::Framing {
    match framing {
        crd::Framing::Raw => api::Framing::Raw,
        crd::Framing::Line => api::Framing::Line,
        crd::Framing::U16be => api::Framing::U16be,
        crd::Framing::U32be => api::Framing::U32be,
    }
}

fn payload(payload: crd::Payload) -> api::WebSocketPayload {
    match payload {
        crd::Payload::Binary => api::WebSocketPayload::Binary,
        crd::Payload::Text => api::WebSocketPayload::Text,
    }
}

fn unix_kind(kind: crd::UnixType) -> api::UnixKind {
    match kind {
        crd::UnixType::Stream => api::UnixKind::Stream,
        crd::UnixType::Seqpacket => api::UnixKind::Seqpacket,
        crd::UnixType::Dgram => api::UnixKind::Dgram,
    }
}
