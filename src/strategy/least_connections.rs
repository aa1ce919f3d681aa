//! To whoever has the least to do.

use super::{
    smooth_round_robin::SmoothRoundRobin,
    traits::{Candidates, Load, Strategy},
};

/// Least connections: the backend with the fewest requests in flight per weight. Requests of pinned
/// sessions, open streams and WebSockets count. Those that have equally little to do take turns by
/// their weights: of an idle pool with the weights 2, 1, 1 the first gets half of the new sessions.
///
/// It is the default. A choice takes time in the number of backends.
#[derive(Debug, Default)]
pub struct LeastConnections {
    round_robin: SmoothRoundRobin,
}

impl LeastConnections {
    /// Least connections, weighted.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for LeastConnections {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let mut best: Option<(usize, Load)> = None;
        let mut ties = 0;
        for (position, candidate) in candidates.iter().enumerate() {
            let load = candidate.load();
            match best {
                Some((_, least)) if least.less_than(load) => continue,
                Some((_, least)) if !load.less_than(least) => ties += 1,
                _ => (best, ties) = (Some((position, load)), 0),
            }
        }
        let Some((position, least)) = best else { return 0 };
        if ties == 0 {
            return position;
        }
        // What has begun meanwhile may leave none of them.
        let turn =
            self.round_robin.next(candidates, |candidate| !least.less_than(candidate.load()));
        turn.unwrap_or(position)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::{
        pool::Entered,
        strategy::traits::testing::{shares, states},
    };

    #[test]
    fn the_least_loaded_per_weight_wins_and_equals_take_turns() {
        let states = states(&[1, 1, 4]);
        let strategy = LeastConnections::new();
        let held: Vec<_> = (0..2).map(|_| Entered::new(states[0].clone())).collect();
        let other = Entered::new(states[1].clone());
        assert_eq!(shares(&strategy, &states, 9), [0, 0, 9], "weight 4 has nothing to do");
        drop((held, other));
        let mut spread = Vec::new();
        let mut got = [0; 3];
        for _ in 0..60 {
            let chosen = strategy.choose(&Candidates::new(&states));
            got[chosen] += 1;
            spread.push(Entered::new(states[chosen].clone()));
        }
        assert_eq!(got, [10, 10, 40], "sessions that stay fill the backends by weight");
    }

    #[test]
    fn an_idle_pool_is_used_in_turn() {
        let states = states(&[1, 1, 1]);
        assert_eq!(shares(&LeastConnections::new(), &states, 9), [3, 3, 3]);
    }

    #[test]
    fn an_idle_pool_is_used_by_weight() {
        let states = states(&[2, 1, 1]);
        assert_eq!(shares(&LeastConnections::new(), &states, 400), [200, 100, 100]);
    }

    #[test]
    fn a_loaded_pool_is_filled_by_weight() {
        let states = states(&[2, 1, 1]);
        let strategy = LeastConnections::new();
        // One has what the others have not.
        let mut held: Vec<_> = (0..20).map(|_| Entered::new(states[1].clone())).collect();
        let mut got = [0; 3];
        for _ in 0..60 {
            let chosen = strategy.choose(&Candidates::new(&states));
            got[chosen] += 1;
            held.push(Entered::new(states[chosen].clone()));
        }
        assert_eq!(got, [40, 0, 20], "until each has as much per weight");
        assert_eq!(shares(&strategy, &states, 400), [200, 100, 100], "equally loaded");
    }

    #[test]
    fn who_starts_slowly_gets_a_rising_share_of_an_idle_pool() {
        let states = states(&[1, 1]);
        let (strategy, whole) = (LeastConnections::new(), Duration::from_secs(20));
        let start = Instant::now();
        states[1].slow_start.start(start);
        let mut got = Vec::new();
        for quarter in 0..5 {
            states[1].slow_start.advance(start + whole / 4 * quarter, whole);
            got.push(shares(&strategy, &states, 1000)[1]);
        }
        // x of 256 + x, for x = 26, 83, 141, 198, 256.
        for (got, expected) in got.into_iter().zip([92_usize, 245, 355, 436, 500]) {
            assert!(got.abs_diff(expected) <= 1, "{got} is not {expected}");
        }
    }
}
