//! Whether open sessions are kept alive in the engine.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The longest idle time that was asked for, and whether the task runs.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    idle_millis: AtomicU64,
    pub(super) running: AtomicBool,
}

impl Keeper {
    /// Notes how long sessions may be idle.
    #[inline]
    pub(super) fn note(&self, idle: Duration) {
        let millis = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        if self.idle_millis.load(Relaxed) < millis {
            self.idle_millis.fetch_max(millis, Relaxed);
        }
    }

    pub(super) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_millis.load(Relaxed))
    }
}
