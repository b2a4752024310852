//! What one proxy's document depends on besides the objects.

use std::fmt;
use std::sync::Arc;

use l7mp_crds::ListenerSpec;

use super::HeldBack;
use crate::object::{Object, ObjectId, PodName};

/// What one proxy's document depends on besides the objects.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Objects that are left out, since this proxy refused them.
    pub held: &'a HeldBack,
    /// Which listeners other proxies have acknowledged; `None`: every endpoint is used at once.
    pub serving: Option<&'a dyn Serving>,
    /// VirtualServices as they were before they went or changed, whose listener stays a little longer on
    /// this pod, until the proxies that use it have let go.
    pub lingering: &'a [Arc<Object>],
}

impl<'a> View<'a> {
    /// The view of a proxy whose neighbours are of no concern.
    pub fn alone(held: &'a HeldBack) -> View<'a> {
        View { held, serving: None, lingering: &[] }
    }
}

/// What other proxies have acknowledged.
pub trait Serving {
    /// Whether the proxy of a pod has acknowledged the listener of a VirtualService on that port.
    fn serves(&self, pod: &PodName, service: &ObjectId, port: Port) -> bool;

    /// Whether the proxy of a pod could not listen for a VirtualService because something else in the pod does.
    fn is_taken(&self, _pod: &PodName, _service: &ObjectId) -> bool {
        false
    }

    /// Whether a proxy sends to that address of a pod already, which was no listener of the pod's proxy so far.
    fn sends_to(&self, _proxy: &PodName, _pod: &PodName, _address: &str, _port: Port) -> bool {
        false
    }
}

/// A listener of another pod's proxy that is an endpoint of this one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    /// The pod.
    pub pod: PodName,
    /// The VirtualService.
    pub service: ObjectId,
    /// The port that is dialled; a VirtualService that changes its port has two for a while.
    pub port: Port,
}

/// A port of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// UDP or TCP.
    pub transport: Transport,
    /// 1 to 65535.
    pub number: u16,
}

/// What a port is of; WebSockets are TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// UDP
    Udp,
    /// TCP
    Tcp,
}

impl Port {
    /// The port of a listener; `None` for Unix sockets, and where the kernel chooses.
    pub fn of(spec: &ListenerSpec) -> Option<Port> {
        let (transport, number) = match spec {
            ListenerSpec::Udp(udp) => (Transport::Udp, udp.port),
            ListenerSpec::Tcp(tcp) => (Transport::Tcp, tcp.port),
            ListenerSpec::WebSocket(web) => (Transport::Tcp, web.port),
            ListenerSpec::UnixDomainSocket(_) => return None,
        };
        (number != 0).then_some(Port { transport, number })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        write!(f, "{transport} port {}", self.number)
    }
}
