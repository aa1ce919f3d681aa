//! The pool as a discovery sees it: held weakly, and changed only where the discovery owns backends.

use std::{
    collections::HashSet,
    fmt,
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::Weak,
    task::Poll,
    time::Duration,
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

/// The most skipped ids that are remembered as logged.
const MAX_WARNED: usize = 1024;

/// Used in place of drain times that an `Instant` cannot represent.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

pub(super) struct Target<S> {
    pool: Weak<Pool<S>>,
    /// Closed when the pool is dropped.
    open: watch::Receiver<()>,
    owner: Owner,
    on_removed: OnRemoved,
    /// Backends that drain because they are no longer found, with the end of their drain.
    draining: Vec<(Instant, BackendId)>,
    /// Ids that were skipped with a warning, which is not logged again with each update.
    warned: HashSet<String>,
    stats: watch::Sender<DiscoveryStats>,
}

impl<S: Clone> Target<S> {
    pub(super) fn new(
        pool: Weak<Pool<S>>,
        open: watch::Receiver<()>,
        on_removed: OnRemoved,
        stats: watch::Sender<DiscoveryStats>,
    ) -> Self {
        let (owner, draining, warned) = Default::default();
        Self { pool, open, owner, on_removed, draining, warned, stats }
    }

    /// Who owns the backend `id`, from the point of view of this discovery.
    #[cfg(feature = "dns")]
    pub(super) fn ownership(&self, id: &BackendId) -> Ownership {
        self.pool.upgrade().map_or(Ownership::Foreign, |pool| pool.ownership(&self.owner, id))
    }

    /// Applies the changes that were found.
    pub(super) fn update(&mut self, found: Vec<MemberChange<S>>) {
        let mut changes = Vec::with_capacity(found.len());
        for MemberChange { id, kind } in found {
            match kind {
                ChangeKind::Put { .. } => {
                    self.warned.remove(id.as_str());
                    let draining = self.draining.iter().position(|(_, draining)| *draining == id);
                    if let Some(position) = draining {
                        self.draining.swap_remove(position);
                        // Before the new service, so that the backend is never draining with it.
                        let kind = ChangeKind::Mode(Mode::Active);
                        changes.push(MemberChange { id: id.clone(), kind });
                    }
                    changes.push(MemberChange { id, kind });
                }
                ChangeKind::Remove => self.begin_removal(id, &mut changes),
                _ => changes.push(MemberChange { id, kind }),
            }
        }
        self.apply(changes);
        self.stats.send_modify(|stats| stats.updates += 1);
    }

    /// Counts a backend that is skipped, and logs why.
    pub(super) fn skip(&mut self, id: &str, why: impl fmt::Display) {
        if self.warned.len() >= MAX_WARNED {
            self.warned.clear();
        }
        if self.warned.insert(id.to_owned()) {
            tracing::warn!(backend = id, %why, "a discovered backend is skipped");
        }
        self.stats.send_modify(|stats| stats.skipped += 1);
    }

    /// Counts and logs a failure to find the backends.
    pub(super) fn record_failure(&self, error: impl fmt::Display) {
        tracing::warn!(%error, "the discovery has failed; the backends stay as they are");
        self.stats.send_modify(|stats| stats.failures += 1);
    }

    /// Waits for `next`, and meanwhile removes backends at the end of their drain. `None` if the pool was
    /// dropped.
    pub(super) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Option<T> {
        let mut next = pin!(next);
        let mut open = self.open.clone();
        let mut closed = pin!(async { while open.changed().await.is_ok() {} });
        loop {
            let deadline = self.draining.iter().map(|(deadline, _)| *deadline).min();
            let mut drained = pin!(async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            });
            let event = poll_fn(|cx| {
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::PoolDropped);
                }
                if drained.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Drained);
                }
                next.as_mut().poll(cx).map(Event::Next)
            });
            match event.await {
                Event::Next(next) => return Some(next),
                Event::PoolDropped => return None,
                Event::Drained => self.remove_drained(),
            }
        }
    }

    /// Waits until all drains have ended. `None` if the pool was dropped.
    #[cfg(feature = "discover")]
    pub(super) async fn finish_drains(&mut self) -> Option<()> {
        while let Some(last) = self.draining.iter().map(|(deadline, _)| *deadline).max() {
            self.wait(sleep_until(last)).await?;
        }
        Some(())
    }

    /// Removes a backend or starts to drain it.
    fn begin_removal(&mut self, id: BackendId, changes: &mut Vec<MemberChange<S>>) {
        self.warned.remove(id.as_str());
        match self.on_removed {
            OnRemoved::Remove => changes.push(MemberChange { id, kind: ChangeKind::Remove }),
            OnRemoved::Drain(time) => {
                if self.draining.iter().any(|(_, draining)| *draining == id) {
                    return;
                }
                let now = Instant::now();
                let deadline = now.checked_add(time).unwrap_or(now + CENTURY);
                self.draining.push((deadline, id.clone()));
                changes.push(MemberChange { id, kind: ChangeKind::Mode(Mode::Draining) });
            }
        }
    }

    fn remove_drained(&mut self) {
        let now = Instant::now();
        let mut changes = Vec::new();
        self.draining.retain(|(deadline, id)| {
            let ended = *deadline <= now;
            if ended {
                changes.push(MemberChange { id: id.clone(), kind: ChangeKind::Remove });
            }
            !ended
        });
        self.apply(changes);
    }

    fn apply(&mut self, changes: Vec<MemberChange<S>>) {
        let Some(pool) = self.pool.upgrade().filter(|_| !changes.is_empty()) else {
            return;
        };
        for change in &changes {
            tracing::debug!(
                backend = %change.id,
                what = ?change.kind,
                "the discovery changes a backend"
            );
        }
        for RejectedChange { id, reason } in pool.apply(&self.owner, changes) {
            self.skip(id.as_str(), reason);
        }
    }
}

/// What ends a [`Target::wait`], or interrupts it.
enum Event<T> {
    Next(T),
    Drained,
    PoolDropped,
}
