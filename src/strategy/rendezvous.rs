//! The backend of a session that has to move: the same one on every gateway.

use std::sync::Arc;

use crate::{hash::first_of, pool::BackendState};

/// The position of the backend that ranks first for `key` by weighted rendezvous hashing, as in
/// [`Ranking`](crate::hash::Ranking), without creating a table. A weight of 0 counts as 1.
///
/// `None` when there is no candidate.
pub(crate) fn rendezvous(key: u64, candidates: &[Arc<BackendState>]) -> Option<usize> {
    first_of(key, candidates.iter().map(|state| (state.tag, state.weight().max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::traits::testing::states;

    fn choices(states: &[Arc<BackendState>], keys: u64) -> Vec<usize> {
        (0..keys).map(|key| rendezvous(key, states).unwrap()).collect()
    }

    #[test]
    fn choices_follow_the_weights_and_only_sessions_of_a_removed_backend_move() {
        let states = states(&[1, 1, 2]);
        let before = choices(&states, 40_000);
        for (backend, expected) in [(0, 10_000), (1, 10_000), (2, 20_000)] {
            let got = before.iter().filter(|&&chosen| chosen == backend).count();
            assert!(got.abs_diff(expected) < 400, "{got} is not about {expected}");
        }
        let reversed: Vec<_> = states.iter().rev().cloned().collect();
        for (key, &chosen) in before.iter().enumerate() {
            assert_eq!(
                2 - rendezvous(key as u64, &reversed).unwrap(),
                chosen,
                "the order of the candidates does not matter"
            );
            let without = rendezvous(key as u64, &states[..2]).unwrap();
            assert!(chosen == 2 || without == chosen, "only sessions of the removed backend move");
        }
    }

    #[test]
    fn ranking_matches_golden_values() {
        let states = states(&[1, 2, 3, 1, 1]);
        // Computed with `weight / -log2(u)` in floating point by another implementation (Python).
        let golden = [4, 0, 1, 1, 2, 2, 1, 2, 2, 2, 1, 1, 0, 2, 3, 1];
        assert_eq!(choices(&states, 16), golden);
    }
}
