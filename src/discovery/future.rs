//! `Feed`: the future that keeps a pool up to date.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::watch;

use super::{FeedEnd, FeedHandle, FeedStats, Target, on_removed::Leave};
use crate::pool::Backends;

type Running = Pin<Box<dyn Future<Output = FeedEnd> + Send>>;

enum Stage {
    New(Box<dyn FnOnce(Leave) -> Running + Send>),
    Running(Running),
    Over,
}

/// Keeps a pool up to date for as long as it is polled: spawn it, or await it. See [the
/// module](super) for what it does and does not.
///
/// It ends with its source, or with the pool's last handle. Dropped, it leaves the pool as it is.
#[must_use = "a feed does nothing unless it is spawned or awaited"]
pub struct Feed {
    leave: Leave,
    stage: Stage,
    stats: watch::Receiver<FeedStats>,
}

impl Feed {
    pub(super) fn new<S, F>(
        backends: &Backends<S>,
        run: impl FnOnce(Target<S>) -> F + Send + 'static,
    ) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Future<Output = FeedEnd> + Send + 'static,
    {
        let (told, stats) = watch::channel(FeedStats::default());
        let pool = Arc::downgrade(backends.pool());
        let open = backends.pool().open.subscribe();
        let start = move |leave| Box::pin(run(Target::new(pool, open, leave, told))) as Running;
        Self { leave: Leave::default(), stage: Stage::New(Box::new(start)), stats }
    }

    /// What to do with a backend that the feed no longer names; default: [`Leave::Remove`]. Without
    /// effect once the feed runs.
    pub fn leave(mut self, leave: Leave) -> Self {
        self.leave = leave;
        self
    }

    /// A handle that tells how the feed does.
    pub fn handle(&self) -> FeedHandle {
        FeedHandle { stats: self.stats.clone() }
    }
}

impl Future for Feed {
    type Output = FeedEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<FeedEnd> {
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

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("leave", &self.leave)
            .field("stats", &*self.stats.borrow())
            .finish_non_exhaustive()
    }
}
