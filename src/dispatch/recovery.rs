//! Waiting for a suspect: until it returns, or somebody has found out that it has not.

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

/// A wait for news of one backend or some, for no longer than until a deadline.
pub(crate) struct Recovery {
    pub(super) purpose: Purpose,
    watched: Vec<Watched>,
    sleep: Pin<Box<Sleep>>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The session's own backend.
    Home,
    /// Any of the suspects that are left.
    Suspects,
}

/// One backend, of which no news is missed from when this is made. So it is made first, and then the
/// backend is looked at.
pub(super) struct Watched {
    state: Arc<BackendState>,
    news: Pin<Box<OwnedNotified>>,
}

impl Watched {
    pub(super) fn new(state: &Arc<BackendState>) -> Self {
        let mut news = Box::pin(state.changed.clone().notified_owned());
        news.as_mut().enable();
        Self { state: state.clone(), news }
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

    /// Ready when there is news, or the time is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut news = false;
        for watched in &mut self.watched {
            news |= watched.news.as_mut().poll(cx).is_ready();
        }
        if news || self.sleep.as_mut().poll(cx).is_ready() {
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

/// A place among those that wait for a backend, who are counted: while there are any it is redialed more
/// often.
pub(super) struct Awaiting {
    state: Arc<BackendState>,
    _place: Waiter<BackendState>,
}

impl Awaiting {
    /// `None` when too many wait already, in all or of the session with this key.
    pub(super) fn take(state: &Arc<BackendState>, key: u64, max: usize) -> Option<Self> {
        let place = Waiter::try_new(state, key, max)?;
        state.begin_recovery_wait();
        Some(Self { state: state.clone(), _place: place })
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.state.end_recovery_wait();
    }
}
