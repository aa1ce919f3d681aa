//! Keeps sessions with a request or stream in flight alive in Redis, so that other gateways do not lose
//! them while the stream lasts.

use std::{
    sync::{
        Arc, Weak,
        atomic::Ordering::{AcqRel, Relaxed, Release},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::yield_now,
    time::{Instant, timeout},
};

use super::{cache::PinCache, script::FRACTION};

/// How many entries are checked before the task yields.
const BATCH: usize = 1024;

const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

impl PinCache {
    /// Makes sure that sessions with this idle time are kept alive while they are open.
    #[inline]
    pub(super) fn keep_alive(self: &Arc<Self>, idle: Duration) {
        self.keep_alive.note(idle);
        if !self.keep_alive.running.load(Relaxed) {
            self.start_keep_alive();
        }
    }

    #[cold]
    fn start_keep_alive(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.keep_alive.running.swap(true, AcqRel) {
            return;
        }
        let shortened = self.keep_alive.shortened.clone();
        let running = Running(Arc::downgrade(self));
        drop(runtime.spawn(async move {
            loop {
                let Some(cache) = running.0.upgrade() else { return };
                let interval = cache.touch_interval(cache.keep_alive.shortest_idle());
                drop(cache);
                if timeout(interval, shortened.notified()).await.is_ok() {
                    // The interval has become shorter.
                    continue;
                }
                let Some(cache) = running.0.upgrade() else { return };
                cache.touch_open().await;
            }
        }));
    }

    /// How often an open session with this idle time is touched.
    fn touch_interval(&self, idle: Duration) -> Duration {
        self.recheck.min(idle / FRACTION).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
    }

    /// Touches each open session in Redis whose own interval has passed.
    async fn touch_open(self: &Arc<Self>) {
        for (number, (key, entry)) in self.table.iter().enumerate() {
            if self.engine.is_up() {
                let idle = entry.idle();
                let interval = self.touch_interval(idle);
                // A little less, so that the round trip of the last touch does not put this one off
                // until the next run.
                let interval = interval - interval / 16;
                if let Some(write) = entry.touch_if_open(Instant::now(), interval) {
                    self.send_write(key, entry, write, idle);
                }
            }
            if number % BATCH == BATCH - 1 {
                yield_now().await;
            }
        }
    }
}

/// Marks the task as running until it is dropped, for example with its runtime.
struct Running(Weak<PinCache>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(cache) = self.0.upgrade() {
            cache.keep_alive.running.store(false, Release);
        }
    }
}
