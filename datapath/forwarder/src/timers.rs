//! A wheel of timers, one per session.
//!
//! Time is cut into ticks of 16.8 ms, and each of the next 4,096 ticks (69 s) has a slot with the timers that end
//! in it. A deadline is rounded up to a tick, so that no timer fires early, and none later than one tick. A
//! deadline beyond the horizon waits in the last slot and is put into a later one when its time comes.
//!
//! The timers of a slot are a ring of indices into one array, so that setting, moving and clearing a timer is a
//! few stores, and nothing is allocated once the array is as long as the session table. A bitmap of occupied slots
//! tells the next deadline without a walk.

use crate::time::Time;

/// log2 of a tick in nanoseconds: 16.8 ms.
const TICK_BITS: u32 = 24;
const SLOTS: usize = 4096;
/// Marks the end of a ring, and a slot without timers.
const NONE: u32 = u32::MAX;
/// The slot of a timer that is not set.
const UNSET: u16 = u16::MAX;

const _: () = assert!(SLOTS.is_power_of_two() && SLOTS == 64 * 64 && SLOTS < UNSET as usize);

/// Timers, each named by a small index.
pub struct Wheel {
    /// All ticks before this one are done. A slot holds timers of one tick in `cursor..cursor + SLOTS`.
    cursor: u64,
    timers: Vec<Timer>,
    /// The first timer of each slot.
    first: Box<[u32; SLOTS]>,
    /// One bit for each slot: it has timers.
    occupied: [u64; SLOTS / 64],
    /// One bit for each word of `occupied`: it is not 0.
    summary: u64,
    set: usize,
}

#[derive(Clone, Copy)]
struct Timer {
    /// The tick at which it fires; later than its slot's when that was beyond the horizon.
    tick: u64,
    /// Neighbours in the ring of the slot; the first timer's `previous` is the last.
    previous: u32,
    next: u32,
    slot: u16,
}

impl Default for Wheel {
    fn default() -> Wheel {
        Wheel::new()
    }
}

impl Wheel {
    /// A wheel without timers.
    pub fn new() -> Wheel {
        Wheel {
            cursor: 0,
            timers: Vec::new(),
            first: Box::new([NONE; SLOTS]),
            occupied: [0; SLOTS / 64],
            summary: 0,
            set: 0,
        }
    }

    /// Sets the timer `index`, or moves it. A deadline in the past fires at the next [`Wheel::pop`].
    ///
    /// `u32::MAX` is no index.
    pub fn set(&mut self, index: u32, at: Time) {
        debug_assert_ne!(index, NONE);
        if index as usize >= self.timers.len() {
            let unset = Timer { tick: 0, previous: NONE, next: NONE, slot: UNSET };
            self.timers.resize(index as usize + 1, unset);
        }
        self.clear(index);
        self.timers[index as usize].tick = at.as_nanos().div_ceil(1 << TICK_BITS);
        self.link(index);
    }

    /// Clears the timer `index`, if it is set.
    pub fn clear(&mut self, index: u32) {
        if self.is_set(index) {
            self.unlink(index);
        }
    }

    /// Whether the timer `index` is set.
    pub fn is_set(&self, index: u32) -> bool {
        self.timers.get(index as usize).is_some_and(|timer| timer.slot != UNSET)
    }

    /// Timers that are set.
    pub fn len(&self) -> usize {
        self.set
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.set == 0
    }

    /// When to call [`Wheel::pop`] next; `None` while no timer is set.
    ///
    /// For a deadline beyond the horizon it is an earlier time; `pop` then moves it, so that the next answer is a
    /// later one.
    pub fn next_deadline(&self) -> Option<Time> {
        self.next_tick().map(|tick| Time::from_nanos(tick.saturating_mul(1 << TICK_BITS)))
    }

