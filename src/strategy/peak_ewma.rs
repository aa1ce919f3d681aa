//! `PeakEwma`: the backend with the lowest latency for its load.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    traits::{Candidate, Candidates, Strategy},
    weighted::choose_two_weighted,
};
use crate::util::Rng;

/// Peak EWMA, as in Finagle and Linkerd: of two backends that are chosen at random by weight, the one with
/// the lower cost, or the first one at equal cost. The cost is the moving average of the latency, times
/// one plus the requests in flight per weight. A slow answer counts immediately and decays with time, so
/// that a slow backend gets fewer sessions within one round trip. Latencies below a millisecond count as
/// a millisecond.
///
/// Latency is the time from sending the request to the headers of the response.
#[derive(Debug)]
pub struct PeakEwma {
    rng: Rng,
    decay: Duration,
}

/// The lowest latency in the cost, also for a backend without samples. New backends are then compared by
/// load, and small differences between fast backends do not override the weights.
const LEAST_NANOS: f64 = 1e6;

impl PeakEwma {
    /// Creates the strategy with a decay time of 10 s and a random seed.
    pub fn new() -> Self {
        Self { rng: Rng::new(), decay: Duration::from_secs(10) }
    }

    /// Sets the seed: the same seed makes the same choices.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        self.rng = Rng::seeded(seed);
        self
    }

    /// Sets the time after which 1/e of a peak is left; default 10 s.
    #[must_use]
    pub fn decay(mut self, decay: Duration) -> Self {
        self.decay = decay;
        self
    }

    /// The cost of another request. Requests in flight are scaled by the ratio of `mean_share`, the mean of
    /// all candidates, to the candidate's share.
    fn cost(&self, candidate: Candidate<'_>, mean_share: f64, now: Instant) -> f64 {
        let latency = candidate.latency(now, self.decay).max(LEAST_NANOS);
        latency * (1.0 + candidate.in_flight() as f64 * mean_share / candidate.share() as f64)
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for PeakEwma {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let Some((a, b)) = choose_two_weighted(&self.rng, candidates) else { return 0 };
        let now = Instant::now();
        let total: u64 = candidates.iter().map(|candidate| candidate.share()).sum();
        let mean_share = total as f64 / candidates.len() as f64;
        let cost = |position| candidates.get(position).map(|c| self.cost(c, mean_share, now));
        match (cost(a), cost(b)) {
            (Some(cost_a), Some(cost_b)) if cost_b < cost_a => b,
            _ => a,
        }
    }

    fn wants_latency(&self) -> bool {
        true
    }

    fn answered(&self, backend: Candidate<'_>, latency: Duration) {
        backend.observe(latency, Instant::now(), self.decay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::traits::testing::{Entered, held, shares, states};

    #[tokio::test(start_paused = true)]
    async fn slow_backend_is_not_chosen_until_its_latency_has_decayed() {
        let states = states(&[1, 1, 1]);
        let strategy = PeakEwma::new().seeded(3);
        for (state, millis) in states.iter().zip([5, 200, 5]) {
            strategy.answered(Candidate::new(state), Duration::from_millis(millis));
        }
        assert_eq!(shares(&strategy, &states, 300)[1], 0);
        tokio::time::advance(Duration::from_secs(600)).await;
        for (state, millis) in states.iter().zip([5, 4, 5]) {
            strategy.answered(Candidate::new(state), Duration::from_millis(millis));
        }
        assert!(shares(&strategy, &states, 300)[1] > 100, "the backend is fast again");
    }

    #[tokio::test(start_paused = true)]
    async fn backends_with_equal_cost_are_chosen_by_weight() {
        let states = states(&[2, 1, 1]);
        let by_weight = |why| {
            let got = shares(&PeakEwma::new().seeded(3), &states, 40_000);
            for (got, expected) in got.into_iter().zip([20_000_usize, 10_000, 10_000]) {
                assert!(got.abs_diff(expected) < 400, "{why}: {got} is not about {expected}");
            }
        };
        by_weight("idle, without samples");
        let strategy = PeakEwma::new();
        for (state, micros) in states.iter().zip([300, 200, 900]) {
            strategy.answered(Candidate::new(state), Duration::from_micros(micros));
        }
        by_weight("idle, all fast");
        let _held = [0, 0, 1, 2].map(|one: usize| Entered::new(states[one].clone()));
        by_weight("equally loaded");
    }

    #[tokio::test(start_paused = true)]
    async fn load_is_balanced_by_weight() {
        let states = states(&[2, 1, 1]);
        let load = held(&PeakEwma::new().seeded(3), &states, 4000);
        assert!(load[0].abs_diff(2000) < 20 && load[2].abs_diff(1000) < 20, "got {load:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn peaks_are_forgotten_as_fast_as_told() {
        for (decay, takes_more) in [(1, true), (1000, false)] {
            let states = states(&[1, 1]);
            let strategy = PeakEwma::new().seeded(3).decay(Duration::from_secs(decay));
            strategy.answered(Candidate::new(&states[0]), Duration::from_secs(1));
            strategy.answered(Candidate::new(&states[1]), Duration::from_millis(50));
            tokio::time::advance(Duration::from_secs(8)).await;
            let taken = shares(&strategy, &states, 300)[0];
            assert_eq!(taken > 0, takes_more, "{taken} with {decay} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_costs_as_much_as_the_latency_once_more() {
        let states = states(&[1, 1]);
        let strategy = PeakEwma::new().seeded(3);
        for (state, millis) in states.iter().zip([10, 4]) {
            strategy.answered(Candidate::new(state), Duration::from_millis(millis));
        }
        let _first = Entered::new(states[1].clone());
        assert_eq!(shares(&strategy, &states, 20), [0, 20], "8 ms are less than 10 ms");
        let _second = Entered::new(states[1].clone());
        assert_eq!(shares(&strategy, &states, 20), [20, 0], "12 ms are more");
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let states = states(&[1; 4]);
        let choices = |seed| -> Vec<usize> {
            let strategy = PeakEwma::new().seeded(seed);
            (0..64).map(|_| strategy.choose(&Candidates::new(&states))).collect()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }

    #[test]
    fn it_has_to_be_told_latencies() {
        assert!(PeakEwma::new().wants_latency());
    }
}
