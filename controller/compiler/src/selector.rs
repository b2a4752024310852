//! Which pods a selector picks.

use std::collections::BTreeMap;

use l7mp_crds::{Operator, Pod, Requirement, Selector};

use crate::object::{Kind, ObjectId};
use crate::world::postings::Anchors;

/// The fields of a pod that `matchFields` may name.
pub const FIELDS: [&str; 6] =
    ["metadata.name", "metadata.namespace", "spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"];

/// The one field that is an index.
const NAME: &str = "metadata.name";

/// The namespace whose pods a selector picks, when it stands in an object of `namespace`.
pub fn namespace<'a>(selector: &'a Selector, namespace: &'a str) -> &'a str {
    selector.match_namespace.as_deref().unwrap_or(namespace)
}

/// The Service that a selector names, when it stands in an object of `from`.
pub fn service(selector: &Selector, from: &str) -> Option<ObjectId> {
    let name = selector.match_service.as_deref()?;
    Some(ObjectId::new(Kind::Service, namespace(selector, from), name))
}

/// Where to look for a selector: a pod that it picks has one of these.
pub(crate) fn anchors(selector: &Selector) -> Anchors<'_> {
    if let Some(names) = selector.match_fields.iter().find(|term| term.key == NAME && term.operator == Operator::In) {
        return Anchors::Names(names.values.iter().map(String::as_str).collect());
    }
    if let Some((key, value)) = selector.match_labels.iter().next() {
        return Anchors::Labels(vec![(key, value)]);
    }
    match selector.match_expressions.iter().find(|term| term.operator == Operator::In) {
        Some(term) => Anchors::Labels(term.values.iter().map(|value| (term.key.as_str(), value.as_str())).collect()),
        None => Anchors::Any,
    }
}

/// Whether a selector that stands in an object of `from` picks a pod, its Service left aside. All terms must
/// hold.
pub fn matches(selector: &Selector, from: &str, pod: &Pod) -> bool {
    let labels = &pod.metadata.labels;
    pod.metadata.namespace() == namespace(selector, from)
        && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|term| holds(term, labels.get(&term.key).map(String::as_str)))
        && selector.match_fields.iter().all(|term| holds(term, field(pod, &term.key)))
}

fn holds(term: &Requirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| term.values.iter().any(|listed| listed == value));
    match term.operator {
        Operator::In => listed(),
        Operator::NotIn => !listed(),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

fn field<'a>(pod: &'a Pod, path: &str) -> Option<&'a str> {
    match path {
        NAME => Some(&pod.metadata.name),
        "metadata.namespace" => Some(pod.metadata.namespace()),
        "spec.nodeName" => pod.spec.node_name.as_deref(),
        "spec.serviceAccountName" => pod.spec.service_account_name.as_deref(),
        "status.phase" => pod.status.phase.as_deref(),
        "status.podIP" => pod.status.pod_ip.as_deref(),
        _ => None,
    }
}

/// A selector where it stands, with its Service looked up: what it asks of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selection {
    /// The namespace of the object that carries it, which pods of other namespaces must accept.
    pub from: String,
    /// The namespace of the pods.
    pub namespace: String,
    /// All of them must hold.
    terms: Vec<Term>,
}

/// One condition on a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Term {
    on: On,
    key: String,
    asks: Asks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum On {
    Label,
    Field,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Asks {
    OneOf(Vec<String>),
    NoneOf(Vec<String>),
    Present,
    Absent,
}

impl Selection {
    /// A selector that stands in an object of `from`; `service` is the `spec.selector` of its `matchService`.
    pub fn new(selector: &Selector, from: &str, service: Option<&BTreeMap<String, String>>) -> Selection {
        let is = |(key, value): (&String, &String)| Term {
            on: On::Label,
            key: key.clone(),
            asks: Asks::OneOf(vec![value.clone()]),
        };
        let labels = selector.match_labels.iter().chain(service.into_iter().flatten()).map(is);
        let expressions = selector.match_expressions.iter().map(|term| Term::new(On::Label, term));
        let fields = selector.match_fields.iter().map(|term| Term::new(On::Field, term));
        Selection {
            from: from.to_owned(),
            namespace: namespace(selector, from).to_owned(),
            terms: labels.chain(expressions).chain(fields).collect(),
        }
    }

    /// The labels of which it asks for one of some values.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.one_of(On::Label)
    }

    /// The names of which it asks for one.
    pub(crate) fn names(&self) -> Option<&[String]> {
        self.one_of(On::Field).find(|(key, _)| *key == NAME).map(|(_, names)| names)
    }

    fn one_of(&self, on: On) -> impl Iterator<Item = (&str, &[String])> {
        self.terms.iter().filter_map(move |term| match &term.asks {
            Asks::OneOf(values) if term.on == on => Some((term.key.as_str(), values.as_slice())),
            Asks::OneOf(_) | Asks::NoneOf(_) | Asks::Present | Asks::Absent => None,
        })
    }

    /// Where to look for it: a pod that it picks has one of these.
    pub(crate) fn anchors(&self) -> Anchors<'_> {
        if let Some(names) = self.names() {
            return Anchors::Names(names.iter().map(String::as_str).collect());
        }
        match self.labels().min_by_key(|(_, values)| values.len()) {
            Some((key, values)) => Anchors::Labels(values.iter().map(|value| (key, value.as_str())).collect()),
            None => Anchors::Any,
        }
    }

    /// Whether it picks a pod, be it with the pod's consent or not.
    pub fn matches(&self, pod: &Pod) -> bool {
        pod.metadata.namespace() == self.namespace && self.terms.iter().all(|term| term.holds(pod))
    }
}

