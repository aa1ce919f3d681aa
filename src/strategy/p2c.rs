//! `P2c`: the less loaded of two random backends.

use super::{
    traits::{Candidates, Strategy},
    weighted::choose_two_weighted,
};
use crate::util::Rng;

/// Power of two choices (Mitzenmacher 2001): of two backends that are chosen at random by weight, the one
/// with fewer requests in flight per weight, or the first one at equal load. The load is nearly as even as
/// with least connections, and gateways that choose at the same time do not all choose the same backend.
///
/// A choice takes time linear in the number of backends.
#[derive(Debug, Default)]
pub struct P2c {
    rng: Rng,
}

impl P2c {
    /// Creates the strategy with a random seed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the strategy with a seed: the same seed makes the same choices.
    pub fn seeded(seed: u64) -> Self {
        Self { rng: Rng::seeded(seed) }
    }
}

impl Strategy for P2c {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let Some((a, b)) = choose_two_weighted(&self.rng, candidates) else { return 0 };
        let load = |position| candidates.get(position).map(|candidate| candidate.load());
        match (load(a), load(b)) {
            (Some(load_a), Some(load_b)) if load_b.less_than(load_a) => b,
            _ => a,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::traits::testing::{Entered, held, shares, states};

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let states = states(&[1; 4]);
        let choices = |seed| -> Vec<usize> {
            let strategy = P2c::seeded(seed);
            (0..64).map(|_| strategy.choose(&Candidates::new(&states))).collect()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }

    #[test]
    fn more_loaded_backend_of_a_pair_is_not_chosen() {
        let states = states(&[1, 1, 1]);
        let held = Entered::new(states[1].clone());
        let got = shares(&P2c::seeded(1), &states, 1000);
        assert_eq!(got[1], 0, "every pair has a less loaded backend");
        drop(held);
        assert!(shares(&P2c::seeded(1), &states, 1000).iter().all(|&share| share > 250));
    }

    #[test]
    fn load_is_balanced_by_weight() {
        let states = states(&[1, 1, 2]);
        let load = held(&P2c::seeded(5), &states, 4000);
        assert!(load[0].abs_diff(1000) < 20 && load[2].abs_diff(2000) < 20, "got {load:?}");
    }

    #[test]
    fn backends_with_equal_load_are_chosen_by_weight() {
        let states = states(&[2, 1, 1]);
        let by_weight = |why| {
            let got = shares(&P2c::seeded(9), &states, 40_000);
            for (got, expected) in got.into_iter().zip([20_000_usize, 10_000, 10_000]) {
                assert!(got.abs_diff(expected) < 400, "{why}: {got} is not about {expected}");
            }
        };
        by_weight("idle");
        let _held = [0, 0, 1, 2].map(|one: usize| Entered::new(states[one].clone()));
        by_weight("equally loaded");
    }
}
