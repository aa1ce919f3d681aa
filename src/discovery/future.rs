//! `Discovery`: the future that keeps a pool up to date.

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
    Over,
}

/// Keeps a pool up to date for as long as it is polled: spawn it, or await it. See [the
/// module](super) for what it does and does not.
///
/// It ends with its source, or with the pool's last handle. Dropped, it leaves the pool as it is.
#[must_use = "a feed does nothing unless it is spawned or awaited"]
pub struct Discovery {
    leave: OnRemoved,
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
        let (told, stats) = watch::channel(DiscoveryStats::default());
        let pool = Arc::downgrade(backends.pool());
        let open = backends.pool().open.subscribe();
        let start = move |leave| Box::pin(run(Target::new(pool, open, leave, told))) as Running;
        Self { leave: OnRemoved::default(), stage: Stage::New(Box::new(start)), stats }
    }

    /// What to do with a backend that the feed no longer names; default: [`OnRemoved::Remove`]. Without
    /// effect once the feed runs.
    pub fn leave(mut self, leave: OnRemoved) -> Self {
        self.leave = leave;
        self
    }

    /// A handle that tells how the feed does.
    pub fn handle(&self) -> DiscoveryHandle {
        DiscoveryHandle { stats: self.stats.clone() }
    }
}

impl Future for Discovery {
    type Output = DiscoveryEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DiscoveryEnd> {
        let leave = self.leave;
        let mut running = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(start) => start(leave),
            Stage::Running(running) => running,
            Stage::Over => return Poll::Pending,
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
        f.debug_struct("Feed")
            .field("leave", &self.leave)
            .field("stats", &*self.stats.borrow())
            .finish_non_exhaustive()
    }
}
