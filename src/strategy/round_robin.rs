//! `RoundRobin`: the backends in turn, weighted.

use super::{
    smooth_round_robin::SmoothRoundRobin,
    traits::{Candidates, Strategy},
};

/// Round robin: the backends in turn, by weight.
///
/// With different weights this is nginx's *smooth* weighted round robin: weights 5, 1, 1 give
/// `a a b a c a a`, never five in a row to `a`. Pinned requests do not advance it. The turns of a backend
/// that is busy or suspect go to the others by weight, and it does not get them back later.
///
/// A choice takes time linear in the number of backends.
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
    round_robin: SmoothRoundRobin,
}

impl RoundRobin {
    /// Creates the strategy; it starts with the backend that joined first.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for RoundRobin {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        self.round_robin.next(candidates, |_| true).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::traits::testing::{Entered, shares, states};

    #[test]
    fn backends_with_equal_weights_take_turns() {
        let states = states(&[2, 2, 2]);
        let strategy = RoundRobin::new();
        let turns: Vec<_> = (0..6).map(|_| strategy.choose(&Candidates::new(&states))).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn turns_follow_the_weights_and_are_spread_evenly() {
        let states = states(&[5, 1, 1]);
        let strategy = RoundRobin::new();
        let turns: Vec<_> = (0..7).map(|_| strategy.choose(&Candidates::new(&states))).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0], "nginx's published sequence for 5, 1, 1");
        assert_eq!(shares(&strategy, &states, 7000), [5000, 1000, 1000]);
    }

    #[test]
    fn missing_backend_does_not_change_the_ratio_of_the_others() {
        let states = states(&[4, 2, 1]);
        let strategy = RoundRobin::new();
        shares(&strategy, &states, 5);
        let got = shares(&strategy, &states[..2], 600);
        assert!((398..=402).contains(&got[0]) && got[0] + got[1] == 600, "4 : 2, got {got:?}");
    }

    #[test]
    fn load_does_not_affect_the_turns() {
        let states = states(&[2, 1, 1]);
        assert_eq!(shares(&RoundRobin::new(), &states, 400), [200, 100, 100], "idle");
        let _held: Vec<_> = (0..9).map(|_| Entered::new(states[1].clone())).collect();
        assert_eq!(shares(&RoundRobin::new(), &states, 400), [200, 100, 100], "loaded");
    }
}
