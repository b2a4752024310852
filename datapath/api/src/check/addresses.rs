//! No two listeners on one address. UDP has its ports, TCP and WebSocket share theirs, Unix sockets have filenames.
//! A wildcard overlaps every address of its family, `[::]` and a listener without an address overlap all.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::{Config, ListenerSpec};
use crate::path::Path;
use crate::problem::{Problems, quoted};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Transport {
    Udp,
    Tcp,
}

/// The listeners (by index) of one port: the first of each address.
#[derive(Default)]
struct Port {
    at: HashMap<IpAddr, usize>,
    every: Option<usize>,
    every_v4: Option<usize>,
    first: Option<usize>,
    first_v4: Option<usize>,
}

impl Port {
    /// Who is there already, if one is; else the listener is put down.
    fn claim(&mut self, address: Option<IpAddr>, index: usize) -> Option<usize> {
        let address = address.map(|address| address.to_canonical());
        let taken = match address {
            None => self.first,
            Some(IpAddr::V6(address)) if address.is_unspecified() => self.first,
            Some(IpAddr::V4(address)) if address.is_unspecified() => self.every.or(self.first_v4),
            Some(IpAddr::V4(_)) => self.every.or(self.every_v4).or_else(|| self.at.get(&address?).copied()),
            Some(IpAddr::V6(_)) => self.every.or_else(|| self.at.get(&address?).copied()),
        };
        if taken.is_some() {
            return taken;
        }
        self.first.get_or_insert(index);
        match address {
            Some(IpAddr::V4(any)) if any.is_unspecified() => self.every_v4 = Some(index),
            Some(specific) if !specific.is_unspecified() => {
                self.at.insert(specific, index);
            }
            None | Some(_) => self.every = Some(index),
        }
        if address.is_none_or(|address| address.is_ipv4()) {
            self.first_v4.get_or_insert(index);
        }
        None
    }
}

pub(crate) fn check(config: &Config, problems: &mut Problems) {
    let mut ports: HashMap<(Transport, u16), Port> = HashMap::new();
    let mut filenames: HashMap<&str, usize> = HashMap::new();
    let root = Path::Root;
    let at = root.key("listeners");
    for (index, listener) in config.listeners.iter().enumerate() {
        let (transport, port, address) = match &listener.spec {
            ListenerSpec::Udp(udp) => (Transport::Udp, udp.port, udp.address),
            ListenerSpec::Tcp(tcp) => (Transport::Tcp, tcp.port, tcp.address),
            ListenerSpec::WebSocket(websocket) => (Transport::Tcp, websocket.port, websocket.address),
            ListenerSpec::UnixDomainSocket(unix) => {
                let first = *filenames.entry(&unix.filename).or_insert(index);
                if first != index && !unix.filename.is_empty() {
                    let what = format!("filename {}", quoted(&unix.filename));
                    report(config, &at, (first, index), &what, problems);
                }
                continue;
            }
        };
        if port == 0 {
            continue;
        }
        if let Some(first) = ports.entry((transport, port)).or_default().claim(address, index) {
            let space = match transport {
                Transport::Udp => "UDP",
                Transport::Tcp => "TCP",
            };
            let what = match address {
                Some(address) => format!("{space} port {port} of {address}"),
                None => format!("{space} port {port}"),
            };
            report(config, &at, (first, index), &what, problems);
        }
    }
}

fn report(config: &Config, at: &Path<'_>, (first, second): (usize, usize), what: &str, problems: &mut Problems) {
    let name = quoted(&config.listeners[first].name);
    problems.push(&at.index(second).key("spec"), format!("{what} is taken by listener {name} ({})", at.index(first)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        let table: [(&[&str], Option<usize>); 12] = [
            (&["127.0.0.1", "127.0.0.1"], Some(0)),
            (&["127.0.0.1", "127.0.0.2"], None),
            (&["127.0.0.1", "0.0.0.0"], Some(0)),
            (&["0.0.0.0", "127.0.0.1"], Some(0)),
            (&["0.0.0.0", "::1"], None),
            (&["::1", "0.0.0.0"], None),
            (&["::", "127.0.0.1"], Some(0)),
            (&["::1", "127.0.0.1", "::"], Some(0)),
            (&["", "::1"], Some(0)),
            (&["::1", "127.0.0.1", "0.0.0.0"], Some(1)),
            (&["::ffff:127.0.0.1", "127.0.0.1"], Some(0)),
            (&["0.0.0.0", ""], Some(0)),
        ];
        for (addresses, expected) in table {
            let mut port = Port::default();
            let claims: Vec<_> =
                addresses.iter().enumerate().map(|(index, address)| port.claim(address.parse().ok(), index)).collect();
            assert_eq!(claims.last().copied().flatten(), expected, "{addresses:?}");
            assert!(claims[..claims.len() - 1].iter().all(Option::is_none), "{addresses:?}");
        }
    }
}
