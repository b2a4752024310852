//! Endpoints: `{name, spec: {address | filename, port, weight}, ready, draining}`.

use std::collections::HashMap;

use serde_json::Value;

use super::fields::Fields;
use super::scalars;
use crate::address;
use crate::config::{ClusterSpec, Endpoint, EndpointAt};
use crate::limits::WEIGHT_MAX;
use crate::path::Path;
use crate::problem::{Problems, quoted};

/// What an endpoint has to know of its cluster.
pub(crate) enum Home<'c> {
    /// The cluster's protocol could not be read.
    Unknown,
    /// UDP, TCP, WebSocket: endpoints have addresses.
    Network {
        /// The port of endpoints that name none.
        port: Option<u16>,
        /// It could not be read.
        broken_port: bool,
        protocol: &'static str,
    },
    /// Endpoints have filenames.
    Unix {
        /// The filename of endpoints that name none.
        filename: Option<&'c str>,
    },
    /// Inside the proxy: there are no endpoints.
    Inside(&'static str),
}

impl Home<'_> {
    pub(crate) fn of(spec: Option<&ClusterSpec>, broken_port: bool) -> Home<'_> {
        let Some(spec) = spec else {
            return Home::Unknown;
        };
        match spec {
            ClusterSpec::Udp(_) | ClusterSpec::Tcp(_) | ClusterSpec::WebSocket(_) => {
                Home::Network { port: spec.port(), broken_port, protocol: spec.protocol() }
            }
            ClusterSpec::UnixDomainSocket(unix) => Home::Unix { filename: unix.filename.as_deref() },
            ClusterSpec::Echo | ClusterSpec::Discard => Home::Inside(spec.protocol()),
        }
    }
}

/// What an endpoint's `spec` says.
#[derive(Default)]
struct Spec {
    at: Option<EndpointAt>,
    weight: Option<u32>,
}

/// `None`, after its problems: where it listens could not be read.
pub(crate) fn endpoint(value: &Value, at: &Path<'_>, home: &Home<'_>, problems: &mut Problems) -> Option<Endpoint> {
    let mut fields = Fields::open(value, at, problems)?;
    if let Home::Inside(protocol) = home {
        fields.problems.push(at, format!("a cluster of protocol {protocol} has no endpoints"));
    }
    let name = fields.optional("name", scalars::name);
    let spec = match fields.raw("spec").filter(|spec| !spec.is_null()) {
        Some(value) => endpoint_spec(value, &at.key("spec"), home, fields.problems),
        None => Spec { at: nameless(&at.key("spec"), home, fields.problems), weight: None },
    };
    let weight = fields.optional("weight", weight);
    if weight.is_some() && spec.weight.is_some() {
        fields.problems.push(&at.key("weight"), "given here and in `spec`");
    }
    let ready = fields.optional("ready", scalars::boolean).unwrap_or(true);
    let draining = fields.optional("draining", scalars::boolean).unwrap_or(false);
    fields.finish();
    Some(Endpoint { name, at: spec.at?, weight: spec.weight.or(weight).unwrap_or(1), ready, draining })
}

