//! The Secret that holds the operator's certificates: to and from [`Material`].

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use l7mp_link::certificates::{Material, Pair};
use serde_json::{Value, json};

use super::verify::Fault;

/// Its name, in the operator's namespace.
pub(super) const NAME: &str = "l7mp-operator-tls";

const CA: [&str; 2] = ["ca.crt", "ca.key"];
const SERVING: [&str; 2] = ["tls.crt", "tls.key"];
const NEXT: [&str; 2] = ["next-ca.crt", "next-ca.key"];
const PREVIOUS: &str = "previous-ca.crt";

/// What the Secret holds.
pub(super) fn read(secret: &Secret) -> Result<Material, Fault> {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let next = match (data.contains_key(NEXT[0]), data.contains_key(NEXT[1])) {
        (false, false) => None,
        _ => Some(pair(data, NEXT)?),
    };
    let previous = data.contains_key(PREVIOUS).then(|| text(data, PREVIOUS)).transpose()?;
    Ok(Material { ca: pair(data, CA)?, next, previous, serving: pair(data, SERVING)? })
}

fn pair(data: &BTreeMap<String, ByteString>, [certificate, key]: [&str; 2]) -> Result<Pair, Fault> {
    Ok(Pair { certificate: text(data, certificate)?, key: text(data, key)? })
}

fn text(data: &BTreeMap<String, ByteString>, key: &str) -> Result<String, Fault> {
    let bytes = data.get(key).ok_or_else(|| Fault::Unusable(format!("{key} is missing")))?;
    String::from_utf8(bytes.0.clone()).map_err(|_| Fault::Unusable(format!("{key} is not PEM")))
}

/// The Secret as it is applied; `version` is the `resourceVersion` of the one that it takes the place of, so that
/// another leader's is never overwritten unseen.
pub(super) fn write(
    material: &Material,
    namespace: &str,
    owner: Option<&OwnerReference>,
    version: Option<&str>,
) -> Value {
    let mut data = BTreeMap::new();
    let mut put = |names: [&'static str; 2], pair: &Pair| {
        data.insert(names[0], ByteString(pair.certificate.clone().into_bytes()));
        data.insert(names[1], ByteString(pair.key.clone().into_bytes()));
    };
    put(CA, &material.ca);
    put(SERVING, &material.serving);
    if let Some(next) = &material.next {
        put(NEXT, next);
    }
    if let Some(previous) = &material.previous {
        data.insert(PREVIOUS, ByteString(previous.clone().into_bytes()));
    }
    let mut metadata = json!({
        "name": NAME,
        "namespace": namespace,
        "labels": { super::MANAGED_BY: super::MANAGER },
    });
    if let Some(owner) = owner {
        metadata["ownerReferences"] = json!([owner]);
    }
    if let Some(version) = version {
        metadata["resourceVersion"] = json!(version);
    }
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data })
}
