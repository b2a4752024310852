//! Manifests in, documents out: each case's documents are committed, and reviewed when they change.
//!
//! `UPDATE_GOLDEN=1 cargo test -p l7mp-compiler --test golden` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use l7mp_api::Config;
use l7mp_compiler::compile::{HeldBack, View, compile};
use l7mp_compiler::manifest;
use l7mp_compiler::object::Object;
use l7mp_compiler::world::World;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Compares with the committed text, or writes it.
fn assert_golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, text).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, committed, "{} differs; UPDATE_GOLDEN=1 writes it anew", path.display());
}

/// Compiles the manifests of `inputs` for each proxy, and compares documents and reports.
fn check(case: &str, inputs: &[PathBuf], namespace: &str, pods: &[&str]) {
    let mut world = World::default();
    for input in inputs {
        for entry in fs::read_dir(input).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let manifest = manifest::read(&fs::read_to_string(&path).unwrap());
                assert_eq!(manifest.faults, []);
                world.reset(&path.to_string_lossy(), manifest.objects);
            }
        }
    }
    for pod in pods {
        let compiled =
            compile(&world, &format!("{namespace}/{pod}").parse().unwrap(), &View::alone(&HeldBack::new())).unwrap();
        let mut text = serde_json::to_string_pretty(&compiled.config).unwrap();
        text.push('\n');
        assert_golden(&golden().join(case).join(format!("{pod}.json")), &text);
        let reports: String = compiled.reports.iter().map(|report| format!("{report}\n")).collect();
        let path = golden().join(case).join(format!("{pod}.reports.txt"));
        if path.exists() || !reports.is_empty() {
            assert_golden(&path, &reports);
        }

        // What we write is what a proxy reads; predicates are all that it may still refuse.
        match Config::read(&text) {
            Ok(read) => assert_eq!(read, compiled.config),
            Err(problems) => {
                let other: Vec<_> = problems.iter().filter(|problem| !problem.path.ends_with(".match")).collect();
                assert!(other.is_empty(), "{other:?}");
            }
        }
    }
}

#[test]
fn first_task() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/first-task");
    check(
        "first-task",
        &[examples, golden().join("first-task")],
        "default",
        &["gateway", "transcoder", "worker-97dgn"],
    );
}

#[test]
fn every_kind_and_field_once() {
    check("breadth", &[golden().join("breadth")], "games", &["gateway"]);
}

#[test]
fn objects_read_back_as_they_were_written() {
    let text = fs::read_to_string(golden().join("breadth/objects.yaml")).unwrap();
    let objects = manifest::read(&text).objects;
    let written: Vec<String> = objects
        .iter()
        .map(|object| match object {
            Object::VirtualService(object) => serde_json::to_string(object).unwrap(),
            Object::Target(object) => serde_json::to_string(object).unwrap(),
            Object::Route(object) => serde_json::to_string(object).unwrap(),
            Object::Rule(object) => serde_json::to_string(object).unwrap(),
            Object::Pod(object) => with_kind("Pod", serde_json::to_value(object).unwrap()),
            Object::Service(object) => with_kind("Service", serde_json::to_value(object).unwrap()),
            Object::EndpointSlice(object) => with_kind("EndpointSlice", serde_json::to_value(object).unwrap())
                .replace("\"v1\"", "\"discovery.k8s.io/v1\""),
        })
        .collect();
    let again = manifest::read(&written.join("\n---\n"));
    assert_eq!(again.faults, []);
    assert_eq!(again.objects, objects);
}

fn with_kind(kind: &str, mut object: serde_json::Value) -> String {
    object["apiVersion"] = "v1".into();
    object["kind"] = kind.into();
    object.to_string()
}
