//! What became of a backend's requests since the backends were compared for the last time.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What became of a backend's requests since the last comparison; only counted when there are any.
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

    /// Begins a new window; `(answered, failed)` of the old one.
    pub(crate) fn take(&self) -> (u32, u32) {
        let failed = self.failed.swap(0, Relaxed);
        // A request between the two lines may count for the next window: not more failed than came.
        let total = self.total.swap(0, Relaxed);
        (total, failed.min(total))
    }
}
