//! Which endpoint a new session goes to.
//!
//! Everything here is a pure function of configuration and key: every worker, every replica of the proxy and
//! every restart sends one key to one endpoint. A [`Balancer`] is built off the worker threads, when a
//! configuration is compiled, and shared by them.

pub mod maglev;

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use self::maglev::{Table, TableError, Turns};

/// How an endpoint is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// By the hash of the session's key, in a Maglev table of this many slots, a prime.
    ConsistentHash {
        /// Slots of the table.
        slots: u32,
    },
    /// One after the other, each as often as its weight says.
    RoundRobin,
    /// The first.
    Trivial,
}

/// An endpoint, as far as balancing is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it is known by everywhere: canonical address and port, or path. No two candidates share one.
    pub identity: String,
    /// Its share of new sessions relative to the others; 0 for none.
    pub weight: u32,
    /// It serves new sessions when nobody of a better standing has a share of them.
    pub standing: Standing,
}

/// Whether an endpoint takes new sessions; the better comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It does.
    Ready,
    /// Not for now. Its own sessions stay.
    Unready,
    /// It is going away. Its own sessions stay for the cluster's `drain_timeout`.
    Draining,
}

/// Picks endpoints of one cluster.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    candidates: Box<[Candidate]>,
    picker: Picker,
}

/// Indices are positions among the candidates.
#[derive(Debug)]
enum Picker {
    Nobody,
    Hash(Table),
    /// Each candidate stands here as often as its share of a round.
    Rounds(Box<[u32]>),
    First(usize),
}

/// Longest round of a weighted round robin; with weights that need a longer one, shares are approximate.
const ROUND_MAX: u64 = 65_536;

impl Balancer {
    /// A balancer over the candidates of the best standing that is there: draining ones serve when only they are left.
    ///
    /// # Errors
    ///
    /// When the policy's table size is not a prime, or too small for so many endpoints.
    pub fn new(policy: Policy, candidates: &[Candidate]) -> Result<Balancer, TableError> {
        let best = candidates.iter().filter(|candidate| candidate.weight > 0).map(|candidate| candidate.standing).min();
        let weight = |candidate: &Candidate| if Some(candidate.standing) == best { candidate.weight } else { 0 };
        let weights: Vec<u32> = candidates.iter().map(weight).collect();
        let picker = match (policy, weights.iter().position(|&weight| weight > 0)) {
            (Policy::ConsistentHash { slots }, _) => {
                let endpoints: Vec<(&str, u32)> =
                    candidates.iter().zip(&weights).map(|(c, &weight)| (c.identity.as_str(), weight)).collect();
                Picker::Hash(Table::new(&endpoints, slots)?)
            }
            (Policy::RoundRobin | Policy::Trivial, None) => Picker::Nobody,
            (Policy::RoundRobin, Some(_)) => Picker::Rounds(round(&weights)),
            (Policy::Trivial, Some(first)) => Picker::First(first),
        };
        Ok(Balancer { policy, candidates: candidates.into(), picker })
    }

    /// Whether a new balancer over `candidates` would be equal to this one: then this one can be kept and shared.
    pub fn is_for(&self, policy: Policy, candidates: &[Candidate]) -> bool {
        self.policy == policy && *self.candidates == *candidates
    }

    /// The position of the endpoint for a session with this key; `None` when there is no endpoint.
    ///
    /// `round_robin` counts the picks of one worker; only round robin reads and moves it.
    pub fn pick(&self, key: &[u8], round_robin: &mut u64) -> Option<usize> {
        match &self.picker {
            Picker::Nobody => None,
            Picker::Hash(table) => table.lookup(hash(key)),
            Picker::Rounds(round) => {
                let turn = *round_robin % round.len() as u64;
                *round_robin = round_robin.wrapping_add(1);
                Some(round[turn as usize] as usize)
            }
            Picker::First(first) => Some(*first),
        }
    }
}

