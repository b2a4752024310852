//! VirtualServices that select the pod, as listeners.

use l7mp_api::config::{Action, ActionTarget, Listener, Ref, Rule, Rules};
use l7mp_crds::{ObjectMeta, VirtualService};

use super::port::Claim;
use super::rule::ListId;
use super::{Build, Origin, Reason, lower};
use crate::object::{Kind, ObjectId, age, created};
use crate::selector;

fn id_of(object: &VirtualService) -> ObjectId {
    ObjectId::new(Kind::VirtualService, object.metadata.namespace(), &object.metadata.name)
}

/// Why an object comes before another in the order of [`age`].
fn precedence(first: &ObjectMeta, second: &ObjectMeta) -> &'static str {
    match (created(first), created(second)) {
        (None, _) => "comes first by namespace and name (neither has a creationTimestamp)",
        (Some(_), None) => "has a creationTimestamp, while this one has none",
        (Some(one), Some(other)) if one == other => "is as old, and comes first by namespace and name",
        (Some(_), Some(_)) => "is older by creationTimestamp",
    }
}

impl Build<'_> {
    /// Every listener of the pod, the oldest first: of two that want one port, the first gets it.
    pub(super) fn listeners(&mut self) {
        let selects = |object: &&VirtualService| {
            let from = object.metadata.namespace();
            object.spec.selector.as_ref().is_some_and(|selector| selector::matches(selector, from, self.pod))
        };
        let mut selected: Vec<&VirtualService> = self.world.virtual_services().filter(selects).collect();
        selected.sort_by(|a, b| age(&a.metadata).cmp(&age(&b.metadata)));

        let mut taken: Vec<(Claim<'_>, &VirtualService)> = Vec::new();
        for object in selected {
            let id = id_of(object);
            self.sources.insert(id.clone());
            if self.held.contains_key(&id) {
                continue;
            }
            if let Some(claim) = Claim::of(&object.spec.listener.spec) {
                if let Some((_, owner)) = taken.iter().find(|(other, _)| claim.overlaps(other)) {
                    let message = format!(
                        "{} belongs to {}, which {}: left out on this pod",
                        claim.describe(),
                        id_of(owner),
                        precedence(&owner.metadata, &object.metadata),
                    );
                    self.report(&Origin::new(id, "spec.listener.spec"), Reason::PortConflict, message);
                    continue;
                }
                taken.push((claim, object));
            }
            self.listener(id, object);
        }
    }

    fn listener(&mut self, id: ObjectId, object: &VirtualService) {
        let listener = &object.spec.listener;
        let origin = Origin::new(id, "spec.listener");
        let mut inline: Vec<Ref<Rule>> = Vec::new();
        for (index, rule) in listener.rules.iter().enumerate() {
            let rule = self.rule(&origin.join(format!("rules[{index}]")), String::new(), rule);
            inline.push(Ref::Inline(Box::new(rule)));
        }
        let list = listener.rules_ref.as_ref().map(|list| {
            let list = ListId { namespace: origin.object.namespace.clone(), name: list.clone() };
            self.list_target(&origin.join("rulesRef"), list)
        });
        let rules = match list {
            None => Rules::Inline(inline),
            Some(ActionTarget::Apply(list)) if inline.is_empty() => Rules::List(list),
            // What no inline rule takes is for the list; its result is final, as that of `apply` is.
            Some(target) => {
                let rest = Rule { name: String::new(), matches: None, action: Action { rewrite: Vec::new(), target } };
                inline.push(Ref::Inline(Box::new(rest)));
                Rules::Inline(inline)
            }
        };
        let part = Listener {
            name: origin.object.path(),
            spec: lower::listener_spec(&listener.spec),
            rules,
            options: lower::options(&listener.options),
        };
        self.listeners.insert(part.name.clone(), (part, origin));
    }
}
