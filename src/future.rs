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

use crate::{
    BoxError, Hold, NotSent, OnError, Reason, StickyBody, StickyError, Unanswered, Verdict,
    affinity::Head,
    backend::{BackendState, InFlight, Readiness},
    dispatch::{Attempt, Dispatch, Next, Trial, observe},
    wait::{Gate, Wait},
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
        step: Step<S, I, B>,
        dispatch: Dispatch<S>,
        inner: Option<Arc<I>>,
        on_error: PhantomData<fn() -> E>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<S, I, B>
    where
        S: Service<Request<B>>,
        I: Service<Request<B>>,
    {
        /// Something is to be begun.
        Begin { next: Option<(Next<S>, Request<B>)> },
        /// Waiting until this very clone is ready to be called.
        Wait { wait: Wait<S>, request: Option<Request<B>> },
        Call {
            #[pin]
            future: S::Future,
            in_flight: Option<InFlight>,
            trial: Option<Trial>,
            started: Option<Instant>,
        },
        InnerWait { inner: I, request: Option<Request<B>>, in_flight: Option<InFlight> },
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
        next: Next<S>,
        request: Request<B>,
        inner: Option<Arc<I>>,
    ) -> Self {
        let step = match next {
            Next::Try(Attempt {
                service: Some(service),
                state,
                trial,
                patience,
            }) => Step::Wait {
                wait: Wait::new(service, state, trial, patience),
                request: Some(request),
            },
            next => Step::Begin {
                next: Some((next, request)),
            },
        };
        Self {
            step,
            dispatch,
            inner,
            on_error: PhantomData,
        }
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
                StepProjection::Begin { next } => match next.take() {
                    Some((Next::Fail(error), _)) => {
                        this.step.set(Step::Done);
                        return Poll::Ready(fail::<E, RB, IB, S>(dispatch, error));
                    }
                    Some((next, request)) => begin(dispatch, next, request, this.inner),
                    None => return Poll::Pending,
                },

                StepProjection::Wait { wait, request } => {
                    let gate = ready!(wait.poll_ready::<B>(cx, dispatch));
                    let Some(mut request) = request.take() else {
                        return Poll::Pending;
                    };
                    match gate {
                        Gate::Open(slot) => {
                            let state = &wait.attempt.state;
                            dispatch.send(&mut request, state, true);
                            let in_flight = Some(InFlight::new(state.clone(), slot));
                            let started = dispatch.core().options.wants_latency.then(Instant::now);
                            let trial = wait.attempt.trial.take();
                            let future = wait.service.call(request);
                            Step::Call {
                                future,
                                in_flight,
                                trial,
                                started,
                            }
                        }
                        Gate::Busy => {
                            let next = dispatch.busy(&wait.attempt, &Head::of(&request));
                            Step::Begin {
                                next: Some((next, request)),
                            }
                        }
                        Gate::Failed(source) => {
                            let state = &wait.attempt.state;
                            let pool = dispatch.core().backends.pool().clone();
                            pool.set_readiness(state, Readiness::Failed);
                            let head = Head::of(&request);
                            let next = dispatch.not_sent(state, Reason::NotReady, source, &head);
                            Step::Begin {
                                next: Some((next, request)),
                            }
                        }
                    }
                }

                StepProjection::Call {
                    future,
                    in_flight,
                    trial,
                    started,
                } => {
                    let result = ready!(future.poll(cx));
                    let Some(in_flight) = in_flight.take() else {
                        return Poll::Pending;
                    };
                    match result {
                        Ok(response) => {
                            observe(dispatch.core(), in_flight.state(), *started);
                            acquit(dispatch, in_flight.state(), trial.take());
                            let response = stamp(dispatch, response, in_flight);
                            let response =
                                response.map(|(body, guard)| StickyBody::backend(body, guard));
                            this.step.set(Step::Done);
                            return Poll::Ready(Ok(response));
                        }
                        Err(error) => {
                            let (state, trial) = (in_flight.state().clone(), trial.take());
                            drop(in_flight);
                            match refused(dispatch, &state, trial, error.into()) {
                                Ok(next) => Step::Begin { next: Some(next) },
                                Err(error) => {
                                    this.step.set(Step::Done);
                                    return Poll::Ready(fail::<E, RB, IB, S>(dispatch, error));
                                }
                            }
                        }
                    }
                }

                StepProjection::InnerWait {
                    inner,
                    request,
                    in_flight,
                } => match ready!(inner.poll_ready(cx)) {
                    Ok(()) => {
                        let Some(request) = request.take() else {
                            return Poll::Pending;
                        };
                        let future = inner.call(request);
                        Step::InnerCall {
                            future,
                            in_flight: in_flight.take(),
                        }
                    }
                    Err(error) => {
                        this.step.set(Step::Done);
                        let error = StickyError::Inner {
                            source: error.into(),
                        };
                        return Poll::Ready(fail::<E, RB, IB, S>(dispatch, error));
                    }
                },

                StepProjection::InnerCall { future, in_flight } => {
                    let result = ready!(future.poll(cx));
                    let in_flight = in_flight.take();
                    this.step.set(Step::Done);
                    return Poll::Ready(match result {
                        Ok(response) => Ok(inner_answered(dispatch, response, in_flight)),
                        Err(error) => {
                            let error = StickyError::Inner {
                                source: error.into(),
                            };
                            fail::<E, RB, IB, S>(dispatch, error)
                        }
                    });
                }

                // A future that has returned is not polled again; waiting for ever is allowed.
                StepProjection::Done => return Poll::Pending,
            };
            this.step.set(step);
        }
    }
}

