//! Which listeners want the same socket.

use std::net::IpAddr;

use l7mp_crds::ListenerSpec;

/// The socket that a listener needs for itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Claim<'a> {
    /// A UDP port of one address, or of all (`None`).
    Udp(Option<IpAddr>, u16),
    /// A TCP port of one address, or of all (`None`).
    Tcp(Option<IpAddr>, u16),
    /// A socket file.
    File(&'a str),
}

impl<'a> Claim<'a> {
    /// The claim of a listener; `None` when the kernel chooses its port.
    pub(super) fn of(spec: &'a ListenerSpec) -> Option<Claim<'a>> {
        let address = |address: Option<IpAddr>| {
            address.map(|address| address.to_canonical()).filter(|address| !address.is_unspecified())
        };
        match spec {
            ListenerSpec::Udp(udp) => (udp.port != 0).then(|| Claim::Udp(address(udp.address), udp.port)),
            ListenerSpec::Tcp(tcp) => (tcp.port != 0).then(|| Claim::Tcp(address(tcp.address), tcp.port)),
            ListenerSpec::WebSocket(web) => (web.port != 0).then(|| Claim::Tcp(address(web.address), web.port)),
            ListenerSpec::UnixDomainSocket(unix) => Some(Claim::File(&unix.filename)),
        }
    }

    /// Whether the two cannot both be had.
    pub(super) fn overlaps(&self, other: &Claim<'_>) -> bool {
        let shared = |a: &Option<IpAddr>, b: &Option<IpAddr>| a.is_none() || b.is_none() || a == b;
        match (self, other) {
            (Claim::Udp(a, port), Claim::Udp(b, other)) | (Claim::Tcp(a, port), Claim::Tcp(b, other)) => {
                port == other && shared(a, b)
            }
            (Claim::File(a), Claim::File(b)) => a == b,
            (Claim::Udp(..) | Claim::Tcp(..) | Claim::File(_), _) => false,
        }
    }

    /// For messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Claim::Udp(_, port) => format!("UDP port {port}"),
            Claim::Tcp(_, port) => format!("TCP port {port}"),
            Claim::File(path) => format!("socket {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_overlaps_its_specific_addresses() {
        let table = [
            ("{UDP: {port: 1}}", "{UDP: {port: 1}}", true),
            ("{UDP: {port: 1}}", "{UDP: {port: 2}}", false),
            ("{UDP: {port: 1}}", "{TCP: {port: 1}}", false),
            ("{TCP: {port: 1}}", "{WebSocket: {port: 1}}", true),
            ("{UDP: {port: 1, address: 10.0.0.1}}", "{UDP: {port: 1, address: 10.0.0.2}}", false),
            ("{UDP: {port: 1, address: 10.0.0.1}}", "{UDP: {port: 1, address: '::ffff:10.0.0.1'}}", true),
            ("{UDP: {port: 1, address: 10.0.0.1}}", "{UDP: {port: 1, address: '::'}}", true),
            ("{UDP: {port: 1, address: 10.0.0.1}}", "{UDP: {port: 1}}", true),
            ("{UDP: {port: 0}}", "{UDP: {port: 0}}", false),
            ("{UnixDomainSocket: {filename: /a}}", "{UnixDomainSocket: {filename: /a, type: dgram}}", true),
            ("{UnixDomainSocket: {filename: /a}}", "{UnixDomainSocket: {filename: /b}}", false),
        ];
        for (a, b, expected) in table {
            let (a, b): (ListenerSpec, ListenerSpec) =
                (serde_saphyr::from_str(a).unwrap(), serde_saphyr::from_str(b).unwrap());
            let overlap = Claim::of(&a).zip(Claim::of(&b)).is_some_and(|(a, b)| a.overlaps(&b) && b.overlaps(&a));
            assert_eq!(overlap, expected, "{a:?} {b:?}");
        }
    }
}
