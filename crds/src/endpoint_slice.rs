//! The parts of an EndpointSlice (`discovery.k8s.io/v1`) that are read: where a plain Service's pods are.

use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, null_is_empty};

/// The label that names the Service of a slice.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Some of the addresses behind a Service; a Service has one slice or several. Unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, namespace, and the label that names the Service.
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// The ports of every endpoint of the slice.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
}

/// One port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The name of the Service's port; absent or empty: its only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port of the pods; absent: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `TCP` (the default), `UDP` or `SCTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its addresses; they are one endpoint, and the first is enough to reach it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub addresses: Vec<String>,
    /// Its state.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub conditions: EndpointConditions,
    /// The pod behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<ObjectRef>,
}

/// The state of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointConditions {
    /// Takes sessions. Absent: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Answers, be it terminating or not. Absent: as `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Is being deleted. Absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// The name of another object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its kind, e.g. `Pod`.
    #[serde(default)]
    pub kind: String,
    /// Its namespace; absent: that of the object that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl EndpointSlice {
    /// The name of the Service, in the slice's namespace; `None` for a slice that belongs to none.
    pub fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }
}

impl EndpointConditions {
    /// Whether it takes sessions.
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Whether it answers, be it terminating or not.
    pub fn is_serving(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_api_server_writes() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "dns-abc", "namespace": "a", "labels": {"kubernetes.io/service-name": "dns"}},
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "", "port": null, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
                 "nodeName": "n", "targetRef": {"kind": "Pod", "namespace": "a", "name": "dns-1", "uid": "u"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.3"], "conditions": {}},
            ],
        }))
        .unwrap();
        assert_eq!(slice.service(), Some("dns"));
        assert_eq!((slice.ports[0].port, slice.ports[1].port), (Some(53), None));
        let states: Vec<_> = slice
            .endpoints
            .iter()
            .map(|endpoint| endpoint.conditions)
            .map(|conditions| (conditions.is_ready(), conditions.is_serving(), conditions.is_terminating()))
            .collect();
        assert_eq!(states, [(true, true, false), (false, true, true), (true, true, false)]);
        assert_eq!(slice.endpoints[0].target_ref.as_ref().unwrap().name, "dns-1");
    }

    #[test]
    fn lists_that_are_null_are_empty() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": null, "ports": null,
        }))
        .unwrap();
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty() && slice.service().is_none());
    }
}
