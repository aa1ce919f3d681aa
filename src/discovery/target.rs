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

use super::{
    DiscoveryEnd, DiscoveryStats,
    on_removed::OnRemoved,
    report::{Control, Stage},
};
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
    control: watch::Receiver<Control>,
    /// Whether the backends have begun to leave because the discovery was withdrawn.
    is_withdrawing: bool,
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
        control: watch::Receiver<Control>,
        stats: watch::Sender<DiscoveryStats>,
    ) -> Self {
        let (owner, draining, warned) = Default::default();
        let is_withdrawing = false;
        Self { pool, open, owner, control, is_withdrawing, draining, warned, stats }
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
                        self.owner.end_leave(&id);
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

    /// Waits for `next`, and meanwhile removes backends at the end of their drain. An error when the discovery ends:
    /// the pool was dropped, or it was withdrawn.
    pub(super) async fn wait<T>(
        &mut self,
        next: impl Future<Output = T>,
    ) -> Result<T, DiscoveryEnd> {
        let mut next = pin!(next);
        let mut open = self.open.clone();
        let mut closed = pin!(async { while open.changed().await.is_ok() {} });
        let mut control = self.control.clone();
        loop {
            let Control { stage, .. } = *control.borrow_and_update();
            if stage >= Stage::Released {
                self.owner.release();
            }
            if stage == Stage::Withdrawn && self.has_withdrawn() {
                return Err(DiscoveryEnd::Withdrawn);
            }
            let deadline = self.draining.iter().map(|(deadline, _)| *deadline).min();
            let mut drained = pin!(async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            });
            let mut changed = pin!(async {
                if control.changed().await.is_err() {
                    // There is no handle left.
                    pending::<()>().await;
                }
            });
            let event = poll_fn(|cx| {
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::PoolDropped);
                }
                if drained.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Drained);
                }
                if changed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Controlled);
                }
                match stage {
                    Stage::Following => next.as_mut().poll(cx).map(Event::Next),
                    Stage::Released | Stage::Withdrawn => Poll::Pending,
                }
            });
            match event.await {
                Event::Next(next) => return Ok(next),
                Event::PoolDropped => return Err(DiscoveryEnd::PoolGone),
                Event::Drained => self.remove_drained(),
                Event::Controlled => {}
            }
        }
    }

    /// Whether all backends have left, which begin to leave now.
    fn has_withdrawn(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_withdrawing, true) {
            let owned = self.pool.upgrade().map(|pool| pool.owned_by(&self.owner));
            let mut changes = Vec::new();
            for id in owned.unwrap_or_default() {
                self.begin_removal(id, &mut changes);
            }
            self.apply(changes);
        }
        self.draining.is_empty()
    }

    /// Waits until all drains have ended. An error when the discovery ends before.
    #[cfg(feature = "discover")]
    pub(super) async fn finish_drains(&mut self) -> Result<(), DiscoveryEnd> {
        while let Some(last) = self.draining.iter().map(|(deadline, _)| *deadline).max() {
            self.wait(sleep_until(last)).await?;
        }
        Ok(())
    }

    /// Removes a backend or starts to drain it.
    fn begin_removal(&mut self, id: BackendId, changes: &mut Vec<MemberChange<S>>) {
        self.warned.remove(id.as_str());
        match self.control.borrow().on_removed {
            OnRemoved::Remove => changes.push(MemberChange { id, kind: ChangeKind::Remove }),
            OnRemoved::Drain(time) => {
                if self.draining.iter().any(|(_, draining)| *draining == id) {
                    return;
                }
                let now = Instant::now();
                let deadline = now.checked_add(time).unwrap_or(now + CENTURY);
                self.draining.push((deadline, id.clone()));
                self.owner.begin_leave(&id);
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
                self.owner.end_leave(id);
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
    /// A handle asks something.
    Controlled,
    PoolDropped,
}
