//! Rules and rule lists.

use l7mp_api::config::{Action, ActionTarget, Ref, Rewrite, Rule};
use l7mp_crds::InlineRule;

use super::{Build, Origin, Reason};
use crate::dependencies::{Key, ListId};
use crate::object::{Kind, ObjectId, age};
use crate::resolve::Fault;

fn id_of(rule: &l7mp_crds::Rule) -> ObjectId {
    ObjectId::new(Kind::Rule, rule.metadata.namespace(), &rule.metadata.name)
}

impl<'w> Build<'w> {
    /// The rules of a list that are for this pod: by position (none: last), then age, then name.
    pub(super) fn members(&mut self, list: &ListId) -> Vec<&'w l7mp_crds::Rule> {
        if let Some(members) = self.lists.get(list) {
            return members.clone();
        }
        self.resolver.keys.insert(Key::List(list.clone()));
        let world = self.world;
        let mut members = Vec::new();
        for rule in world.list(list) {
            let id = id_of(rule);
            if rule.spec.selector.as_ref().is_none_or(|selector| self.is_here(&id, selector)) {
                self.selected.insert(id.clone());
                if !self.view.held.contains_key(&id) {
                    members.push(rule);
                }
            }
        }
        let key = |rule: &l7mp_crds::Rule| (rule.spec.position.is_none(), rule.spec.position);
        members.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| age(&a.metadata).cmp(&age(&b.metadata))));
        self.lists.insert(list.clone(), members.clone());
        members
    }

    /// One rule of the document. A rule that cannot be used refuses what it matches.
    pub(super) fn rule(&mut self, at: &Origin, name: String, rule: &'w InlineRule) -> Rule {
        let rewrite = rule.action.rewrite.iter().map(|rewrite| Rewrite {
            path: rewrite.path.clone(),
            value: serde_json::Value::String(rewrite.value_str.clone()),
        });
        let action = Action { rewrite: rewrite.collect(), target: self.action(&at.join("action"), &rule.action) };
        Rule { name, matches: rule.matches.clone(), action }
    }

    fn action(&mut self, at: &Origin, action: &'w l7mp_crds::Action) -> ActionTarget {
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
        let (id, route) = match self.resolver.route(text, &at.object.namespace) {
            Ok(found) => found,
            Err(fault) => return self.refuse(at, fault),
        };
        self.sources.insert(id.clone());
        self.selected.insert(id.clone());
        if let Some(said) = self.view.held.get(&id) {
            return self.refuse(at, Fault::new(Reason::RefNotUsable, format!("{id} is held back: {said}")));
        }
        if !self.routes.contains_key(&id) {
            let built = self.route(&Origin::new(id.clone(), "spec"), id.path(), &route.spec);
            self.routes.insert(id.clone(), built);
        }
        match &self.routes[&id] {
            Ok(route) => ActionTarget::Route(Ref::Name(route.name.clone())),
            Err(message) => {
                let fault = Fault::not_usable(&id, message);
                self.refuse(at, fault)
            }
        }
    }

    fn refuse(&mut self, at: &Origin, fault: Fault) -> ActionTarget {
        self.report(at, fault.reason, fault.in_rule());
        ActionTarget::Refuse(reason(&fault.message))
    }

    /// A jump to a rule list, which will be built.
    pub(super) fn list_target(&mut self, at: &Origin, list: ListId) -> ActionTarget {
        if let Some(fault) = self.resolver.missing_list(&list) {
            return self.refuse(at, fault);
        }
        let name = list.path();
        if !self.rulelists.contains_key(&list) {
            self.pending.insert(list);
        }
        ActionTarget::Apply(name)
    }

    /// Builds the lists that are referred to, and those that they refer to.
    pub(super) fn pending_lists(&mut self) {
        while let Some(list) = self.pending.pop_first() {
            let members = self.members(&list);
            self.rulelists.insert(list.clone(), members.iter().map(|rule| id_of(rule)).collect());
            for member in members {
                let id = id_of(member);
                self.sources.insert(id.clone());
                let at = Origin::new(id.clone(), "spec.rule");
                let mut rule = self.rule(&at, id.path(), &member.spec.rule);
                if let Some(next) = &member.spec.rule.action.apply {
                    let next = ListId { namespace: list.namespace.clone(), name: next.clone() };
                    if let Some(fault) = self.chain_fault(&list, &next) {
                        rule.action.target = self.refuse(&at.join("action.apply"), fault);
                    }
                }
                self.rules.insert(id, rule);
            }
        }
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
