//! The memory of a learned session, measured by a counting allocator.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]
#![allow(unsafe_code)] // A global allocator cannot be written without; see also allocations.rs.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use http::{Request, Response, header};
use tower_service::Service;
use tower_sticky::{
    Backends, StickyLayer, Verdict,
    affinity::Learned,
    store::{MemoryStore, PinStore, RedisStore},
};

struct Counting;

/// Allocated bytes, as requested, and rounded up as common allocators do.
static BYTES: AtomicUsize = AtomicUsize::new(0);

fn cost(layout: Layout) -> usize {
    // A header of 8 bytes, in steps of 16.
    (layout.size() + 8).next_multiple_of(16)
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(cost(layout), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(cost(layout), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Sets a new id on responses to requests without one.
#[derive(Clone)]
struct Application;

impl Service<Request<u64>> for Application {
    type Response = Response<http_body_util::Empty<bytes::Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<u64>) -> Self::Future {
        let mut response = Response::new(http_body_util::Empty::new());
        let cookie = format!("JSESSIONID={:032X}; Path=/; HttpOnly", request.body());
        response.headers_mut().insert(header::SET_COOKIE, cookie.parse().unwrap());
        ready(Ok(response))
    }
}

/// Bytes per session after `sessions` new ones, in a table that `make` makes and of which `len` says
/// how many it has; that many; and whether the last hundred are among them.
fn fill<S: PinStore + Clone>(
    sessions: u64,
    make: impl Fn() -> S,
    len: impl Fn(&S) -> usize,
) -> (usize, usize, bool) {
    let backends = Backends::from_iter([("a", Application), ("b", Application)]);
    let before = BYTES.load(Relaxed);
    let store = make();
    let learned = Learned::cookie("JSESSIONID").store(store.clone());
    let service = StickyLayer::new(backends.clone(), learned).into_service();
    let call = |request: Request<u64>| {
        let mut service = service.clone();
        let mut cx = Context::from_waker(Waker::noop());
        let future = pin!(service.call(request));
        match future.poll(&mut cx) {
            Poll::Ready(Ok(response)) => drop(response),
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => panic!("every part answers at once"),
        }
    };
    for id in 0..sessions {
        call(Request::new(id));
    }
    let bytes = BYTES.load(Relaxed) - before;
    let strangers = || backends.snapshot().stats.outcome(Verdict::Assigned);
    let before = strangers();
    for id in sessions - 100..sessions {
        let mut request = Request::new(id);
        let cookie = format!("JSESSIONID={id:032X}");
        request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
        call(request);
    }
    (bytes / len(&store), len(&store), strangers() == before)
}

fn small_and_bounded<S: PinStore + Clone>(
    what: &str,
    make: impl Fn(usize) -> S,
    len: impl Fn(&S) -> usize,
) {
    for (sessions, capacity) in [(40_000, 1_000_000), (30_000, 10_000), (1_000_000, 1_000_000)] {
        let (bytes, kept, newest) = fill(sessions, || make(capacity), &len);
        println!("{what}, {sessions}, room for {capacity}: {kept} kept, {bytes} bytes each");
        assert!(bytes <= 200, "{bytes} bytes per session are too many");
        let room = capacity + capacity / 50;
        assert!(kept <= room && kept >= room.min(sessions as usize) * 9 / 10, "{kept} are kept");
        assert!(newest, "the newest are kept");
    }
}

/// One test, so that no other test allocates meanwhile.
#[test]
fn learned_sessions_are_small_and_bounded() {
    small_and_bounded("sessions", MemoryStore::new, MemoryStore::len);
    // Outside of a runtime there is no connection; the memory is the same.
    let on_redis = |capacity| {
        let store = RedisStore::builder("redis://localhost").local_capacity(capacity);
        store.build().unwrap()
    };
    small_and_bounded("copies of sessions on Redis", on_redis, RedisStore::local_len);
}
