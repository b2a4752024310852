//! Addresses by role, and the canonical form of each.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// The address of a downstream peer, canonical: an IPv4-mapped IPv6 address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr(SocketAddr);

impl ClientAddr {
    /// The canonical form of `address`.
    pub fn new(address: SocketAddr) -> ClientAddr {
        ClientAddr(canonical(address))
    }

    /// Address and port.
    pub fn socket_addr(self) -> SocketAddr {
        self.0
    }
}

/// The local address that a downstream peer sent to, canonical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalAddr(SocketAddr);

impl LocalAddr {
    /// The canonical form of `address`.
    pub fn new(address: SocketAddr) -> LocalAddr {
        LocalAddr(canonical(address))
    }

    /// Address and port.
    pub fn socket_addr(self) -> SocketAddr {
        self.0
    }
}

/// Where a cluster's endpoint listens; its identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddr {
    /// Canonical address and port.
    Inet(SocketAddr),
    /// Path of a Unix socket.
    Unix(Arc<Path>),
}

impl EndpointAddr {
    /// The canonical form of an address and port.
    pub fn inet(address: SocketAddr) -> EndpointAddr {
        EndpointAddr::Inet(canonical(address))
    }
}

impl fmt::Display for EndpointAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddr::Inet(address) => address.fmt(f),
            EndpointAddr::Unix(path) => path.display().fmt(f),
        }
    }
}

/// IPv4-mapped IPv6 becomes IPv4; flow label and scope of IPv6 are kept only for link-local addresses.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            IpAddr::V6(ip) => {
                let scope = if ip.is_unicast_link_local() { v6.scope_id() } else { 0 };
                SocketAddr::V6(std::net::SocketAddrV6::new(ip, v6.port(), 0, scope))
            }
        },
    }
}
