//! Waits for one backend to become ready, for as long as the request may wait for it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

use crate::{
    dispatch::{Dispatch, TrialPermit, WaitLimit},
    error::BoxError,
    pool::{BackendState, Permit, Waiter},
};

/// One clone of a backend's service, which is polled until it is ready and then called.
pub(super) struct ReadyWait<S> {
    pub(super) service: S,
    pub(super) trial: Option<TrialPermit>,
    pub(super) wait_limit: WaitLimit,
    /// The backend, until it is called or released.
    state: Option<Arc<BackendState>>,
    permit: Option<Permit<BackendState>>,
    /// Set once the request has to wait.
    queue: Option<Box<Queue>>,
}

struct Queue {
    sleep: Pin<Box<Sleep>>,
    waiter: Waiter<BackendState>,
}

/// The state of the request's permit.
enum PermitState {
    /// The request has a permit, or the backend has no limit.
    Granted,
    /// The request is in the queue.
    Queued,
    /// All permits are taken, and the queue is full.
    Refused,
}

/// The result of the wait.
pub(super) enum ReadyOutcome {
    /// The service is ready, with a permit if the backend has a limit.
    Ready(Option<Permit<BackendState>>),
    /// The backend was busy for too long, or its queue is full.
    Busy,
    /// The service has failed, and this clone must not be used again. The request is untouched.
    Failed(BoxError),
}

impl<S> ReadyWait<S> {
    #[inline]
    pub(super) fn new(
        service: S,
        state: Arc<BackendState>,
        trial: Option<TrialPermit>,
        wait_limit: WaitLimit,
    ) -> Self {
        Self { service, trial, wait_limit, state: Some(state), permit: None, queue: None }
    }

    /// The backend that the request waits for.
    #[inline]
    pub(super) fn backend(&self) -> Option<&BackendState> {
        self.state.as_deref()
    }

    /// Waits for another service of the same backend, and keeps the permit.
    #[cold]
    pub(super) fn renew(&mut self, service: S, permit: Option<Permit<BackendState>>) {
        self.service = service;
        self.permit = permit;
    }

    /// Takes the backend, which is about to be called.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Arc<BackendState>> {
        self.state.take()
    }

    /// Releases the permit, the entry in the queue and the trial, and returns the backend.
    pub(super) fn release(&mut self) -> Option<Arc<BackendState>> {
        (self.permit, self.queue, self.trial) = (None, None, None);
        self.state.take()
    }

    #[inline]
    pub(super) fn poll_ready<D, B>(
        &mut self,
        cx: &mut Context<'_>,
        dispatch: &mut Dispatch<D>,
    ) -> Poll<ReadyOutcome>
    where
        S: Service<Request<B>>,
        S::Error: Into<BoxError>,
    {
        match self.poll_permit(cx, dispatch) {
            PermitState::Granted => match self.service.poll_ready(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(ReadyOutcome::Ready(self.permit.take())),
                Poll::Ready(Err(error)) => return Poll::Ready(ReadyOutcome::Failed(error.into())),
                Poll::Pending => {}
            },
            PermitState::Queued => {}
            PermitState::Refused => return Poll::Ready(ReadyOutcome::Busy),
        }
        if self.wait_limit == WaitLimit::None || !self.enqueue(dispatch) {
            return Poll::Ready(ReadyOutcome::Busy);
        }
        match &mut self.queue {
            Some(queue) => queue.sleep.as_mut().poll(cx).map(|()| ReadyOutcome::Busy),
            None => Poll::Ready(ReadyOutcome::Busy),
        }
    }

    /// Takes a permit if the backend has a limit.
    #[inline]
    fn poll_permit<D>(&mut self, cx: &mut Context<'_>, dispatch: &mut Dispatch<D>) -> PermitState {
        match &self.state {
            Some(state) if self.permit.is_none() && state.limit() != 0 => {
                if self.queue.is_none() {
                    self.permit = Permit::try_acquire(state);
                }
            }
            _ => return PermitState::Granted,
        }
        if self.permit.is_some() {
            return PermitState::Granted;
        }
        self.poll_queue(cx, dispatch)
    }

    #[cold]
    fn poll_queue<D>(&mut self, cx: &mut Context<'_>, dispatch: &mut Dispatch<D>) -> PermitState {
        if self.wait_limit == WaitLimit::None || !self.enqueue(dispatch) {
            return PermitState::Refused;
        }
        match self.queue.as_mut().map(|queue| queue.waiter.poll_permit(cx)) {
            Some(Poll::Ready(permit)) => {
                self.permit = Some(permit);
                PermitState::Granted
            }
            Some(Poll::Pending) => PermitState::Queued,
            None => PermitState::Refused,
        }
    }

    /// Joins the backend's queue. Returns `false` if it is full, in total or for this session.
    fn enqueue<D>(&mut self, dispatch: &mut Dispatch<D>) -> bool {
        if self.queue.is_some() {
            return true;
        }
        let max = dispatch.core().options.max_waiters;
        let key = dispatch.waiter_key();
        let Some(waiter) = self.state.as_ref().and_then(|state| Waiter::try_new(state, key, max))
        else {
            return false;
        };
        dispatch.wait_begins();
        let deadline = dispatch.deadline(self.wait_limit);
        let sleep = Box::pin(sleep_until(deadline));
        self.queue = Some(Box::new(Queue { sleep, waiter }));
        true
    }
}