impl Term {
    fn new(on: On, term: &Requirement) -> Term {
        let asks = match term.operator {
            Operator::In => Asks::OneOf(term.values.clone()),
            Operator::NotIn => Asks::NoneOf(term.values.clone()),
            Operator::Exists => Asks::Present,
            Operator::DoesNotExist => Asks::Absent,
        };
        Term { on, key: term.key.clone(), asks }
    }

    fn holds(&self, pod: &Pod) -> bool {
        let value = match self.on {
            On::Label => pod.metadata.labels.get(&self.key).map(String::as_str),
            On::Field => field(pod, &self.key),
        };
        match (&self.asks, value) {
            (Asks::OneOf(values), Some(value)) => values.iter().any(|listed| listed == value),
            (Asks::NoneOf(values), Some(value)) => values.iter().all(|listed| listed != value),
            (Asks::Present, Some(_)) | (Asks::NoneOf(_) | Asks::Absent, None) => true,
            (Asks::Absent, Some(_)) | (Asks::OneOf(_) | Asks::Present, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_saphyr::from_str(
            "
metadata: {name: w-1, namespace: games, labels: {app: worker, tier: '2', empty: ''}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.7}
",
        )
        .unwrap()
    }

    #[test]
    fn accepts_and_rejects_by_every_term() {
        let table = [
            ("{}", true),
            ("{matchLabels: {app: worker}}", true),
            ("{matchLabels: {app: worker, tier: '2'}}", true),
            ("{matchLabels: {app: worker, tier: '3'}}", false),
            ("{matchLabels: {absent: ''}}", false),
            ("{matchLabels: {empty: ''}}", true),
            ("{matchExpressions: [{key: app, operator: In, values: [x, worker]}]}", true),
            ("{matchExpressions: [{key: app, operator: In, values: [x]}]}", false),
            ("{matchExpressions: [{key: absent, operator: In, values: [x]}]}", false),
            ("{matchExpressions: [{key: app, operator: NotIn, values: [worker]}]}", false),
            ("{matchExpressions: [{key: app, operator: NotIn, values: [x]}]}", true),
            ("{matchExpressions: [{key: absent, operator: NotIn, values: [x]}]}", true),
            ("{matchExpressions: [{key: app, operator: Exists}]}", true),
            ("{matchExpressions: [{key: absent, operator: Exists}]}", false),
            ("{matchExpressions: [{key: app, operator: DoesNotExist}]}", false),
            ("{matchExpressions: [{key: absent, operator: DoesNotExist}]}", true),
            ("{matchExpressions: [{key: app, operator: Exists}, {key: tier, operator: In, values: ['3']}]}", false),
            ("{matchLabels: {app: worker}, matchExpressions: [{key: tier, operator: NotIn, values: ['2']}]}", false),
            ("{matchFields: [{key: metadata.name, operator: In, values: [w-1]}]}", true),
            ("{matchFields: [{key: metadata.namespace, operator: In, values: [games]}]}", true),
            ("{matchFields: [{key: spec.nodeName, operator: NotIn, values: [node-a]}]}", false),
            ("{matchFields: [{key: spec.serviceAccountName, operator: DoesNotExist}]}", true),
            ("{matchFields: [{key: status.phase, operator: In, values: [Running]}]}", true),
            ("{matchFields: [{key: status.podIP, operator: In, values: [10.0.0.8]}]}", false),
            ("{matchNamespace: games}", true),
            ("{matchNamespace: other}", false),
            ("{matchNamespace: other, matchLabels: {app: worker}}", false),
        ];
        for (text, expected) in table {
            let selector: Selector = serde_saphyr::from_str(text).unwrap();
            assert_eq!(matches(&selector, "games", &pod()), expected, "{text}");
            assert_eq!(Selection::new(&selector, "games", None).matches(&pod()), expected, "{text}");
        }
    }

    #[test]
    fn picks_pods_of_its_own_namespace_unless_it_names_another() {
        assert!(!matches(&Selector::default(), "default", &pod()));
        let other = Selector { match_namespace: Some("games".to_owned()), ..Selector::default() };
        assert!(matches(&other, "default", &pod()));
    }
}
