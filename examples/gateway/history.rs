//! How reloads have ended.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tower_sticky::metrics::OwnMetric;

use crate::state::unix_millis;

/// How often the file was read again, and when that has succeeded.
#[derive(Debug)]
pub(crate) struct History {
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// In seconds since 1970: of the start, or of a reload.
    last_success: AtomicU64,
}

impl History {
    pub(crate) fn new() -> Self {
        let last_success = AtomicU64::new(unix_millis() / 1000);
        Self { succeeded: AtomicU64::new(0), failed: AtomicU64::new(0), last_success }
    }

    pub(crate) fn record(&self, succeeded: bool) {
        if succeeded {
            self.succeeded.fetch_add(1, Relaxed);
            self.last_success.store(unix_millis() / 1000, Relaxed);
        } else {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn metrics(&self) -> [OwnMetric; 2] {
        let reloads = OwnMetric::counter(
            "sticky_config_reloads_total",
            "Times that the configuration was read again.",
        );
        let last = OwnMetric::gauge(
            "sticky_config_last_success_timestamp_seconds",
            "When the configuration was last read without an error, in seconds since 1970.",
        );
        [
            reloads
                .value(&[("result", "success")], self.succeeded.load(Relaxed))
                .value(&[("result", "failure")], self.failed.load(Relaxed)),
            last.value(&[], self.last_success.load(Relaxed)),
        ]
    }
}
