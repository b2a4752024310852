//! Loopback addresses that nobody else on this machine uses.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Result, bail};

/// Above the range from which the kernel picks ports by itself.
const LOCK_PORT: u16 = 65_001;

/// A 127.x.y.0/24, ours while this value lives.
pub struct Subnet {
    second: u8,
    third: u8,
    /// Whoever wants the subnet tries to bind this first.
    _lock: UdpSocket,
}

impl Subnet {
    /// Takes one that is free. Where it looks first depends on the process, so that testbeds seldom meet.
    pub fn take() -> Result<Subnet> {
        let start = std::process::id() % 65_024;
        for n in (start..65_024).chain(0..start) {
            // 127.0.0.0/16 and 127.255.0.0/16 stay with the rest of the machine: 254 * 256 others.
            let (second, third) = ((n / 256 + 1) as u8, (n % 256) as u8);
            if let Ok(lock) = UdpSocket::bind((Ipv4Addr::new(127, second, third, 254), LOCK_PORT)) {
                return Ok(Subnet { second, third, _lock: lock });
            }
        }
        bail!("no 127.x.y.0/24 is free: cannot bind UDP port {LOCK_PORT} on any 127.x.y.254")
    }

    /// The address of host `number`, 1 to 253.
    pub fn host(&self, number: u8) -> Ipv4Addr {
        debug_assert!((1..=253).contains(&number));
        Ipv4Addr::new(127, self.second, self.third, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_subnets_have_no_address_in_common() {
        let (first, second) = (Subnet::take().unwrap(), Subnet::take().unwrap());
        assert_ne!(first.host(1), second.host(1));
    }
}
