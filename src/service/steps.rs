//! The states of a request between its arrival and its response, and their transitions.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Request;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    finish::lost,
    ready::{ReadyOutcome, ReadyWait},
};
use crate::{
    dispatch::{
        Attempt, Dispatch, Handoff, InFlight, NextStep, Recovery, StoreLookup, TrialPermit,
        WaitLimit, failed,
    },
    error::{BoxError, Shortage},
    outcome::{Reason, StickyError, recording::Arrival},
    pool::{BackendState, Entered, Readiness},
};

pin_project! {
    #[project = StateProj]
    #[project_replace = OwnedState]
    pub(super) enum State<S, I, B>
    where
        S: Service<Request<B>>,
        I: Service<Request<B>>,
    {
        // Not polled yet. The request is read in place by the first poll: it would be moved right after it was
        // changed otherwise, and then its memory has to be waited for.
        Arrived,
        // Waiting for something other than a service.
        Detour { detour: Detour },
        // Waiting until this clone of the backend's service is ready to be called.
        Wait { wait: ReadyWait<S> },
        // The backend has the request.
        Call {
            #[pin]
            future: S::Future,
            in_flight: Option<InFlight>,
            trial: Option<TrialPermit>,
            // When the request was sent, if the strategy measures latencies.
            started: Option<Instant>,
        },
        // Like `Wait`, for the local node.
        LocalWait { wait: ReadyWait<I> },
        // Waiting until the last resort is ready to be called.
        LastResort { inner: I },
        // The inner service has the request, as the local node if the request is in flight, else as the last
        // resort.
        InnerCall {
            #[pin]
            future: I::Future,
            in_flight: Option<InFlight>,
        },
        // The response has been returned.
        Done,
    }
}

/// The result of a state. Common states set their successor in place instead.
pub(super) enum Transition<S> {
    /// The next state has been set.
    Continue,
    /// The next step. The request is in its slot.
    Next(NextStep<S>),
    /// The request ends with this error.
    Fail(StickyError),
    /// The state is inconsistent: a bug.
    Lost,
}

/// Work before the request can be sent.
pub(super) enum Detour {
    /// Waiting for a store, without whose answer the request cannot be read.
    Lookup(StoreLookup),
    /// Waiting until a suspect has recovered, or a recheck of it has ended.
    Recover(Box<Recovery>),
    /// Waiting for the application's hook before a move to the backend with the tag `to`.
    Handoff { work: Handoff, to: u64, reason: Reason },
}

impl<S: Clone> Transition<S> {
    /// What follows a failed call: the next step if the request was given back, else the error.
    pub(super) fn after_failure<B: 'static>(
        dispatch: &mut Dispatch<S>,
        (in_flight, trial): (Option<InFlight>, Option<TrialPermit>),
        error: impl Into<BoxError>,
        arrived: Arrival,
        slot: &mut Option<Request<B>>,
    ) -> Self {
        let Some(in_flight) = in_flight else { return Self::Lost };
        match failed(dispatch, in_flight, trial, error.into(), arrived) {
            Ok((next, request)) => {
                *slot = Some(request);
                Self::Next(next)
            }
            Err(error) => Self::Fail(error),
        }
    }
}

impl Detour {
    /// The next step, or the detour itself while it is pending.
    fn poll<S: Clone, B>(
        mut self,
        cx: &mut Context<'_>,
        dispatch: &mut Dispatch<S>,
        request: &mut Option<Request<B>>,
    ) -> Result<Transition<S>, Self> {
        let poll = match (&mut self, request) {
            (Self::Lookup(lookup), Some(request)) => {
                lookup.poll(cx, &mut dispatch.affinity_state).map(|()| dispatch.begin(request))
            }
            (Self::Lookup(_), None) => return Ok(Transition::Lost),
            (Self::Recover(recovery), _) => {
                recovery.poll(cx).map(|()| dispatch.recovered(recovery))
            }
            (Self::Handoff { work, to, reason }, _) => work.poll(cx).map(|succeeded| {
                dispatch.slow_path().handoff_guard = work.take_guard();
                dispatch.handoff_done(succeeded, *to, *reason)
            }),
        };
        match poll {
            Poll::Ready(next) => Ok(Transition::Next(next)),
            Poll::Pending => Err(self),
        }
    }
}

