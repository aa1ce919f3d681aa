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
    steps::{State, StateProjection, Transition},
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
            if !this.dispatch.is_counted() && !matches!(state, StateProjection::Arrived) {
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
        let this = self.project();
        let (mut state, request, dispatch) = (this.state, this.request, this.dispatch);
        loop {
            let arrived = *this.arrived;
            let transition = match state.as_mut().project() {
                StateProjection::Arrived => state.as_mut().begin(dispatch, request, this.arrived),
                StateProjection::Detour { .. } => {
                    ready!(state.as_mut().poll_detour(cx, dispatch, request))
                }
                StateProjection::Wait { .. } => {
                    ready!(state.as_mut().poll_wait(cx, dispatch, request))
                }
                StateProjection::Call { future, in_flight, trial, started } => {
                    let span = dispatch.enter_attempt();
                    let mut result = ready!(future.poll(cx));
                    drop(span);
                    let (mut in_flight, mut trial, started) =
                        (in_flight.take(), trial.take(), started.take());
                    state.set(State::Done);
                    // The response is changed in place, and moved once.
                    let judged = match (&mut result, &mut in_flight) {
                        (Ok(response), Some(in_flight)) => {
                            observe(dispatch.core(), in_flight.state(), started);
                            let (sent, status) = (dispatch.sent(), response.status());
                            dispatch.attempt_answered(status);
                            in_flight.head_arrived(arrived, sent, status, || {
                                response.body().is_end_stream()
                            });
                            complete(dispatch, *this.answers, in_flight, trial.take(), response)
                        }
                        _ => None,
                    };
                    match result {
                        Ok(response) => {
                            return Poll::Ready(Ok(answer(response, in_flight, judged)));
                        }
                        Err(error) => {
                            let error = error.into();
                            Transition::after_failure(
                                dispatch, in_flight, trial, error, arrived, request,
                            )
                        }
                    }
                }
                StateProjection::LocalWait { .. } => {
                    ready!(state.as_mut().poll_local_wait(cx, dispatch, request))
                }
                StateProjection::LastResort { .. } => {
                    ready!(state.as_mut().poll_last_resort(cx, request))
                }
                StateProjection::InnerCall { future, in_flight } => {
                    let span = dispatch.enter_attempt();
                    let result = ready!(future.poll(cx));
                    drop(span);
                    let in_flight = in_flight.take();
                    state.set(State::Done);
                    match result {
                        Ok(response) => {
                            return Poll::Ready(Ok(inner_answer(
                                dispatch, arrived, response, in_flight,
                            )));
                        }
                        Err(error) => Transition::Fail(StickyError::Inner { source: error.into() }),
                    }
                }
                // A future must not be polled again after it has returned.
                StateProjection::Done => return Poll::Pending,
            };
            if let Err(error) = state.as_mut().follow(transition, request, this.inner, dispatch) {
                state.set(State::Done);
                // The server looks at the response after this: what is unread of the body is to be known then.
                *request = None;
                return Poll::Ready(fail::<E, RB, IB, S>(dispatch, arrived, error));
            }
        }
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

impl<S, I, B> StateProjection<'_, S, I, B>
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
