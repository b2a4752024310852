//! What is kept of every object besides the object.

use l7mp_compiler::object::Object;

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
