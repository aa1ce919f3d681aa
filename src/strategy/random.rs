//! `Random`: a random backend, weighted.

use super::{
    traits::{Candidates, Strategy},
    weighted::choose_weighted,
};
use crate::util::Rng;

/// Random: each backend with a probability proportional to its weight.
#[derive(Debug, Default)]
pub struct Random {
    rng: Rng,
}

impl Random {
    /// Creates the strategy with a random seed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the strategy with a seed: the same seed makes the same choices.
    pub fn seeded(seed: u64) -> Self {
        Self { rng: Rng::seeded(seed) }
    }
}

impl Strategy for Random {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        choose_weighted(&self.rng, candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::traits::testing::{Entered, shares, states};

    #[test]
    fn load_does_not_affect_the_choice() {
        let states = states(&[2, 1, 1]);
        let _held: Vec<_> = (0..9).map(|_| Entered::new(states[1].clone())).collect();
        let got = shares(&Random::seeded(3), &states, 40_000);
        for (got, expected) in got.into_iter().zip([20_000_usize, 10_000, 10_000]) {
            assert!(got.abs_diff(expected) < 400, "{got} is not about {expected}");
        }
    }

    #[test]
    fn choices_follow_the_weights_and_the_seed() {
        let states = states(&[1, 2, 7]);
        let got = shares(&Random::seeded(42), &states, 100_000);
        for (got, expected) in got.iter().zip([10_000, 20_000, 70_000]) {
            assert!(got.abs_diff(expected) < 600, "{got} is not about {expected}");
        }
        assert_eq!(
            got,
            shares(&Random::seeded(42), &states, 100_000),
            "the same seed makes the same choices"
        );
    }
}
