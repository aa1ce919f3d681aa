//! The moving latency of a backend, for [`PeakEwma`](crate::strategy::PeakEwma).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// An exponentially weighted moving average that jumps to every peak and forgets with time: a slow
/// answer is believed at once, a fast one by and by (Finagle's Peak EWMA).
///
/// Two requests that finish at the same instant may overwrite each other's sample; the average is
/// an estimate and survives that.
#[derive(Debug)]
pub(crate) struct Latency {
    /// Nanoseconds, as the bits of an `f64`; 0 before the first sample.
    nanos: AtomicU64,
    /// When that was so, in nanoseconds after `start`.
    at: AtomicU64,
    start: Instant,
}

impl Default for Latency {
    fn default() -> Self {
        Self { nanos: AtomicU64::new(0), at: AtomicU64::new(0), start: Instant::now() }
    }
}

impl Latency {
    /// Takes in one sample that ended at `now`.
    pub(crate) fn observe(&self, sample: Duration, now: Instant, decay: Duration) {
        let sample = sample.as_nanos() as f64;
        let average = self.nanos(now, decay);
        let value = if average == 0.0 || sample >= average {
            sample
        } else {
            let keep = self.keep(now, decay);
            let last = f64::from_bits(self.nanos.load(Relaxed));
            last * keep + sample * (1.0 - keep)
        };
        self.nanos.store(value.to_bits(), Relaxed);
        self.at.store(self.since_start(now), Relaxed);
    }

    /// The average at `now`: without new samples it falls towards zero, so that a backend that was
    /// once slow is tried again.
    pub(crate) fn nanos(&self, now: Instant, decay: Duration) -> f64 {
        f64::from_bits(self.nanos.load(Relaxed)) * self.keep(now, decay)
    }

    /// The share of the old average that is left at `now`.
    fn keep(&self, now: Instant, decay: Duration) -> f64 {
        let age = self.since_start(now).saturating_sub(self.at.load(Relaxed));
        (-(age as f64) / decay.as_nanos().max(1) as f64).exp()
    }

    fn since_start(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn peaks_are_believed_at_once_and_forgotten_with_time() {
        let decay = Duration::from_secs(10);
        let latency = Latency::default();
        let ms = Duration::from_millis;
        latency.observe(ms(10), Instant::now(), decay);
        latency.observe(ms(100), Instant::now(), decay);
        assert_eq!(latency.nanos(Instant::now(), decay), 100e6, "a peak counts at once");
        latency.observe(ms(10), Instant::now(), decay);
        assert_eq!(latency.nanos(Instant::now(), decay), 100e6, "no time has passed since");
        tokio::time::advance(Duration::from_secs(10)).await;
        let aged = latency.nanos(Instant::now(), decay);
        assert!((36e6..38e6).contains(&aged), "1/e is left after the decay time, got {aged}");
        latency.observe(ms(50), Instant::now(), decay);
        assert_eq!(latency.nanos(Instant::now(), decay), 50e6, "above the aged average: a peak");
    }
}
