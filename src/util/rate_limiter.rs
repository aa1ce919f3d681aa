//! Rate limiter (GCRA).

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::lock;

/// Limits the rate per second with the generic cell rate algorithm (ITU-T I.371). The burst is the amount
/// of a tenth of a second, at least one.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    interval: Duration,
    /// The theoretical arrival time of the next one.
    due: Mutex<Option<Instant>>,
}

impl RateLimiter {
    /// At most `per_second`, which is at least 1.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), due: Mutex::new(None) }
    }

    /// Whether one more is admitted now; if so, it is counted.
    pub(crate) fn admits(&self) -> bool {
        const BURST: Duration = Duration::from_millis(100);
        let now = Instant::now();
        let mut due = lock(&self.due);
        let next = due.map_or(now, |due| due.max(now));
        // At low rates the burst is a single one, which is admitted once per interval.
        if next - now > BURST.saturating_sub(self.interval) {
            return false;
        }
        *due = Some(next + self.interval);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_and_the_burst_are_limited() {
        for (rate, at_once) in [(1, 1), (10, 1), (100, 10), (3000, 300)] {
            let limiter = RateLimiter::new(rate);
            let burst = (0..1000).filter(|_| limiter.admits()).count();
            assert_eq!(burst, at_once, "the burst at {rate} per second");
            let mut passed = 0;
            for _ in 0..10_000 {
                tokio::time::advance(Duration::from_millis(1)).await;
                passed += (0..10).filter(|_| limiter.admits()).count();
            }
            let expected = 10 * rate as usize;
            assert!(passed.abs_diff(expected) <= 1 + expected / 100, "{rate}: {passed} in 10 s");
        }
    }
}
