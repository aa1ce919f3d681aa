//! The way of one request: wait for a backend, call it, fail over, stamp the answer.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::finish::{fail, hold, inner_answered, lost, shut};
use crate::{
    dispatch::{
        AsAnswers, Attempt, Dispatch, Handoff, InFlight, NextStep, Recovery, StoreLookup,
        TrialPermit, failed, judge, observe,
    },
    error::BoxError,
    outcome::{Reason, StickyError},
    pool::Entered,
    service::{
        OnError, StickyBody,
        ready::{ReadyOutcome, ReadyWait},
    },
};

pin_project! {
    /// The future of a [`StickyService`](crate::StickyService)'s response. It is not boxed, and
    /// allocates nothing on the way of a pinned request whose backend is ready.
    pub struct ResponseFuture<S, I, E, B>
    where
        S: Service<Request<B>>,
        I: Service<Request<B>>,
    {
        #[pin]
        step: State<S, I, B>,
        // The request, while it is not with a backend.
        request: Option<Request<B>>,
        dispatch: Dispatch<S>,
        inner: Option<Arc<I>>,
        answers: AsAnswers<S>,
        on_error: PhantomData<fn() -> E>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[project_replace = OwnedState]
    enum State<S, I, B>
    where
        S: Service<Request<B>>,
        I: Service<Request<B>>,
    {
        // Something is to be begun.
        Begin { next: NextStep<S> },
        // Waiting for a store, before it is known where the request belongs.
        Lookup { lookup: StoreLookup },
        // Waiting for a suspect, or for what somebody finds out about it.
        Recover { recovery: Box<Recovery> },
        // The application carries the session's state over to another backend.
        Handoff { work: Handoff, to: u64, reason: Reason },
        // Waiting until this very clone is ready to be called.
        Wait { wait: ReadyWait<S> },
        Call {
            #[pin]
            future: S::Future,
            in_flight: Option<InFlight>,
            trial: Option<TrialPermit>,
            started: Option<Instant>,
        },
        // The same for the local node.
        LocalWait { wait: ReadyWait<I> },
        LastResort { inner: I },
        InnerCall {
            #[pin]
            future: I::Future,
            in_flight: Option<InFlight>,
        },
        Done,
    }
}

impl<S, I, E, B> ResponseFuture<S, I, E, B>
where
    S: Service<Request<B>>,
    I: Service<Request<B>>,
{
    pub(crate) fn new(
        dispatch: Dispatch<S>,
        answers: AsAnswers<S>,
        next: NextStep<S>,
        request: Request<B>,
        inner: Option<Arc<I>>,
    ) -> Self {
        let step = match next {
            NextStep::Try(Attempt { service: Some(service), state, trial, patience }) => {
                State::Wait { wait: ReadyWait::new(service, state, trial, patience) }
            }
            next => State::Begin { next },
        };
        Self { step, request: Some(request), dispatch, inner, answers, on_error: PhantomData }
    }
}

impl<S, I, E, B, RB, IB> Future for ResponseFuture<S, I, E, B>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
    I: Service<Request<B>, Response = Response<IB>> + Clone,
    I::Error: Into<BoxError>,
    IB: Body<Data = Bytes>,
    IB::Error: Into<BoxError>,
    E: OnError,
    B: 'static,
{
    type Output = Result<Response<StickyBody<RB, IB>>, E::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let dispatch = this.dispatch;
        loop {
            let step = match this.step.as_mut().project() {
                StateProjection::Begin { .. } => {
                    let owned = this.step.as_mut().project_replace(State::Done);
                    let OwnedState::Begin { next } = owned else {
                        return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                    };
                    match begin(dispatch, next, this.request, this.inner) {
                        Ok(step) => step,
                        Err(error) => return Poll::Ready(fail::<E, RB, IB, S>(dispatch, error)),
                    }
                }

                StateProjection::Lookup { lookup } => {
                    ready!(lookup.poll(cx, &mut dispatch.notes));
                    let Some(request) = this.request.as_mut() else {
                        return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                    };
                    State::Begin { next: dispatch.resume(request) }
                }

                StateProjection::Recover { recovery } => {
                    ready!(recovery.poll(cx));
                    State::Begin { next: dispatch.recovered(recovery) }
                }

                StateProjection::Handoff { work, to, reason } => {
                    let moves = ready!(work.poll(cx));
                    dispatch.detour().alone = work.release();
                    State::Begin { next: dispatch.handed_over(moves, *to, *reason) }
                }

                StateProjection::Wait { wait } => {
                    match ready!(wait.poll_ready::<S, B>(cx, dispatch)) {
                        // In place, piece by piece: to move the whole of it costs more than all of this.
                        ReadyOutcome::Open(slot) => {
                            let known = wait.state.as_deref();
                            if let Some(service) = known.and_then(|state| dispatch.renewed(state)) {
                                wait.renew(service, slot);
                                continue;
                            }
                            let Some(state) = wait.state.take() else {
                                return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                            };
                            // Counted first, and looked at again then: when a backend was taken out
                            // and nothing is in flight there, nothing comes any more.
                            let entered = Entered::new(state);
                            let state = entered.state();
                            if state.is_out_of_service() {
                                State::Begin { next: dispatch.withdrawn(state) }
                            } else {
                                dispatch.send(this.request, state, true);
                                let (started, services) =
                                    (dispatch.started(), state.service_generation());
                                let Some(request) = this.request.take() else {
                                    return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                                };
                                let trial = wait.trial.take();
                                let future = wait.service.call(request);
                                let in_flight = Some(InFlight::new(entered, slot, services));
                                this.step.set(State::Call { future, in_flight, trial, started });
                                continue;
                            }
                        }
                        gate => {
                            // What failed may not be the backend's service any more.
                            let known = wait.state.as_deref().filter(|_| gate.is_failure());
                            if let Some(service) = known.and_then(|state| dispatch.renewed(state)) {
                                wait.service = service;
                                continue;
                            }
                            let owned = this.step.as_mut().project_replace(State::Done);
                            let OwnedState::Wait { wait } = owned else {
                                return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                            };
                            let Some(left) = wait.leave() else {
                                return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                            };
                            State::Begin { next: shut(dispatch, gate, left) }
                        }
                    }
                }

                StateProjection::Call { future, in_flight, trial, started } => {
                    let mut result = ready!(future.poll(cx));
                    let (mut in_flight, mut trial) = (in_flight.take(), trial.take());
                    let started = started.take();
                    this.step.set(State::Done);
                    let mut judged = None;
                    // What goes out is looked at where it is, and moved once.
                    if let (Ok(response), Some(known)) = (&mut result, &mut in_flight) {
                        observe(dispatch.core(), known.state(), started);
                        judged = judge(dispatch, *this.answers, known, trial.take(), response);
                        dispatch.answered(known.state(), true, response);
                        dispatch.settled(known);
                        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                            hold(response, &mut in_flight);
                        }
                    }
                    match (result, in_flight) {
                        (Ok(response), in_flight) => {
                            let answer =
                                response.map(|body| StickyBody::backend(body, in_flight, judged));
                            return Poll::Ready(Ok(answer));
                        }
                        (Err(error), Some(in_flight)) => {
                            match failed(dispatch, in_flight, trial, error.into()) {
                                Ok((next, request)) => {
                                    *this.request = Some(request);
                                    State::Begin { next }
                                }
                                Err(error) => {
                                    return Poll::Ready(fail::<E, RB, IB, S>(dispatch, error));
                                }
                            }
                        }
                        (Err(_), None) => return Poll::Ready(lost::<E, RB, IB, S>(dispatch)),
                    }
                }

                StateProjection::LocalWait { wait } => {
                    match ready!(wait.poll_ready::<S, B>(cx, dispatch)) {
                        ReadyOutcome::Open(slot) => {
                            let Some(state) = wait.state.take() else {
                                return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                            };
                            dispatch.send(this.request, &state, false);
                            let Some(request) = this.request.take() else {
                                return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                            };
                            let future = wait.service.call(request);
                            let services = state.service_generation();
                            let in_flight =
                                Some(InFlight::new(Entered::new(state), slot, services));
                            State::InnerCall { future, in_flight }
                        }
                        gate => {
                            let owned = this.step.as_mut().project_replace(State::Done);
                            let OwnedState::LocalWait { wait } = owned else {
                                return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                            };
                            let Some(left) = wait.leave() else {
                                return Poll::Ready(lost::<E, RB, IB, S>(dispatch));
                            };
                            State::Begin { next: shut(dispatch, gate, left) }
                        }
                    }
                }

                StateProjection::LastResort { inner } => {
                    let result = ready!(inner.poll_ready(cx)).map_err(Into::into);
                    match (result, this.request.take()) {
                        (Ok(()), Some(request)) => {
                            let future = inner.call(request);
                            State::InnerCall { future, in_flight: None }
                        }
                        (Ok(()), None) => return Poll::Ready(lost::<E, RB, IB, S>(dispatch)),
                        (Err(source), _) => {
                            this.step.set(State::Done);
                            let error = StickyError::Inner { source };
                            return Poll::Ready(fail::<E, RB, IB, S>(dispatch, error));
                        }
                    }
                }

                StateProjection::InnerCall { future, in_flight } => {
                    let result = ready!(future.poll(cx));
                    let in_flight = in_flight.take();
                    this.step.set(State::Done);
                    return Poll::Ready(match result {
                        Ok(response) => Ok(inner_answered(dispatch, response, in_flight)),
                        Err(error) => {
                            let error = StickyError::Inner { source: error.into() };
                            fail::<E, RB, IB, S>(dispatch, error)
                        }
                    });
                }

                // A future that has returned is not polled again; waiting for ever is allowed.
                StateProjection::Done => return Poll::Pending,
            };
            this.step.set(step);
        }
    }
}

