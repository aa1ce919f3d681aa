//! Counters of good and failed answers, for the comparison of success rates.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The answers of one backend since the last comparison. Counted only if the success rates of
/// backends are compared.
#[derive(Debug, Default)]
pub(crate) struct AnswerCounts {
    total: AtomicU32,
    failed: AtomicU32,
}

impl AnswerCounts {
    pub(crate) fn count(&self, failed: bool) {
        self.total.fetch_add(1, Relaxed);
        if failed {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    /// Resets the counters, and returns `(total, failed)`.
    pub(crate) fn take(&self) -> (u32, u32) {
        let failed = self.failed.swap(0, Relaxed);
        // Another thread may count between the two lines; `failed` must not exceed `total`.
        let total = self.total.swap(0, Relaxed);
        (total, failed.min(total))
    }
}
