//! Whom our objects go away with.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// A reference to the object of this name; the garbage collector deletes what carries it once that object is gone.
///
/// # Errors
/// When there is no such object or it cannot be read: a clause that names it.
pub(in crate::operator) async fn of<K>(api: &Api<K>, name: &str) -> Result<OwnerReference, String>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let kind = K::kind(&());
    match api.get_metadata_opt(name).await {
        Ok(Some(object)) => match object.metadata.uid {
            Some(uid) => Ok(OwnerReference {
                api_version: K::api_version(&()).into_owned(),
                kind: kind.into_owned(),
                name: name.to_owned(),
                uid,
                ..OwnerReference::default()
            }),
            None => Err(format!("{kind} {name} has no UID")),
        },
        Ok(None) => Err(format!("there is no {kind} {name} to own them")),
        Err(error) => Err(format!("{kind} {name}, which is to own them, cannot be read: {error}")),
    }
}
