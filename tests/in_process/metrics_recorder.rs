//! Metrics that are handed to a recorder.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tower_sticky::metrics::Report;

use crate::support::{get, sealed_session};

/// Keeps the totals of its counters and gauges.
#[derive(Debug, Default)]
struct Keeper(Mutex<BTreeMap<String, Arc<Total>>>);

#[derive(Debug, Default)]
struct Total(AtomicU64);

impl CounterFn for Total {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, SeqCst);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, SeqCst);
    }
}

impl Recorder for Keeper {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{} {}", key.name(), labels.join(" "));
        Counter::from_arc(self.0.lock().unwrap().entry(name).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn totals_are_handed_to_the_recorder_that_is_installed() {
    let (backends, [_a], service, mut client) = sealed_session(["a"]).await;
    let keeper = Keeper::default();
    let report = || Report::new().pool(&backends);
    report().publish();
    metrics::with_local_recorder(&keeper, || report().publish());
    client.send(&service, get()).await;
    metrics::with_local_recorder(&keeper, || report().publish());
    let totals = keeper.0.lock().unwrap();
    let total = |name: &str| totals.get(name).map(|total| total.0.load(SeqCst));
    let pinned = "sticky_requests_total pool=default backend=a outcome=pinned reason= class=2xx";
    assert_eq!(total(pinned), Some(1), "{totals:?}");
    assert_eq!(total("sticky_request_duration_seconds_bucket pool=default le=+Inf"), Some(2));
    assert_eq!(total("sticky_request_duration_seconds_count pool=default"), Some(2));
}
