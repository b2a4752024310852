//! The pods that an object goes to.

use crate::consent::accepts;
use crate::object::{Object, PodName};
use crate::resolve::Resolver;
use crate::world::World;

/// The pods with a proxy that the selector of a VirtualService, Target or Rule picks with their consent, by
/// name. None for objects without a selector: they go where they are referenced.
pub fn selected_pods(world: &World, object: &Object) -> Vec<PodName> {
    let selector = match object {
        Object::VirtualService(object) => object.spec.selector.as_ref(),
        Object::Target(object) => object.spec.selector.as_ref(),
        Object::Rule(object) => object.spec.selector.as_ref(),
        Object::Route(_) | Object::Pod(_) | Object::Service(_) | Object::EndpointSlice(_) => None,
    };
    let Some(selector) = selector else { return Vec::new() };
    let from = object.meta().namespace();
    let pods = Resolver::new(world).picked(selector, from).unwrap_or_default();
    let theirs = pods.into_iter().filter(|pod| world.has_proxy(pod) && accepts(&pod.metadata, from));
    theirs.map(|pod| PodName::of(&pod.metadata)).collect()
}