/// Turns a decision into the step that carries it out.
fn begin<S, I, B>(
    dispatch: &mut Dispatch<S>,
    next: Next<S>,
    mut request: Request<B>,
    inner: &Option<Arc<I>>,
) -> Step<S, I, B>
where
    S: Service<Request<B>> + Clone,
    I: Service<Request<B>> + Clone,
{
    match (next, inner) {
        (
            Next::Try(Attempt {
                service: Some(service),
                state,
                trial,
                patience,
            }),
            _,
        ) => {
            let wait = Wait::new(service, state, trial, patience);
            Step::Wait {
                wait,
                request: Some(request),
            }
        }
        (Next::Try(Attempt { state, .. }), Some(inner)) => {
            dispatch.send(&mut request, &state, false);
            let in_flight = Some(InFlight::new(state, None));
            Step::InnerWait {
                inner: I::clone(inner),
                request: Some(request),
                in_flight,
            }
        }
        (Next::LastResort, Some(inner)) => {
            dispatch.send_last_resort(&mut request);
            Step::InnerWait {
                inner: I::clone(inner),
                request: Some(request),
                in_flight: None,
            }
        }
        (Next::Try(_) | Next::LastResort, None) => {
            let next = Some((Next::Fail(StickyError::NoBackend), request));
            Step::Begin { next }
        }
        (Next::Fail(error), _) => Step::Begin {
            next: Some((Next::Fail(error), request)),
        },
    }
}

/// An answer is the end of every suspicion.
#[inline]
fn acquit<S>(dispatch: &Dispatch<S>, state: &BackendState, trial: Option<Trial>) {
    if state.is_suspect() {
        let pool = dispatch.core().backends.pool();
        pool.update(state, "it answered", |sources| sources.passive.answered());
    }
    drop(trial);
}

/// What to do about a backend's error: the next step with the request, when it is here again and
/// may go elsewhere, or the error.
fn refused<S: Clone, B: 'static>(
    dispatch: &mut Dispatch<S>,
    state: &Arc<BackendState>,
    trial: Option<Trial>,
    error: BoxError,
) -> Result<(Next<S>, Request<B>), StickyError> {
    let error = match error.downcast::<NotSent<Request<B>>>() {
        Ok(not_sent) => {
            let health = dispatch.core().options.health;
            let (request, source) = not_sent.into_parts();
            let pool = dispatch.core().backends.pool();
            pool.update(state, "the connection failed", |sources| {
                let now = Instant::now();
                sources
                    .passive
                    .failed(health.connect_failures, health.ejection, now);
            });
            pool.wake.notify_one();
            drop(trial);
            return match request {
                Some(request) => {
                    let head = Head::of(&request);
                    let next = dispatch.not_sent(state, Reason::ConnectFailed, source, &head);
                    Ok((next, request))
                }
                None => Err(StickyError::NotSent {
                    backend: state.id.clone(),
                    source,
                }),
            };
        }
        Err(error) => error,
    };
    let source = match error.downcast::<Unanswered<Request<B>>>() {
        Ok(unanswered) => {
            let (request, source) = unanswered.into_parts();
            match request {
                Some(request) if dispatch.may_retry() => {
                    let head = Head::of(&request);
                    let next = dispatch.not_sent(state, Reason::ConnectFailed, source, &head);
                    return Ok((next, request));
                }
                _ => source,
            }
        }
        Err(source) => source,
    };
    Err(StickyError::Backend {
        backend: state.id.clone(),
        source,
    })
}

/// Settles the pin on a backend's response, and decides how long it counts as in flight.
#[inline]
fn stamp<S, RB>(
    dispatch: &mut Dispatch<S>,
    response: Response<RB>,
    in_flight: InFlight,
) -> Response<(RB, Option<InFlight>)> {
    let (mut parts, body) = response.into_parts();
    dispatch.answered(in_flight.state(), &mut parts.headers, &mut parts.extensions);
    let mut in_flight = Some(in_flight);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS
        && let Some(hold) = parts.extensions.get::<Hold>()
        && let Some(in_flight) = in_flight.take()
    {
        hold.keep(in_flight);
    }
    Response::from_parts(parts, (body, in_flight))
}

fn inner_answered<S, RB, IB>(
    dispatch: &mut Dispatch<S>,
    response: Response<IB>,
    in_flight: Option<InFlight>,
) -> Response<StickyBody<RB, IB>> {
    let (mut parts, body) = response.into_parts();
    match &in_flight {
        Some(in_flight) => {
            dispatch.answered(in_flight.state(), &mut parts.headers, &mut parts.extensions);
        }
        None => dispatch.answered_otherwise(Verdict::LastResort, &mut parts.extensions),
    }
    Response::from_parts(parts, StickyBody::inner(body, in_flight))
}

fn fail<E: OnError, RB, IB, S>(
    dispatch: &mut Dispatch<S>,
    error: StickyError,
) -> Result<Response<StickyBody<RB, IB>>, E::Error> {
    dispatch.rejected(&error);
    let outcome = dispatch.outcome(error.backend());
    let result = E::settle(error, dispatch.asked());
    result.map(|mut response| {
        if dispatch.core().options.extensions {
            response.extensions_mut().insert(outcome);
        }
        response
    })
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
