//! Moves of sessions between pairs of backends. The number of pairs is bounded.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use crate::{outcome::Reason, util::lock};

/// The most pairs that are counted by themselves.
const MAX_PAIRS: usize = 200;

/// Moves by their reasons; the last counter is for moves without one.
pub(crate) type ByReason = [u64; Reason::ALL.len() + 1];

/// The tags of the backend that a session has left (0 if that is not in the pool) and of the one that it has
/// moved to.
pub(crate) type Pair = (u64, u64);

/// The moves of a pool. A pinned request never locks it.
#[derive(Debug, Default)]
pub(super) struct Moves(Mutex<Totals>);

/// The moves so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    pub(crate) pairs: HashMap<Pair, ByReason>,
    /// Those of pairs beyond the bound.
    pub(crate) other: ByReason,
}

impl Moves {
    /// Counts a move. `is_member` is whether a tag belongs to a backend of the pool: the pairs of others
    /// make room when the bound is reached.
    pub(super) fn count(
        &self,
        pair: Pair,
        reason: Option<Reason>,
        is_member: impl Fn(u64) -> bool,
    ) {
        let mut totals = self.lock();
        if totals.pairs.len() >= MAX_PAIRS && !totals.pairs.contains_key(&pair) {
            totals.pairs.retain(|(from, to), _| (*from == 0 || is_member(*from)) && is_member(*to));
        }
        let counts = match totals.pairs.len() < MAX_PAIRS || totals.pairs.contains_key(&pair) {
            true => totals.pairs.entry(pair).or_insert([0; Reason::ALL.len() + 1]),
            false => &mut totals.other,
        };
        counts[reason.map_or(Reason::ALL.len(), |reason| reason as usize)] += 1;
    }

    pub(super) fn totals(&self) -> Totals {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(counts: &ByReason) -> u64 {
        counts.iter().sum()
    }

    #[test]
    fn pairs_beyond_the_bound_are_counted_together_until_members_have_left() {
        let moves = Moves::default();
        for to in 1..=MAX_PAIRS as u64 + 5 {
            moves.count((0, to), Some(Reason::Down), |_| true);
        }
        moves.count((0, 1), None, |_| true);
        let totals = moves.totals();
        assert_eq!(totals.pairs.len(), MAX_PAIRS);
        assert_eq!(sum(&totals.pairs[&(0, 1)]), 2, "a pair that is there is counted further");
        assert_eq!(sum(&totals.other), 5);

        moves.count((7, 1000), None, |tag| tag > 10);
        let totals = moves.totals();
        assert!(!totals.pairs.contains_key(&(0, 10)), "the backend has left");
        assert_eq!(sum(&totals.pairs[&(7, 1000)]), 1, "there was room for the new pair");
    }
}
