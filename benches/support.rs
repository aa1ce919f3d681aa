//! The services that the benchmarks measure, over backends whose own cost is negligible.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Empty;
use tower_service::Service;
use tower_sticky::{
    Backends, Key, KeyRing, NoInner, StickyBody, StickyLayer, StickyService,
    affinity::{self, Cookie, Envelope, Learned, Route, Table},
    store::RedisStore,
    strategy::Strategy,
};

/// A backend that answers at once. What its answers depend on is behind an `Arc`, as in real clients.
#[derive(Debug, Clone)]
pub struct Immediate<T>(Arc<T>);

/// How a backend answers.
pub trait Respond {
    fn respond(&self, request: &Request<()>) -> Response<Empty<Bytes>>;
}

impl<T: Respond> Service<Request<()>> for Immediate<T> {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Empty<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        ready(Ok(self.0.respond(black_box(&request))))
    }
}

/// A backend that answers with a status.
pub type ReadyBackend = Immediate<u16>;

impl Respond for u16 {
    fn respond(&self, _: &Request<()>) -> Response<Empty<Bytes>> {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::from_u16(*self).unwrap_or_default();
        response
    }
}

/// Enters a runtime for the rest of the process. It is not driven: the readiness poll is started, as
/// in a real program, and then costs nothing.
pub fn enter_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = Box::leak(Box::new(runtime.expect("a runtime")));
    std::mem::forget(runtime.enter());
}

/// The service under test.
pub type Sticky = StickyService<ReadyBackend, NoInner>;

/// One backend, for the baseline without a sticky service.
pub fn ready_backend() -> ReadyBackend {
    Immediate(Arc::new(200))
}

/// `count` backends, `b0`, `b1` and so on.
pub fn backends(count: usize) -> Backends<ReadyBackend> {
    Backends::from_iter((0..count).map(|i| (format!("b{i}"), ready_backend())))
}

/// A fixed key ring.
pub fn keys() -> KeyRing {
    let key = Key::from_bytes((0..32).collect::<Vec<u8>>()).expect("32 bytes");
    KeyRing::new([key]).expect("one key")
}

/// Where a service reports the outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomesIn {
    /// In counters and spans only, which is the default.
    Counters,
    /// In the extensions of request and response as well.
    Extensions,
}

/// A service with a plain cookie.
pub fn plain(count: usize, outcomes: OutcomesIn) -> Sticky {
    StickyLayer::new(backends(count), Cookie::plain("SERVER_ID"))
        .outcome_extensions(outcomes == OutcomesIn::Extensions)
        .into_service()
}

/// A service with a sealed cookie.
pub fn sealed(count: usize, outcomes: OutcomesIn) -> Sticky {
    StickyLayer::new(backends(count), Cookie::sealed("SERVER_ID", keys()))
        .outcome_extensions(outcomes == OutcomesIn::Extensions)
        .into_service()
}

/// A service with a plain cookie that places new sessions by `strategy`.
pub fn placing(count: usize, strategy: impl Strategy) -> Sticky {
    StickyLayer::new(backends(count), Cookie::plain("SERVER_ID")).strategy(strategy).into_service()
}

/// A service with a sealed cookie with timeouts, none of which is due.
pub fn timed(count: usize) -> Sticky {
    let hour = std::time::Duration::from_secs(3600);
    let cookie = Cookie::sealed("SERVER_ID", keys()).idle_timeout(hour).absolute_timeout(8 * hour);
    StickyLayer::new(backends(count), cookie).into_service()
}

/// A service by the route in a cookie of the application, and the cookie of a session of `b1`.
pub fn routed(count: usize, is_sealed: bool) -> (Sticky, String) {
    let route = Route::cookie("JSESSIONID").after('.');
    let route = if is_sealed { route.sealed(keys()) } else { route };
    let service = StickyLayer::new(backends(count), route).into_service();
    // The code of b1 in the pool "default" under the fixed key.
    let route = if is_sealed { "7snioqn2wsxlg" } else { "b1" };
    (service, format!("JSESSIONID=0123456789ABCDEF0123456789ABCDEF.{route}"))
}

