//! VirtualServices that select the pod, as listeners.

use l7mp_api::config::{Action, ActionTarget, Listener, Ref, Rule, Rules};
use l7mp_crds::{ObjectMeta, VirtualService};

use super::port::Claim;
use super::{Build, Origin, Reason, lower};
use crate::dependencies::ListId;
use crate::object::{Kind, Object, ObjectId, age, created};

/// What the names of listeners that linger have behind that of an object that has another listener by now. Their
/// clusters keep their names, and their sessions with them.
const LINGERING: &str = "~old";

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

impl<'w> Build<'w> {
    /// Every listener of the pod, the oldest first: of two that want one port, the first gets it. Lingering ones
    /// get what is left.
    pub(super) fn listeners(&mut self) {
        let world = self.world;
        let mut selected: Vec<&VirtualService> = Vec::new();
        for object in world.selecting(self.pod) {
            let Object::VirtualService(service) = &**object else { continue };
            let here = service.spec.selector.as_ref().is_some_and(|selector| self.is_here(&object.id(), selector));
            if here {
                selected.push(service);
            }
        }
        selected.sort_by(|a, b| age(&a.metadata).cmp(&age(&b.metadata)));

        let mut taken: Vec<(Claim<'w>, &VirtualService)> = Vec::new();
        for object in selected {
            let id = id_of(object);
            self.sources.insert(id.clone());
            self.selected.insert(id.clone());
            if self.view.held.contains_key(&id) {
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
        // Reports and names are for these first, before those that linger.
        self.pending_lists();
        self.lingering(taken.into_iter().map(|(claim, _)| claim).collect());
    }

    /// Listeners of VirtualServices that are gone or changed, on ports that nothing living claims.
    fn lingering(&mut self, mut taken: Vec<Claim<'w>>) {
        for (index, object) in self.view.lingering.iter().enumerate() {
            let Object::VirtualService(service) = &**object else { continue };
            let Some(claim) = Claim::of(&service.spec.listener.spec) else { continue };
            let id = id_of(service);
            if self.view.held.contains_key(&id) || taken.iter().any(|other| claim.overlaps(other)) {
                continue;
            }
            taken.push(claim);
            // Where there is none that took its place, nothing of it changes.
            if self.listeners.contains_key(&id.path()) {
                self.suffix = format!("{LINGERING}{index}");
            }
            self.quiet = true;
            self.listener(id, service);
            self.pending_lists();
            self.suffix.clear();
        }
    }

    fn listener(&mut self, id: ObjectId, object: &'w VirtualService) {
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
            name: format!("{}{}", origin.object.path(), self.suffix),
            spec: lower::listener_spec(&listener.spec),
            rules,
            options: lower::options(&listener.options),
        };
        self.listeners.insert(part.name.clone(), (part, origin));
    }
}
