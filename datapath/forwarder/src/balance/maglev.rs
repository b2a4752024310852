//! Maglev consistent hashing: a table of slots that every replica computes alike.
//!
//! After Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4. Every endpoint has its own order of preference over all slots, a permutation made of two
//! numbers, `offset` and `skip`; the endpoints take turns, and each takes the next slot of its order that is
//! still free. Each gets its share to within one slot, and when one endpoint goes, few slots of the others
//! change hands.
//!
//! Whoever wants to compute the table elsewhere needs this:
//!
//! * The permutation of an endpoint comes from SipHash-2-4 with 128 bits of output and an all-zero key over the
//!   bytes of its identity: with `h1` the low and `h2` the high 64 bits, `offset = h1 mod M` and
//!   `skip = h2 mod (M - 1) + 1`; slot `j` of its order is `(offset + j * skip) mod M`. `M` is prime, so every
//!   slot comes exactly once.
//! * Turns go by weight: the next turn is of the endpoint with the smallest `(turns taken + 1) / weight`; ties go
//!   to the smaller identity (bytes compared). With equal weights that is one turn each, in order of identity.
//! * A key belongs to slot `hash mod M`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// Why a table cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// The number of slots is not a prime.
    NotPrime {
        /// The number asked for.
        slots: u32,
        /// The next prime above it, if 32 bits hold one.
        next: Option<u32>,
    },
    /// Some endpoints would be left without a slot.
    TooFewSlots {
        /// The number asked for.
        slots: u32,
        /// Endpoints of non-zero weight.
        endpoints: usize,
    },
}

impl std::fmt::Display for TableError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TableError::NotPrime { slots, next: Some(next) } => {
                write!(f, "a table size must be a prime, and {slots} is none; the next one is {next}")
            }
            TableError::NotPrime { slots, next: None } => {
                write!(f, "a table size must be a prime, and {slots} is none")
            }
            TableError::TooFewSlots { slots, endpoints } => write!(
                f,
                "{endpoints} endpoints do not fit into a table of {slots} slots; \
                 a hundred slots for each endpoint is a good size"
            ),
        }
    }
}

impl std::error::Error for TableError {}

/// Which endpoint each slot belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    slots: Slots,
}

/// Entries are indices into the endpoints that the table was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slots {
    Nobody,
    One(u32),
    /// At most 65,536 endpoints: half the cache lines of `Wide`.
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

impl Table {
    /// A table of `slots` entries over `endpoints`, each an identity and a weight.
    ///
    /// The order of `endpoints` does not matter, except that [`Table::lookup`] answers with positions in it. An
    /// endpoint of weight 0 gets no slot.
    pub fn new<I: AsRef<[u8]>>(endpoints: &[(I, u32)], slots: u32) -> Result<Table, TableError> {
        if !is_prime(slots) {
            let next = (slots..=u32::MAX).find(|&n| is_prime(n));
            return Err(TableError::NotPrime { slots, next });
        }
        let mut order: Vec<u32> =
            (0..endpoints.len()).filter(|&i| endpoints[i].1 > 0).filter_map(|i| u32::try_from(i).ok()).collect();
        order.sort_unstable_by(|&a, &b| {
            let ((a, a_weight), (b, b_weight)) = (&endpoints[a as usize], &endpoints[b as usize]);
            (a.as_ref(), a_weight).cmp(&(b.as_ref(), b_weight))
        });
        if order.len() > slots as usize {
            return Err(TableError::TooFewSlots { slots, endpoints: order.len() });
        }
        let slots = match order.as_slice() {
            [] => Slots::Nobody,
            [only] => Slots::One(*only),
            _ => {
                let wide = fill(&order, endpoints, slots);
                // `collect` into a Result: one endpoint beyond 65,535 makes the whole table wide.
                match wide.iter().map(|&owner| u16::try_from(owner)).collect() {
                    Ok(narrow) => Slots::Narrow(narrow),
                    Err(_) => Slots::Wide(wide),
                }
            }
        };
        Ok(Table { slots })
    }

    /// The position of the endpoint that `hash` belongs to; `None` when no endpoint has any weight.
    pub fn lookup(&self, hash: u64) -> Option<usize> {
        match &self.slots {
            Slots::Nobody => None,
            Slots::One(only) => Some(*only as usize),
            Slots::Narrow(slots) => Some(usize::from(slots[(hash % slots.len() as u64) as usize])),
            Slots::Wide(slots) => Some(slots[(hash % slots.len() as u64) as usize] as usize),
        }
    }
}