impl<S, I, B> State<S, I, B>
where
    S: Service<Request<B>> + Clone,
    S::Error: Into<BoxError>,
    I: Service<Request<B>> + Clone,
    I::Error: Into<BoxError>,
{
    /// ## Arrived => any state
    #[inline(always)]
    pub(super) fn begin(
        mut self: Pin<&mut Self>,
        dispatch: &mut Dispatch<S>,
        slot: &mut Option<Request<B>>,
        arrived: &mut Arrival,
    ) -> Transition<S> {
        let Some(request) = slot else { return Transition::Lost };
        let now = dispatch.core().backends.pool().recorder.now();
        let next = dispatch.begin(request);
        let recorder = &dispatch.core().backends.pool().recorder;
        *arrived = recorder.begun(now, request.method(), dispatch.is_https());
        match next {
            NextStep::Try(Attempt { service: Some(service), state, trial, wait_limit }) => {
                self.set(Self::Wait { wait: ReadyWait::new(service, state, trial, wait_limit) });
                Transition::Continue
            }
            next => Transition::Next(next),
        }
    }

    /// Sets the state that a transition leads to.
    ///
    /// # Errors
    ///
    /// When the request ends with an error.
    #[inline]
    pub(super) fn follow(
        mut self: Pin<&mut Self>,
        transition: Transition<S>,
        request: &mut Option<Request<B>>,
        inner: &Option<Arc<I>>,
        dispatch: &mut Dispatch<S>,
    ) -> Result<(), StickyError> {
        match transition {
            Transition::Continue => Ok(()),
            Transition::Next(next) => {
                let state = Self::enter(next, request, inner, dispatch)?;
                self.set(state);
                Ok(())
            }
            Transition::Fail(error) => Err(error),
            Transition::Lost => Err(lost()),
        }
    }

    /// The state that carries out a decision.
    #[inline]
    fn enter(
        next: NextStep<S>,
        request: &mut Option<Request<B>>,
        inner: &Option<Arc<I>>,
        dispatch: &mut Dispatch<S>,
    ) -> Result<Self, StickyError> {
        let detour = match (next, inner) {
            (NextStep::Try(Attempt { service: Some(service), state, trial, wait_limit }), _) => {
                let wait = ReadyWait::new(service, state, trial, wait_limit);
                return Ok(Self::Wait { wait });
            }
            (NextStep::Try(Attempt { state, trial, wait_limit, .. }), Some(inner)) => {
                let wait = ReadyWait::new(I::clone(inner), state, trial, wait_limit);
                return Ok(Self::LocalWait { wait });
            }
            (NextStep::LastResort, Some(inner)) => {
                if let Some(request) = request {
                    dispatch.send_last_resort(request);
                }
                return Ok(Self::LastResort { inner: I::clone(inner) });
            }
            (NextStep::Fail(error), _) => return Err(error),
            // Only an inner service is ever the local node or the last resort.
            (NextStep::Try(_) | NextStep::LastResort, None) => return Err(StickyError::NoBackend),
            (NextStep::Lookup(lookup), _) => Detour::Lookup(lookup),
            (NextStep::Recover(recovery), _) => {
                dispatch.wait_begins();
                Detour::Recover(recovery)
            }
            (NextStep::Handoff { work, to, reason }, _) => Detour::Handoff { work, to, reason },
        };
        Ok(Self::Detour { detour })
    }

    /// ## Detour => (Detour | any state)
    pub(super) fn poll_detour(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        dispatch: &mut Dispatch<S>,
        request: &mut Option<Request<B>>,
    ) -> Poll<Transition<S>> {
        let OwnedState::Detour { detour } = self.as_mut().project_replace(Self::Done) else {
            return Poll::Ready(Transition::Lost);
        };
        match detour.poll(cx, dispatch, request) {
            Ok(transition) => Poll::Ready(transition),
            Err(detour) => {
                self.set(Self::Detour { detour });
                Poll::Pending
            }
        }
    }

    /// ## Wait => (Wait | Call | any state)
    #[inline(always)]
    pub(super) fn poll_wait(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        dispatch: &mut Dispatch<S>,
        request: &mut Option<Request<B>>,
    ) -> Poll<Transition<S>> {
        let StateProj::Wait { wait } = self.as_mut().project() else {
            return Poll::Ready(Transition::Lost);
        };
        let outcome = ready!(wait.poll_ready(cx, dispatch));
        let ReadyOutcome::Ready(permit) = outcome else {
            return Poll::Ready(not_ready(wait, outcome, dispatch));
        };
        if let Some(service) = wait.backend().and_then(|state| dispatch.renewed(state)) {
            wait.renew(service, permit);
            return Poll::Ready(Transition::Continue);
        }
        let Some(state) = wait.take() else {
            return Poll::Ready(Transition::Lost);
        };
        // Counted as in flight before the check: once a backend is out of service and has nothing in flight,
        // no request reaches it.
        let entered = Entered::new(state);
        if entered.state().is_out_of_service() {
            let next = dispatch.withdrawn(entered.state());
            return Poll::Ready(Transition::Next(next));
        }
        // Changed in place, as moving the request once more costs more than all of this.
        dispatch.send(request, entered.state(), true);
        let (started, trial) = (dispatch.started(), wait.trial.take());
        let generation = entered.state().generation();
        let span = dispatch.enter_attempt();
        let future = match request.take() {
            Some(request) => wait.service.call(request),
            None => return Poll::Ready(Transition::Lost),
        };
        drop(span);
        let in_flight = Some(InFlight::new(entered, permit, generation));
        self.set(Self::Call { future, in_flight, trial, started });
        Poll::Ready(Transition::Continue)
    }

    /// ## LocalWait => (LocalWait | InnerCall | any state)
    pub(super) fn poll_local_wait(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        dispatch: &mut Dispatch<S>,
        request: &mut Option<Request<B>>,
    ) -> Poll<Transition<S>> {
        let StateProj::LocalWait { wait } = self.as_mut().project() else {
            return Poll::Ready(Transition::Lost);
        };
        let outcome = ready!(wait.poll_ready(cx, dispatch));
        let ReadyOutcome::Ready(permit) = outcome else {
            return Poll::Ready(give_up(wait, outcome, dispatch));
        };
        let Some(state) = wait.take() else {
            return Poll::Ready(Transition::Lost);
        };
        dispatch.send(request, &state, false);
        let generation = state.generation();
        let span = dispatch.enter_attempt();
        let future = match request.take() {
            Some(request) => wait.service.call(request),
            None => return Poll::Ready(Transition::Lost),
        };
        drop(span);
        let in_flight = Some(InFlight::new(Entered::new(state), permit, generation));
        self.set(Self::InnerCall { future, in_flight });
        Poll::Ready(Transition::Continue)
    }

    /// ## LastResort => (LastResort | InnerCall)
    pub(super) fn poll_last_resort(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        request: &mut Option<Request<B>>,
    ) -> Poll<Transition<S>> {
        let StateProj::LastResort { inner } = self.as_mut().project() else {
            return Poll::Ready(Transition::Lost);
        };
        if let Err(source) = ready!(inner.poll_ready(cx)) {
            return Poll::Ready(Transition::Fail(StickyError::Inner { source: source.into() }));
        }
        let Some(request) = request.take() else {
            return Poll::Ready(Transition::Lost);
        };
        let future = inner.call(request);
        self.set(Self::InnerCall { future, in_flight: None });
        Poll::Ready(Transition::Continue)
    }
}