    /// Takes a timer whose time has come, earlier ticks first.
    ///
    /// `budget` bounds a turn's work: each timer looked at takes 1 of it, and nothing is found once it is 0. Then
    /// `next_deadline` is not later than `now`, and the rest is found in the next turn.
    pub fn pop(&mut self, now: Time, budget: &mut usize) -> Option<u32> {
        let now = now.as_nanos() >> TICK_BITS;
        while *budget > 0 {
            let next = self.next_tick().unwrap_or(u64::MAX);
            self.cursor = self.cursor.max(next.min(now));
            if next > now {
                return None;
            }
            let index = self.first[slot(next)];
            self.unlink(index);
            *budget -= 1;
            if self.timers[index as usize].tick <= next {
                return Some(index);
            }
            self.link(index);
        }
        None
    }

    /// The tick of the first slot with timers.
    fn next_tick(&self) -> Option<u64> {
        if self.summary == 0 {
            return None;
        }
        let start = slot(self.cursor);
        let (word, bit) = (start / 64, start % 64);
        // The cursor's own word counts from the cursor's bit on; its lower bits are a revolution away.
        let in_word = self.occupied[word] >> bit;
        let found = if in_word != 0 {
            start + in_word.trailing_zeros() as usize
        } else {
            let after = self.summary.rotate_right(word as u32 + 1).trailing_zeros() as usize;
            let word = (word + 1 + after) % 64;
            64 * word + self.occupied[word].trailing_zeros() as usize
        };
        let distance = found.wrapping_sub(start) % SLOTS;
        Some(self.cursor.saturating_add(distance as u64))
    }

    /// Puts a timer at the end of the slot of its tick.
    fn link(&mut self, index: u32) {
        let horizon = self.cursor.saturating_add(SLOTS as u64 - 1);
        let slot = slot(self.timers[index as usize].tick.clamp(self.cursor, horizon));
        let first = self.first[slot];
        let (previous, next) = if first == NONE {
            self.first[slot] = index;
            self.occupied[slot / 64] |= 1 << (slot % 64);
            self.summary |= 1 << (slot / 64);
            (index, index)
        } else {
            let last = self.timers[first as usize].previous;
            self.timers[last as usize].next = index;
            self.timers[first as usize].previous = index;
            (last, first)
        };
        let timer = &mut self.timers[index as usize];
        (timer.previous, timer.next, timer.slot) = (previous, next, slot as u16);
        self.set += 1;
    }

    /// Takes a timer out of its slot.
    fn unlink(&mut self, index: u32) {
        let Timer { previous, next, slot, .. } = self.timers[index as usize];
        let slot = usize::from(slot);
        if next == index {
            self.first[slot] = NONE;
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            if self.occupied[slot / 64] == 0 {
                self.summary &= !(1 << (slot / 64));
            }
        } else {
            self.timers[previous as usize].next = next;
            self.timers[next as usize].previous = previous;
            if self.first[slot] == index {
                self.first[slot] = next;
            }
        }
        self.timers[index as usize].slot = UNSET;
        self.set -= 1;
    }
}

