//! A request of a client: what is added to it for the service, and to its response.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    bodies::{RequestBody, ResponseBody, TooLarge},
    refusal::{OnRefusal, RequestLimits, refusal},
    shared::Shared,
    watch::{Busy, Watch},
};
use crate::{
    outcome::{Outcome, Verdict},
    session::Peer,
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The service of one connection.
pub(super) struct Exchange<S> {
    service: S,
    peer: Peer,
    watch: Arc<Watch>,
    server_timing: bool,
    #[cfg(feature = "axum")]
    connect_info: bool,
    limits: RequestLimits,
    on_refusal: OnRefusal,
    /// How much of an HTTP/1.1 response hyper may have that is not sent.
    unsent_limit: usize,
}

impl<S> Exchange<S> {
    pub(super) fn new(service: S, peer: Peer, watch: &Arc<Watch>, shared: &Shared) -> Self {
        Self {
            service,
            peer,
            watch: watch.clone(),
            server_timing: shared.server_timing,
            #[cfg(feature = "axum")]
            connect_info: shared.connect_info,
            limits: shared.limits.request,
            on_refusal: shared.on_refusal.clone(),
            unsent_limit: shared.limits.buffer_bytes / 8,
        }
    }

    /// Adds to a request what the application may ask for.
    fn add_extensions(&self, request: &mut Request<RequestBody>) {
        #[cfg(feature = "axum")]
        if self.connect_info {
            let info = axum::extract::ConnectInfo(self.peer.addr());
            request.extensions_mut().insert(info);
        }
        #[cfg(feature = "tls")]
        if let Some(cert) = self.peer.forwarded_client_cert() {
            cert.apply_strictly(request.headers_mut());
        }
        request.extensions_mut().insert(self.peer.clone());
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Exchange<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Infallible;
    type Future = ResponseFuture<S, S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = self.watch.began();
        let refused = refusal(&request, &self.limits);
        let is_http1 = request.version() < Version::HTTP_2;
        self.watch.allow_interim(request.version() == Version::HTTP_11);
        let (limit, watch) = (self.limits.body_bytes, self.watch.clone());
        let mut request = request.map(|body| RequestBody::new(body, limit, watch, busy.clone()));
        let too_large = request.body().too_large();
        let step = match refused {
            Some(status) => {
                request.extensions_mut().insert(self.peer.clone());
                self.on_refusal.tell(&request, status);
                Step::Refuse { status }
            }
            None => {
                self.add_extensions(&mut request);
                Step::begin(self.service.clone(), request)
            }
        };
        let (watch, server_timing) = (Some(self.watch.clone()), self.server_timing);
        let unsent_limit = self.unsent_limit;
        let busy = Some(busy);
        ResponseFuture { step, busy, watch, server_timing, is_http1, unsent_limit, too_large }
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<S, F> {
        Serve { #[pin] future: F },
        // The service was not ready at once.
        Wait { waiting: Box<(S, Option<Request<RequestBody>>)> },
        Refuse { status: StatusCode },
        Done,
    }
}

impl<S, B> Step<S, S::Future>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
{
    /// Calls the service if it is ready, as most are always.
    fn begin(mut service: S, request: Request<RequestBody>) -> Self {
        // It is asked again with the waker of the task if it is not ready.
        let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
        match ready {
            Poll::Ready(_) => Self::Serve { future: service.call(request) },
            Poll::Pending => Self::Wait { waiting: Box::new((service, Some(request))) },
        }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<Option<B>>> {
        loop {
            let future = match self.as_mut().project() {
                StepProjection::Serve { future } => {
                    let Ok(response) = ready!(future.poll(cx));
                    return Poll::Ready(response.map(Some));
                }
                StepProjection::Wait { waiting } => {
                    let (service, request) = &mut **waiting;
                    let Ok(()) = ready!(service.poll_ready(cx));
                    request.take().map(|request| service.call(request))
                }
                StepProjection::Refuse { .. } | StepProjection::Done => None,
            };
            match future {
                Some(future) => self.set(Self::Serve { future }),
                None => return Poll::Ready(self.refused()),
            }
        }
    }

    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refuse { status } => Some(*status),
            _ => None,
        }
    }

    fn refused(&self) -> Response<Option<B>> {
        let mut response = Response::new(None);
        *response.status_mut() = self.status().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }
}

pin_project! {
    /// The future of a response.
    pub(super) struct ResponseFuture<S, F> {
        #[pin]
        step: Step<S, F>,
        busy: Option<Busy>,
        watch: Option<Arc<Watch>>,
        server_timing: bool,
        is_http1: bool,
        unsent_limit: usize,
        too_large: TooLarge,
    }
}

impl<S, B> Future for ResponseFuture<S, S::Future>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
{
    type Output = Result<Response<ResponseBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut response = ready!(this.step.as_mut().poll(cx));
        if this.too_large.as_ref().is_some_and(|too_large| too_large.load(Relaxed)) {
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        }
        let (busy, watch) = (this.busy.take(), this.watch.take());
        // HTTP/2 limits it per stream.
        let limit = if *this.is_http1 { *this.unsent_limit } else { usize::MAX };
        let refused = this.step.status().is_some();
        // The service's future may hold a body that it has not read.
        this.step.set(Step::Done);
        if *this.is_http1 && (refused || watch.as_ref().is_some_and(|watch| watch.is_unread())) {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        if *this.server_timing {
            let value = server_timing(Outcome::of(response.extensions()));
            response.headers_mut().append(SERVER_TIMING, value);
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, watch, busy, limit))))
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