/// Turns a decision into the step that carries it out.
fn begin<S, I, B>(
    dispatch: &mut Dispatch<S>,
    next: NextStep<S>,
    request: &mut Option<Request<B>>,
    inner: &Option<Arc<I>>,
) -> Result<State<S, I, B>, StickyError>
where
    S: Service<Request<B>> + Clone,
    I: Service<Request<B>> + Clone,
{
    match (next, inner) {
        (NextStep::Lookup(lookup), _) => Ok(State::Lookup { lookup }),
        (NextStep::Recover(recovery), _) => Ok(State::Recover { recovery }),
        (NextStep::Handoff { work, to, reason }, _) => Ok(State::Handoff { work, to, reason }),
        (NextStep::Fail(error), _) => Err(error),
        (NextStep::Try(Attempt { service: Some(service), state, trial, patience }), _) => {
            Ok(State::Wait { wait: ReadyWait::new(service, state, trial, patience) })
        }
        (NextStep::Try(Attempt { state, trial, patience, .. }), Some(inner)) => {
            Ok(State::LocalWait { wait: ReadyWait::new(I::clone(inner), state, trial, patience) })
        }
        (NextStep::LastResort, Some(inner)) => {
            dispatch.send_last_resort(request);
            Ok(State::LastResort { inner: I::clone(inner) })
        }
        (NextStep::Try(_) | NextStep::LastResort, None) => Err(StickyError::NoBackend),
    }
}

impl<S, I, E, B> fmt::Debug for ResponseFuture<S, I, E, B>
where
    S: Service<Request<B>>,
    I: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
