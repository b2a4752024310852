//! The rules and bounds of the kinds on right and wrong objects, without an API server.

mod common;
mod schema;

use common::{GOOD, WRONG, first_task, golden, object, objects};
use l7mp_crds::{Condition, ConditionStatus, FAILING_MAX, FailingPod, Status};
use schema::Kinds;

#[test]
fn accepts_the_manifests_of_the_first_task_and_of_the_compiler() {
    let kinds = Kinds::load();
    let mut seen = 0;
    for object in first_task().iter().chain(&golden()).flat_map(|file| objects(file)) {
        assert_eq!(kinds.faults(&object), [""; 0], "{object}");
        seen += 1;
    }
    assert!(seen >= 5 + 10, "{seen}");
}

#[test]
fn accepts_every_documented_form() {
    let kinds = Kinds::load();
    for (kind, spec) in GOOD {
        assert_eq!(kinds.faults(&object(kind, spec)), [""; 0], "{kind} {spec}");
    }
}

#[test]
fn rejects_what_is_wrong_in_one_way_and_says_where_and_what() {
    let kinds = Kinds::load();
    for wrong in WRONG {
        let faults = kinds.faults(&object(wrong.kind, wrong.spec));
        let expected = format!("{}: ", wrong.path);
        let said = |fault: &String| fault.starts_with(&expected) && fault.contains(wrong.message);
        assert!(faults.iter().any(said), "{} {}: {faults:?}", wrong.kind, wrong.spec);
    }
}

#[test]
fn accepts_what_the_operator_writes_as_status() {
    let kinds = Kinds::load();
    let status = Status {
        observed_generation: Some(1),
        protocol: Some("UDP".to_owned()),
        port: Some(9001),
        pods: 2,
        programmed: 1,
        unreachable: 1,
        endpoints: Some(0),
        conditions: vec![Condition {
            kind: "Ready".to_owned(),
            status: ConditionStatus::False,
            observed_generation: Some(1),
            last_transition_time: "2026-01-02T03:04:05Z".to_owned(),
            reason: "NoPods".to_owned(),
            message: "no pod is selected".to_owned(),
        }],
        failing: vec![FailingPod { pod: "a/b".to_owned(), message: "port 9001 is taken".to_owned() }; FAILING_MAX],
    };
    for (kind, spec) in [GOOD[0], GOOD[11], GOOD[21], GOOD[24]] {
        let mut object = object(kind, spec);
        object["status"] = serde_json::to_value(&status).unwrap();
        assert_eq!(kinds.faults(&object), [""; 0], "{kind}");
        object["status"]["failing"][0]["pod"] = serde_json::json!("x".repeat(400));
        assert_eq!(kinds.faults(&object), ["status.failing[0].pod: Too long"], "{kind}");
    }
}

#[test]
fn what_the_schema_accepts_is_what_the_types_read() {
    for (kind, spec) in GOOD {
        let object = object(kind, spec);
        let read = match *kind {
            "VirtualService" => serde_json::from_value::<l7mp_crds::VirtualService>(object).err(),
            "Target" => serde_json::from_value::<l7mp_crds::Target>(object).err(),
            "Route" => serde_json::from_value::<l7mp_crds::Route>(object).err(),
            _ => serde_json::from_value::<l7mp_crds::Rule>(object).err(),
        };
        assert!(read.is_none(), "{kind} {spec}: {read:?}");
    }
}

#[test]
fn objects_of_the_api_server_are_those_of_files() {
    let object = serde_json::json!({
        "apiVersion": "l7mp.io/v1", "kind": "Target", "spec": {"cluster": {"spec": {"Echo": {}}}},
        "metadata": {"name": "t", "namespace": "a", "uid": "u", "generation": 3, "resourceVersion": "9",
            "labels": {"l": "1"}, "annotations": {"a": "2"}, "creationTimestamp": "2026-01-02T03:04:05Z",
            "deletionTimestamp": "2026-01-02T03:04:06Z", "deletionGracePeriodSeconds": 30,
            "managedFields": [{"manager": "kubectl"}]},
        "status": {"observedGeneration": 3, "pods": 1},
    });
    let served: l7mp_crds::kinds::Target = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(served.status.as_ref().unwrap().pods, 1);
    let mut read: l7mp_crds::Target = serde_json::from_value(object).unwrap();
    read.status = serde::de::IgnoredAny;
    assert_eq!(l7mp_crds::Target::from(served), read);
}
