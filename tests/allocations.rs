//! A pinned request allocates nothing, measured by a counting allocator.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]
#![allow(unsafe_code)] // A global allocator cannot be written without; only this test has one.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{HeaderName, HeaderValue, Request, Response, header};
use tower_service::Service;
use tower_sticky::{
    Backends, KeyRing, NoBody, StickyLayer, StickyService,
    affinity::{Cookie, Key, Route, Table},
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Behind an `Arc`, as real clients are.
#[derive(Clone)]
struct Backend(Arc<u16>);

impl Service<Request<()>> for Backend {
    type Response = Response<http_body_util::Empty<bytes::Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let cookie = request.headers().get(header::COOKIE).map(HeaderValue::as_bytes);
        assert!(
            cookie.is_none_or(|cookie| cookie.starts_with(b"JSESSIONID")),
            "ours was taken out"
        );
        let mut response = Response::new(http_body_util::Empty::new());
        *response.status_mut() = http::StatusCode::from_u16(*self.0).unwrap();
        ready(Ok(response))
    }
}

/// The response of a service that is never pending.
fn answer<S>(mut service: S, request: Request<()>) -> S::Response
where
    S: Service<Request<()>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(service.call(request));
    match future.as_mut().poll(&mut cx) {
        Poll::Ready(Ok(response)) => response,
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => panic!("every part answers at once"),
    }
}

fn allocations(cookie: Cookie, extensions: bool, limit: usize) -> usize {
    let backends =
        Backends::from_iter([("a", Backend(Arc::new(200))), ("b", Backend(Arc::new(200)))]);
    for id in ["a", "b"] {
        backends.set_limit(id, limit).unwrap();
    }
    let service = StickyLayer::new(backends, cookie).outcome_extensions(extensions).into_service();
    let call = |request| answer(service.clone(), request);
    let response = call(Request::new(()));
    let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap();
    let cookie = HeaderValue::from_str(cookie.split(';').next().unwrap()).unwrap();
    let request = || {
        let mut request = Request::new(());
        request.headers_mut().insert(header::COOKIE, cookie.clone());
        request
    };
    // The first request initialises thread-locals.
    drop(call(request()));
    let request = request();
    let before = ALLOCATIONS.with(Cell::get);
    let response = call(request);
    let after = ALLOCATIONS.with(Cell::get);
    assert!(!response.headers().contains_key(header::SET_COOKIE), "it was pinned");
    drop::<Response<tower_sticky::StickyBody<_, NoBody>>>(response);
    after - before
}

#[test]
fn a_pinned_request_allocates_nothing() {
    let sealed = || Cookie::sealed("sid", KeyRing::generate().unwrap());
    assert_eq!(allocations(Cookie::plain("sid"), false, 0), 0, "plain token");
    assert_eq!(allocations(sealed(), false, 0), 0, "sealed token");
    assert_eq!(allocations(sealed(), false, 2), 0, "a slot of a backend with a limit");
    let told = allocations(Cookie::plain("sid"), true, 0);
    assert!(told <= 6, "at most three for each of the two extensions, got {told}");
    assert!(told > 0, "the counter counts");
}

/// How many allocations a request makes of which the service has seen one like it.
fn allocations_of(service: &StickyService<Backend>, request: impl Fn() -> Request<()>) -> usize {
    // Twice: a first request initialises thread-locals, and what is computed once for a pool.
    drop(answer(service.clone(), request()));
    let request = request();
    let before = ALLOCATIONS.with(Cell::get);
    let response = answer(service.clone(), request);
    let after = ALLOCATIONS.with(Cell::get);
    drop(response);
    after - before
}

fn two_backends() -> Backends<Backend> {
    Backends::from_iter([("a", Backend(Arc::new(200))), ("b", Backend(Arc::new(200)))])
}

#[test]
fn a_pinned_request_whose_map_of_headers_is_full_allocates_nothing() {
    let service = StickyLayer::new(two_backends(), Cookie::plain("sid")).into_service();
    let request = || {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        headers.insert(header::COOKIE, HeaderValue::from_static("sid=a"));
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"].map(HeaderName::from_static);
        for name in names.iter().cycle().take(headers.capacity() - headers.len()) {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        assert_eq!(headers.len(), headers.capacity(), "one more would make it grow");
        request
    };
    assert_eq!(allocations_of(&service, request), 0);
}

#[test]
fn a_request_by_its_key_allocates_nothing() {
    let by = |key: Key| StickyLayer::new(two_backends(), key).into_service();
    let request = || Request::get("/?user=ann").header("x-user-id", "ann").body(()).unwrap();
    for (name, service) in [
        ("rank", by(Key::header("x-user-id"))),
        ("maglev", by(Key::header("x-user-id").maglev(Table::Small))),
        ("query", by(Key::query("user"))),
    ] {
        assert_eq!(allocations_of(&service, request), 0, "{name}");
    }
}

#[test]
fn a_call_of_a_session_that_its_client_holds_allocates_nothing() {
    let backends =
        Backends::from_iter([("a", Backend(Arc::new(200))), ("b", Backend(Arc::new(200)))]);
    let sticky = StickyLayer::new(backends, Key::header("x-user-id")).into_service();
    for session in [sticky.session(), sticky.session_named("ann")] {
        // The first requests choose a backend and initialise thread-locals.
        drop(answer(session.clone(), Request::new(())));
        drop(answer(session.clone(), Request::new(())));
        let before = ALLOCATIONS.with(Cell::get);
        let response = answer(session.clone(), Request::new(()));
        let after = ALLOCATIONS.with(Cell::get);
        assert_eq!(after - before, 0, "a clone of the handle and a call");
        assert!(session.backend().is_some(), "it was pinned");
        drop(response);
    }
}

#[test]
fn a_request_whose_id_names_its_backend_allocates_nothing() {
    let secret = tower_sticky::Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap();
    let keys = KeyRing::new([secret]).unwrap();
    let by = |route: Route| StickyLayer::new(two_backends(), route).into_service();
    // The second id has the code of `a`.
    for (keys, sid) in [(None, "x.a"), (Some(keys), "x.c7abs7iswqd7s")] {
        let sealed = |route: Route| match &keys {
            Some(keys) => route.sealed(keys.clone()),
            None => route,
        };
        let (query, cookie) =
            (Route::query("sid").after('.'), Route::cookie("JSESSIONID").after('.'));
        let in_query = || Request::get(format!("/?sid={sid}")).body(()).unwrap();
        assert_eq!(allocations_of(&by(sealed(query)), in_query), 0, "{sid} in the query");
        let in_cookie = || {
            let mut request = in_query();
            let field = HeaderValue::try_from(format!("JSESSIONID={sid}")).unwrap();
            request.headers_mut().insert(header::COOKIE, field);
            request
        };
        assert_eq!(allocations_of(&by(sealed(cookie)), in_cookie), 0, "{sid} in a cookie");
    }
}
