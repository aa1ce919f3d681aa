//! To whoever has the least to do.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Candidates, Strategy};

/// Least connections: the backend with the fewest requests in flight per weight. Requests of pinned
/// sessions, open streams and WebSockets count. Among equals the backends take turns.
///
/// It is the default. A choice takes time in the number of backends.
#[derive(Debug, Default)]
pub struct LeastConnections {
    turn: AtomicUsize,
}

impl LeastConnections {
    /// Least connections, weighted.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for LeastConnections {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let len = candidates.len().max(1);
        let start = self.turn.fetch_add(1, Relaxed) % len;
        let mut best: Option<(usize, super::Load)> = None;
        for position in (start..len).chain(0..start) {
            let Some(candidate) = candidates.get(position) else {
                continue;
            };
            let load = candidate.load();
            if best.is_none_or(|(_, least)| load.less_than(least)) {
                best = Some((position, load));
            }
        }
        best.map_or(0, |(position, _)| position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::Entered,
        strategy::testing::{shares, states},
    };

    #[test]
    fn the_least_loaded_per_weight_wins_and_equals_take_turns() {
        let states = states(&[1, 1, 4]);
        let strategy = LeastConnections::new();
        let held: Vec<_> = (0..2).map(|_| Entered::new(states[0].clone())).collect();
        let third = Entered::new(states[1].clone());
        assert_eq!(shares(&strategy, &states, 9), [0, 0, 9], "weight 4 has nothing to do");
        drop((held, third));
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
}
