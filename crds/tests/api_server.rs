//! The kinds on a real API server: only there are the cost of the rules and the structure of the schemas judged.
//!
//! Runs with `kubectl` on the cluster of the kubeconfig `L7MP_KUBECONFIG`; installs the four definitions there,
//! and no objects (everything is tried with `--dry-run=server`). Without that variable it says so and does nothing.

mod common;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{GOOD, WRONG, first_task, golden, object, objects};
use serde_json::Value;

struct Cluster {
    kubeconfig: OsString,
}

impl Cluster {
    fn find() -> Option<Cluster> {
        let Some(kubeconfig) = std::env::var_os("L7MP_KUBECONFIG") else {
            eprintln!("skipped: L7MP_KUBECONFIG names no kubeconfig");
            return None;
        };
        if Command::new("kubectl").arg("version").arg("--client").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: there is no kubectl in PATH");
            return None;
        }
        Some(Cluster { kubeconfig })
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The standard output of a command that must succeed.
    fn done(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {}: {said}\n{input}", arguments.join(" "));
        assert!(!said.contains("Warning"), "kubectl {}: {said}", arguments.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Installs the definitions, and waits until they are served.
    fn install(&self) {
        for file in l7mp_crds::yaml() {
            self.done(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &file.text);
            let name = format!("crd/{}.l7mp.io", file.name.trim_end_matches(".yaml"));
            self.done(&["wait", "--for=condition=Established", "--timeout=30s", &name], "");
            let definition: Value = serde_json::from_str(&self.done(&["get", &name, "-o", "json"], "")).unwrap();
            for condition in definition["status"]["conditions"].as_array().unwrap() {
                let bad = condition["type"] == "NonStructuralSchema" && condition["status"] == "True";
                assert!(!bad, "{name}: {condition}");
            }
            assert_eq!(definition["spec"]["names"]["categories"], serde_json::json!(["l7mp"]));
        }
    }

    fn accepts_file(&self, file: &Path) {
        self.done(&["apply", "--dry-run=server", "-f", file.to_str().unwrap()], "");
    }

    fn try_object(&self, object: &Value) -> Output {
        self.kubectl(&["create", "--dry-run=server", "-f", "-"], &object.to_string())
    }
}

#[test]
fn the_api_server_takes_the_kinds_and_judges_objects_as_the_rules_say() {
    let Some(cluster) = Cluster::find() else { return };
    cluster.install();
    for file in first_task() {
        cluster.accepts_file(&file);
    }
    let mut good: Vec<Value> = GOOD.iter().map(|(kind, spec)| object(kind, spec)).collect();
    good.extend(golden().iter().flat_map(|file| objects(file)));
    for mut object in good {
        // The namespaces of the examples need not be there.
        object["metadata"].as_object_mut().unwrap().remove("namespace");
        let output = cluster.try_object(&object);
        assert!(output.status.success(), "{object}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for wrong in WRONG {
        let output = cluster.try_object(&object(wrong.kind, wrong.spec));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "accepted: {} {}", wrong.kind, wrong.spec);
        let there = said.contains(wrong.path) && said.contains(wrong.message);
        assert!(there, "{} {}: {said}", wrong.kind, wrong.spec);
    }
}

#[test]
fn kubectl_explains_the_fields() {
    let Some(cluster) = Cluster::find() else { return };
    cluster.install();
    for (field, sentences) in [
        ("virtualservice.spec.listener", ["The listener: its protocol and port", "exactly one of `UDP`, `TCP`"]),
        ("vsvc.spec.listener.options.idleTimeout", ["at most `24h`", "Default: 60s for UDP"]),
        ("tr.spec.cluster.endpoints", ["Who serves it", "This or `selector`"]),
        ("rules.l7mp.io.spec", ["The rule list that it is part of", "The pods on which the rule is part of its list"]),
        ("routes.l7mp.io.status.conditions", ["`Programmed` (every selected pod", "A sentence for people"]),
    ] {
        let said = cluster.done(&["explain", field], "").split_whitespace().collect::<Vec<_>>().join(" ");
        for sentence in sentences {
            assert!(said.contains(sentence), "explain {field}: no \"{sentence}\" in {said}");
        }
    }
}