/// Lets the endpoints of `order` take turns until every slot has an owner.
fn fill<I: AsRef<[u8]>>(order: &[u32], endpoints: &[(I, u32)], slots: u32) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let mut preferences: Vec<Preference> =
        order.iter().map(|&owner| Preference::new(endpoints[owner as usize].0.as_ref(), slots)).collect();
    let mut owners = vec![FREE; slots as usize].into_boxed_slice();
    let weights: Vec<u32> = order.iter().map(|&owner| endpoints[owner as usize].1).collect();
    for turn in Turns::new(&weights).take(slots as usize) {
        let preference = &mut preferences[turn];
        while owners[preference.next as usize] != FREE {
            preference.advance(slots);
        }
        owners[preference.next as usize] = order[turn];
    }
    owners
}

/// An endpoint's order of preference, from where it has come to.
struct Preference {
    next: u32,
    skip: u32,
}

impl Preference {
    fn new(identity: &[u8], slots: u32) -> Preference {
        let mut hasher = SipHasher24::new_with_keys(0, 0);
        hasher.write(identity);
        let hash = hasher.finish128();
        let slots = u64::from(slots);
        // Both are smaller than `slots`, which came from 32 bits. A table of 2 slots has one skip, 1.
        Preference { next: (hash.h1 % slots) as u32, skip: (hash.h2 % (slots - 1) + 1) as u32 }
    }

    fn advance(&mut self, slots: u32) {
        let room = slots - self.skip;
        self.next = if self.next >= room { self.next - room } else { self.next + self.skip };
    }
}

/// Whose turn it is, without end, in proportion to weights. Weights must not be 0.
///
/// Also the order in which round robin goes around endpoints of different weights.
pub(super) struct Turns<'a> {
    weights: &'a [u32],
    waiting: BinaryHeap<Turn>,
    /// With equal weights the order is known without a heap.
    equal: Option<usize>,
}

impl<'a> Turns<'a> {
    pub(super) fn new(weights: &'a [u32]) -> Turns<'a> {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let waiting = if equal {
            BinaryHeap::new()
        } else {
            let turn = |(index, &weight): (usize, &u32)| Turn { number: 1, weight, index };
            weights.iter().enumerate().map(turn).collect()
        };
        Turns { weights, waiting, equal: equal.then_some(0) }
    }
}

impl Iterator for Turns<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if let Some(next) = &mut self.equal {
            let index = *next;
            *next = if index + 1 < self.weights.len() { index + 1 } else { 0 };
            return (!self.weights.is_empty()).then_some(index);
        }
        let mut first = self.waiting.peek_mut()?;
        first.number += 1;
        Some(first.index)
    }
}

/// The `number`th turn of an endpoint is due at `number / weight`.
#[derive(PartialEq, Eq)]
struct Turn {
    number: u64,
    weight: u32,
    index: usize,
}

