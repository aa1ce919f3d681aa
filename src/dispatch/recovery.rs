//! Waits until a suspect has recovered, or a recheck of it has ended.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep_until},
};

use crate::pool::{BackendState, Waiter};

/// A wait for a change of some backends, until a deadline.
pub(crate) struct Recovery {
    pub(super) purpose: Purpose,
    watched: Vec<Watched>,
    sleep: Pin<Box<Sleep>>,
}

/// Which backends a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The session's own backend.
    Pinned,
    /// Any of the suspects that are left.
    Suspects,
}

/// Notifies of changes of one backend. It must be created before the backend's state is read, so that no
/// change in between is missed.
pub(super) struct Watched {
    state: Arc<BackendState>,
    changed: Pin<Box<OwnedNotified>>,
}

impl Watched {
    pub(super) fn new(state: &Arc<BackendState>) -> Self {
        let mut changed = Box::pin(state.changed.clone().notified_owned());
        changed.as_mut().enable();
        state.begin_watch();
        Self { state: state.clone(), changed }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.state.end_watch();
    }
}

impl Recovery {
    pub(super) fn new(purpose: Purpose, watched: Vec<Watched>, until: Instant) -> Box<Self> {
        Box::new(Self { purpose, watched, sleep: Box::pin(sleep_until(until)) })
    }

    /// The first backend that is waited for.
    pub(super) fn first(&self) -> Option<&Arc<BackendState>> {
        self.watched.first().map(|watched| &watched.state)
    }

    /// Ready when a backend has changed, or at the deadline.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut changed = false;
        for watched in &mut self.watched {
            changed |= watched.changed.as_mut().poll(cx).is_ready();
        }
        if changed || self.sleep.as_mut().poll(cx).is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

/// Counts a request among those that wait for a backend to recover. The backend is redialed more often
/// while there are any.
pub(super) struct RecoveryWait {
    state: Arc<BackendState>,
    _waiter: Waiter<BackendState>,
}

impl RecoveryWait {
    /// `None` when too many requests wait, in total or of the session with this key.
    pub(super) fn begin(state: &Arc<BackendState>, key: u64, max: usize) -> Option<Self> {
        let waiter = Waiter::try_new(state, key, max)?;
        state.begin_recovery_wait();
        Some(Self { state: state.clone(), _waiter: waiter })
    }
}

impl Drop for RecoveryWait {
    fn drop(&mut self) {
        self.state.end_recovery_wait();
    }
}
