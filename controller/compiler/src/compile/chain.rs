//! How rule lists apply one another: which lead back to themselves, and how deep they go.

use std::collections::BTreeMap;

use super::{Build, Reason};
use crate::dependencies::ListId;
use crate::resolve::Fault;

/// Lists that may follow one another. A proxy looks at 32 for a session, the listener's own rules among them.
const LISTS_DEEP_MAX: usize = 31;

/// What is known of a list. Below it is nothing that is not known too.
#[derive(Clone, Copy)]
struct Known {
    /// The same for lists that lead to each other, and for no others.
    circle: usize,
    /// Of the longest way from this list: how many lists it has.
    depth: usize,
}

/// The lists that were walked.
#[derive(Default)]
pub(super) struct Chains {
    known: BTreeMap<ListId, Known>,
    circles: usize,
}

/// A list on the way, in Tarjan's algorithm for strongly connected components (1972): its number, and the lowest
/// number on the way that it leads back to.
struct Step {
    list: ListId,
    number: usize,
    lowest: usize,
    applied: Vec<ListId>,
    done: usize,
}

impl Build<'_> {
    /// Why a rule of a list may not apply another; `None` when it may. All lists are walked once in a compilation.
    pub(super) fn chain_fault(&mut self, list: &ListId, next: &ListId) -> Option<Fault> {
        self.walk(list);
        let (from, to) = (self.chains.known.get(list)?, self.chains.known.get(next)?);
        let message = if from.circle == to.circle {
            format!("rule list \"{}\" leads back to \"{}\"", next.name, list.name)
        } else if to.depth >= LISTS_DEEP_MAX {
            format!("rule list \"{}\" is the first of {LISTS_DEEP_MAX} that apply one another, no more may", next.name)
        } else {
            return None;
        };
        Some(Fault::new(Reason::RuleListLoop, message))
    }

    /// The lists that the rules of a list apply.
    fn applied(&mut self, list: &ListId) -> Vec<ListId> {
        let rules = self.members(list);
        let names = rules.iter().filter_map(|rule| rule.spec.rule.action.apply.as_ref());
        names.map(|name| ListId { namespace: list.namespace.clone(), name: name.clone() }).collect()
    }

    fn step(&mut self, list: &ListId, number: usize) -> Step {
        Step { list: list.clone(), number, lowest: number, applied: self.applied(list), done: 0 }
    }

    /// Walks all that a list leads to. No recursion: a chain may be as long as there are lists.
    fn walk(&mut self, start: &ListId) {
        if self.chains.known.contains_key(start) {
            return;
        }
        // Those whose circle is not complete, and their numbers.
        let mut open = vec![start.clone()];
        let mut numbers = BTreeMap::from([(start.clone(), 0)]);
        let mut way = vec![self.step(start, 0)];
        while let Some(mut step) = way.pop() {
            let Some(next) = step.applied.get(step.done).cloned() else {
                if let Some(before) = way.last_mut() {
                    before.lowest = before.lowest.min(step.lowest);
                }
                if step.lowest == step.number {
                    let first = open.iter().rposition(|list| *list == step.list).unwrap_or_default();
                    let circle = open.split_off(first);
                    self.close(&circle);
                }
                continue;
            };
            step.done += 1;
            let number = numbers.get(&next).copied();
            if let Some(number) = number.filter(|_| !self.chains.known.contains_key(&next)) {
                step.lowest = step.lowest.min(number);
            }
            way.push(step);
            if number.is_none() && !self.chains.known.contains_key(&next) {
                way.push(self.step(&next, numbers.len()));
                numbers.insert(next.clone(), numbers.len());
                open.push(next);
            }
        }
    }

    /// Notes lists that lead to each other; whatever else they lead to is known.
    fn close(&mut self, circle: &[ListId]) {
        self.chains.circles += 1;
        let number = self.chains.circles;
        for list in circle {
            self.chains.known.insert(list.clone(), Known { circle: number, depth: 1 });
        }
        for list in circle {
            let applied = self.applied(list);
            let below = applied.iter().filter_map(|next| self.chains.known.get(next));
            // What is too deep is not applied.
            let usable = below.filter(|next| next.circle != number && next.depth < LISTS_DEEP_MAX);
            let depth = 1 + usable.map(|next| next.depth).max().unwrap_or_default();
            self.chains.known.insert(list.clone(), Known { circle: number, depth });
        }
    }
}
