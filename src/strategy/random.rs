//! By chance.

use super::{Candidates, Strategy, chance::Chance};

/// Random: each backend with a chance proportional to its weight.
#[derive(Debug)]
pub struct Random {
    chance: Chance,
}

impl Random {
    /// Seeded by the system.
    pub fn new() -> Self {
        Self { chance: Chance::new() }
    }

    /// With a seed of your own: the same seed makes the same choices.
    pub fn seeded(seed: u64) -> Self {
        Self { chance: Chance::seeded(seed) }
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for Random {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let total: u64 = candidates.iter().map(|candidate| candidate.share()).sum();
        let mut ticket = self.chance.below(total.max(1) as usize) as u64;
        for (position, candidate) in candidates.iter().enumerate() {
            match ticket.checked_sub(candidate.share()) {
                Some(rest) => ticket = rest,
                None => return position,
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{shares, states};

    #[test]
    fn chances_follow_the_weights_and_the_seed() {
        let states = states(&[1, 2, 7]);
        let got = shares(&Random::seeded(42), &states, 100_000);
        for (got, expected) in got.iter().zip([10_000, 20_000, 70_000]) {
            assert!(got.abs_diff(expected) < 600, "{got} is not about {expected}");
        }
        assert_eq!(got, shares(&Random::seeded(42), &states, 100_000), "same seed, same choices");
    }
}
