//! The idle timeout of one cached session, in four bytes.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Set when the other bits are seconds; otherwise they are milliseconds.
const SECONDS: u32 = 1 << 31;

/// A duration, rounded down to milliseconds, or to seconds from 2^31 ms (24 days) on. At most 2^31 - 1
/// seconds (68 years).
#[derive(Debug)]
pub(super) struct IdleTime(AtomicU32);

impl IdleTime {
    pub(super) fn new(time: Duration) -> Self {
        Self(AtomicU32::new(encode(time)))
    }

    pub(super) fn set(&self, time: Duration) {
        self.0.store(encode(time), Relaxed);
    }

    pub(super) fn get(&self) -> Duration {
        let bits = self.0.load(Relaxed);
        if bits < SECONDS {
            Duration::from_millis(bits.into())
        } else {
            Duration::from_secs((bits - SECONDS).into())
        }
    }
}

fn encode(time: Duration) -> u32 {
    match u32::try_from(time.as_millis()) {
        Ok(millis) if millis < SECONDS => millis,
        _ => {
            let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            SECONDS | seconds.min(SECONDS - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_exact_below_24_days() {
        for millis in [0, 1, 999, 30 * 60 * 1000, (1 << 31) - 1] {
            let time = Duration::from_millis(millis);
            assert_eq!(IdleTime::new(time).get(), time);
        }
    }

    #[test]
    fn longer_times_are_in_seconds_and_saturate() {
        let days = Duration::from_secs(90 * 86_400);
        let idle = IdleTime::new(Duration::ZERO);
        idle.set(days + Duration::from_millis(7));
        assert_eq!(idle.get(), days);
        idle.set(Duration::MAX);
        assert_eq!(idle.get(), Duration::from_secs((1 << 31) - 1));
    }
}
