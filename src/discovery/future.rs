//! [`Discovery`]: the future that updates a pool.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::watch;

use super::{
    DiscoveryEnd, DiscoveryHandle, DiscoveryStats, Target, on_removed::OnRemoved, report::Control,
};
use crate::pool::Backends;

type Running = Pin<Box<dyn Future<Output = DiscoveryEnd> + Send>>;

enum Stage {
    New(Box<dyn FnOnce() -> Running + Send>),
    Running(Running),
    Ended,
}

/// Updates a pool as long as it is polled: spawn it, or await it. See [the module](super) for its rules.
///
/// It ends with its source, or when the pool's last handle is dropped. If it is dropped, the pool stays as
/// it is.
#[must_use = "a discovery does nothing unless it is spawned or awaited"]
pub struct Discovery {
    stage: Stage,
    stats: watch::Receiver<DiscoveryStats>,
    control: watch::Sender<Control>,
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
        let (control, controlled) = watch::channel(Control::default());
        let start = move || Box::pin(run(Target::new(pool, open, controlled, sender))) as Running;
        Self { stage: Stage::New(Box::new(start)), stats, control }
    }

    /// What to do with a backend that is no longer found; default [`OnRemoved::Remove`].
    pub fn on_removed(self, on_removed: OnRemoved) -> Self {
        self.control.send_modify(|control| control.on_removed = on_removed);
        self
    }

    /// A handle that observes this discovery from another task, and can end it.
    pub fn handle(&self) -> DiscoveryHandle {
        DiscoveryHandle { stats: self.stats.clone(), control: self.control.clone() }
    }
}

impl Future for Discovery {
    type Output = DiscoveryEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DiscoveryEnd> {
        let mut running = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::New(start) => start(),
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
            .field("control", &*self.control.borrow())
            .field("stats", &*self.stats.borrow())
            .finish_non_exhaustive()
    }
}
