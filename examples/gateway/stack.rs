//! The layers around the sticky service: the stack of this gateway.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Either;
use pin_project_lite::pin_project;
use tower::ServiceBuilder;
use tower_http::{
    body::UnsyncBoxBody,
    catch_panic::{CatchPanic, CatchPanicLayer, DefaultResponseForPanic},
    classify::{ServerErrorsAsFailures, SharedClassifier},
    request_id::{
        MakeRequestUuid, PropagateRequestId, PropagateRequestIdLayer, SetRequestId,
        SetRequestIdLayer,
    },
    sensitive_headers::{SetSensitiveRequestHeaders, SetSensitiveRequestHeadersLayer},
    trace::{Trace, TraceLayer},
};
use tower_service::Service;
use tower_sticky::{
    BoxError, NoInner, StickyService,
    metrics::access_log::{AccessLogLayer, AccessLogService},
    proxy::Upstream,
    serve::RequestBody,
    trace::{RecordAnswer, RequestSpan},
};
use tracing::level_filters::LevelFilter;

/// The service that the layers are around.
type Sticky = StickyService<Upstream, NoInner>;

/// A panic while a request is handled is answered with 500, and the connection goes on.
type Bare = CatchPanic<Sticky, DefaultResponseForPanic>;

type Traced = Trace<
    PropagateRequestId<Bare>,
    SharedClassifier<ServerErrorsAsFailures>,
    RequestSpan,
    (),
    RecordAnswer,
    (),
    (),
    (),
>;

type Observed = SetSensitiveRequestHeaders<SetRequestId<AccessLogService<Traced>, MakeRequestUuid>>;

/// The sticky service with its layers. Those that only tell what happens are there when somebody listens.
#[derive(Clone)]
pub(crate) enum Stack {
    Bare(Bare),
    Observed(Box<Observed>),
}

impl Stack {
    /// The stack around `sticky`, with an access log if there is one, and with spans if the log wants them.
    pub(crate) fn new(sticky: Sticky, access_log: Option<AccessLogLayer>) -> Self {
        if access_log.is_none() && LevelFilter::current() < LevelFilter::INFO {
            return Self::Bare(ServiceBuilder::new().layer(CatchPanicLayer::new()).service(sticky));
        }
        let access_log = access_log.unwrap_or_else(|| AccessLogLayer::new(|_: &_| {}));
        let trace = TraceLayer::new_for_http()
            .make_span_with(RequestSpan::new())
            .on_request(())
            .on_response(RecordAnswer::new())
            .on_body_chunk(())
            .on_eos(())
            .on_failure(());
        let secret = [header::AUTHORIZATION, header::COOKIE];
        // From the outside to the inside.
        let observed = ServiceBuilder::new()
            // Their values are not shown by `Debug`, and not kept in the tables of HTTP/2.
            .layer(SetSensitiveRequestHeadersLayer::new(secret))
            // Before the log and the span, which contain it.
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(access_log)
            .layer(trace)
            .layer(PropagateRequestIdLayer::x_request_id())
            .layer(CatchPanicLayer::new())
            .service(sticky);
        Self::Observed(Box::new(observed))
    }
}

type BareBody = UnsyncBoxBody<Bytes, BoxError>;
type ObservedBody = <<Observed as Service<Request<RequestBody>>>::Response as HasBody>::Body;

/// The body of a response.
pub(crate) trait HasBody {
    type Body;
}

impl<B> HasBody for Response<B> {
    type Body = B;
}

impl Service<Request<RequestBody>> for Stack {
    type Response = Response<Either<BareBody, ObservedBody>>;
    type Error = Infallible;
    type Future = StackFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self {
            Self::Bare(service) => Service::<Request<RequestBody>>::poll_ready(service, cx),
            Self::Observed(service) => Service::<Request<RequestBody>>::poll_ready(service, cx),
        }
    }

    fn call(&mut self, request: Request<RequestBody>) -> StackFuture {
        match self {
            Self::Bare(service) => StackFuture::Bare { future: service.call(request) },
            Self::Observed(service) => StackFuture::Observed { future: service.call(request) },
        }
    }
}

type FutureOf<S> = <S as Service<Request<RequestBody>>>::Future;

pin_project! {
    /// The future of a response.
    #[project = StackProjection]
    pub(crate) enum StackFuture {
        Bare { #[pin] future: FutureOf<Bare> },
        Observed { #[pin] future: FutureOf<Observed> },
    }
}

impl Future for StackFuture {
    type Output = Result<Response<Either<BareBody, ObservedBody>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            StackProjection::Bare { future } => {
                ready!(future.poll(cx)).map(|response| response.map(Either::Left))
            }
            StackProjection::Observed { future } => {
                ready!(future.poll(cx)).map(|response| response.map(Either::Right))
            }
        })
    }
}
