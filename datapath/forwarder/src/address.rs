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

/// Longest name that a Unix socket address holds, in bytes.
const UNIX_NAME_BYTES_MAX: usize = 108;

/// The name of a Unix dgram peer as the kernel gives it: a path without its final NUL, or an abstract name,
/// which starts with a NUL. Held by value, so that a received datagram needs no allocation.
#[derive(Clone, Copy)]
pub struct UnixName {
    len: u8,
    bytes: [u8; UNIX_NAME_BYTES_MAX],
}

impl UnixName {
    /// A name of its bytes. `None` when they are too many, or none: an unnamed socket has no name.
    pub fn new(name: &[u8]) -> Option<UnixName> {
        let len = u8::try_from(name.len()).ok().filter(|&len| len > 0)?;
        let mut bytes = [0; UNIX_NAME_BYTES_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(UnixName { len, bytes })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether it lies in the abstract namespace.
    pub fn is_abstract(&self) -> bool {
        self.bytes[0] == 0
    }
}

impl PartialEq for UnixName {
    fn eq(&self, other: &UnixName) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for UnixName {}

impl std::hash::Hash for UnixName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_bytes() {
            [0, name @ ..] => write!(f, "@{}", name.escape_ascii()),
            path => String::from_utf8_lossy(path).fmt(f),
        }
    }
}

impl fmt::Debug for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
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
