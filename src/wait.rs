//! Waiting for one backend to become ready, for as long as its patience lasts.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit},
    time::{Sleep, sleep_until},
};
use tower_service::Service;

use crate::{
    BoxError,
    backend::{BackendState, Waiting},
    dispatch::{Dispatch, Patience, Trial},
};

/// One clone of a backend's service on its way to being ready; the same clone is called then.
pub(crate) struct Wait<S> {
    pub(crate) service: S,
    /// `None` once the backend is called: then it is in flight there.
    pub(crate) state: Option<Arc<BackendState>>,
    pub(crate) trial: Option<Trial>,
    pub(crate) patience: Patience,
    slot: Option<OwnedSemaphorePermit>,
    /// Only there when it really has to wait.
    queue: Option<Box<Queue>>,
}

struct Queue {
    sleep: Pin<Box<Sleep>>,
    slot: Option<Pin<Box<SlotFuture>>>,
    _place: Waiting,
}

type SlotFuture = dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + Sync;

/// How it stands with a slot of the backend.
enum Slot {
    /// It is taken, or none is needed.
    Mine,
    /// It will be, in turn.
    Awaited,
    /// There is none, and no place to wait for one.
    None,
}

/// How the wait ended.
pub(crate) enum Gate {
    /// The service is ready, and a slot is taken if the backend has a limit.
    Open(Option<OwnedSemaphorePermit>),
    /// It was busy for too long, or too many wait already.
    Busy,
    /// The service failed, which is final for this clone. The request is untouched.
    Failed(BoxError),
}

impl<S> Wait<S> {
    pub(crate) fn new(
        service: S,
        state: Arc<BackendState>,
        trial: Option<Trial>,
        patience: Patience,
    ) -> Self {
        Self { service, state: Some(state), trial, patience, slot: None, queue: None }
    }

    /// Gives up: what it held for itself, such as a trial, is free again.
    pub(crate) fn leave(self) -> Option<(Arc<BackendState>, Patience)> {
        Some((self.state?, self.patience))
    }

    #[inline]
    pub(crate) fn poll_ready<D, B>(
        &mut self,
        cx: &mut Context<'_>,
        dispatch: &mut Dispatch<D>,
    ) -> Poll<Gate>
    where
        S: Service<Request<B>>,
        S::Error: Into<BoxError>,
    {
        match self.poll_slot(cx, dispatch) {
            Slot::Mine => match self.service.poll_ready(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Gate::Open(self.slot.take())),
                Poll::Ready(Err(error)) => return Poll::Ready(Gate::Failed(error.into())),
                Poll::Pending => {}
            },
            Slot::Awaited => {}
            Slot::None => return Poll::Ready(Gate::Busy),
        }
        if self.patience == Patience::None || !self.enqueue(dispatch) {
            return Poll::Ready(Gate::Busy);
        }
        match &mut self.queue {
            Some(queue) => queue.sleep.as_mut().poll(cx).map(|()| Gate::Busy),
            None => Poll::Ready(Gate::Busy),
        }
    }

    /// Takes a slot of a backend that has a limit.
    #[inline]
    fn poll_slot<D>(&mut self, cx: &mut Context<'_>, dispatch: &mut Dispatch<D>) -> Slot {
        if self.slot.is_some() {
            return Slot::Mine;
        }
        if self.queue.is_none() {
            let Some(slots) = self.state.as_ref().and_then(|state| state.slots()) else {
                return Slot::Mine;
            };
            if let Ok(slot) = slots.clone().try_acquire_owned() {
                self.slot = Some(slot);
                return Slot::Mine;
            }
            if self.patience == Patience::None || !self.enqueue(dispatch) {
                return Slot::None;
            }
            if let Some(queue) = &mut self.queue {
                queue.slot = Some(Box::pin(slots.acquire_owned()));
            }
        }
        let Some(Queue { slot: waiting, .. }) = self.queue.as_deref_mut() else {
            return Slot::None;
        };
        let Some(acquire) = waiting else {
            // It waits for the service only: the backend had no limit, or its slot is taken.
            return Slot::Mine;
        };
        match acquire.as_mut().poll(cx) {
            Poll::Ready(slot) => {
                // Slots are never closed; were they, the limit would no longer hold anyone up.
                self.slot = slot.ok();
                *waiting = None;
                Slot::Mine
            }
            Poll::Pending => Slot::Awaited,
        }
    }

    /// Takes a place among those that wait, unless there are too many.
    fn enqueue<D>(&mut self, dispatch: &mut Dispatch<D>) -> bool {
        if self.queue.is_some() {
            return true;
        }
        let max = dispatch.core().options.max_waiters;
        let place = self.state.as_ref().and_then(|state| Waiting::start(state, max));
        let Some(place) = place else {
            return false;
        };
        let deadline = dispatch.deadline(self.patience);
        let sleep = Box::pin(sleep_until(deadline));
        self.queue = Some(Box::new(Queue { sleep, slot: None, _place: place }));
        true
    }
}
