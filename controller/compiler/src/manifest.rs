//! Manifests: texts of YAML documents, as `kubectl apply` takes and `kubectl get -o yaml` prints them.

use std::fmt;

use l7mp_api::Problem;
use l7mp_crds::{API_VERSION, EndpointSlice, Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::check::check;
use crate::nearest::nearest;
use crate::object::{Object, ObjectId};

/// The most bytes of one manifest file.
pub const FILE_BYTES_MAX: usize = 8 << 20;

/// The objects of a text, and what was left out of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Objects that are right by themselves.
    pub objects: Vec<Object>,
    /// What is wrong with the others.
    pub faults: Vec<Fault>,
}

/// Why an object, or a whole document, was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Which document of the text, from 1.
    pub document: usize,
    /// The object, as far as its kind and name could be read.
    pub object: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

impl Fault {
    /// Whether the fault may be what took an object out: it names the object, or (a mistyped kind) another
    /// of its name, or it could not be read which object it is about.
    pub fn may_concern(&self, id: &ObjectId) -> bool {
        let same = |object: &str| object.split_once(' ').is_some_and(|(_, path)| path == id.path());
        self.object.as_deref().is_none_or(same)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}: ", self.document)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        self.problem.fmt(f)
    }
}

/// Reads every document of a text. A wrong one never takes the others down; objects of kinds that we do
/// not know are passed over, since a directory of manifests holds Deployments too.
pub fn read(text: &str) -> Manifest {
    let mut manifest = Manifest::default();
    let mut seen: Vec<ObjectId> = Vec::new();
    for (index, document) in documents(text).into_iter().enumerate() {
        let mut reader = Reader { document: index + 1, manifest: &mut manifest, seen: &mut seen };
        match serde_saphyr::from_str::<Value>(document) {
            Ok(value) => reader.value(value, ""),
            Err(_) => reader.fault(None, "", syntax_error(text, document)),
        }
    }
    manifest
}

/// Splits a text at its `---` lines. YAML gives such a line no other meaning, not even within a block of
/// text, so one broken document cannot hide the next.
fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if line.starts_with("---") && line[3..].chars().next().is_none_or(char::is_whitespace) {
            documents.push(&text[start..at]);
            // What follows the marker on its line belongs to the document.
            start = at + 3;
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    if documents.len() > 1 && is_blank(documents[0]) {
        documents.remove(0);
    }
    documents
}

/// Whether there is nothing but white space, comments and directives.
fn is_blank(document: &str) -> bool {
    document.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with(['#', '%']))
}

/// What is wrong with a document that is no YAML, with its line and column in the whole text.
fn syntax_error(text: &str, document: &str) -> String {
    let start = document.as_ptr() as usize - text.as_ptr() as usize;
    let lines_before = text[..start].bytes().filter(|byte| *byte == b'\n').count();
    let padded = format!("{}{document}", "\n".repeat(lines_before));
    match serde_saphyr::from_str::<Value>(&padded) {
        Err(error) => {
            let error = error.to_string();
            let line = error.lines().next().unwrap_or_default();
            // The parser's advice is for programmers.
            let line = line.split(", set ").next().unwrap_or_default();
            line.trim_start_matches("error: ")
                .trim_end_matches(':')
                .replace("cannot deserialize null into string; use Option<String>", "there is no key before the colon")
                .replace("expected string scalar", "a key that is no text")
        }
        Ok(_) => "is no YAML".to_owned(),
    }
}

struct Reader<'a> {
    document: usize,
    manifest: &'a mut Manifest,
    seen: &'a mut Vec<ObjectId>,
}

