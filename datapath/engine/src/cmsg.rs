//! Control messages: the segment size of a train, the address that a datagram was sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use l7mp_forwarder::address::LocalAddr;

/// `struct cmsghdr`: a length, a level, a type.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
/// Room for a UDP_GRO or UDP_SEGMENT message.
pub(crate) const SEGMENT_BYTES: usize = space(4);
/// Room for a packet info message of either family.
pub(crate) const PKTINFO_BYTES: usize = space(size_of::<libc::in6_pktinfo>());
/// Room for both.
pub(crate) const CONTROL_BYTES: usize = SEGMENT_BYTES + PKTINFO_BYTES;

/// Bytes of a control message with `data` bytes, padded.
const fn space(data: usize) -> usize {
    (HEADER_BYTES + data).next_multiple_of(size_of::<usize>())
}

/// What control messages said of a datagram.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    /// Size of each datagram of a train.
    pub segment: Option<u32>,
    /// The address that it was sent to, and the interface for a link-local one.
    pub destination: Option<(IpAddr, u32)>,
}

/// Reads control messages that the kernel wrote.
pub(crate) fn parse(mut control: &[u8]) -> Control {
    let mut found = Control::default();
    while let Some((header, _)) = control.split_first_chunk::<HEADER_BYTES>() {
        let len = usize::from_ne_bytes(*header.first_chunk().unwrap_or(&[0; 8]));
        let field = |at: usize| i32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let Some(data) = control.get(HEADER_BYTES..len) else { break };
        match (field(8), field(12)) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                found.segment =
                    data.first_chunk().map(|size| i32::from_ne_bytes(*size)).and_then(|size| size.try_into().ok());
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => found.destination = ipv4_destination(data),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => found.destination = ipv6_destination(data),
            _ => {}
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or(&[]);
    }
    found
}

/// `struct in_pktinfo`: interface, the local address that an answer should have, the address in the header.
fn ipv4_destination(data: &[u8]) -> Option<(IpAddr, u32)> {
    let local = data.get(4..8)?.first_chunk::<4>()?;
    Some((IpAddr::V4(Ipv4Addr::from(*local)), 0))
}

/// `struct in6_pktinfo`: address, interface.
fn ipv6_destination(data: &[u8]) -> Option<(IpAddr, u32)> {
    let ip = Ipv6Addr::from(*data.first_chunk::<16>()?);
    let interface = u32::from_ne_bytes(*data.get(16..20)?.first_chunk()?);
    Some((IpAddr::V6(ip), interface))
}

/// Control messages of one send, aligned as the kernel wants them.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct ControlBuffer {
    bytes: [u8; CONTROL_BYTES],
    len: u8,
}

const _: () = assert!(CONTROL_BYTES < 256);

impl ControlBuffer {
    /// No control message.
    pub const EMPTY: ControlBuffer = ControlBuffer { bytes: [0; CONTROL_BYTES], len: 0 };

    /// The messages.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Adds: cut the payload into datagrams of this size.
    pub fn push_segment(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    /// Adds: send from this address.
    pub fn push_source(&mut self, source: SocketAddr, ipv6_socket: bool) {
        match source {
            SocketAddr::V4(v4) if ipv6_socket => {
                let mapped = SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0);
                self.push_source(SocketAddr::V6(mapped), true);
            }
            SocketAddr::V4(v4) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&v4.ip().octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            SocketAddr::V6(v6) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&v6.ip().octets());
                info[16..].copy_from_slice(&v6.scope_id().to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = usize::from(self.len);
        let message = &mut self.bytes[at..at + space(data.len())];
        message.fill(0);
        message[..8].copy_from_slice(&(HEADER_BYTES + data.len()).to_ne_bytes());
        message[8..12].copy_from_slice(&level.to_ne_bytes());
        message[12..16].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER_BYTES..HEADER_BYTES + data.len()].copy_from_slice(data);
        self.len += message.len() as u8;
    }
}

/// The local address of a datagram: where it was sent to, and the listener's port.
pub(crate) fn local_addr(destination: (IpAddr, u32), port: u16) -> LocalAddr {
    let (ip, interface) = destination;
    LocalAddr::new(match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, interface)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_reads_back() {
        let mut control = ControlBuffer::EMPTY;
        control.push_source("[fe80::1%4]:9".parse().unwrap(), true);
        control.push_segment(1200);
        assert_eq!(control.as_bytes().len(), CONTROL_BYTES);
        let found = parse(control.as_bytes());
        assert_eq!(found.destination, Some(("fe80::1".parse().unwrap(), 4)));
        assert_eq!(found.segment, None, "UDP_SEGMENT is not what a receiver is told");

        let mut control = ControlBuffer::EMPTY;
        control.push_source("10.0.0.1:9".parse().unwrap(), false);
        assert_eq!(parse(control.as_bytes()).destination, Some(("10.0.0.1".parse().unwrap(), 0)));

        let mut control = ControlBuffer::EMPTY;
        control.push(libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes());
        control.push_source("10.0.0.1:9".parse().unwrap(), true);
        let found = parse(control.as_bytes());
        assert_eq!(found.segment, Some(1200));
        assert_eq!(local_addr(found.destination.unwrap(), 7), LocalAddr::new("10.0.0.1:7".parse().unwrap()));
    }

    #[test]
    fn broken_control_data_says_nothing() {
        for len in 0..HEADER_BYTES {
            assert_eq!(parse(&vec![0; len]), Control::default());
        }
        let mut zero_len = [0; 64];
        assert_eq!(parse(&zero_len), Control::default());
        zero_len[0] = 255;
        assert_eq!(parse(&zero_len), Control::default());
    }
}
