//! The future of a response: waits for a backend, calls it, fails over, and commits the pin.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    finish::{answer, complete, fail, inner_answer},
    steps::{State, StateProj, Transition},
};
use crate::{
    dispatch::{AsAnswers, Dispatch, observe},
    error::BoxError,
    outcome::{StickyError, recording::Arrival},
    pool::BackendState,
    service::{OnError, StickyBody},
};

pin_project! {
    /// The future of a [`StickyService`](crate::StickyService)'s response. It is not boxed, and a pinned
    /// request whose backend is ready does not allocate. It does nothing until it is polled, and a future that is
    /// dropped before is not counted.
    pub struct ResponseFuture<S, I, E, B>
    where
        S: Service<Request<B>>,
        I: Service<Request<B>>,
    {
        #[pin]
        state: State<S, I, B>,
        // The request, while no service has it.
        request: Option<Request<B>>,
        dispatch: Dispatch<S>,
        arrived: Arrival,
        inner: Option<Arc<I>>,
        answers: AsAnswers<S>,
        on_error: PhantomData<fn() -> E>,
    }

    impl<S, I, E, B> PinnedDrop for ResponseFuture<S, I, E, B>
    where
        S: Service<Request<B>>,
        I: Service<Request<B>>,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let state = this.state.project();
            // A future that was never polled has done nothing.
            if !this.dispatch.is_counted() && !matches!(state, StateProj::Arrived) {
                this.dispatch.canceled(*this.arrived, state.backend());
            }
        }
    }
}

impl<S, I, E, B> ResponseFuture<S, I, E, B>
where
    S: Service<Request<B>>,
    I: Service<Request<B>>,
{
    // Inlined always, as otherwise the request is moved once more.
    #[inline(always)]
    pub(crate) fn new(
        dispatch: Dispatch<S>,
        answers: AsAnswers<S>,
        request: Request<B>,
        inner: Option<Arc<I>>,
    ) -> Self {
        Self {
            state: State::Arrived,
            request: Some(request),
            dispatch,
            arrived: Arrival::default(),
            inner,
            answers,
            on_error: PhantomData,
        }
    }
}

impl<S, I, E, B, RB, IB> Future for ResponseFuture<S, I, E, B>
where
    B: 'static,
    S: Service<Request<B>, Response = Response<RB>, Error: Into<BoxError>> + Clone,
    RB: Body<Data = Bytes, Error: Into<BoxError>>,
    I: Service<Request<B>, Response = Response<IB>, Error: Into<BoxError>> + Clone,
    IB: Body<Data = Bytes, Error: Into<BoxError>>,
    E: OnError,
{
    type Output = Result<Response<StickyBody<RB, IB>>, E::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut state, request, dispatch) = (this.state, this.request, this.dispatch);
        loop {
            let arrived = *this.arrived;
            let transition = match state.as_mut().project() {
                StateProj::Arrived => state.as_mut().begin(dispatch, request, this.arrived),
                StateProj::Detour { .. } => {
                    ready!(state.as_mut().poll_detour(cx, dispatch, request))
                }
                StateProj::Wait { .. } => ready!(state.as_mut().poll_wait(cx, dispatch, request)),
                StateProj::Call { future, in_flight, trial, started } => {
                    let mut result = ready!(poll_attempt(future, cx, dispatch));
                    let (mut in_flight, mut trial, started) =
                        (in_flight.take(), trial.take(), started.take());
                    state.set(State::Done);
                    // The response is changed in place, and moved once.
                    let judged = match (&mut result, &mut in_flight) {
                        (Ok(response), Some(in_flight)) => {
                            observe(dispatch.core(), in_flight.state(), started);
                            let (answers, trial) = (*this.answers, trial.take());
                            complete(dispatch, answers, in_flight, trial, arrived, response)
                        }
                        _ => None,
                    };
                    match result {
                        Ok(response) => {
                            return Poll::Ready(Ok(answer(response, in_flight, judged)));
                        }
                        Err(error) => {
                            let attempt = (in_flight, trial);
                            Transition::after_failure(dispatch, attempt, error, arrived, request)
                        }
                    }
                }
                StateProj::LocalWait { .. } => {
                    ready!(state.as_mut().poll_local_wait(cx, dispatch, request))
                }
                StateProj::LastResort { .. } => {
                    ready!(state.as_mut().poll_last_resort(cx, request))
                }
                StateProj::InnerCall { future, in_flight } => {
                    let result = ready!(poll_attempt(future, cx, dispatch));
                    let in_flight = in_flight.take();
                    state.set(State::Done);
                    match result.map(|it| inner_answer(dispatch, arrived, it, in_flight)) {
                        Ok(response) => return Poll::Ready(Ok(response)),
                        Err(error) => Transition::Fail(StickyError::Inner { source: error.into() }),
                    }
                }
                // A future must not be polled again after it has returned.
                StateProj::Done => return Poll::Pending,
            };
            if let Err(error) = state.as_mut().follow(transition, request, this.inner, dispatch) {
                state.set(State::Done);
                *request = None; // The server is to know what is unread when it gets the response.
                return Poll::Ready(fail::<E, RB, IB, S>(dispatch, arrived, error));
            }
        }
    }
}

/// Polls the call of a service, in the span of the attempt.
#[inline(always)]
fn poll_attempt<F: Future, S>(
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
    dispatch: &Dispatch<S>,
) -> Poll<F::Output> {
    let _span = dispatch.enter_attempt();
    future.poll(cx)
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

impl<S, I, B> StateProj<'_, S, I, B>
where
    S: Service<Request<B>>,
    I: Service<Request<B>>,
{
    /// The backend that has the request, or that it waits for.
    fn backend(&self) -> Option<&BackendState> {
        match self {
            Self::Wait { wait } => wait.backend(),
            Self::LocalWait { wait } => wait.backend(),
            Self::Call { in_flight, .. } | Self::InnerCall { in_flight, .. } => {
                in_flight.as_ref().map(|in_flight| &**in_flight.state())
            }
            Self::Arrived | Self::Detour { .. } | Self::LastResort { .. } | Self::Done => None,
        }
    }
}
