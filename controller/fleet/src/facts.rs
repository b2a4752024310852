//! What is kept of every object besides the object.

use l7mp_compiler::object::Object;
use l7mp_crds::{Cluster, InlineRule, RouteSpec, Selector};

use crate::Rejected;

/// What is kept of an object of ours besides the object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The state of the world in which its spec became what it is.
    pub(crate) since: u64,
    /// The newest state of the object was not usable; the one before it counts.
    pub(crate) rejected: Option<Rejected>,
}

/// Whether two states of an object have one spec.
pub(crate) fn same_spec(before: &Object, after: &Object) -> bool {
    let (old, new) = (before.meta(), after.meta());
    if old.uid != new.uid {
        return false;
    }
    match (old.generation, new.generation) {
        (Some(old), Some(new)) => old == new,
        (None, _) | (_, None) => before == after,
    }
}

/// Whether an object has a selector of pods of another namespace: what they accept decides whether it is usable.
pub(crate) fn selects_elsewhere(object: &Object) -> bool {
    let mut selectors = Vec::new();
    match object {
        Object::VirtualService(object) => {
            selectors.extend(&object.spec.selector);
            object.spec.listener.rules.iter().for_each(|rule| of_rule(rule, &mut selectors));
        }
        Object::Target(object) => {
            selectors.extend(&object.spec.selector);
            object.spec.cluster.iter().for_each(|cluster| of_cluster(cluster, &mut selectors));
        }
        Object::Route(object) => of_route(&object.spec, &mut selectors),
        Object::Rule(object) => {
            selectors.extend(&object.spec.selector);
            of_rule(&object.spec.rule, &mut selectors);
        }
        Object::Pod(_) | Object::Service(_) | Object::EndpointSlice(_) => {}
    }
    let home = object.meta().namespace();
    selectors.iter().any(|selector| selector.match_namespace.as_deref().is_some_and(|namespace| namespace != home))
}

fn of_rule<'a>(rule: &'a InlineRule, selectors: &mut Vec<&'a Selector>) {
    rule.action.route.iter().for_each(|route| of_route(route, selectors));
}

fn of_route<'a>(route: &'a RouteSpec, selectors: &mut Vec<&'a Selector>) {
    let chain = route.ingress.iter().chain(&route.egress).filter_map(|item| item.cluster.as_ref());
    route.destination.iter().chain(chain).for_each(|cluster| of_cluster(cluster, selectors));
}

fn of_cluster<'a>(cluster: &'a Cluster, selectors: &mut Vec<&'a Selector>) {
    selectors.extend(cluster.endpoints.iter().filter_map(|endpoint| endpoint.selector.as_ref()));
}
