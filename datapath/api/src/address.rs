//! Endpoint addresses: what is a host, and which two are one.

use std::net::{IpAddr, SocketAddr};

/// An endpoint's host in the one spelling that its identity has: an IP address (IPv4-mapped ones as IPv4), or a
/// lower-case DNS name without a final dot. `Err` says what is wrong.
pub(crate) fn canonical(address: &str) -> Result<String, String> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        let ip = ip.to_canonical();
        if ip.is_unspecified() {
            return Err("is not the address of one host".to_owned());
        }
        return Ok(ip.to_string());
    }
    if address.parse::<SocketAddr>().is_ok() || host_and_port(address) {
        return Err("the port goes in a field `port` of its own".to_owned());
    }
    if let Some(inner) = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && inner.parse::<IpAddr>().is_ok()
    {
        return Err("write the address without brackets".to_owned());
    }
    if is_dns_name(address) {
        let name = address.strip_suffix('.').unwrap_or(address);
        return Ok(name.to_ascii_lowercase());
    }
    Err("neither an IP address nor a DNS name".to_owned())
}

fn host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| is_dns_name(host) && port.parse::<u16>().is_ok())
}

/// RFC 1123 host names, and underscores, which service names have. A last label of digits only is no name: it is a
/// mistyped IPv4 address.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !last_is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts() {
        let table = [
            ("127.0.0.1", "127.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("FE80::1", "fe80::1"),
            ("Worker.default.svc.cluster.local.", "worker.default.svc.cluster.local"),
            ("_udp.x1", "_udp.x1"),
            ("localhost", "localhost"),
        ];
        for (address, expected) in table {
            assert_eq!(canonical(address).as_deref(), Ok(expected), "{address}");
        }
    }

    #[test]
    fn rejects() {
        let long = "a".repeat(64);
        for address in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "1.2.3",
            "1.2.3.256",
            "a b",
            "10.0.0.1:80",
            "host:80",
            "[::1]",
            "[::1]:80",
            "0.0.0.0",
            "::",
            &long,
        ] {
            assert!(canonical(address).is_err(), "{address}");
        }
    }
}
