//! When a name is resolved again.

use std::time::Duration;

use crate::util::Rng;

/// The pauses between look-ups.
#[derive(Debug)]
pub(super) struct RefreshSchedule {
    min: Duration,
    max: Duration,
    rng: Rng,
    /// Failures in a row.
    failures: u32,
}

impl RefreshSchedule {
    pub(super) fn new(min: Duration, max: Duration, rng: Rng) -> Self {
        Self { min, max, rng, failures: 0 }
    }

    /// The pause after an answer whose smallest TTL is `ttl`.
    pub(super) fn after_answer(&mut self, ttl: Duration) -> Duration {
        self.failures = 0;
        self.add_jitter(ttl.clamp(self.min, self.max))
    }

    /// The pause after a failure.
    pub(super) fn after_failure(&mut self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.add_jitter(self.min.saturating_mul(doubled).min(self.max))
    }

    /// Adds jitter of up to a tenth. The pause never becomes shorter, because before the TTL has passed
    /// the answer may come from a cache.
    fn add_jitter(&self, pause: Duration) -> Duration {
        let thousandths = self.rng.below(101) as u32;
        pause.saturating_add(pause / 1000 * thousandths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule() -> RefreshSchedule {
        RefreshSchedule::new(2 * SECOND, 30 * SECOND, Rng::seeded(1))
    }

    fn assert_about(pause: Duration, expected: Duration) {
        let most = expected + expected / 10;
        assert!(
            (expected..=most).contains(&pause),
            "{pause:?} is between {expected:?} and {most:?}"
        );
    }

    #[test]
    fn the_ttl_is_limited_to_the_bounds() {
        let mut schedule = schedule();
        for (ttl, expected) in [(0, 2), (1, 2), (7, 7), (30, 30), (86_400, 30)] {
            assert_about(schedule.after_answer(ttl * SECOND), expected * SECOND);
        }
    }

    #[test]
    fn failures_back_off_until_the_next_answer() {
        let mut schedule = schedule();
        for expected in [2, 4, 8, 16, 30, 30] {
            assert_about(schedule.after_failure(), expected * SECOND);
        }
        for _ in 0..100 {
            assert_about(schedule.after_failure(), 30 * SECOND);
        }
        schedule.after_answer(SECOND);
        assert_about(schedule.after_failure(), 2 * SECOND);
    }

    #[test]
    fn pauses_have_jitter() {
        let mut schedule = schedule();
        let first = schedule.after_answer(10 * SECOND);
        assert!((0..20).any(|_| schedule.after_answer(10 * SECOND) != first));
    }
}
