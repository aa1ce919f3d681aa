//! The future of a response that is recorded.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{body::AccessLogBody, pending::Pending};
use crate::outcome::canceled;

pin_project! {
    /// The future of an [`AccessLogService`](super::AccessLogService)'s response.
    #[must_use = "futures do nothing unless polled"]
    pub struct AccessLogFuture<F> {
        // `None` once it has returned.
        #[pin]
        future: Option<F>,
        pending: Option<Pending>,
    }

    impl<F> PinnedDrop for AccessLogFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // It was dropped before the answer: the caller has given the request up.
            if let Some(mut pending) = this.pending.take() {
                pending.canceled(canceled::outcome_of(|| this.future.set(None)));
            }
        }
    }
}

impl<F> AccessLogFuture<F> {
    pub(super) fn new(future: F, pending: Pending) -> Self {
        Self { future: Some(future), pending: Some(pending) }
    }
}

impl<F, B, E> Future for AccessLogFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<AccessLogBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // It must not be polled again after it has returned.
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let result = ready!(future.poll(cx));
        this.future.set(None);
        let mut pending = this.pending.take();
        match (&result, &mut pending) {
            (Ok(response), Some(pending)) => pending.answered(response),
            (Err(_), Some(pending)) => pending.broken(),
            (_, None) => {}
        }
        Poll::Ready(result.map(|response| response.map(|body| AccessLogBody::new(body, pending))))
    }
}

impl<F> fmt::Debug for AccessLogFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogFuture").finish_non_exhaustive()
    }
}
