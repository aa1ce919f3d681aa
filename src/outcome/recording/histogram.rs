//! Histograms of durations with fixed buckets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::util::shards::{Access, Sharded};

/// The upper bounds of the buckets in nanoseconds: those that the semantic conventions of OpenTelemetry
/// recommend for `http.server.request.duration`, from 5 ms to 10 s.
const NANOS: [u64; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// The same in seconds, as they are written.
pub(crate) const BOUNDS: [&str; NANOS.len()] = [
    "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0",
    "7.5", "10.0",
];

const BUCKETS: usize = NANOS.len() + 1;

/// The counters of one histogram, or of a shard of it.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    /// In microseconds: the sum of nanoseconds could overflow within weeks of long streams.
    sum: AtomicU64,
}

impl Histogram {
    #[inline]
    pub(super) fn observe(&self, nanos: u64, access: Access) {
        // Most durations are in the first bucket.
        let bucket = NANOS.iter().position(|bound| nanos <= *bound).unwrap_or(NANOS.len());
        access.add(&self.buckets[bucket], 1);
        access.add(&self.sum, nanos / 1000);
    }
}

/// The durations of requests: until the first byte of the response, and until the end of its body.
#[derive(Debug, Default)]
pub(super) struct Durations {
    pub(super) first_byte: Histogram,
    pub(super) whole: Histogram,
}

/// A histogram that any thread may record in, for what happens seldom.
#[cfg(feature = "redis")]
#[derive(Debug, Default)]
pub(crate) struct SharedHistogram(Histogram);

#[cfg(feature = "redis")]
impl SharedHistogram {
    pub(crate) fn observe(&self, duration: std::time::Duration) {
        self.0.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Access::Shared);
    }

    pub(crate) fn totals(&self) -> HistogramTotals {
        HistogramTotals::of([&self.0].into_iter())
    }
}

/// What a histogram holds at one time.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct HistogramTotals {
    buckets: [u64; BUCKETS],
    sum: u64,
}

impl HistogramTotals {
    pub(super) fn of<'a>(shards: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut totals = Self::default();
        for shard in shards {
            for (total, bucket) in totals.buckets.iter_mut().zip(&shard.buckets) {
                *total += bucket.load(Relaxed);
            }
            totals.sum = totals.sum.wrapping_add(shard.sum.load(Relaxed));
        }
        totals
    }

    /// Adds those of another histogram.
    pub(super) fn add(&mut self, other: &Self) {
        for (total, bucket) in self.buckets.iter_mut().zip(&other.buckets) {
            *total += bucket;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// How many durations are at most as long as each of the [`BOUNDS`].
    pub(crate) fn cumulative(&self) -> [u64; BOUNDS.len()] {
        let mut sum = 0;
        std::array::from_fn(|bucket| {
            sum += self.buckets[bucket];
            sum
        })
    }

    /// How many durations there are.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean in seconds, and the bound within which 99 % of them are; `None` if there are none.
    #[cfg(feature = "admin")]
    pub(crate) fn mean_and_p99(&self) -> Option<(f64, f64)> {
        let count = self.count();
        let within = self.cumulative().iter().position(|sum| *sum * 100 >= count * 99);
        let bound = within.map_or(f64::INFINITY, |bucket| NANOS[bucket] as f64 / 1e9);
        (count > 0).then(|| (self.sum() / count as f64, bound))
    }

    /// Their sum in seconds.
    pub(crate) fn sum(&self) -> f64 {
        self.sum as f64 / 1e6
    }
}

/// A histogram that each thread records in its own shard of.
pub(super) fn totals<T>(
    shards: &Sharded<T>,
    histogram: impl Fn(&T) -> &Histogram,
) -> HistogramTotals {
    HistogramTotals::of(shards.iter().map(histogram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_belongs_to_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for nanos in [0, 5_000_000, 5_000_001, 10_000_000_000, 10_000_000_001, u64::MAX] {
            histogram.observe(nanos, Access::Exclusive);
        }
        let totals = HistogramTotals::of([&histogram].into_iter());
        let cumulative = totals.cumulative();
        assert_eq!(cumulative[..3], [2, 3, 3]);
        assert_eq!(cumulative[13], 4);
        assert_eq!(totals.count(), 6, "those beyond the last bound are counted");
    }

    #[test]
    fn the_written_bounds_are_those_that_are_compared() {
        for (text, nanos) in BOUNDS.iter().zip(NANOS) {
            let seconds: f64 = text.parse().unwrap();
            assert_eq!((seconds * 1e9).round() as u64, nanos);
        }
    }
}