/// The slot of a tick.
fn slot(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const TICK: u64 = 1 << TICK_BITS;

    fn pop_all(wheel: &mut Wheel, now: Time) -> Vec<u32> {
        let mut budget = usize::MAX;
        std::iter::from_fn(|| wheel.pop(now, &mut budget)).collect()
    }

    fn at(seconds: f64) -> Time {
        Time::ZERO + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_timer_can_be_moved_and_cleared() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.next_deadline(), None);
        wheel.set(3, at(1.0));
        wheel.set(3, at(5.0));
        wheel.set(7, at(2.0));
        wheel.clear(7);
        wheel.clear(7);
        wheel.clear(1000);
        assert_eq!((wheel.len(), wheel.is_set(3), wheel.is_set(7)), (1, true, false));
        assert!(pop_all(&mut wheel, at(4.9)).is_empty());
        assert_eq!(pop_all(&mut wheel, at(5.1)), [3]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_once() {
        let mut wheel = Wheel::new();
        assert!(pop_all(&mut wheel, at(100.0)).is_empty());
        wheel.set(0, at(1.0));
        assert!(wheel.next_deadline().unwrap() <= at(100.0));
        assert_eq!(pop_all(&mut wheel, at(100.0)), [0]);
    }

    #[test]
    fn a_deadline_beyond_the_horizon_wakes_once_per_revolution() {
        let mut wheel = Wheel::new();
        wheel.set(0, at(3600.0));
        wheel.set(1, Time::from_nanos(u64::MAX));
        let mut wakes = 0;
        let fired = loop {
            let now = wheel.next_deadline().unwrap();
            wakes += 1;
            if let Some(index) = wheel.pop(now, &mut { usize::MAX }) {
                break (index, now);
            }
        };
        assert_eq!(fired.0, 0);
        assert!(fired.1 >= at(3600.0) && fired.1 < at(3600.0) + Duration::from_nanos(TICK));
        assert!(wakes <= 3600 / 68 + 2, "{wakes}");
    }

    #[test]
    fn a_budget_bounds_the_work_and_leaves_the_rest_due() {
        let mut wheel = Wheel::new();
        (0..10).for_each(|index| wheel.set(index, at(1.0)));
        let mut budget = 4;
        let popped: Vec<_> = std::iter::from_fn(|| wheel.pop(at(2.0), &mut budget)).collect();
        assert_eq!(popped, [0, 1, 2, 3]);
        assert!(wheel.next_deadline().unwrap() <= at(2.0));
        assert_eq!(pop_all(&mut wheel, at(2.0)), [4, 5, 6, 7, 8, 9]);
    }

    #[derive(Clone, Debug)]
    enum Action {
        Set(u32, u64),
        Clear(u32),
        Advance(u64),
        Sleep,
    }

    fn action() -> impl Strategy<Value = Action> {
        // Delays around a tick, around the horizon, and far beyond it.
        let delay = || prop_oneof![0..4 * TICK, 0..70_000_000_000_u64, 0..1_000_000_000_000_u64];
        prop_oneof![
            4 => (0..50_u32, delay()).prop_map(|(index, delay)| Action::Set(index, delay)),
            1 => (0..50_u32).prop_map(Action::Clear),
            2 => delay().prop_map(Action::Advance),
            2 => Just(Action::Sleep),
        ]
    }

    /// The naive model: deadlines by index.
    fn check_pop(wheel: &mut Wheel, model: &mut BTreeMap<u32, Time>, now: Time) -> Result<(), TestCaseError> {
        let mut popped = pop_all(wheel, now);
        popped.sort_unstable();
        for index in &popped {
            let deadline = model.remove(index);
            prop_assert!(deadline.is_some_and(|deadline| deadline <= now), "{index} early: {deadline:?} at {now:?}");
        }
        let overdue = model.values().find(|deadline| **deadline + Duration::from_nanos(TICK) <= now);
        prop_assert_eq!(overdue, None, "not popped at {:?}", now);
        prop_assert!(model.keys().all(|&index| wheel.is_set(index)));
        prop_assert_eq!(wheel.len(), model.len());
        Ok(())
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_model(start in 0..u64::MAX / 2, actions in prop::collection::vec(action(), 1..200)) {
            let (mut wheel, mut model, mut now) = (Wheel::new(), BTreeMap::new(), Time::from_nanos(start));
            check_pop(&mut wheel, &mut model, now)?;
            for action in actions {
                match action {
                    Action::Set(index, delay) => {
                        let deadline = now + Duration::from_nanos(delay);
                        wheel.set(index, deadline);
                        model.insert(index, deadline);
                    }
                    Action::Clear(index) => {
                        wheel.clear(index);
                        model.remove(&index);
                    }
                    Action::Advance(by) => {
                        now = now + Duration::from_nanos(by);
                        check_pop(&mut wheel, &mut model, now)?;
                    }
                    Action::Sleep => {
                        // Sleeping until the deadline that the wheel names is never oversleeping, and ends.
                        prop_assert_eq!(wheel.next_deadline().is_some(), !model.is_empty());
                        let Some(deadline) = wheel.next_deadline() else { continue };
                        now = now.max(deadline);
                        check_pop(&mut wheel, &mut model, now)?;
                        prop_assert!(wheel.next_deadline().is_none_or(|next| next > now), "spins");
                    }
                }
            }
        }
    }
}