/// One round of a weighted round robin; some weight is not 0.
fn round(weights: &[u32]) -> Box<[u32]> {
    let (indices, weights): (Vec<u32>, Vec<u32>) = (0..).zip(weights).filter(|(_, weight)| **weight > 0).unzip();
    let divisor = weights.iter().fold(0, |a, &b| greatest_common_divisor(a, b));
    let turns: u64 = weights.iter().map(|&weight| u64::from(weight / divisor)).sum();
    let turns = turns.min(ROUND_MAX.max(indices.len() as u64));
    Turns::new(&weights).take(turns as usize).map(|turn| indices[turn]).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The hash of a session's key: SipHash-2-4, 64 bits of output, an all-zero key.
///
/// The hash is public, because every replica must compute the same one: who may choose keys may choose endpoints.
pub fn hash(key: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0, 0);
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Policy = Policy::ConsistentHash { slots: 251 };

    fn candidates(of: &[(&str, u32, bool)]) -> Vec<Candidate> {
        let candidate = |&(identity, weight, draining): &(&str, u32, bool)| Candidate {
            identity: identity.to_owned(),
            weight,
            standing: if draining { Standing::Draining } else { Standing::Ready },
        };
        of.iter().map(candidate).collect()
    }

    /// What 1,000 sessions with keys of their own get.
    fn picks(policy: Policy, candidates: &[Candidate]) -> Vec<u32> {
        let balancer = Balancer::new(policy, candidates).unwrap();
        let mut counts = vec![0; candidates.len()];
        let mut turns = 0;
        for key in 0..1000_u32 {
            if let Some(picked) = balancer.pick(&key.to_be_bytes(), &mut turns) {
                counts[picked] += 1;
            }
        }
        counts
    }

    /// SipHash-2-4 of nothing with a zero key, as every implementation has it.
    #[test]
    fn the_hash_is_what_it_always_was() {
        assert_eq!(hash(b""), 0x1e92_4b9d_7377_00d7);
        assert_ne!(hash(b"127.0.0.1:41020"), hash(b"127.0.0.1:41021"));
    }

    #[test]
    fn draining_endpoints_get_sessions_only_when_no_other_is_left() {
        let some = candidates(&[("a", 1, true), ("b", 1, false), ("c", 1, false)]);
        let only = candidates(&[("a", 1, true), ("b", 1, true)]);
        for policy in [HASH, Policy::RoundRobin] {
            let some = picks(policy, &some);
            assert_eq!((some[0], some[1] > 0, some[2] > 0), (0, true, true), "{policy:?}");
            let only = picks(policy, &only);
            assert!(only[0] > 0 && only[1] > 0, "{policy:?}");
        }
        assert_eq!(picks(Policy::Trivial, &some), [0, 1000, 0]);
        assert_eq!(picks(Policy::Trivial, &only), [1000, 0]);
    }

    #[test]
    fn a_draining_endpoint_serves_before_one_without_weight() {
        let candidates = candidates(&[("a", 0, false), ("b", 1, true)]);
        for policy in [HASH, Policy::RoundRobin, Policy::Trivial] {
            assert_eq!(picks(policy, &candidates), [0, 1000], "{policy:?}");
        }
    }

    #[test]
    fn unready_endpoints_serve_before_draining_ones() {
        let mut candidates = candidates(&[("a", 1, true), ("b", 1, false), ("c", 1, false)]);
        candidates[1].standing = Standing::Unready;
        for policy in [HASH, Policy::RoundRobin, Policy::Trivial] {
            assert_eq!(picks(policy, &candidates), [0, 0, 1000], "{policy:?}");
            assert_eq!(picks(policy, &candidates[..2]), [0, 1000], "{policy:?}");
        }
    }

    #[test]
    fn no_endpoint_no_pick() {
        for policy in [HASH, Policy::RoundRobin, Policy::Trivial] {
            assert_eq!(Balancer::new(policy, &[]).unwrap().pick(b"key", &mut 0), None, "{policy:?}");
            assert_eq!(picks(policy, &candidates(&[("a", 0, false)])), [0], "{policy:?}");
        }
    }

    #[test]
    fn round_robin_goes_by_weight_and_does_not_clump() {
        let balancer =
            Balancer::new(Policy::RoundRobin, &candidates(&[("a", 20, false), ("b", 0, false), ("c", 40, false)]));
        let (balancer, mut turns) = (balancer.unwrap(), u64::MAX - 1);
        let picks: Vec<_> = (0..8).map(|_| balancer.pick(b"", &mut turns).unwrap()).collect();
        // The counter wraps after the second pick.
        assert_eq!(picks[2..], [2, 0, 2, 2, 0, 2]);
    }

    #[test]
    fn huge_weights_do_not_make_huge_rounds() {
        let candidates = candidates(&[("a", u32::MAX, false), ("b", 1, false)]);
        assert_eq!(picks(Policy::RoundRobin, &candidates), [1000, 0]);
    }

    #[test]
    fn only_what_matters_makes_a_balancer_another() {
        let before = candidates(&[("a", 1, false), ("b", 1, false)]);
        let balancer = Balancer::new(HASH, &before).unwrap();
        assert!(balancer.is_for(HASH, &before));
        assert!(!balancer.is_for(Policy::ConsistentHash { slots: 257 }, &before));
        assert!(!balancer.is_for(HASH, &before[..1]));
        assert!(!balancer.is_for(HASH, &candidates(&[("a", 1, false), ("b", 1, true)])));
    }
}
