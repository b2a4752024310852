//! First message or upgrade -> rule -> route.

use std::sync::Arc;

use crate::limits::APPLY_DEPTH_MAX;
use crate::snapshot::{Route, Rule, RuleList, RuleTarget};

/// What the rules of a listener say of a session.
#[derive(Debug)]
pub enum Matched {
    /// Open this route, after this rule's rewrites.
    Route(Arc<Rule>, Arc<Route>),
    /// A rule refuses it, for this reason.
    Refused(Arc<str>),
    /// No rule matches.
    NoRule,
}

/// Walks a rule list: the first rule that matches decides, and in this version every rule matches.
pub fn decide(list: &Arc<RuleList>) -> Matched {
    let mut list = list;
    for _ in 0..APPLY_DEPTH_MAX {
        let Some(rule) = list.rules.first() else { return Matched::NoRule };
        match &rule.target {
            RuleTarget::Route(route) => return Matched::Route(Arc::clone(rule), Arc::clone(route)),
            RuleTarget::Refuse(reason) => return Matched::Refused(Arc::clone(reason)),
            RuleTarget::Apply(inner) => list = inner,
        }
    }
    Matched::NoRule
}