/// The backend is busy or its service has failed: waits for the backend's new service if there is one, else
/// takes the next step.
#[cold]
fn not_ready<S: Clone>(
    wait: &mut ReadyWait<S>,
    outcome: ReadyOutcome,
    dispatch: &mut Dispatch<S>,
) -> Transition<S> {
    // The failed service may have been replaced.
    let failed = wait.backend().filter(|_| matches!(outcome, ReadyOutcome::Failed(_)));
    if let Some(service) = failed.and_then(|state| dispatch.renewed(state)) {
        wait.service = service;
        return Transition::Continue;
    }
    give_up(wait, outcome, dispatch)
}

/// The next step after a backend that did not become ready: the request is untouched.
#[cold]
fn give_up<S: Clone, T>(
    wait: &mut ReadyWait<T>,
    outcome: ReadyOutcome,
    dispatch: &mut Dispatch<S>,
) -> Transition<S> {
    let wait_limit = wait.wait_limit;
    // The trial and the permit are released first.
    let Some(state) = wait.release() else { return Transition::Lost };
    Transition::Next(after_wait(dispatch, outcome, &state, wait_limit))
}

fn after_wait<S: Clone>(
    dispatch: &mut Dispatch<S>,
    outcome: ReadyOutcome,
    state: &Arc<BackendState>,
    wait_limit: WaitLimit,
) -> NextStep<S> {
    match outcome {
        ReadyOutcome::Failed(source) => {
            if let Some(shortage) = Shortage::in_chain(source.as_ref()) {
                return NextStep::Fail(dispatch.shortage(state, shortage, source));
            }
            let pool = dispatch.core().backends.pool();
            pool.set_readiness(state, Readiness::Failed);
            dispatch.not_sent(state, Reason::NotReady, source)
        }
        ReadyOutcome::Busy | ReadyOutcome::Ready(_) => dispatch.busy(state, wait_limit),
    }
}
