//! Logs local resource shortages without flooding the log.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    error::{BoxError, Shortage},
    util::lock,
};

/// The shortest time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Logs the shortages of one pool: at most one line per [`LOG_INTERVAL`], with the number of
/// shortages since the line before.
#[derive(Debug, Default)]
pub(crate) struct ShortageLog {
    /// Shortages that have not been logged yet.
    count: AtomicU64,
    logged: Mutex<Option<Instant>>,
}

impl ShortageLog {
    /// Counts one request that failed because of `shortage`, and logs it if a line is due.
    pub(crate) fn record(&self, shortage: Shortage, error: &BoxError) {
        let count = self.count.fetch_add(1, Relaxed) + 1;
        let now = Instant::now();
        let mut logged = lock(&self.logged);
        if logged.is_some_and(|logged| now - logged < LOG_INTERVAL) {
            return;
        }
        *logged = Some(now);
        self.count.fetch_sub(count, Relaxed);
        tracing::error!(count, %error, "{shortage}; no backend is blamed for it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shortages_within_the_interval_are_logged_as_one_line() {
        let log = ShortageLog::default();
        let error: BoxError = "too many open files".into();
        let record = || log.record(Shortage::ProcessFiles, &error);
        record();
        assert_eq!(log.count.load(Relaxed), 0, "the first is logged immediately");
        for _ in 0..5 {
            record();
        }
        assert_eq!(log.count.load(Relaxed), 5, "the next ones are only counted");
        tokio::time::advance(LOG_INTERVAL).await;
        record();
        assert_eq!(log.count.load(Relaxed), 0, "the counted ones are logged together");
    }
}
