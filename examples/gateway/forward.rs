//! `--forward-only`: the same proxy without affinity, as the baseline when the cost of affinity is measured.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Full};
use tower_service::Service;
use tower_sticky::{
    ClientError,
    proxy::{Upstream, UpstreamBody, UpstreamFuture},
    serve::RequestBody,
};

/// Sends each request to the next backend, once. A failure is a 502, or a 400 or 408 when the request body
/// failed.
#[derive(Debug, Clone)]
pub(crate) struct ForwardOnly {
    backends: Arc<[Upstream]>,
    next: Arc<AtomicUsize>,
}

impl ForwardOnly {
    /// There must be at least one backend.
    pub(crate) fn new(backends: Vec<Upstream>) -> Self {
        Self { backends: backends.into(), next: Arc::default() }
    }
}

impl Service<Request<RequestBody>> for ForwardOnly {
    type Response = Response<Either<UpstreamBody, Full<Bytes>>>;
    type Error = Infallible;
    type Future = Forwarding;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Forwarding {
        let position = self.next.fetch_add(1, Ordering::Relaxed) % self.backends.len();
        // `Upstream` is always ready.
        Forwarding(self.backends[position].clone().call(request))
    }
}

/// The future of a response.
pub(crate) struct Forwarding(UpstreamFuture<RequestBody>);

impl Future for Forwarding {
    type Output = Result<Response<Either<UpstreamBody, Full<Bytes>>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(response) => response.map(Either::Left),
            Err(error) => {
                tracing::debug!(%error, "no answer from the backend");
                let (status, text) = match error.downcast_ref::<ClientError>() {
                    Some(error) if error.is_stall() => {
                        (StatusCode::REQUEST_TIMEOUT, "the request did not come in time\n")
                    }
                    Some(_) => (StatusCode::BAD_REQUEST, "the request's body is broken\n"),
                    None => (StatusCode::BAD_GATEWAY, "the server gave no valid answer\n"),
                };
                let mut response = Response::new(Either::Right(Full::from(text)));
                *response.status_mut() = status;
                response
            }
        }))
    }
}
