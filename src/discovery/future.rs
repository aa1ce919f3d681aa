//! [`Discovery`]: the future that updates a pool.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::watch;

use super::{DiscoveryEnd, DiscoveryHandle, DiscoveryStats, Target, on_removed::OnRemoved};
use crate::pool::Backends;

type Running = Pin<Box<dyn Future<Output = DiscoveryEnd> + Send>>;

enum Stage {
    New(Box<dyn FnOnce(OnRemoved) -> Running + Send>),
    Running(Running),
    Ended,
}

/// Updates a pool as long as it is polled: spawn it, or await it. See [the module](super) for its rules.
///
/// It ends with its source, or when the pool's last handle is dropped. If it is dropped, the pool stays as
/// it is.
#[must_use = "a discovery does nothing unless it is spawned or awaited"]
pub struct Discovery {
    on_removed: OnRemoved,
    stage: Stage,
    stats: watch::Receiver<DiscoveryStats>,
}

impl Discovery {
    pub(super) fn new<S, F>(
        backends: &Backends<S>,
        run: impl FnOnce(Target<S>) -> F + Send + 'static,
    ) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Future<Output = DiscoveryEnd> + Send + 'static,
    {
        let (sender, stats) = watch::channel(DiscoveryStats::default());
        let pool = Arc::downgrade(backends.pool());
        let open = backends.pool().open.subscribe();
        let start =
            move |on_removed| Box::pin(run(Target::new(pool, open, on_removed, sender))) as Running;
        let on_removed = OnRemoved::default();
        Self { on_removed, stage: Stage::New(Box::new(start)), stats }
    }

    /// What to do with a backend that is no longer found; default [`OnRemoved::Remove`]. Has no effect
    /// after the first poll.
    pub fn on_removed(mut self, on_removed: OnRemoved) -> Self {
        self.on_removed = on_removed;
        self
    }

    /// A handle that observes this discovery from another task.
    pub fn handle(&self) -> DiscoveryHandle {
        DiscoveryHandle { stats: self.stats.clone() }
    }
}

impl Future for Discovery {
    type Output = DiscoveryEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DiscoveryEnd> {
        let on_removed = self.on_removed;
        let mut running = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::New(start) => start(on_removed),
            Stage::Running(running) => running,
            // Polled after completion.
            Stage::Ended => return Poll::Ready(DiscoveryEnd::Ended),
        };
        let poll = running.as_mut().poll(cx);
        if poll.is_pending() {
            self.stage = Stage::Running(running);
        }
        poll
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery")
            .field("on_removed", &self.on_removed)
            .field("stats", &*self.stats.borrow())
            .finish_non_exhaustive()
    }
}
