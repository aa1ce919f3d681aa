//! So many in a second, and no more.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::lock;

/// Admits so many a second: the generic cell rate algorithm (ITU-T I.371), which lets a tenth of a
/// second's worth through at once and at least one.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    interval: Duration,
    /// When the next one would be due if they came evenly.
    due: Mutex<Option<Instant>>,
}

impl RateLimiter {
    /// At most `per_second`, which is at least 1.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), due: Mutex::new(None) }
    }

    /// Whether one more may pass now; it counts as passed.
    pub(crate) fn admits(&self) -> bool {
        const AHEAD: Duration = Duration::from_millis(100);
        let now = Instant::now();
        let mut due = lock(&self.due);
        let next = due.map_or(now, |due| due.max(now));
        // A single one never waits for more than its interval.
        if next - now > AHEAD.saturating_sub(self.interval) {
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
    async fn so_many_pass_in_a_second_and_no_more() {
        for (rate, at_once) in [(1, 1), (10, 1), (100, 10), (3000, 300)] {
            let limiter = RateLimiter::new(rate);
            let burst = (0..1000).filter(|_| limiter.admits()).count();
            assert_eq!(burst, at_once, "{rate} a second, at once");
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