impl Ord for Turn {
    /// The turn that is due first is the greatest: a `BinaryHeap` gives the greatest first.
    fn cmp(&self, other: &Turn) -> Ordering {
        let left = u128::from(self.number) * u128::from(other.weight);
        let right = u128::from(other.number) * u128::from(self.weight);
        (right, other.index).cmp(&(left, self.index))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Trial division: at most 32,768 odd divisors.
fn is_prime(n: u32) -> bool {
    if n < 4 {
        return n >= 2;
    }
    let n = u64::from(n);
    n % 2 != 0 && (3..).step_by(2).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: u32 = crate::limits::MAGLEV_SLOTS_DEFAULT;

    fn endpoints(count: usize, seed: u64) -> Vec<(String, u32)> {
        (0..count as u64).map(|i| (format!("10.{seed}.{}.{}:9999", i / 250, i % 250), 1)).collect()
    }

    /// Slots of each endpoint.
    fn shares(table: &Table, count: usize) -> Vec<u64> {
        let mut shares = vec![0; count];
        (0..u64::from(SLOTS)).for_each(|slot| shares[table.lookup(slot).unwrap()] += 1);
        shares
    }

    #[test]
    fn no_endpoint_no_answer() {
        let none: [(&str, u32); 0] = [];
        assert_eq!(Table::new(&none, 7).unwrap().lookup(3), None);
        assert_eq!(Table::new(&[("a", 0), ("b", 0)], 7).unwrap().lookup(3), None);
    }

    #[test]
    fn one_endpoint_needs_no_table() {
        let table = Table::new(&[("a", 0), ("b", 5)], SLOTS).unwrap();
        assert_eq!(table.slots, Slots::One(1));
        assert_eq!(table.lookup(u64::MAX), Some(1));
    }

    #[test]
    fn rejects_a_size_that_is_no_prime_or_too_small() {
        let three = [("a", 1), ("b", 1), ("c", 1)];
        let error = Table::new(&three, 65_536).unwrap_err();
        assert_eq!(error, TableError::NotPrime { slots: 65_536, next: Some(65_537) });
        for slots in [0, 1, 4, 9, 65_535, 4_294_967_295] {
            assert!(matches!(Table::new(&three, slots), Err(TableError::NotPrime { .. })), "{slots}");
        }
        assert_eq!(Table::new(&three, 2), Err(TableError::TooFewSlots { slots: 2, endpoints: 3 }));
        assert!(Table::new(&three, 3).is_ok());
        assert!(Table::new(&three[..2], 2).is_ok());
    }

    /// Computed a second time, from the description above, by a program in another language. Changing them moves every session of every user.
    #[test]
    fn the_table_is_what_it_always_was() {
        let table = Table::new(&[("10.0.0.1:9999", 1), ("10.0.0.2:9999", 1), ("/tmp/a.sock", 2)], 13).unwrap();
        let owners: Vec<_> = (0..13).map(|slot| table.lookup(slot).unwrap()).collect();
        assert_eq!(owners, [1, 2, 2, 1, 0, 1, 2, 2, 0, 0, 2, 2, 2]);
    }

    #[test]
    fn more_than_65536_endpoints_make_a_wide_table() {
        let table = Table::new(&endpoints(65_537, 0), SLOTS).unwrap();
        assert!(matches!(table.slots, Slots::Wide(_)));
        assert_eq!(shares(&table, 65_537), vec![1; 65_537]);
    }

    #[test]
    fn keys_are_balanced_over_100_endpoints_to_within_5_percent() {
        let table = Table::new(&endpoints(100, 1), SLOTS).unwrap();
        let mut keys = [0_u32; 100];
        for key in 0..1_000_000_u32 {
            keys[table.lookup(crate::balance::hash(&key.to_le_bytes())).unwrap()] += 1;
        }
        let max_over_mean = f64::from(*keys.iter().max().unwrap()) / 10_000.0;
        assert!(max_over_mean <= 1.05, "{max_over_mean}");
    }

    fn disruption(count: usize, seed: u64, gone: usize) -> f64 {
        let all = endpoints(count, seed);
        let mut rest = all.clone();
        rest.remove(gone);
        let (before, after) = (Table::new(&all, SLOTS).unwrap(), Table::new(&rest, SLOTS).unwrap());
        let (mut moved, mut others) = (0, 0);
        for slot in 0..u64::from(SLOTS) {
            let (before, after) = (before.lookup(slot).unwrap(), after.lookup(slot).unwrap());
            if before != gone {
                others += 1;
                moved += u32::from(all[before].0 != rest[after].0);
            }
        }
        f64::from(moved) / f64::from(others)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn shares_are_even_to_within_one_slot(seed in 0_u64..250, count in 2_usize..1000) {
            let shares = shares(&Table::new(&endpoints(count, seed), SLOTS).unwrap(), count);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }

        #[test]
        fn removing_one_of_n_moves_few_keys_of_the_others(seed in 0_u64..250, gone in any::<prop::sample::Index>()) {
            for count in [10, 100, 500, 1000] {
                let moved = disruption(count, seed, gone.index(count));
                let allowed = (2.0 / count as f64).max(0.02);
                prop_assert!(moved <= allowed, "{count}: {moved} > {allowed}");
            }
        }

        #[test]
        fn the_order_of_endpoints_does_not_matter(
            (sorted, shuffled) in prop::collection::btree_map("[a-z]{1,8}", 0_u32..9, 2..40)
                .prop_map(|map| map.into_iter().collect::<Vec<_>>())
                .prop_flat_map(|sorted| (Just(sorted.clone()), Just(sorted).prop_shuffle())),
        ) {
            let (a, b) = (Table::new(&sorted, 4099).unwrap(), Table::new(&shuffled, 4099).unwrap());
            for slot in 0..4099 {
                prop_assert_eq!(a.lookup(slot).map(|i| &sorted[i].0), b.lookup(slot).map(|i| &shuffled[i].0));
            }
        }

        #[test]
        fn shares_are_proportional_to_weights(weights in prop::collection::vec(1_u32..=20, 2..60)) {
            let endpoints: Vec<_> = weights.iter().enumerate().map(|(i, &w)| (format!("e{i}"), w)).collect();
            let shares = shares(&Table::new(&endpoints, SLOTS).unwrap(), weights.len());
            let total: u32 = weights.iter().sum();
            for (share, weight) in shares.iter().zip(&weights) {
                let due = f64::from(SLOTS) * f64::from(*weight) / f64::from(total);
                prop_assert!((*share as f64 - due).abs() <= (0.05 * due).max(1.0), "{share} for {due}");
            }
        }
    }
}
