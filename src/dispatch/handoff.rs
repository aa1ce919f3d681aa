//! Before a session moves the application may carry its state over.

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

/// A session that is about to move; what [`before_move`](crate::StickyLayer::before_move) is told.
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

    /// The backend that has it. After a failure it may not answer any more.
    pub fn from(&self) -> &BackendId {
        &self.from
    }

    /// The backend that is to have it.
    pub fn to(&self) -> &BackendId {
        &self.to
    }

    /// Why it moves.
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

/// What the application does before sessions move.
#[derive(Clone)]
pub(crate) struct HandoffHook {
    hook: Arc<Hook>,
    wait_limit: Duration,
    /// The sessions that move without need and are being carried over now.
    under_way: Arc<Mutex<HashSet<u64>>>,
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
        Self { hook, wait_limit, under_way: Arc::default() }
    }

    /// Begins to carry a session over that has to move.
    pub(crate) fn begin(&self, session: Move) -> Handoff {
        let sleep = Box::pin(sleep_until(later(self.wait_limit)));
        Handoff { work: Mutex::new((self.hook)(session)), sleep, alone: None }
    }

    /// The same for a session that could stay, and is held alone.
    pub(crate) fn begin_alone(&self, alone: HandoffGuard, session: Move) -> Handoff {
        Handoff { alone: Some(alone), ..self.begin(session) }
    }

    /// Sees to it that no other request carries this session over, until it is dropped. `None` when one
    /// does already.
    pub(crate) fn alone(&self, session: u64) -> Option<HandoffGuard> {
        let first = lock(&self.under_way).insert(session);
        first.then(|| HandoffGuard { session, under_way: self.under_way.clone() })
    }
}

impl fmt::Debug for HandoffHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeMove").field("patience", &self.wait_limit).finish_non_exhaustive()
    }
}

/// The application carries a session's state over.
pub(crate) struct Handoff {
    /// Never locked: it makes the future of the response `Sync`, whatever the hook's is.
    work: Mutex<HookFuture>,
    sleep: Pin<Box<Sleep>>,
    alone: Option<HandoffGuard>,
}

impl Handoff {
    /// What sees to it that nobody else carries the session over: kept until the move is settled.
    pub(crate) fn release(&mut self) -> Option<HandoffGuard> {
        self.alone.take()
    }

    /// Ready with whether that worked.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner);
        match work.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(true),
            Poll::Ready(Err(error)) => {
                tracing::warn!(%error, "the state of a session could not be carried over");
                Poll::Ready(false)
            }
            Poll::Pending => self.sleep.as_mut().poll(cx).map(|()| {
                tracing::warn!("the state of a session was not carried over in time");
                false
            }),
        }
    }
}

/// Nobody else carries this session over, until it is dropped.
pub(crate) struct HandoffGuard {
    session: u64,
    under_way: Arc<Mutex<HashSet<u64>>>,
}

impl Drop for HandoffGuard {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.session);
    }
}