impl Reader<'_> {
    fn fault(&mut self, object: Option<String>, path: &str, message: impl Into<String>) {
        let problem = Problem { path: path.to_owned(), message: message.into() };
        self.manifest.faults.push(Fault { document: self.document, object, problem });
    }

    /// One object, or a list of them; `at` is the path of the value in its document.
    fn value(&mut self, value: Value, at: &str) {
        let Value::Object(mut map) = value else {
            if !value.is_null() {
                self.fault(None, at, "is not an object; a manifest is a map with apiVersion, kind and metadata");
            }
            return;
        };
        if map.is_empty() {
            return;
        }
        let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            self.fault(None, at, "has no apiVersion or no kind");
            return;
        };
        if kind.ends_with("List")
            && let Some(Value::Array(items)) = map.remove("items")
        {
            for (index, item) in items.into_iter().enumerate() {
                self.value(item, &format!("{at}{}items[{index}]", if at.is_empty() { "" } else { "." }));
            }
            return;
        }
        let value = Value::Object(map);
        let named = |value: &Value| {
            let name = value["metadata"]["name"].as_str().unwrap_or("(no name)");
            let namespace = value["metadata"]["namespace"].as_str().unwrap_or(l7mp_crds::DEFAULT_NAMESPACE);
            format!("{kind} {namespace}/{name}")
        };
        let object = match (version.as_str(), kind.as_str()) {
            (API_VERSION, "VirtualService") => parse(&value).map(Object::VirtualService),
            (API_VERSION, "Target") => parse(&value).map(Object::Target),
            (API_VERSION, "Route") => parse(&value).map(Object::Route),
            (API_VERSION, "Rule") => parse(&value).map(Object::Rule),
            ("v1", "Pod") => parse::<Pod>(&value).map(Object::Pod),
            ("v1", "Service") => parse::<Service>(&value).map(Object::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => parse::<EndpointSlice>(&value).map(Object::EndpointSlice),
            (version, _) if version.starts_with("l7mp.io/") => {
                let message =
                    format!("{version} has no kind {kind}; {API_VERSION} has VirtualService, Target, Route, Rule");
                return self.fault(Some(named(&value)), at, message);
            }
            _ => return,
        };
        match object {
            Ok(object) => self.object(object),
            Err(problem) => {
                let fault = Fault { document: self.document, object: Some(named(&value)), problem };
                self.manifest.faults.push(fault);
            }
        }
    }

    fn object(&mut self, object: Object) {
        let id = object.id();
        let problems = check(&object);
        if self.seen.contains(&id) {
            self.fault(Some(id.to_string()), "", "stands in this file already; the first one counts");
        } else if problems.is_empty() {
            self.seen.push(id);
            self.manifest.objects.push(object);
        } else {
            for problem in problems {
                let fault = Fault { document: self.document, object: Some(id.to_string()), problem };
                self.manifest.faults.push(fault);
            }
        }
    }
}

fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path,
        };
        let message = explain(&error.inner().to_string());
        Problem { path, message }
    })
}

/// serde's words in those of manifests, with what to do where that is known.
fn explain(message: &str) -> String {
    if message.contains("map with a single key") {
        return "needs exactly one key: the protocol".to_owned();
    }
    if let Some(said) = message.strip_prefix("unknown field ") {
        return format!("unknown field {said}{}", meant(said));
    }
    if let Some(said) = message.strip_prefix("unknown variant ") {
        return format!("unknown name {said}{}", meant(said));
    }
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    match wrong.and_then(|wrong| wrong.rsplit_once(", expected ")) {
        Some((found, "a string")) if found.starts_with(['i', 'f', 'b']) => {
            format!("is {}, expected a text: put it into quotes", plain_value(found))
        }
        Some((found, wanted)) => format!("is {}, expected {}", plain_value(found), plain_type(wanted)),
        None => message.to_owned(),
    }
}

