//! Slow start: a backend that has joined or recovered takes a growing share of the new sessions.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::util::lock;

/// The full share.
const FULL: u32 = 256;
/// The initial share, a tenth.
const FIRST: u32 = 26;

/// The fraction of its share that a backend takes, in parts of 256.
#[derive(Debug)]
pub(crate) struct SlowStart {
    fraction: AtomicU32,
    since: Mutex<Option<Instant>>,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { fraction: AtomicU32::new(FULL), since: Mutex::default() }
    }
}

impl SlowStart {
    /// The fraction, from 26 to 256.
    #[inline]
    pub(crate) fn fraction(&self) -> u32 {
        self.fraction.load(Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.fraction() == FULL
    }

    pub(crate) fn start(&self, now: Instant) {
        let mut since = lock(&self.since);
        *since = Some(now);
        self.fraction.store(FIRST, Relaxed);
    }

    /// Updates the fraction, which grows linearly and is full after `duration`. Returns when to update it
    /// next: after a twentieth of `duration`, and at least 10 ms.
    pub(crate) fn advance(&self, now: Instant, duration: Duration) -> Option<Instant> {
        let mut since = lock(&self.since);
        let start = (*since)?;
        let elapsed = now.saturating_duration_since(start);
        if elapsed >= duration {
            *since = None;
            self.fraction.store(FULL, Relaxed);
            None
        } else {
            let done = elapsed.as_secs_f64() / duration.as_secs_f64();
            let fraction = f64::from(FIRST) + f64::from(FULL - FIRST) * done;
            self.fraction.store((fraction as u32).min(FULL - 1), Relaxed);
            let step = (duration / 20).max(Duration::from_millis(10));
            Some(now + step.min(duration - elapsed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::clock::YEAR;

    #[tokio::test(start_paused = true)]
    async fn share_grows_linearly_from_a_tenth_to_full() {
        let (slow_start, whole) = (SlowStart::default(), Duration::from_secs(20));
        assert!(
            slow_start.is_over() && slow_start.fraction() == 256,
            "the share is full unless slow start has begun"
        );
        slow_start.start(Instant::now());
        let mut fractions = Vec::new();
        for _ in 0..5 {
            slow_start.advance(Instant::now(), whole);
            fractions.push(slow_start.fraction());
            tokio::time::advance(whole / 4).await;
        }
        assert_eq!(fractions, [26, 83, 141, 198, 256]);
        assert!(slow_start.is_over());
        slow_start.start(Instant::now());
        assert_eq!(slow_start.fraction(), 26, "it can start again");
    }

    #[tokio::test(start_paused = true)]
    async fn share_is_updated_after_each_twentieth_and_at_the_end() {
        let (slow_start, whole) = (SlowStart::default(), Duration::from_secs(20));
        let start = Instant::now();
        let next = |millis| {
            let now = start + Duration::from_millis(millis);
            slow_start.advance(now, whole).map(|next| (next - start).as_millis())
        };
        assert_eq!(next(0), None, "it has not begun");
        slow_start.start(start);
        assert_eq!([0, 1_000, 19_500].map(next), [1_000, 2_000, 20_000].map(Some));
        assert_eq!((next(20_000), next(20_001)), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn share_is_not_full_just_before_the_end_of_a_long_slow_start() {
        let (slow_start, start) = (SlowStart::default(), Instant::now());
        slow_start.start(start);
        slow_start.advance(start + (YEAR - Duration::from_nanos(1)), YEAR);
        assert!(!slow_start.is_over(), "{} of 256", slow_start.fraction());
        slow_start.advance(start + YEAR, YEAR);
        assert!(slow_start.is_over());
    }
}
