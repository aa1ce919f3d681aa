//! The average latency of a backend, for [`PeakEwma`](crate::strategy::PeakEwma).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// An exponentially weighted moving average that jumps to every peak and decays with time (Finagle's
/// Peak EWMA): a slow answer counts immediately, a fast one gradually.
///
/// Two requests that finish at the same instant may overwrite each other's sample, which is acceptable
/// for an estimate.
#[derive(Debug)]
pub(crate) struct Latency {
    /// Nanoseconds, as the bits of an `f64`; 0 before the first sample.
    nanos: AtomicU64,
    /// When `nanos` was stored, in nanoseconds after `start`.
    at: AtomicU64,
    start: Instant,
}

impl Default for Latency {
    fn default() -> Self {
        Self { nanos: AtomicU64::new(0), at: AtomicU64::new(0), start: Instant::now() }
    }
}

impl Latency {
    /// Adds a sample that ended at `now`.
    pub(crate) fn observe(&self, sample: Duration, now: Instant, decay: Duration) {
        let sample = sample.as_nanos() as f64;
        let average = self.nanos(now, decay);
        let value = if average == 0.0 || sample >= average {
            sample
        } else {
            let remaining = self.remaining(now, decay);
            let last = f64::from_bits(self.nanos.load(Relaxed));
            last * remaining + sample * (1.0 - remaining)
        };
        self.nanos.store(value.to_bits(), Relaxed);
        self.at.store(self.since_start(now), Relaxed);
    }

    /// The average at `now`. Without new samples it decays towards zero, so that a backend that was
    /// slow once is tried again.
    pub(crate) fn nanos(&self, now: Instant, decay: Duration) -> f64 {
        f64::from_bits(self.nanos.load(Relaxed)) * self.remaining(now, decay)
    }

    /// The fraction of the last average that is left at `now`.
    fn remaining(&self, now: Instant, decay: Duration) -> f64 {
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
    async fn peaks_count_immediately_and_decay_with_time() {
        let decay = Duration::from_secs(10);
        let latency = Latency::default();
        let ms = Duration::from_millis;
        latency.observe(ms(10), Instant::now(), decay);
        latency.observe(ms(100), Instant::now(), decay);
        assert_eq!(latency.nanos(Instant::now(), decay), 100e6, "a peak counts immediately");
        latency.observe(ms(10), Instant::now(), decay);
        assert_eq!(latency.nanos(Instant::now(), decay), 100e6, "no time has passed");
        tokio::time::advance(Duration::from_secs(10)).await;
        let aged = latency.nanos(Instant::now(), decay);
        assert!((36e6..38e6).contains(&aged), "1/e is left after the decay time, got {aged}");
        latency.observe(ms(50), Instant::now(), decay);
        assert_eq!(
            latency.nanos(Instant::now(), decay),
            50e6,
            "a sample above the decayed average is a peak"
        );
        tokio::time::advance(decay).await;
        latency.observe(ms(10), Instant::now(), decay);
        let average = latency.nanos(Instant::now(), decay);
        assert!((24e6..25e6).contains(&average), "1/e of 50 ms and the rest of 10, got {average}");
    }
}
