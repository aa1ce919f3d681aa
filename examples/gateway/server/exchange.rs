//! A request of a client: what is added to it for the service, and to its response.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;
use tower_sticky::{Outcome, Peer, Verdict};
use tracing::{Span, field::Empty};

use super::{
    bodies::{AnswerBody, ClientBody, TooLarge},
    refusal::{RequestLimits, refusal},
    watch::{Busy, Watch},
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The service of one connection. The inner service must always be ready, as
/// [`StickyService`](tower_sticky::StickyService) and Axum's router are.
pub(super) struct Exchange<S> {
    pub(super) service: S,
    pub(super) peer: Peer,
    pub(super) watch: Arc<Watch>,
    pub(super) server_timing: bool,
    pub(super) limits: RequestLimits,
    /// How much of an HTTP/1.1 response hyper may have that is not sent.
    pub(super) unsent_limit: usize,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Exchange<S>
where
    S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = Response<AnswerBody<B>>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = self.watch.began();
        // Costs one comparison when it is not enabled.
        let span = tracing::info_span!(
            "request",
            method = %request.method(),
            path = request.uri().path(),
            client = %self.peer.addr(),
            sticky.backend = Empty,
            sticky.outcome = Empty,
            sticky.reason = Empty,
        );
        let refused = refusal(&request, &self.limits);
        let is_http1 = request.version() < Version::HTTP_2;
        self.watch.allow_interim(request.version() == Version::HTTP_11);
        let (limit, watch) = (self.limits.body_bytes, self.watch.clone());
        let mut request = request.map(|body| ClientBody::new(body, limit, watch, busy.clone()));
        let too_large = request.body().too_large();
        let step = match refused {
            Some(status) => Step::Refuse { status },
            None => {
                request.extensions_mut().insert(self.peer.clone());
                let future = span.in_scope(|| self.service.clone().call(request));
                Step::Serve { future }
            }
        };
        let (watch, server_timing) = (Some(self.watch.clone()), self.server_timing);
        let unsent_limit = self.unsent_limit;
        let busy = Some(busy);
        Answer { step, span, busy, watch, server_timing, is_http1, unsent_limit, too_large }
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<F> {
        Serve { #[pin] future: F },
        Refuse { status: StatusCode },
    }
}

pin_project! {
    /// The future of a response.
    pub(super) struct Answer<F> {
        #[pin]
        step: Step<F>,
        span: Span,
        busy: Option<Busy>,
        watch: Option<Arc<Watch>>,
        server_timing: bool,
        is_http1: bool,
        unsent_limit: usize,
        too_large: TooLarge,
    }
}

impl<F, B> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<AnswerBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = this.span.enter();
        let mut response = match this.step.as_mut().project() {
            StepProjection::Serve { future } => ready!(future.poll(cx))?.map(Some),
            StepProjection::Refuse { status } => {
                let mut response = Response::new(None);
                *response.status_mut() = *status;
                response
            }
        };
        if this.too_large.as_ref().is_some_and(|too_large| too_large.load(Relaxed)) {
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        }
        let (busy, watch) = (this.busy.take(), this.watch.take());
        // HTTP/2 limits it per stream.
        let limit = if *this.is_http1 { *this.unsent_limit } else { usize::MAX };
        let refused = matches!(this.step.as_ref().get_ref(), Step::Refuse { .. });
        if *this.is_http1 && (refused || watch.as_ref().is_some_and(|watch| watch.is_unread())) {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        if *this.server_timing {
            let value = server_timing(Outcome::of(response.extensions()));
            response.headers_mut().append(SERVER_TIMING, value);
        }
        tracing::info!(status = response.status().as_u16(), "answered");
        Poll::Ready(Ok(response.map(|body| AnswerBody::new(body, watch, busy, limit))))
    }
}

/// `sticky;desc="<outcome> <backend>"` (Server Timing, section 3). An id has no byte that would have
/// to be escaped in a quoted string.
fn server_timing(outcome: Option<&Outcome>) -> HeaderValue {
    let verdict = outcome.map_or(Verdict::Rejected, Outcome::verdict);
    let value = match outcome.and_then(Outcome::backend) {
        Some(backend) => format!("sticky;desc=\"{verdict} {backend}\""),
        None => format!("sticky;desc=\"{verdict}\""),
    };
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("sticky"))
}
