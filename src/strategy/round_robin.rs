//! One after the other.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::{Candidates, Strategy};

/// Round robin: the backends in turn, each as often as its weight says, and spread evenly.
///
/// With different weights it is nginx's *smooth* weighted round robin: weights 5, 1, 1 give
/// `a a b a c a a`, never five in a row to `a`. Pinned requests do not advance it.
///
/// A choice takes constant time with equal weights, and time in the number of backends otherwise.
///
/// # Example
///
/// ```
/// use tower_sticky::{Backends, StickyLayer, affinity, strategy};
///
/// # let backend = tower::service_fn(|_: http::Request<String>| async { Ok::<_, std::convert::Infallible>(http::Response::new(String::new())) });
/// let layer = StickyLayer::new(Backends::from_iter([("a", backend)]), affinity::Cookie::plain("SERVER_ID"))
///     .strategy(strategy::RoundRobin::new());
/// ```
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicUsize,
    /// The running credit of every backend, by tag; only used when shares differ.
    credits: Mutex<HashMap<u64, i64>>,
}

impl RoundRobin {
    /// Starts with the backend that joined first.
    pub fn new() -> Self {
        Self::default()
    }

    fn weighted(&self, candidates: &Candidates<'_>) -> usize {
        let mut credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        if credits.len() > candidates.len().saturating_mul(2) {
            credits.retain(|&tag, _| candidates.iter().any(|c| c.tag() == tag));
        }
        let mut total = 0;
        let mut best = (0, i64::MIN, 0);
        for (position, candidate) in candidates.iter().enumerate() {
            let share = candidate.share() as i64;
            let credit = credits.entry(candidate.tag()).or_insert(0);
            *credit += share;
            total += share;
            if *credit > best.1 {
                best = (position, *credit, candidate.tag());
            }
        }
        if let Some(credit) = credits.get_mut(&best.2) {
            *credit -= total;
        }
        best.0
    }
}

impl Strategy for RoundRobin {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let mut shares = candidates.iter().map(|candidate| candidate.share());
        let first = shares.next();
        if shares.all(|share| Some(share) == first) {
            return self.turn.fetch_add(1, Relaxed) % candidates.len().max(1);
        }
        self.weighted(candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{shares, states};

    #[test]
    fn equal_weights_take_turns() {
        let states = states(&[2, 2, 2]);
        let strategy = RoundRobin::new();
        let turns: Vec<_> = (0..6).map(|_| strategy.choose(&Candidates::new(&states))).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn weights_are_exact_and_spread_evenly() {
        let states = states(&[5, 1, 1]);
        let strategy = RoundRobin::new();
        let turns: Vec<_> = (0..7).map(|_| strategy.choose(&Candidates::new(&states))).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0], "nginx's published sequence for 5, 1, 1");
        assert_eq!(shares(&strategy, &states, 7000), [5000, 1000, 1000]);
    }

    #[test]
    fn a_missing_backend_leaves_the_proportions_of_the_others() {
        let states = states(&[4, 2, 1]);
        let strategy = RoundRobin::new();
        shares(&strategy, &states, 5);
        let got = shares(&strategy, &states[..2], 600);
        assert!((398..=402).contains(&got[0]) && got[0] + got[1] == 600, "4 : 2, got {got:?}");
    }
}
