//! Streams that are open for longer keep their sessions alive in the engine, too, so that other gateways
//! know of it.

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
    time::{Instant, sleep},
};

use super::{cache::PinCache, script::FRACTION};

/// So many entries are looked at before others have a turn.
const AT_ONCE: usize = 1024;

impl PinCache {
    /// A session is open, which may be idle for so long: sees to it that it is kept alive.
    #[inline]
    pub(super) fn keep_alive(self: &Arc<Self>, idle: Duration) {
        self.keeper.note(idle);
        if !self.keeper.running.load(Relaxed) {
            self.start_keeper();
        }
    }

    #[cold]
    fn start_keeper(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.keeper.running.swap(true, AcqRel) {
            return;
        }
        let running = Running(Arc::downgrade(self));
        drop(runtime.spawn(async move {
            loop {
                let Some(pause) = running.0.upgrade().map(|shared| shared.pause()) else { return };
                sleep(pause).await;
                let Some(shared) = running.0.upgrade() else { return };
                shared.touch_open().await;
            }
        }));
    }

    fn pause(&self) -> Duration {
        let pause = self.recheck.min(self.keeper.idle() / FRACTION);
        pause.clamp(Duration::from_millis(10), Duration::from_secs(3600))
    }

    /// Tells the engine of every session that has been open since it was last told.
    async fn touch_open(self: &Arc<Self>) {
        let (idle, recheck) = (self.keeper.idle(), self.pause());
        for (number, (key, entry)) in self.table.iter().enumerate() {
            if self.engine.is_up()
                && let Some(offer) = entry.due_while_open(Instant::now(), recheck)
            {
                self.offer(key, entry, offer, idle);
            }
            if number % AT_ONCE == AT_ONCE - 1 {
                yield_now().await;
            }
        }
    }
}

/// The task, until this is dropped, in whatever way.
struct Running(Weak<PinCache>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.keeper.running.store(false, Release);
        }
    }
}
