//! `LeastConnections`: the backend with the fewest requests in flight.

use super::{
    smooth_round_robin::SmoothRoundRobin,
    traits::{Candidates, Load, Strategy},
};

/// Least connections: the backend with the fewest requests in flight per weight. Requests of pinned
/// sessions, open streams and WebSockets count. Backends with equal load take turns by weight: in an idle
/// pool with the weights 2, 1, 1 the first one gets half of the new sessions.
///
/// This is the default. A choice takes time linear in the number of backends.
#[derive(Debug, Default)]
pub struct LeastConnections {
    round_robin: SmoothRoundRobin,
}

impl LeastConnections {
    /// Creates the strategy.
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
        // Requests that have started in the meantime may leave no backend with this load.
        let next =
            self.round_robin.next(candidates, |candidate| !least.less_than(candidate.load()));
        next.unwrap_or(position)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::strategy::traits::testing::{Entered, shares, states};

    #[test]
    fn backend_with_the_least_load_per_weight_is_chosen() {
        let states = states(&[1, 1, 4]);
        let strategy = LeastConnections::new();
        let held: Vec<_> = (0..2).map(|_| Entered::new(states[0].clone())).collect();
        let other = Entered::new(states[1].clone());
        assert_eq!(shares(&strategy, &states, 9), [0, 0, 9], "the idle backend gets all sessions");
        drop((held, other));
        let mut spread = Vec::new();
        let mut got = [0; 3];
        for _ in 0..60 {
            let chosen = strategy.choose(&Candidates::new(&states));
            got[chosen] += 1;
            spread.push(Entered::new(states[chosen].clone()));
        }
        assert_eq!(got, [10, 10, 40], "long requests are distributed by weight");
    }

    #[test]
    fn idle_backends_take_turns() {
        let states = states(&[1, 1, 1]);
        assert_eq!(shares(&LeastConnections::new(), &states, 9), [3, 3, 3]);
    }

    #[test]
    fn idle_backends_are_chosen_by_weight() {
        let states = states(&[2, 1, 1]);
        assert_eq!(shares(&LeastConnections::new(), &states, 400), [200, 100, 100]);
    }

    #[test]
    fn load_is_balanced_by_weight() {
        let states = states(&[2, 1, 1]);
        let strategy = LeastConnections::new();
        // One backend has all the load.
        let mut held: Vec<_> = (0..20).map(|_| Entered::new(states[1].clone())).collect();
        let mut got = [0; 3];
        for _ in 0..60 {
            let chosen = strategy.choose(&Candidates::new(&states));
            got[chosen] += 1;
            held.push(Entered::new(states[chosen].clone()));
        }
        assert_eq!(
            got,
            [40, 0, 20],
            "sessions go to the others until the load per weight is equal"
        );
        assert_eq!(shares(&strategy, &states, 400), [200, 100, 100], "equal load");
    }

    #[test]
    fn slow_start_gives_a_rising_share_of_an_idle_pool() {
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
