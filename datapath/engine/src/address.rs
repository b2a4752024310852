//! Socket addresses as the kernel has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use l7mp_forwarder::address::UnixName;

/// Room for a name of either family.
pub(crate) const INET_NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Room for the name of a Unix socket.
pub(crate) const UNIX_NAME_BYTES: usize = size_of::<libc::sockaddr_un>();
/// Bytes in front of the path in a `sockaddr_un`.
const UNIX_PATH_OFFSET: usize = size_of::<libc::sa_family_t>();

/// An address in the kernel's form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<const N: usize> {
    pub bytes: [u8; N],
    pub len: u8,
}

/// An IPv4 or IPv6 address in the kernel's form.
pub(crate) type InetName = Name<INET_NAME_BYTES>;

const _: () = assert!(UNIX_NAME_BYTES < 256);

impl<const N: usize> Name<N> {
    fn of(parts: &[&[u8]]) -> Name<N> {
        let mut name = Name { bytes: [0; N], len: 0 };
        for part in parts {
            let at = usize::from(name.len);
            name.bytes[at..at + part.len()].copy_from_slice(part);
            name.len += part.len() as u8;
        }
        name
    }
}

/// An address and port for a socket of `family`: a dual-stack socket wants IPv4 addresses mapped.
pub(crate) fn inet_name(address: SocketAddr, ipv6_socket: bool) -> InetName {
    match address {
        SocketAddr::V4(v4) if ipv6_socket => {
            let mapped = SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0);
            inet_name(SocketAddr::V6(mapped), true)
        }
        SocketAddr::V4(v4) => {
            Name::of(&[&(libc::AF_INET as u16).to_ne_bytes(), &v4.port().to_be_bytes(), &v4.ip().octets(), &[0; 8]])
        }
        SocketAddr::V6(v6) => Name::of(&[
            &(libc::AF_INET6 as u16).to_ne_bytes(),
            &v6.port().to_be_bytes(),
            &v6.flowinfo().to_be_bytes(),
            &v6.ip().octets(),
            &v6.scope_id().to_ne_bytes(),
        ]),
    }
}

/// Reads an address and port that the kernel wrote.
pub(crate) fn parse_inet(name: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = name.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
            Some(SocketAddr::V4(SocketAddrV4::new(ip, port)))
        }
        libc::AF_INET6 => {
            let (flow, rest) = rest.split_first_chunk::<4>()?;
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*rest.first_chunk::<4>()?);
            let flow = u32::from_be_bytes(*flow);
            Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope)))
        }
        _ => None,
    }
}

/// The name of a Unix peer in the kernel's form.
pub(crate) fn unix_name(name: &UnixName) -> Name<UNIX_NAME_BYTES> {
    Name::of(&[&(libc::AF_UNIX as u16).to_ne_bytes(), name.as_bytes()])
}

/// Reads the name of a Unix peer that the kernel wrote; `None` for an unnamed one.
pub(crate) fn parse_unix(name: &[u8]) -> Option<UnixName> {
    let path = name.get(UNIX_PATH_OFFSET..)?;
    match path {
        [] => None,
        // An abstract name is as long as the kernel says, NULs included.
        [0, ..] => UnixName::new(path),
        _ => UnixName::new(path.split(|&byte| byte == 0).next()?),
    }
}

/// Whether answers must say from which address they come.
pub(crate) fn is_wildcard(address: IpAddr) -> bool {
    address.to_canonical().is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["127.0.0.1:9001", "[::1]:80", "[fe80::1%3]:7", "[::ffff:10.0.0.1]:5"] {
            let address: SocketAddr = text.parse().unwrap();
            let name = inet_name(address, false);
            assert_eq!(parse_inet(&name.bytes[..usize::from(name.len)]), Some(address), "{text}");
        }
        let mapped = inet_name("10.0.0.1:5".parse().unwrap(), true);
        assert_eq!(parse_inet(&mapped.bytes), Some("[::ffff:10.0.0.1]:5".parse().unwrap()));
        assert_eq!(parse_inet(&[]), None);
        assert_eq!(parse_inet(&mapped.bytes[..20]), None);
    }

    #[test]
    fn unix_names_survive_the_kernels_form() {
        for bytes in [&b"/tmp/x"[..], b"\0abstract\0name", b"x"] {
            let name = UnixName::new(bytes).unwrap();
            let kernel = unix_name(&name);
            assert_eq!(parse_unix(&kernel.bytes[..usize::from(kernel.len)]), Some(name));
        }
        assert_eq!(parse_unix(&(libc::AF_UNIX as u16).to_ne_bytes()), None);
        assert_eq!(parse_unix(&[]), None);
        assert_eq!(parse_unix(b"\x01\x00/tmp/x\0\0\0").unwrap().as_bytes(), b"/tmp/x");
    }
}
