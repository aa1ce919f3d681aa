//! The pool as a feed sees it: held weakly, and changed only where the feed may.

use std::{
    collections::HashSet,
    fmt,
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::Weak,
    task::Poll,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{DiscoveryStats, on_removed::OnRemoved};
#[cfg(feature = "dns")]
use crate::pool::Ownership;
use crate::{
    id::BackendId,
    pool::{ChangeKind, MemberChange, Mode, Owner, Pool, RejectedChange},
};

/// Of so many ids that are in trouble a feed remembers that it has warned.
const MAX_TROUBLED: usize = 1024;

pub(super) struct Target<S> {
    pool: Weak<Pool<S>>,
    /// Closed when the pool is gone.
    open: watch::Receiver<()>,
    owner: Owner,
    leave: OnRemoved,
    /// Who is draining because the feed no longer names it, and until when.
    leaving: Vec<(Instant, BackendId)>,
    /// What has been warned of; said once, not at every look-up.
    troubled: HashSet<String>,
    stats: watch::Sender<DiscoveryStats>,
}

impl<S: Clone> Target<S> {
    pub(super) fn new(
        pool: Weak<Pool<S>>,
        open: watch::Receiver<()>,
        leave: OnRemoved,
        stats: watch::Sender<DiscoveryStats>,
    ) -> Self {
        let (owner, leaving, troubled) = Default::default();
        Self { pool, open, owner, leave, leaving, troubled, stats }
    }

    /// What the backend `id` is to this feed.
    #[cfg(feature = "dns")]
    pub(super) fn ownership(&self, id: &BackendId) -> Ownership {
        self.pool.upgrade().map_or(Ownership::Foreign, |pool| pool.ownership(&self.owner, id))
    }

    /// Makes the changes that the feed was told of.
    pub(super) fn update(&mut self, told: Vec<MemberChange<S>>) {
        let mut changes = Vec::with_capacity(told.len());
        for MemberChange { id, kind } in told {
            match kind {
                ChangeKind::Put { .. } => {
                    self.troubled.remove(id.as_str());
                    // Before it gets the service, so that it never takes part in a state between.
                    if let Some(at) = self.leaving.iter().position(|(_, leaving)| *leaving == id) {
                        self.leaving.swap_remove(at);
                        changes.push(MemberChange {
                            id: id.clone(),
                            kind: ChangeKind::Mode(Mode::Active),
                        });
                    }
                    changes.push(MemberChange { id, kind });
                }
                ChangeKind::Remove => self.say_goodbye(id, &mut changes),
                _ => changes.push(MemberChange { id, kind }),
            }
        }
        self.apply(changes);
        self.stats.send_modify(|stats| stats.updates += 1);
    }

    /// Says why a backend is left out.
    pub(super) fn skip(&mut self, id: &str, why: impl fmt::Display) {
        if self.troubled.len() >= MAX_TROUBLED {
            self.troubled.clear();
        }
        if self.troubled.insert(id.to_owned()) {
            tracing::warn!(backend = id, %why, "the feed's backend is left out");
        }
        self.stats.send_modify(|stats| stats.skipped += 1);
    }

    /// Says that the feed could not find out what the backends are.
    pub(super) fn failed(&self, error: impl fmt::Display) {
        tracing::warn!(%error, "the feed failed; the backends stay as they are known");
        self.stats.send_modify(|stats| stats.failures += 1);
    }

    /// Waits for `next`, and meanwhile removes who has drained for long enough; `None` when the pool
    /// is gone.
    pub(super) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Option<T> {
        let mut next = pin!(next);
        let mut open = self.open.clone();
        let mut closed = pin!(async { while open.changed().await.is_ok() {} });
        loop {
            let due = self.leaving.iter().map(|(until, _)| *until).min();
            let mut drained = pin!(async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            });
            let step = poll_fn(|cx| {
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Step::Gone);
                }
                if drained.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Step::Drained);
                }
                next.as_mut().poll(cx).map(Step::Next)
            });
            match step.await {
                Step::Next(next) => return Some(next),
                Step::Gone => return None,
                Step::Drained => self.end_drains(),
            }
        }
    }

    /// Waits until nobody is draining any more; `None` when the pool is gone.
    #[cfg(feature = "discover")]
    pub(super) async fn finish(&mut self) -> Option<()> {
        while let Some(due) = self.leaving.iter().map(|(until, _)| *until).max() {
            self.wait(sleep_until(due)).await?;
        }
        Some(())
    }

    fn say_goodbye(&mut self, id: BackendId, changes: &mut Vec<MemberChange<S>>) {
        self.troubled.remove(id.as_str());
        match self.leave {
            OnRemoved::Remove => changes.push(MemberChange { id, kind: ChangeKind::Remove }),
            OnRemoved::Drain(time) => {
                if self.leaving.iter().any(|(_, leaving)| *leaving == id) {
                    return;
                }
                let now = Instant::now();
                // A time beyond all clocks is as good as a century.
                let until = now.checked_add(time).unwrap_or(now + CENTURY);
                self.leaving.push((until, id.clone()));
                changes.push(MemberChange { id, kind: ChangeKind::Mode(Mode::Draining) });
            }
        }
    }

    fn end_drains(&mut self) {
        let now = Instant::now();
        let mut changes = Vec::new();
        self.leaving.retain(|(until, id)| {
            let over = *until <= now;
            if over {
                changes.push(MemberChange { id: id.clone(), kind: ChangeKind::Remove });
            }
            !over
        });
        self.apply(changes);
    }

    fn apply(&mut self, changes: Vec<MemberChange<S>>) {
        let Some(pool) = self.pool.upgrade().filter(|_| !changes.is_empty()) else {
            return;
        };
        for change in &changes {
            tracing::debug!(backend = %change.id, what = ?change.kind, "the feed changes a backend");
        }
        for RejectedChange { id, reason } in pool.apply(&self.owner, changes) {
            self.skip(id.as_str(), reason);
        }
    }
}

const CENTURY: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 86_400);

enum Step<T> {
    Next(T),
    Drained,
    Gone,
}
