//! To whoever answers fastest for what it has to do.

use std::time::Duration;

use tokio::time::Instant;

use super::{Candidate, Candidates, Strategy, chance::Chance};

/// Peak EWMA, as in Finagle and Linkerd: of two backends by chance the one with the lower cost, which
/// is the moving average of its latency, times its requests in flight, per weight. A slow answer
/// counts at once and is forgotten with time, so that a backend that stumbles gets fewer sessions
/// within one round trip.
///
/// Latency is the time from handing the request over to the response's head.
#[derive(Debug)]
pub struct PeakEwma {
    chance: Chance,
    decay: Duration,
}

/// What a backend without samples is taken to need: more than none, so that several new ones share
/// the first sessions by their load.
const UNKNOWN_NANOS: f64 = 1e6;

impl PeakEwma {
    /// With a decay time of 10 s, seeded by the system.
    pub fn new() -> Self {
        Self { chance: Chance::new(), decay: Duration::from_secs(10) }
    }

    /// With a seed of your own: the same seed makes the same choices.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        self.chance = Chance::seeded(seed);
        self
    }

    /// The time after which 1/e of a peak is left; default 10 s.
    #[must_use]
    pub fn decay(mut self, decay: Duration) -> Self {
        self.decay = decay;
        self
    }

    fn cost(&self, candidate: Candidate<'_>, now: Instant) -> f64 {
        let latency = match candidate.latency(now, self.decay) {
            0.0 => UNKNOWN_NANOS,
            nanos => nanos,
        };
        latency * (candidate.in_flight() + 1) as f64 / candidate.share() as f64
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for PeakEwma {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        if candidates.len() < 2 {
            return 0;
        }
        let (a, b) = self.chance.two_below(candidates.len());
        let now = Instant::now();
        let cost = |position| candidates.get(position).map(|c| self.cost(c, now));
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
    use crate::strategy::testing::{shares, states};

    #[tokio::test(start_paused = true)]
    async fn a_slow_backend_loses_every_pair_until_it_is_forgotten() {
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
        assert!(shares(&strategy, &states, 300)[1] > 100, "fast again: wins its pairs");
    }
}