/// A service by the hash of a header.
pub fn keyed(count: usize, table: Option<Table>) -> Sticky {
    let key = affinity::Key::header("x-user-id");
    let key = match table {
        Some(table) => key.maglev(table),
        None => key,
    };
    StickyLayer::new(backends(count), key).into_service()
}

/// A request of a user with 16 characters.
pub fn request_of_user() -> Request<()> {
    let mut request = Request::new(());
    request.headers_mut().insert("x-user-id", HeaderValue::from_static("0123456789abcdef"));
    request
}

/// A backend that sets a session id, as applications do, when the request has none.
pub type Application = Immediate<HeaderValue>;

impl Respond for HeaderValue {
    fn respond(&self, request: &Request<()>) -> Response<Empty<Bytes>> {
        let mut response = Response::new(Empty::new());
        if !request.headers().contains_key(header::COOKIE) {
            response.headers_mut().insert(header::SET_COOKIE, self.clone());
        }
        response
    }
}

/// One application, for the baseline without a sticky service.
pub fn application() -> Application {
    let field = HeaderValue::from_static("JSESSIONID=0123456789ABCDEF0123456789ABCDEF; Path=/");
    Immediate(Arc::new(field))
}

fn applications(count: usize) -> Backends<Application> {
    let application = application();
    Backends::from_iter((0..count).map(|i| (format!("b{i}"), application.clone())))
}

/// A service that wraps the application's id.
pub fn envelope(count: usize) -> StickyService<Application> {
    StickyLayer::new(applications(count), Envelope::cookie("JSESSIONID", keys())).into_service()
}

/// A service that learns the application's id.
pub fn learned(count: usize) -> StickyService<Application> {
    StickyLayer::new(applications(count), Learned::cookie("JSESSIONID")).into_service()
}

/// The same with pins on Redis. No server is needed: the measured session has a local copy, for which
/// Redis is not called. While Redis answers, such a request costs one more comparison of two
/// times.
pub fn learned_on_redis(count: usize) -> StickyService<Application> {
    let store = RedisStore::new("redis://127.0.0.1:1/").expect("an address");
    let learned = Learned::cookie("JSESSIONID").store(store);
    StickyLayer::new(applications(count), learned).into_service()
}

/// A service with a plain cookie over the same applications.
pub fn beside(count: usize) -> StickyService<Application> {
    StickyLayer::new(applications(count), Cookie::plain("SERVER_ID")).into_service()
}

/// A request with this `Cookie` header.
pub fn request(cookie: &str) -> Request<()> {
    let mut request = Request::new(());
    let value = HeaderValue::from_str(cookie).expect("a header value");
    request.headers_mut().insert(header::COOKIE, value);
    request
}

/// The cookie of a new session of `service`, as the client returns it.
pub fn pin<S>(service: &S) -> String
where
    S: Service<Request<()>, Response = Response<StickyBody<Empty<Bytes>>>, Error = Infallible>
        + Clone,
{
    let response = call(&mut service.clone(), Request::new(()));
    let cookie = response.headers()[header::SET_COOKIE].to_str().expect("ASCII");
    cookie.split(';').next().expect("a pair").to_owned()
}

/// Calls a service and drives the future to its end.
#[inline(always)]
pub fn call<S, R>(service: &mut S, request: Request<()>) -> R
where
    S: Service<Request<()>, Response = R, Error = Infallible>,
{
    let mut context = Context::from_waker(Waker::noop());
    let _ = service.poll_ready(&mut context);
    let mut future = pin!(service.call(request));
    match future.as_mut().poll(&mut context) {
        Poll::Ready(Ok(response)) => response,
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => unreachable!("every part answers at once"),
    }
}