/// The question whether one of the names was meant: of "`prot`, expected one of `port`, `address`".
fn meant(said: &str) -> String {
    let mut names = said.split('`').skip(1).step_by(2);
    let written = names.next().unwrap_or_default();
    nearest(written, names).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// What was found, of "integer `70000`".
fn plain_value(found: &str) -> String {
    let quoted = |kind: &str| found.strip_prefix(kind).map(|value| value.trim_matches(['`', ' ']));
    match found {
        "map" => "a map".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" => "empty".to_owned(),
        _ => {
            if let Some(number) = quoted("integer ").or_else(|| quoted("floating point ")) {
                format!("the number {number}")
            } else if let Some(value) = quoted("boolean ") {
                value.to_owned()
            } else if let Some(text) = found.strip_prefix("string ") {
                format!("the text {text}")
            } else {
                found.to_owned()
            }
        }
    }
}

/// What was wanted, of "u16".
fn plain_type(wanted: &str) -> String {
    let whole = |max: u64| format!("a whole number from 0 to {max}");
    match wanted {
        "u8" => whole(u8::MAX.into()),
        "u16" => whole(u16::MAX.into()),
        "u32" => whole(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "a string" => "a text".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "struct Cluster" => "a cluster; the name of a Target goes into destinationRef or clusterRef".to_owned(),
        "struct ChainItem" => "{clusterRef: TARGET} or {cluster: {...}}".to_owned(),
        "struct RouteSpec" => "a route; the name of a Route goes into routeRef".to_owned(),
        _ => match wanted.strip_prefix("struct ") {
            Some(name) => format!("a {name}, as a map"),
            None => wanted.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        read(text).faults.iter().map(ToString::to_string).collect()
    }

    const TARGET: &str = "
apiVersion: l7mp.io/v1
kind: Target
metadata: {name: echo}
spec: {cluster: {spec: {Echo: {}}}}
";

    #[test]
    fn a_broken_document_does_not_take_its_neighbours_down() {
        let other = TARGET.replace("echo", "second");
        let manifest = read(&format!("# head\n---{TARGET}---\n: : [\n---\n---{other}...\n"));
        let names: Vec<_> = manifest.objects.iter().map(|object| object.id().to_string()).collect();
        assert_eq!(names, ["Target default/echo", "Target default/second"]);
        assert_eq!(manifest.faults.len(), 1, "{:?}", manifest.faults);
        assert_eq!(manifest.faults[0].document, 2);
    }

    #[test]
    fn a_syntax_error_names_its_line_in_the_file() {
        let fault = &faults(&format!("{TARGET}---\napiVersion: v1\nkind: [\n"))[0];
        assert!(fault.starts_with("document 2: ") && fault.contains("line 8"), "{fault}");
    }

    #[test]
    fn a_syntax_error_does_not_speak_of_types() {
        let fault = &faults("kind: x\n: y\n")[0];
        assert!(fault.contains("there is no key before the colon"), "{fault}");
    }

    #[test]
    fn hostile_documents_are_faults() {
        let deep = "[".repeat(100_000);
        let lists = "{apiVersion: v1, kind: List, items: [".repeat(2_000);
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        for text in [&deep, &lists, &laughs, "a: *b", "\0", "- - -\n-", "x: {a: 1, a: 2}"] {
            let manifest = read(&format!("{text}\n---{TARGET}"));
            assert_eq!((manifest.objects.len(), manifest.faults.len()), (1, 1), "{:?}", manifest.faults);
        }
    }

    #[test]
    fn a_name_where_an_object_belongs_is_told_its_key() {
        let service = |rules: &str| {
            format!(
                "{{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {{name: v}}, \
                 spec: {{selector: {{}}, listener: {{spec: {{UDP: {{port: 1}}}}, rules: {rules}}}}}}}"
            )
        };
        for (rules, path, hint) in [
            ("[{action: {route: {destination: x}}}]", "rules[0].action.route.destination", "destinationRef"),
            (
                "[{action: {route: {destinationRef: x, ingress: [y]}}}]",
                "rules[0].action.route.ingress[0]",
                "clusterRef",
            ),
            ("[{action: {route: x}}]", "rules[0].action.route", "routeRef"),
        ] {
            let fault = &faults(&service(rules))[0];
            assert!(fault.contains(&format!("spec.listener.{path}: ")) && fault.contains(hint), "{fault}");
        }
    }

    #[test]
    fn a_wrong_field_is_explained_in_the_words_of_manifests() {
        let port = "is the number 70000, expected a whole number from 0 to 65535";
        for (metadata, listener, expected) in [
            ("name: v", "spec: {UDP: {port: 70000}}", format!("spec.listener.spec.UDP.port: {port}")),
            ("name: v", "spec: {UDP: {prot: 1}}", "`connect`, `gro`; did you mean `port`?".to_owned()),
            ("name: v", "spec: {UPD: {port: 1}}", "`UnixDomainSocket`; did you mean `UDP`?".to_owned()),
            ("name: v", "spec: {UDP: {port: 'x'}}", "is the text \"x\", expected a whole number".to_owned()),
            ("name: v", "spec: {UDP: {port: 1}}, rules: {}", "rules: is a map, expected a list".to_owned()),
            (
                "name: v, labels: {a: 1}",
                "spec: {UDP: {port: 1}}",
                "is the number 1, expected a text: put it into quotes".to_owned(),
            ),
            ("name: v", "spec: {UDP: {port: 1}}, rules: [x]", "is the text \"x\", expected a ".to_owned()),
        ] {
            let fault = &faults(&format!(
                "{{apiVersion: l7mp.io/v1, kind: VirtualService, metadata: {{{metadata}}}, \
                 spec: {{selector: {{}}, listener: {{{listener}}}}}}}"
            ))[0];
            assert!(fault.contains(&expected), "{fault}");
        }
    }

    #[test]
    fn lists_as_kubectl_prints_them_are_opened() {
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: null, managedFields: [{x: 1}]}, \
                   spec: {containers: []}, status: {phase: Running, podIP: 10.0.0.1, hostIP: 1.2.3.4}}";
        let manifest = read(&format!(
            "apiVersion: v1\nkind: List\nitems:\n- {pod}\n- {{apiVersion: apps/v1, kind: Deployment}}\nmetadata: {{resourceVersion: ''}}\n"
        ));
        assert_eq!(manifest.faults, []);
        assert_eq!(manifest.objects.len(), 1);
    }

    #[test]
    fn json_is_yaml_too() {
        let manifest = read(
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":80,"targetPort":"http"}]}}"#,
        );
        assert_eq!((manifest.objects.len(), manifest.faults.len()), (1, 0));
    }

    #[test]
    fn kinds_of_others_are_passed_over_and_unknown_ones_of_ours_are_not() {
        assert_eq!(faults("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"), [""; 0]);
        let fault = &faults(&TARGET.replace("kind: Target", "kind: Tagret"))[0];
        assert!(fault.contains("document 1: Tagret default/echo: l7mp.io/v1 has no kind Tagret"), "{fault}");
        let fault = &faults(&TARGET.replace("l7mp.io/v1", "l7mp.io/v2"))[0];
        assert!(fault.contains("l7mp.io/v2 has no kind Target"), "{fault}");
    }

    #[test]
    fn the_second_object_of_one_name_is_reported() {
        let fault = &faults(&format!("{TARGET}---{TARGET}"))[0];
        assert_eq!(fault, "document 2: Target default/echo: stands in this file already; the first one counts");
    }
}
