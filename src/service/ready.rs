//! Waiting for one backend to become ready, for as long as its patience lasts.

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

/// One clone of a backend's service on its way to being ready; the same clone is called then.
pub(crate) struct ReadyWait<S> {
    pub(crate) service: S,
    /// `None` once the backend is called: then it is in flight there.
    pub(crate) state: Option<Arc<BackendState>>,
    pub(crate) trial: Option<TrialPermit>,
    pub(crate) patience: WaitLimit,
    slot: Option<Permit<BackendState>>,
    /// Only there when it really has to wait.
    queue: Option<Box<Queue>>,
}

struct Queue {
    sleep: Pin<Box<Sleep>>,
    place: Waiter<BackendState>,
}

/// How it stands with a slot of the backend.
enum PermitState {
    /// It is taken, or none is needed.
    Mine,
    /// It will be, in turn.
    Awaited,
    /// There is none, and no place to wait for one.
    None,
}

/// How the wait ended.
pub(crate) enum ReadyOutcome {
    /// The service is ready, and a slot is taken if the backend has a limit.
    Open(Option<Permit<BackendState>>),
    /// It was busy for too long, or too many wait already.
    Busy,
    /// The service failed, which is final for this clone. The request is untouched.
    Failed(BoxError),
}

impl ReadyOutcome {
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl<S> ReadyWait<S> {
    pub(crate) fn new(
        service: S,
        state: Arc<BackendState>,
        trial: Option<TrialPermit>,
        patience: WaitLimit,
    ) -> Self {
        Self { service, state: Some(state), trial, patience, slot: None, queue: None }
    }

    /// Waits for another service of the same backend, with the slot that it has.
    #[cold]
    pub(crate) fn renew(&mut self, service: S, slot: Option<Permit<BackendState>>) {
        self.service = service;
        self.slot = slot;
    }

    /// Gives up: what it held for itself, such as a trial, is free again.
    pub(crate) fn leave(self) -> Option<(Arc<BackendState>, WaitLimit)> {
        Some((self.state?, self.patience))
    }

    #[inline]
    pub(crate) fn poll_ready<D, B>(
        &mut self,
        cx: &mut Context<'_>,
        dispatch: &mut Dispatch<D>,
    ) -> Poll<ReadyOutcome>
    where
        S: Service<Request<B>>,
        S::Error: Into<BoxError>,
    {
        match self.poll_slot(cx, dispatch) {
            PermitState::Mine => match self.service.poll_ready(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(ReadyOutcome::Open(self.slot.take())),
                Poll::Ready(Err(error)) => return Poll::Ready(ReadyOutcome::Failed(error.into())),
                Poll::Pending => {}
            },
            PermitState::Awaited => {}
            PermitState::None => return Poll::Ready(ReadyOutcome::Busy),
        }
        if self.patience == WaitLimit::None || !self.enqueue(dispatch) {
            return Poll::Ready(ReadyOutcome::Busy);
        }
        match &mut self.queue {
            Some(queue) => queue.sleep.as_mut().poll(cx).map(|()| ReadyOutcome::Busy),
            None => Poll::Ready(ReadyOutcome::Busy),
        }
    }

    /// Takes a slot of a backend that has a limit now.
    #[inline]
    fn poll_slot<D>(&mut self, cx: &mut Context<'_>, dispatch: &mut Dispatch<D>) -> PermitState {
        match &self.state {
            Some(state) if self.slot.is_none() && state.limit() != 0 => {
                if self.queue.is_none() {
                    self.slot = Permit::try_acquire(state);
                }
            }
            _ => return PermitState::Mine,
        }
        if self.slot.is_some() {
            return PermitState::Mine;
        }
        self.await_slot(cx, dispatch)
    }

    #[cold]
    fn await_slot<D>(&mut self, cx: &mut Context<'_>, dispatch: &mut Dispatch<D>) -> PermitState {
        if self.patience == WaitLimit::None || !self.enqueue(dispatch) {
            return PermitState::None;
        }
        match self.queue.as_mut().map(|queue| queue.place.poll_permit(cx)) {
            Some(Poll::Ready(slot)) => {
                self.slot = Some(slot);
                PermitState::Mine
            }
            Some(Poll::Pending) => PermitState::Awaited,
            None => PermitState::None,
        }
    }

    /// Takes a place among those that wait, unless there are too many, in all or of this session.
    fn enqueue<D>(&mut self, dispatch: &mut Dispatch<D>) -> bool {
        if self.queue.is_some() {
            return true;
        }
        let max = dispatch.core().options.max_waiters;
        let key = dispatch.waits_as();
        let Some(place) = self.state.as_ref().and_then(|state| Waiter::try_new(state, key, max))
        else {
            return false;
        };
        let deadline = dispatch.deadline(self.patience);
        let sleep = Box::pin(sleep_until(deadline));
        self.queue = Some(Box::new(Queue { sleep, place }));
        true
    }
}
