//! `OwnMetric`: a metric of the application's own.

use super::{
    catalog::{Kind, Metric},
    visit::Sink,
};

/// A metric of the application's own, for a [`Report`](super::Report).
///
/// # Example
///
/// ```
/// use tower_sticky::metrics::{OwnMetric, Report};
///
/// let reloads = OwnMetric::counter("app_reloads_total", "Reloads of the configuration.")
///     .value(&[("result", "success")], 3)
///     .value(&[("result", "failure")], 0);
/// let text = Report::new().own(reloads).prometheus();
/// assert!(text.contains("app_reloads_total{result=\"success\"} 3\n"));
/// ```
#[derive(Debug, Clone)]
#[must_use = "a metric does nothing until it is in a report"]
pub struct OwnMetric {
    metric: Metric,
    samples: Vec<(Vec<(&'static str, String)>, u64)>,
}

impl OwnMetric {
    /// A total that only grows. Its name should end in `_total`.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Counter, help)
    }

    /// A value that goes up and down.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, help)
    }

    fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { metric: Metric { name, kind, help }, samples: Vec::new() }
    }

    /// Adds the value with these labels.
    pub fn value(mut self, labels: &[(&'static str, &str)], value: u64) -> Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
        self.samples.push((labels.collect(), value));
        self
    }

    pub(super) fn visit(&self, sink: &mut impl Sink) {
        sink.begin(self.metric);
        for (labels, value) in &self.samples {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, &**value)).collect();
            sink.value(&labels, *value);
        }
    }
}
