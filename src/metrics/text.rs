//! The text formats: [Prometheus 0.0.4] and [OpenMetrics 1.0.0].
//!
//! [Prometheus 0.0.4]: https://prometheus.io/docs/instrumenting/exposition_formats/
//! [OpenMetrics 1.0.0]: https://prometheus.io/docs/specs/om/open_metrics_spec/

use std::fmt::Write;

use super::{
    catalog::{Kind, Metric},
    visit::{Labels, Sink},
};
use crate::outcome::recording::{BOUNDS, HistogramTotals};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Prometheus,
    OpenMetrics,
}

/// Writes samples as text. A metric without samples has only its description.
pub(super) struct Text {
    format: Format,
    text: String,
    /// The name of the samples that are written.
    name: &'static str,
}

impl Text {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::new(), name: "" }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn describe(&mut self, metric: &Metric) {
        let family = match (self.format, metric.kind) {
            // OpenMetrics names the family without the suffix of its samples.
            (Format::OpenMetrics, Kind::Counter) => {
                metric.name.strip_suffix("_total").unwrap_or(metric.name)
            }
            _ => metric.name,
        };
        self.push(&["# HELP ", family, " ", metric.help, "\n"]);
        self.push(&["# TYPE ", family, " ", metric.kind.as_str(), "\n"]);
        if self.format == Format::OpenMetrics && family.ends_with("_seconds") {
            self.push(&["# UNIT ", family, " seconds\n"]);
        }
    }

    fn push(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.text.push_str(part));
    }

    /// Name and labels of a sample, up to the space before its value.
    fn begin_sample(&mut self, suffix: &str, labels: &Labels<'_>, bound: Option<&str>) {
        self.push(&[self.name, suffix]);
        if labels.is_empty() && bound.is_none() {
            self.text.push(' ');
            return;
        }
        self.text.push('{');
        let mut separator = "";
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.push(&[separator, name, "=\""]);
            self.push_escaped(value);
            self.text.push('"');
            separator = ",";
        }
        self.text.push_str("} ");
    }

    /// A label's value: backslash, quote and line feed are escaped.
    fn push_escaped(&mut self, value: &str) {
        if !value.contains(['\\', '"', '\n']) {
            self.text.push_str(value);
            return;
        }
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
    }

    fn sample(&mut self, suffix: &str, labels: &Labels<'_>, bound: Option<&str>, value: u64) {
        self.begin_sample(suffix, labels, bound);
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{value}");
    }
}

impl Sink for Text {
    fn begin(&mut self, metric: Metric) {
        self.name = metric.name;
        self.describe(&metric);
    }

    fn value(&mut self, labels: &Labels<'_>, value: u64) {
        self.sample("", labels, None, value);
    }

    fn histogram(&mut self, labels: &Labels<'_>, totals: &HistogramTotals) {
        for (bound, count) in BOUNDS.iter().zip(totals.cumulative()) {
            self.sample("_bucket", labels, Some(bound), count);
        }
        let count = totals.count();
        self.sample("_bucket", labels, Some("+Inf"), count);
        self.begin_sample("_sum", labels, None);
        let _ = writeln!(self.text, "{}", totals.sum());
        self.sample("_count", labels, None, count);
    }
}
