//! The cluster's network: a namespace of its own, and one link out of it.
//!
//! ```text
//! machine: l7mp-NAME 10.N.255.254 <----veth----> machine 10.N.0.1 :node
//!          10.N.0.0/16 via 10.N.0.1              10.N.1.0 ... :pods, each on a link of its own to the node
//! ```
//!
//! When the namespace ends, the kernel takes the link with it, and the route with the link.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Result, ensure};

use super::clean::tool;
use super::place::Place;

/// Which 10.N.0.0/16 a cluster may have.
const NETWORKS: std::ops::RangeInclusive<u8> = 88..=95;
/// The node's end of the link.
const NODE_LINK: &str = "machine";

/// Addresses of Services, the same in every cluster: they mean something inside of it only.
pub const SERVICES: &str = "10.96.0.0/16";
/// The API server's own Service.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The addresses of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub u8);

impl Network {
    /// The node, and whatever runs on its network.
    pub fn node(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 0, 1)
    }

    /// The machine, as the node and the pods see it.
    pub fn machine(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 255, 254)
    }

    /// All of them.
    pub fn all(self) -> String {
        format!("10.{}.0.0/16", self.0)
    }

    /// The first and the last that a pod may have.
    pub fn pods(self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::new(10, self.0, 1, 0), Ipv4Addr::new(10, self.0, 254, 255))
    }

    /// One that nothing on this machine has to do with.
    pub fn free() -> Result<Network> {
        let known = tool("ip", &["-4", "route", "show", "table", "all"])? + &tool("ip", &["-4", "-o", "address"])?;
        let free = NETWORKS.map(Network).find(|network| !network.is_in(&known));
        free.ok_or_else(|| {
            let (first, last) = (NETWORKS.start(), NETWORKS.end());
            anyhow::anyhow!("10.{first}.0.0/16 to 10.{last}.0.0/16 are all in use on this machine: `ip -4 route`")
        })
    }

    /// Whether an address of it stands in what `ip` says.
    fn is_in(self, text: &str) -> bool {
        let start = format!("10.{}.", self.0);
        text.split(|character: char| !character.is_ascii_digit() && character != '.')
            .any(|word| word.starts_with(&start))
    }
}

/// Makes the link between this namespace and that of process `pid`, with its addresses and routes.
pub fn connect(place: &Place, network: Network, pid: i32) -> Result<()> {
    let (link, all) = (place.link(), network.all());
    let (node, machine) = (network.node().to_string(), network.machine().to_string());
    let namespace = pid.to_string();
    tool("ip", &["link", "add", &link, "type", "veth", "peer", "name", NODE_LINK, "netns", &namespace])?;
    tool("ip", &["address", "add", &format!("{machine}/32"), "dev", &link])?;
    tool("ip", &["link", "set", &link, "up"])?;
    let inside = format!("--net=/proc/{pid}/ns/net");
    for command in [
        "ip link set lo up".to_owned(),
        format!("ip address add {node}/32 dev {NODE_LINK}"),
        format!("ip link set {NODE_LINK} up"),
        format!("ip route add {machine}/32 dev {NODE_LINK}"),
        // So that what runs on the node's own network reaches Services too: their rules take it from there.
        format!("ip route add {SERVICES} dev {NODE_LINK} src {node}"),
    ] {
        let words: Vec<&str> = [inside.as_str()].into_iter().chain(command.split(' ')).collect();
        tool("nsenter", &words)?;
    }
    tool("ip", &["route", "add", &format!("{node}/32"), "dev", &link, "src", &machine])?;
    tool("ip", &["route", "add", &all, "via", &node, "dev", &link, "src", &machine])?;
    Ok(())
}

/// Removes the machine's end of the link, if it is still there: its other end may be in a namespace that is going.
pub fn remove_link(place: &Place) -> Result<()> {
    let link = place.link();
    if exists(&link)
        && let Err(error) = tool("ip", &["link", "del", &link])
    {
        // The kernel may have been quicker.
        ensure!(!exists(&link), error);
    }
    Ok(())
}

/// Refuses a link of that name that another user's cluster has.
pub fn check_link(place: &Place) -> Result<()> {
    let link = place.link();
    ensure!(!exists(&link), "there is a link {link} of another's: take another name (--name), or `ip link del {link}`");
    Ok(())
}

fn exists(link: &str) -> bool {
    Path::new("/sys/class/net").join(link).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_taken_when_a_route_or_an_address_is_in_it() {
        let text = "10.89.0.0/16 via 192.168.88.1 dev eth0\n2: eth0 inet 10.90.3.1/24 scope global";
        let taken = [88, 89, 90, 91].map(|number| Network(number).is_in(text));
        assert_eq!(taken, [false, true, true, false]);
        assert!(!Network(88).is_in("110.88.0.1 1.10.88.0"));
    }
}
