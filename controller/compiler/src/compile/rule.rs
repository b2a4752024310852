//! Rules and rule lists.

use std::collections::{BTreeMap, BTreeSet};

use l7mp_api::config::{Action, ActionTarget, Ref, Rewrite, Rule};
use l7mp_crds::InlineRule;

use super::report::Fault;
use super::{Build, Origin, Reason};
use crate::object::{Kind, ObjectId, age};
use crate::{reference, selector};

/// What names a rule list: they are per namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListId {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl ListId {
    /// Its name in the document.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn id_of(rule: &l7mp_crds::Rule) -> ObjectId {
    ObjectId::new(Kind::Rule, rule.metadata.namespace(), &rule.metadata.name)
}

impl<'w> Build<'w> {
    /// The rules of every list: by position (none: last), then age, then name. A list exists as soon as a
    /// Rule names it, even if none of its rules is for this pod.
    pub(super) fn index_lists(&self) -> BTreeMap<ListId, Vec<&'w l7mp_crds::Rule>> {
        let mut lists: BTreeMap<ListId, Vec<&l7mp_crds::Rule>> = BTreeMap::new();
        for rule in self.world.rules() {
            let namespace = rule.metadata.namespace();
            let list = ListId { namespace: namespace.to_owned(), name: rule.spec.rulelist.clone() };
            let members = lists.entry(list).or_default();
            let here = rule.spec.selector.as_ref().is_none_or(|term| selector::matches(term, namespace, self.pod));
            if here && !self.held.contains_key(&id_of(rule)) {
                members.push(rule);
            }
        }
        let key = |rule: &l7mp_crds::Rule| (rule.spec.position.is_none(), rule.spec.position);
        for members in lists.values_mut() {
            members.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| age(&a.metadata).cmp(&age(&b.metadata))));
        }
        lists
    }

    /// One rule of the document. A rule that cannot be used refuses what it matches.
    pub(super) fn rule(&mut self, at: &Origin, name: String, rule: &InlineRule) -> Rule {
        let rewrite = rule.action.rewrite.iter().map(|rewrite| Rewrite {
            path: rewrite.path.clone(),
            value: serde_json::Value::String(rewrite.value_str.clone()),
        });
        let action = Action { rewrite: rewrite.collect(), target: self.action(&at.join("action"), &rule.action) };
        Rule { name, matches: rule.matches.clone(), action }
    }

    fn action(&mut self, at: &Origin, action: &l7mp_crds::Action) -> ActionTarget {
        if let Some(text) = &action.route_ref {
            self.named_route(&at.join("routeRef"), text)
        } else if let Some(route) = &action.route {
            match self.route(&at.join("route"), String::new(), route) {
                Ok(route) => ActionTarget::Route(Ref::Inline(Box::new(route))),
                Err(message) => ActionTarget::Refuse(reason(&message)),
            }
        } else if let Some(list) = &action.apply {
            let list = ListId { namespace: at.object.namespace.clone(), name: list.clone() };
            self.list_target(&at.join("apply"), list)
        } else {
            ActionTarget::Refuse(action.refuse.clone().unwrap_or_default())
        }
    }

    fn named_route(&mut self, at: &Origin, text: &str) -> ActionTarget {
        let id = match reference::parse(text, Kind::Route, &at.object.namespace) {
            Ok(id) => id,
            Err(error) => return self.refuse(at, Fault::new(Reason::InvalidReference, error.to_string())),
        };
        if let Some(said) = self.held.get(&id) {
            return self.refuse(at, Fault::new(Reason::RefNotUsable, format!("{id} is held back: {said}")));
        }
        let Some(route) = self.world.route(&id) else {
            return self.refuse(at, Fault::new(Reason::RefNotFound, format!("there is no {id}")));
        };
        self.sources.insert(id.clone());
        if !self.routes.contains_key(&id) {
            let built = self.route(&Origin::new(id.clone(), "spec"), id.path(), &route.spec);
            self.routes.insert(id.clone(), built);
        }
        match &self.routes[&id] {
            Ok(route) => ActionTarget::Route(Ref::Name(route.name.clone())),
            Err(message) => {
                let message = format!("{id} is not usable: {message}");
                self.refuse(at, Fault::new(Reason::RefNotUsable, message))
            }
        }
    }

    fn refuse(&mut self, at: &Origin, fault: Fault) -> ActionTarget {
        self.report(at, fault.reason, format!("{}: the rule refuses its sessions", fault.message));
        ActionTarget::Refuse(reason(&fault.message))
    }

    /// A jump to a rule list, which will be built.
    pub(super) fn list_target(&mut self, at: &Origin, list: ListId) -> ActionTarget {
        if !self.lists.contains_key(&list) {
            let message = format!("no Rule of namespace {} has rulelist \"{}\"", list.namespace, list.name);
            return self.refuse(at, Fault::new(Reason::RefNotFound, message));
        }
        let name = list.path();
        if !self.rulelists.contains_key(&list) && !self.pending.contains(&list) {
            self.pending.push(list);
        }
        ActionTarget::Apply(name)
    }

    /// Builds the lists that are referred to, and those that they refer to.
    pub(super) fn pending_lists(&mut self) {
        while let Some(list) = self.pending.pop() {
            let members = self.lists.get(&list).cloned().unwrap_or_default();
            self.rulelists.insert(list.clone(), members.iter().map(|rule| id_of(rule)).collect());
            for member in members {
                let id = id_of(member);
                self.sources.insert(id.clone());
                let at = Origin::new(id.clone(), "spec.rule");
                let mut rule = self.rule(&at, id.path(), &member.spec.rule);
                if let Some(next) = &member.spec.rule.action.apply
                    && self.leads_to(ListId { namespace: list.namespace.clone(), name: next.clone() }, &list)
                {
                    let message = format!("rule list \"{next}\" leads back to \"{}\"", list.name);
                    let fault = Fault::new(Reason::RuleListLoop, message);
                    rule.action.target = self.refuse(&at.join("action.apply"), fault);
                }
                self.rules.insert(id, rule);
            }
        }
    }

    /// Whether a list reaches another by `apply`.
    fn leads_to(&self, from: ListId, to: &ListId) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(list) = next.pop() {
            if list == *to {
                return true;
            }
            let members = self.lists.get(&list).map(Vec::as_slice).unwrap_or_default();
            if seen.insert(list.clone()) {
                next.extend(
                    members
                        .iter()
                        .filter_map(|rule| rule.spec.rule.action.apply.as_ref())
                        .map(|name| ListId { namespace: list.namespace.clone(), name: name.clone() }),
                );
            }
        }
        false
    }
}

/// A message as the reason of a `refuse`, which a document takes only when it is short and on one line: else what is
/// wrong with one object would take the listeners down that refer to it.
fn reason(message: &str) -> String {
    const CHARACTERS_MAX: usize = 300;
    let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn a_long_fault_of_many_lines_is_a_reason_that_a_document_takes() {
        let message = "a bad address\n".repeat(1000);
        let reason = reason(&message);
        assert!(reason.len() < 400 && !reason.contains('\n') && reason.ends_with("..."), "{reason}");
        assert_eq!(super::reason("short"), "short");
    }
}