fn weight(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<u32> {
    scalars::integer(value, at, problems, 1..=WEIGHT_MAX)
}

fn endpoint_spec(value: &Value, at: &Path<'_>, home: &Home<'_>, problems: &mut Problems) -> Spec {
    let Some(mut fields) = Fields::open(value, at, problems) else {
        return Spec::default();
    };
    let weight = fields.optional("weight", weight);
    let (has_address, has_filename) = (fields.has("address"), fields.has("filename"));
    let port = fields.optional("port", scalars::port);
    let broken_port = port.is_none() && fields.has("port");
    let filename = fields.optional("filename", scalars::filename);
    let found = fields.optional("address", |value, at, problems| address_of(value, at, home, problems));
    let found = match (has_address, has_filename) {
        (true, true) => {
            fields.problems.push(at, "has an address and a filename; it can be at one of them only");
            None
        }
        (true, false) => found.map(|found| with_port(found, port)),
        (false, true) => filename.map(EndpointAt::Filename),
        (false, false) => nameless(at, home, fields.problems),
    };
    if let Some(found) = &found {
        fits(found, at, home, broken_port, has_address, fields.problems);
    }
    if fields.has("port") && matches!(found, Some(EndpointAt::Filename(_))) {
        fields.problems.push(&at.key("port"), "a Unix socket has no port");
    }
    fields.finish();
    Spec { at: found, weight }
}

/// In a Unix cluster a path in `address` is a filename, as in the original.
fn address_of(value: &Value, at: &Path<'_>, home: &Home<'_>, problems: &mut Problems) -> Option<EndpointAt> {
    if matches!(home, Home::Unix { .. }) && value.as_str().is_some_and(|text| text.contains('/')) {
        return scalars::filename(value, at, problems).map(EndpointAt::Filename);
    }
    let text = scalars::text(value, at, problems)?;
    if let Err(fault) = address::canonical(text) {
        problems.push(at, format!("bad address {}: {fault}", quoted(text)));
        return None;
    }
    Some(EndpointAt::Address { address: text.to_owned(), port: None })
}

fn with_port(found: EndpointAt, own_port: Option<u16>) -> EndpointAt {
    match found {
        EndpointAt::Address { address, .. } => EndpointAt::Address { address, port: own_port },
        EndpointAt::Filename(filename) => EndpointAt::Filename(filename),
    }
}

/// Where an endpoint is that names neither address nor filename.
fn nameless(at: &Path<'_>, home: &Home<'_>, problems: &mut Problems) -> Option<EndpointAt> {
    let wanted = match home {
        Home::Unix { filename: Some(filename) } => return Some(EndpointAt::Filename((*filename).to_owned())),
        Home::Inside(_) => return None,
        Home::Unix { filename: None } => "names no filename, and neither does the cluster",
        Home::Network { .. } => "names no address",
        Home::Unknown => "names no address or filename",
    };
    problems.push(at, wanted);
    None
}

fn fits(
    found: &EndpointAt,
    at: &Path<'_>,
    home: &Home<'_>,
    broken_port: bool,
    in_address: bool,
    problems: &mut Problems,
) {
    match (home, found) {
        (Home::Network { protocol, .. }, EndpointAt::Filename(_)) => {
            problems.push(&at.key("filename"), format!("a cluster of protocol {protocol} needs an address"));
        }
        (Home::Unix { .. }, EndpointAt::Address { .. }) if in_address => {
            problems.push(&at.key("address"), "a cluster of protocol UnixDomainSocket needs a filename");
        }
        (Home::Network { port: None, broken_port: false, .. }, EndpointAt::Address { port: None, .. })
            if !broken_port =>
        {
            problems.push(at, "names no port, and neither does the cluster");
        }
        (Home::Network { .. } | Home::Unix { .. } | Home::Unknown | Home::Inside(_), _) => {}
    }
}

/// Two endpoints of one identity: canonical address and port, or filename.
pub(crate) fn refuse_twins(endpoints: &[Option<Endpoint>], at: &Path<'_>, home: &Home<'_>, problems: &mut Problems) {
    let cluster_port = match home {
        Home::Network { port, .. } => *port,
        Home::Unknown | Home::Unix { .. } | Home::Inside(_) => None,
    };
    let mut first_of: HashMap<(String, Option<u16>), usize> = HashMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let Some(endpoint) = endpoint else { continue };
        let identity = match &endpoint.at {
            EndpointAt::Filename(filename) => (filename.clone(), None),
            EndpointAt::Address { address, port } => match address::canonical(address) {
                Ok(host) => (host, port.or(cluster_port)),
                Err(_) => continue,
            },
        };
        match first_of.get(&identity) {
            None => {
                first_of.insert(identity, index);
            }
            Some(first) => problems.push(&at.index(index), format!("the same as {}", at.index(*first))),
        }
    }
}
