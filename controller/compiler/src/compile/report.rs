//! What could not be used as written.

use std::fmt;

use crate::object::ObjectId;

/// Something that could not be used as written, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// The object at fault.
    pub object: ObjectId,
    /// The path in it; empty for the object itself.
    pub path: String,
    /// The kind of fault.
    pub reason: Reason,
    /// What is wrong, and what was done about it.
    pub message: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} ({})", self.message, self.reason)
    }
}

/// The kind of fault, in the form of a Kubernetes condition's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A reference has none of the known forms, or does not say which of several ports it means.
    InvalidReference,
    /// A reference names nothing: there is no such object, or no such port of a Service.
    RefNotFound,
    /// A reference names a Target that does not select the pod.
    TargetNotOnPod,
    /// A reference names something that the proxy refused, or that has a fault itself.
    RefNotUsable,
    /// Rule lists apply each other.
    RuleListLoop,
    /// A VirtualService that comes first has the port.
    PortConflict,
    /// Two endpoints of a cluster have one address and port.
    DuplicateEndpoint,
    /// What is selected or referred to is in another namespace, and its annotation does not accept this one.
    NoConsent,
    /// No endpoint is ready: sessions go to those that are not.
    Degraded,
    /// A Service that cannot be used: `ExternalName`, SCTP, or without a selector where pods are needed.
    UnsupportedService,
}

impl Reason {
    /// As conditions and logs spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::InvalidReference => "InvalidReference",
            Reason::RefNotFound => "RefNotFound",
            Reason::TargetNotOnPod => "TargetNotOnPod",
            Reason::RefNotUsable => "RefNotUsable",
            Reason::RuleListLoop => "RuleListLoop",
            Reason::PortConflict => "PortConflict",
            Reason::DuplicateEndpoint => "DuplicateEndpoint",
            Reason::NoConsent => "NoConsent",
            Reason::Degraded => "Degraded",
            Reason::UnsupportedService => "UnsupportedService",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
