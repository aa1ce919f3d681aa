//! When to ask again.

use std::time::Duration;

use crate::util::Rng;

/// The rhythm of look-ups.
#[derive(Debug)]
pub(super) struct RefreshSchedule {
    min: Duration,
    max: Duration,
    chance: Rng,
    /// Failures in a row.
    failures: u32,
}

impl RefreshSchedule {
    pub(super) fn new(min: Duration, max: Duration, chance: Rng) -> Self {
        Self { min, max, chance, failures: 0 }
    }

    /// How long to wait after an answer whose smallest TTL is `ttl`.
    pub(super) fn after_answer(&mut self, ttl: Duration) -> Duration {
        self.failures = 0;
        self.spread(ttl.clamp(self.min, self.max))
    }

    /// How long to wait after a failure.
    pub(super) fn after_failure(&mut self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.spread(self.min.saturating_mul(doubled).min(self.max))
    }

    /// Up to a tenth more, never less: before its TTL has passed, an answer may come from a cache.
    fn spread(&self, pause: Duration) -> Duration {
        let thousandths = self.chance.below(101) as u32;
        pause.saturating_add(pause / 1000 * thousandths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rhythm() -> RefreshSchedule {
        RefreshSchedule::new(2 * SECOND, 30 * SECOND, Rng::seeded(1))
    }

    fn assert_about(pause: Duration, expected: Duration) {
        let most = expected + expected / 10;
        assert!((expected..=most).contains(&pause), "{pause:?} is {expected:?} to {most:?}");
    }

    #[test]
    fn the_ttl_counts_within_its_bounds() {
        let mut rhythm = rhythm();
        for (ttl, expected) in [(0, 2), (1, 2), (7, 7), (30, 30), (86_400, 30)] {
            assert_about(rhythm.after_answer(ttl * SECOND), expected * SECOND);
        }
    }

    #[test]
    fn failures_back_off_up_to_the_bound_and_an_answer_ends_that() {
        let mut rhythm = rhythm();
        for expected in [2, 4, 8, 16, 30, 30] {
            assert_about(rhythm.after_failure(), expected * SECOND);
        }
        for _ in 0..100 {
            assert_about(rhythm.after_failure(), 30 * SECOND);
        }
        rhythm.after_answer(SECOND);
        assert_about(rhythm.after_failure(), 2 * SECOND);
    }

    #[test]
    fn gateways_do_not_ask_in_step() {
        let mut rhythm = rhythm();
        let first = rhythm.after_answer(10 * SECOND);
        assert!((0..20).any(|_| rhythm.after_answer(10 * SECOND) != first));
    }
}
