//! Slow start: a backend that is new, or back, takes a growing share of the new sessions.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::util::lock;

/// The whole share.
const FULL: u32 = 256;
/// A tenth, where it begins.
const FIRST: u32 = 26;

/// How much of its share a backend takes, in parts of 256.
#[derive(Debug)]
pub(crate) struct SlowStart {
    part: AtomicU32,
    since: Mutex<Option<Instant>>,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { part: AtomicU32::new(FULL), since: Mutex::default() }
    }
}

impl SlowStart {
    /// From 26 to 256.
    #[inline]
    pub(crate) fn part(&self) -> u32 {
        self.part.load(Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.part() == FULL
    }

    pub(crate) fn start(&self, now: Instant) {
        let mut since = lock(&self.since);
        *since = Some(now);
        self.part.store(FIRST, Relaxed);
    }

    /// Takes the share to what it should be now, when it is to be whole after `duration`. Tells when to
    /// do so again: twenty times in all, but at most every 10 ms.
    pub(crate) fn advance(&self, now: Instant, duration: Duration) -> Option<Instant> {
        let mut since = lock(&self.since);
        let start = (*since)?;
        let gone = now.saturating_duration_since(start);
        if gone >= duration {
            *since = None;
            self.part.store(FULL, Relaxed);
            None
        } else {
            let done = gone.as_secs_f64() / duration.as_secs_f64();
            let part = f64::from(FIRST) + f64::from(FULL - FIRST) * done;
            self.part.store((part as u32).min(FULL - 1), Relaxed);
            let step = (duration / 20).max(Duration::from_millis(10));
            Some(now + step.min(duration - gone))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_grows_evenly_from_a_tenth_to_the_whole() {
        let (ramp, whole) = (SlowStart::default(), Duration::from_secs(20));
        assert!(ramp.is_over() && ramp.part() == 256, "whole unless it was started");
        ramp.start(Instant::now());
        let mut parts = Vec::new();
        for _ in 0..5 {
            ramp.advance(Instant::now(), whole);
            parts.push(ramp.part());
            tokio::time::advance(whole / 4).await;
        }
        assert_eq!(parts, [26, 83, 141, 198, 256]);
        assert!(ramp.is_over());
        ramp.start(Instant::now());
        assert_eq!(ramp.part(), 26, "once more");
    }
}
