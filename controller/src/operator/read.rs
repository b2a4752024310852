//! Objects as the API server sends them: read, checked, and trimmed to what is kept.

use k8s_openapi::api::core::v1::ObjectReference;
use l7mp_api::Problem;
use l7mp_compiler::manifest;
use l7mp_compiler::object::{Kind, Object, ObjectId};
use l7mp_crds::{API_VERSION, EndpointSlice, ObjectMeta, Pod, Service, Status};
use l7mp_fleet::Rejected;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The annotation that lets other namespaces select or name an object.
const ACCEPT_FROM: &str = "l7mp.io/accept-from";

/// The containers of a pod whose state is kept: the proxy's and its agent's.
const OUR_CONTAINERS: [&str; 2] = [l7mp_crds::PROXY_CONTAINER, "l7mp-agent"];

/// An object of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Itself, or why it cannot be used.
    pub object: Result<Object, Rejected>,
    /// What else the API server has of it; of our kinds only.
    pub present: Option<Present>,
}

/// What the API server has of an object of ours besides its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Its UID.
    pub uid: Option<String>,
    /// Its `resourceVersion`: a write that names it fails when the object has changed since.
    pub version: Option<String>,
    /// Its status, if it has one that can be read.
    pub status: Option<Status>,
}

impl Seen {
    /// What names it.
    pub fn id(&self) -> ObjectId {
        match &self.object {
            Ok(object) => object.id(),
            Err(rejected) => rejected.id.clone(),
        }
    }
}

/// The version of the API that a kind is watched in: group and version.
pub fn group_version(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::VirtualService | Kind::Target | Kind::Route | Kind::Rule => ("l7mp.io", "v1"),
        Kind::Pod | Kind::Service => ("", "v1"),
        Kind::EndpointSlice => ("discovery.k8s.io", "v1"),
    }
}

