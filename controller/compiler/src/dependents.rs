//! The proxies by what their documents depend on: the index that says whom a change touches.

use std::collections::{BTreeMap, BTreeSet};

use crate::dependencies::{Change, Dependencies};
use crate::object::PodName;
use crate::world::World;

/// The proxies by what their documents depend on.
#[derive(Clone, Debug, Default)]
pub struct Dependents {
    proxies: BTreeMap<PodName, Dependencies>,
}

impl Dependents {
    /// What a proxy's document was made of by now.
    pub fn set(&mut self, proxy: &PodName, dependencies: Dependencies) {
        self.proxies.insert(proxy.clone(), dependencies);
    }

    /// Forgets a proxy.
    pub fn remove(&mut self, proxy: &PodName) {
        self.proxies.remove(proxy);
    }

    /// The known proxies whose document may be another one after a change; `world` is the one after it.
    pub fn touched(&self, world: &World, change: &Change<'_>) -> BTreeSet<PodName> {
        let _ = world;
        self.proxies.iter().filter(|(_, on)| on.touches(change)).map(|(proxy, _)| proxy.clone()).collect()
    }
}
