//! `SuccessRate`: finds backends that fail more often than the others.

use std::time::Duration;

/// Ejects backends whose answers fail more often than those of the others, as Envoy's outlier detection
/// by success rate does: once per interval, those are ejected whose success rate is below the mean by
/// more than `factor` standard deviations.
///
/// Failures are failing answers, as defined by
/// [`Health::consecutive_failures`](crate::Health::consecutive_failures), and failed connections. A
/// backend with too few requests in the interval is left out, and no backend is ejected when too few
/// can be compared.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::{Health, SuccessRate};
///
/// let rate = SuccessRate::new().interval(Duration::from_secs(30)).min_backends(3);
/// let health = Health::new().success_rate(rate);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    pub(super) interval: Duration,
    min_requests: u32,
    min_backends: usize,
    factor: f64,
}

impl SuccessRate {
    /// Every 10 s, with at least 100 requests per backend and 5 such backends, and a factor of 1.9.
    pub const fn new() -> Self {
        Self { interval: Duration::from_secs(10), min_requests: 100, min_backends: 5, factor: 1.9 }
    }

    /// How often the backends are compared, at least a millisecond; default 10 s.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = super::settings::clamp_interval(interval);
        self
    }

    /// How many requests in the interval a backend needs to be compared, at least 1; default 100.
    #[must_use]
    pub fn min_requests(mut self, requests: u32) -> Self {
        self.min_requests = requests.max(1);
        self
    }

    /// How many such backends a comparison needs, at least 2; default 5.
    #[must_use]
    pub fn min_backends(mut self, backends: usize) -> Self {
        self.min_backends = backends.max(2);
        self
    }

    /// How many standard deviations below the mean a success rate may be; default 1.9.
    ///
    /// A single one of `n` backends can be at most the square root of `n - 1` standard deviations below
    /// the mean: 2 with 5 backends, 3 with 10.
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// The positions of the outliers among `(answered, failed)`, the worst first.
    pub(super) fn outliers(&self, counts: &[(u32, u32)]) -> Vec<usize> {
        let rate = |&(total, failed): &(u32, u32)| 1.0 - f64::from(failed) / f64::from(total);
        let compared =
            counts.iter().enumerate().filter(|(_, counts)| counts.0 >= self.min_requests);
        let mut rates: Vec<_> =
            compared.map(|(position, counts)| (position, rate(counts))).collect();
        if rates.len() < self.min_backends {
            return Vec::new();
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|&(_, rate)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|&(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
        let least = mean - self.factor * variance.sqrt();
        rates.retain(|&(_, rate)| rate < least);
        rates.sort_by(|a, b| a.1.total_cmp(&b.1));
        rates.into_iter().map(|(position, _)| position).collect()
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_are_below_the_mean_by_the_factor_of_deviations() {
        // Rates 1.0 (four times) and 0.9: the mean is 0.98, the standard deviation 0.04.
        let counts = [(100, 0), (100, 0), (100, 10), (100, 0), (100, 0)];
        let by = |factor| SuccessRate::new().factor(factor);
        assert_eq!(by(1.99).outliers(&counts), [2], "0.9 is below 0.98 - 1.99 * 0.04");
        assert!(by(2.01).outliers(&counts).is_empty(), "0.9 is above 0.98 - 2.01 * 0.04");
        assert!(by(1.9).outliers(&[(100, 50); 5]).is_empty(), "all backends have the same rate");
        assert!(by(1.9).outliers(&[]).is_empty());
    }

    #[test]
    fn too_few_requests_or_backends_are_not_compared() {
        let rate = SuccessRate::new();
        let counts = [(99, 99), (100, 0), (100, 0), (100, 0), (100, 0)];
        assert!(rate.outliers(&counts).is_empty(), "only four backends can be compared");
        let counts = [(99, 99), (100, 0), (100, 0), (100, 0), (100, 0), (100, 0), (500, 400)];
        assert_eq!(rate.outliers(&counts), [6], "the first has too few requests");
    }

    #[test]
    fn shares_of_failures_are_compared_and_not_their_numbers() {
        let counts = [(1000, 10), (1000, 10), (100, 5), (1000, 10), (1000, 10)];
        assert_eq!(SuccessRate::new().outliers(&counts), [2], "5 % fail, and not 1 %");
    }

    #[test]
    fn worst_outlier_comes_first() {
        let mut counts = vec![(100, 0); 20];
        (counts[3], counts[11]) = ((100, 60), (100, 80));
        assert_eq!(SuccessRate::new().outliers(&counts), [11, 3]);
    }

    #[test]
    fn fewer_backends_may_be_enough() {
        let counts = [(100, 0), (100, 0), (100, 0), (10, 10)];
        let rate = SuccessRate::new().min_requests(10).factor(1.0);
        assert!(rate.outliers(&counts).is_empty());
        assert_eq!(rate.min_backends(4).outliers(&counts), [3]);
        assert_eq!(rate.min_backends(0).min_backends, 2, "one has nothing to be compared with");
        assert_eq!(SuccessRate::new().min_requests(0).min_requests, 1);
    }
}
