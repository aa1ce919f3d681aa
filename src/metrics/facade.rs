//! Hands the totals to a recorder of the `metrics` crate.

use ::metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};

use super::{
    catalog::{Kind, Metric},
    visit::{Labels, Sink},
};
use crate::outcome::recording::{BOUNDS, HistogramTotals};

const METADATA: Metadata<'static> =
    Metadata::new("tower_sticky", Level::INFO, Some("tower_sticky"));

/// Sets the values of a recorder.
pub(super) struct Facade<'a> {
    recorder: &'a dyn Recorder,
    metric: Option<Metric>,
}

impl<'a> Facade<'a> {
    pub(super) fn new(recorder: &'a dyn Recorder) -> Self {
        Self { recorder, metric: None }
    }

    fn key(&self, suffix: &str, labels: &Labels<'_>, bound: Option<&'static str>) -> Key {
        let labels = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned()));
        let bound = bound.map(|bound| Label::new("le", bound));
        Key::from_parts(self.name(suffix), labels.chain(bound).collect::<Vec<_>>())
    }

    fn name(&self, suffix: &str) -> SharedString {
        match (self.metric, suffix) {
            (Some(metric), "") => metric.name.into(),
            (Some(metric), suffix) => format!("{}{suffix}", metric.name).into(),
            (None, _) => "".into(),
        }
    }

    fn counter(&self, key: &Key, total: u64) {
        self.recorder.register_counter(key, &METADATA).absolute(total);
    }

    fn gauge(&self, key: &Key, value: f64) {
        self.recorder.register_gauge(key, &METADATA).set(value);
    }
}

impl Sink for Facade<'_> {
    fn begin(&mut self, metric: Metric) {
        self.metric = Some(metric);
        let describe = |suffix: &str, is_counter: bool| {
            let name = KeyName::from(self.name(suffix));
            let (unit, help) = (Some(Unit::Count), SharedString::from(metric.help));
            match is_counter {
                true => self.recorder.describe_counter(name, unit, help),
                false => self.recorder.describe_gauge(name, unit, help),
            }
        };
        match metric.kind {
            Kind::Counter => describe("", true),
            Kind::Gauge => describe("", false),
            Kind::Histogram => {
                describe("_bucket", true);
                describe("_count", true);
                let (name, unit) = (KeyName::from(self.name("_sum")), Some(Unit::Seconds));
                self.recorder.describe_gauge(name, unit, metric.help.into());
            }
        }
    }

    fn value(&mut self, labels: &Labels<'_>, value: u64) {
        let key = self.key("", labels, None);
        match self.metric.map(|metric| metric.kind) {
            Some(Kind::Gauge) => self.gauge(&key, value as f64),
            _ => self.counter(&key, value),
        }
    }

    fn histogram(&mut self, labels: &Labels<'_>, totals: &HistogramTotals) {
        let count = totals.count();
        for (bound, count) in BOUNDS.into_iter().zip(totals.cumulative()).chain([("+Inf", count)]) {
            self.counter(&self.key("_bucket", labels, Some(bound)), count);
        }
        self.counter(&self.key("_count", labels, None), count);
        self.gauge(&self.key("_sum", labels, None), totals.sum());
    }
}
