//! Newtypes for every index, so that two of them can never be swapped.

use std::fmt;

/// One end of a session: a slot of the link table and the generation of its present user.
///
/// The engine carries it in the token of every operation; a completion for an earlier user of the
/// slot is recognised by its generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    index: u32,
    generation: u32,
}

impl LinkId {
    /// Generations are this many bits wide, so that a token has room for the operation.
    pub const GENERATION_BITS: u32 = 24;

    /// A link id of its parts. `generation` is cut to [`LinkId::GENERATION_BITS`].
    pub const fn new(index: u32, generation: u32) -> LinkId {
        LinkId { index, generation: generation & ((1 << Self::GENERATION_BITS) - 1) }
    }

    /// The slot.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// Which user of the slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The id of the slot's next user.
    pub const fn successor(self) -> LinkId {
        LinkId::new(self.index, self.generation.wrapping_add(1))
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}.{}", self.index, self.generation)
    }
}

/// A listening socket group, named by the proxy for as long as protocol and bound address stay. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u32);

/// A slot of the session table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionIndex(pub u32);

/// The number at the end of a session's name, unique in the process: sequence * workers + worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionNumber(pub u64);
