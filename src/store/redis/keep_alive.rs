//! State of the task that keeps open sessions alive in Redis.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// Whether the task runs, and the shortest idle time in use, which decides how often the task runs over
/// the table.
#[derive(Debug)]
pub(super) struct KeepAlive {
    shortest_idle_millis: AtomicU64,
    /// Notified when the shortest idle time becomes shorter.
    pub(super) shortened: Arc<Notify>,
    pub(super) running: AtomicBool,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            shortest_idle_millis: AtomicU64::new(u64::MAX),
            shortened: Arc::default(),
            running: AtomicBool::new(false),
        }
    }
}

impl KeepAlive {
    /// Records an idle time that is in use. One relaxed load, unless it is the shortest so far.
    #[inline]
    pub(super) fn note(&self, idle: Duration) {
        let millis = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        if millis < self.shortest_idle_millis.load(Relaxed) {
            self.shorten(millis);
        }
    }

    #[cold]
    fn shorten(&self, millis: u64) {
        self.shortest_idle_millis.fetch_min(millis, Relaxed);
        self.shortened.notify_one();
    }

    pub(super) fn shortest_idle(&self) -> Duration {
        Duration::from_millis(self.shortest_idle_millis.load(Relaxed))
    }
}
