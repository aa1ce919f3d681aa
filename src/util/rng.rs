//! Chance, seedable, without a lock.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{hash::mix, strategy::Candidates};

/// SplitMix64 (Steele, Lea and Flood, 2014) over a shared counter: every draw takes the next number
/// of one sequence, whichever thread draws it.
#[derive(Debug)]
pub(crate) struct Chance(AtomicU64);

impl Chance {
    pub(crate) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one("chance"))
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        mix(self.0.fetch_add(GAMMA, Relaxed).wrapping_add(GAMMA))
    }

    /// A number below `bound`, which is at least 1 (Lemire's multiplication; the bias is below
    /// `bound / 2^64`).
    pub(crate) fn below(&self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// The position of a candidate, each with a chance in proportion to its share; 0 when there is
    /// none.
    pub(crate) fn by_share(&self, candidates: &Candidates<'_>) -> usize {
        self.draw(candidates, |_| true).unwrap_or(0)
    }

    /// The positions of two different candidates, drawn one after the other as
    /// [`by_share`](Self::by_share) does; `None` when there is only one.
    pub(crate) fn two_by_share(&self, candidates: &Candidates<'_>) -> Option<(usize, usize)> {
        let first = self.draw(candidates, |_| true)?;
        let second = self.draw(candidates, |position| position != first)?;
        Some((first, second))
    }

    /// The position of a candidate by share, of those at a position that `takes_part` accepts.
    fn draw(
        &self,
        candidates: &Candidates<'_>,
        takes_part: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let present =
            || candidates.iter().enumerate().filter(|(position, _)| takes_part(*position));
        let total: u64 = present().map(|(_, candidate)| candidate.share()).sum();
        let mut ticket = self.below(total.max(1) as usize) as u64;
        let mut last = None;
        for (position, candidate) in present() {
            match ticket.checked_sub(candidate.share()) {
                Some(rest) => ticket = rest,
                None => return Some(position),
            }
            // Shares may have shrunk since they were added up.
            last = Some(position);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::states;

    #[test]
    fn it_is_splitmix64() {
        let chance = Chance::seeded(1_234_567);
        let drawn = [chance.next(), chance.next(), chance.next()];
        assert_eq!(
            drawn,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn draws_stay_below_the_bound_and_reach_all_of_it() {
        let chance = Chance::seeded(7);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[chance.below(5)] = true;
        }
        assert_eq!(seen, [true; 5]);
    }

    #[test]
    fn two_draws_are_different_and_follow_the_shares() {
        let states = states(&[2, 1, 1]);
        let (chance, all) = (Chance::seeded(7), Candidates::new(&states));
        let mut first = [0_usize; 3];
        for _ in 0..40_000 {
            let (a, b) = chance.two_by_share(&all).unwrap();
            assert_ne!(a, b);
            first[a] += 1;
        }
        for (got, expected) in first.into_iter().zip([20_000, 10_000, 10_000]) {
            assert!(got.abs_diff(expected) < 400, "{got} is not about {expected}");
        }
        assert_eq!(chance.two_by_share(&Candidates::new(&states[..1])), None);
    }
}