/// Names an object of ours for Events.
pub fn reference(id: &ObjectId, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(id.kind.as_str().to_owned()),
        namespace: Some(id.namespace.clone()),
        name: Some(id.name.clone()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// Reads one object of a kind. A wrong one is told apart by its name, and never fails what it came with.
pub fn read(kind: Kind, mut value: Value) -> Seen {
    let metadata = &value["metadata"];
    let text = |key: &str| metadata[key].as_str().map(str::to_owned);
    let id = ObjectId::new(
        kind,
        text("namespace").as_deref().unwrap_or(l7mp_crds::DEFAULT_NAMESPACE),
        text("name").as_deref().unwrap_or_default(),
    );
    let (uid, version, generation) = (text("uid"), text("resourceVersion"), metadata["generation"].as_i64());
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
    let rejected = |problems| Rejected { id: id.clone(), generation, problems };
    match kind {
        Kind::VirtualService | Kind::Target | Kind::Route | Kind::Rule => {
            let status = value.as_object_mut().and_then(|map| map.remove("status"));
            let status = status.and_then(|status| serde_json::from_value(status).ok());
            let object = read_ours(kind, value).map_err(rejected);
            Seen { object, present: Some(Present { uid, version, status }) }
        }
        Kind::Pod => Seen { object: parse(value).map(trim_pod).map_err(rejected), present: None },
        Kind::Service => Seen { object: parse(value).map(trim_service).map_err(rejected), present: None },
        Kind::EndpointSlice => Seen { object: parse(value).map(trim_slice).map_err(rejected), present: None },
    }
}

/// Reads an object of ours as a file of manifests is read, with the same checks and the same words.
fn read_ours(kind: Kind, mut value: Value) -> Result<Object, Vec<Problem>> {
    // Items of a list need not say what they are.
    value["apiVersion"] = API_VERSION.into();
    value["kind"] = kind.as_str().into();
    let mut manifest = manifest::read(&value.to_string());
    match manifest.objects.pop() {
        Some(mut object) => {
            trim_meta(&mut object);
            Ok(object)
        }
        None => Err(manifest.faults.into_iter().map(|fault| fault.problem).collect()),
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Problem>> {
    serde_json::from_value(value)
        .map_err(|error| vec![Problem { path: String::new(), message: format!("cannot be read: {error}") }])
}

fn trim_meta(object: &mut Object) {
    match object {
        Object::VirtualService(object) => trim_annotations(&mut object.metadata),
        Object::Target(object) => trim_annotations(&mut object.metadata),
        Object::Route(object) => trim_annotations(&mut object.metadata),
        Object::Rule(object) => trim_annotations(&mut object.metadata),
        Object::Pod(object) => trim_annotations(&mut object.metadata),
        Object::Service(object) => trim_annotations(&mut object.metadata),
        Object::EndpointSlice(object) => trim_annotations(&mut object.metadata),
    }
}

fn trim_annotations(meta: &mut ObjectMeta) {
    meta.annotations.retain(|name, _| name == ACCEPT_FROM);
}

fn trim_pod(mut pod: Pod) -> Object {
    trim_annotations(&mut pod.metadata);
    let status = &mut pod.status;
    status.conditions.retain(|condition| condition.kind == "Ready");
    status.conditions.shrink_to_fit();
    for statuses in [&mut status.container_statuses, &mut status.init_container_statuses] {
        statuses.retain(|status| OUR_CONTAINERS.contains(&status.name.as_str()));
        statuses.shrink_to_fit();
    }
    Object::Pod(pod)
}

fn trim_service(mut service: Service) -> Object {
    trim_annotations(&mut service.metadata);
    Object::Service(service)
}

fn trim_slice(mut slice: EndpointSlice) -> Object {
    trim_annotations(&mut slice.metadata);
    Object::EndpointSlice(slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target(spec: &Value) -> Value {
        json!({
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "generation": 3, "resourceVersion": "17",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "l7mp.io/accept-from": "*"},
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": spec,
            "status": {"pods": 2, "conditions": []},
        })
    }

    #[test]
    fn an_object_of_ours_is_read_like_a_file_and_keeps_its_status_apart() {
        let seen = read(Kind::Target, target(&json!({"cluster": {"spec": {"Echo": {}}}})));
        let object = seen.object.unwrap();
        let meta = object.meta();
        assert_eq!(meta.annotations.keys().collect::<Vec<_>>(), ["l7mp.io/accept-from"]);
        assert_eq!((meta.generation, meta.resource_version.as_deref()), (Some(3), None));
        let present = seen.present.unwrap();
        assert_eq!((present.uid.as_deref(), present.version.as_deref()), (Some("u"), Some("17")));
        assert_eq!(present.status.unwrap().pods, 2);
    }

    #[test]
    fn a_wrong_object_is_rejected_with_path_and_generation() {
        let seen = read(Kind::Target, target(&json!({"cluster": {"spec": {"UDP": {"port": 70000}}}})));
        let rejected = seen.object.unwrap_err();
        assert_eq!((rejected.id.to_string().as_str(), rejected.generation), ("Target n/a", Some(3)));
        assert_eq!(rejected.problems[0].path, "spec.cluster.spec.UDP.port");
        let seen = read(Kind::Target, target(&json!({})));
        assert_eq!(seen.object.unwrap_err().problems[0].path, "spec");
        for nonsense in [json!(null), json!([]), json!({"metadata": 5}), json!("x"), json!({})] {
            if nonsense.is_object() || nonsense.is_null() {
                assert!(read(Kind::Rule, nonsense.clone()).object.is_err(), "{nonsense}");
            }
            assert!(read(Kind::Pod, nonsense.clone()).object.is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_status_of_another_shape_is_no_status() {
        let mut value = target(&json!({"cluster": {"spec": {"Echo": {}}}}));
        value["status"] = json!({"children": {"applied": ["x"]}, "conditions": "none"});
        let seen = read(Kind::Target, value);
        assert_eq!(seen.present.unwrap().status, None);
        assert!(seen.object.is_ok());
    }

    #[test]
    fn a_pod_is_trimmed() {
        let status = |name: &str| json!({"name": name, "ready": true, "restartCount": 3});
        let seen = read(
            Kind::Pod,
            json!({
                "metadata": {"name": "p", "namespace": "n", "annotations": {"big": "x"}, "resourceVersion": "9"},
                "spec": {"containers": [{"name": "app", "image": "i", "env": [{"name": "A"}]}, {"name": "l7mp"}]},
                "status": {
                    "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
                    "containerStatuses": [status("app"), status("l7mp")],
                },
            }),
        );
        let Ok(Object::Pod(pod)) = seen.object else { panic!("{seen:?}") };
        assert!(pod.metadata.annotations.is_empty() && pod.is_ready() && pod.has_proxy());
        assert_eq!((pod.status.conditions.len(), pod.status.container_statuses.len()), (1, 1));
        assert_eq!(seen.present, None);
    }
}
