//! The application's hook that transfers the state of a session before it moves.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep_until};

use crate::{
    error::BoxError,
    id::{BackendId, SessionId},
    outcome::Reason,
    util::{clock::later, lock},
};

/// A session that is about to move: the argument of [`before_move`](crate::StickyLayer::before_move).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub(crate) session: SessionId,
    pub(crate) from: BackendId,
    pub(crate) to: BackendId,
    pub(crate) reason: Reason,
    pub(crate) epoch: u64,
}

impl Move {
    /// The session.
    pub fn id(&self) -> SessionId {
        self.session
    }

    /// The backend that has the session. After a failure it may be unreachable.
    pub fn from(&self) -> &BackendId {
        &self.from
    }

    /// The backend that the session moves to.
    pub fn to(&self) -> &BackendId {
        &self.to
    }

    /// Why the session moves.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The epoch of the session once it has moved.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

type Hook = dyn Fn(Move) -> HookFuture + Send + Sync;
type HookFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// The hook that the application runs before sessions move.
#[derive(Clone)]
pub(crate) struct HandoffHook {
    hook: Arc<Hook>,
    wait_limit: Duration,
    /// The sessions in voluntary moves whose hooks run now.
    running: Arc<Mutex<HashSet<u64>>>,
}

impl HandoffHook {
    pub(crate) fn new<F, Fut, E>(wait_limit: Duration, hook: F) -> Self
    where
        F: Fn(Move) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let hook: Arc<Hook> = Arc::new(move |session| {
            let done = hook(session);
            Box::pin(async move { done.await.map_err(Into::into) })
        });
        Self { hook, wait_limit, running: Arc::default() }
    }

    /// Runs the hook for a session that must move.
    pub(crate) fn begin(&self, session: Move) -> Handoff {
        let sleep = Box::pin(sleep_until(later(self.wait_limit)));
        Handoff { work: Mutex::new((self.hook)(session)), sleep, guard: None }
    }

    /// Runs the hook for a session that could stay.
    pub(crate) fn begin_guarded(&self, guard: HandoffGuard, session: Move) -> Handoff {
        Handoff { guard: Some(guard), ..self.begin(session) }
    }

    /// Prevents other requests of this session from running the hook, until the guard is dropped. `None`
    /// while another request does.
    pub(crate) fn try_guard(&self, session: u64) -> Option<HandoffGuard> {
        let first = lock(&self.running).insert(session);
        first.then(|| HandoffGuard { session, running: self.running.clone() })
    }
}

impl fmt::Debug for HandoffHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandoffHook").field("wait_limit", &self.wait_limit).finish_non_exhaustive()
    }
}

/// A hook in progress, with its timeout.
pub(crate) struct Handoff {
    /// Never locked: the mutex makes the response's future `Sync`, even if the hook's is not.
    work: Mutex<HookFuture>,
    sleep: Pin<Box<Sleep>>,
    guard: Option<HandoffGuard>,
}

impl Handoff {
    /// The guard, which must be kept until the move has succeeded or failed.
    pub(crate) fn take_guard(&mut self) -> Option<HandoffGuard> {
        self.guard.take()
    }

    /// Ready with whether the hook has succeeded in time.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner);
        match work.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(true),
            Poll::Ready(Err(error)) => {
                tracing::warn!(%error, "the hook before a session's move has failed");
                Poll::Ready(false)
            }
            Poll::Pending => self.sleep.as_mut().poll(cx).map(|()| {
                tracing::warn!("the hook before a session's move has timed out");
                false
            }),
        }
    }
}

/// Prevents other requests of the session from running the hook, until it is dropped.
pub(crate) struct HandoffGuard {
    session: u64,
    running: Arc<Mutex<HashSet<u64>>>,
}

impl Drop for HandoffGuard {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.session);
    }
}
