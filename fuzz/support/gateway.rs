//! A gateway in this process over two backends that record what they receive.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::Empty;
use tower::{Service, ServiceExt as _};
use tower_sticky::{
    Backends, NoInner, Outcome, StickyLayer, StickyService, WallClock, affinity::Affinity,
    fuzzing::violations, strategy::RoundRobin,
};

type Body = Empty<Bytes>;

/// A backend that answers with the headers it is told.
#[derive(Debug, Clone, Default)]
pub struct Echo(Arc<Mutex<Sent>>);

/// What the backends have received last, and answer with.
#[derive(Debug, Default)]
pub struct Sent {
    /// The headers of the last request.
    pub headers: HeaderMap,
    /// Its target.
    pub uri: Uri,
    /// The headers of the next answer.
    pub answer: HeaderMap,
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut sent = self.0.lock().expect("no panic before");
        let (parts, _) = request.into_parts();
        (sent.headers, sent.uri) = (parts.headers, parts.uri);
        let mut response = Response::new(Body::default());
        *response.headers_mut() = std::mem::take(&mut sent.answer);
        ready(Ok(response))
    }
}

/// Two backends, `a` and `b`, that record into one place.
pub fn two(pool: &str) -> (Backends<Echo>, Echo) {
    let (backends, echo) = (Backends::named(pool), Echo::default());
    for id in ["a", "b"] {
        backends.insert(id, echo.clone()).expect("the ids are valid");
    }
    (backends, echo)
}

/// The wall clock of a gateway, in seconds since 1970.
#[derive(Debug, Clone)]
struct Clock(Arc<AtomicU64>);

impl WallClock for Clock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Relaxed))
    }
}

/// A gateway with its backends and its clock.
#[derive(Debug)]
pub struct Gateway {
    service: StickyService<Echo, NoInner>,
    backends: Backends<Echo>,
    echo: Echo,
    clock: Arc<AtomicU64>,
}

/// When the clocks of the gateways start, in seconds since 1970.
const START: u64 = 2_000_000_000;

/// A gateway over two backends.
pub fn gateway(pool: &str, affinity: impl Affinity) -> Gateway {
    let (backends, echo) = two(pool);
    let clock = Arc::new(AtomicU64::new(START));
    let layer = StickyLayer::new(backends.clone(), affinity);
    let layer = layer.strategy(RoundRobin::new()).outcome_extensions(true);
    let service = layer.session_headers(true).clock(Clock(clock.clone())).into_service();
    Gateway { service, backends, echo, clock }
}

/// An answer of the gateway.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// What the gateway says about it.
    pub outcome: Outcome,
    /// What the backend received.
    pub sent: Sent,
}

impl Gateway {
    /// Sets the clock to so many seconds after the start, or before it.
    pub fn set_clock(&self, offset: i64) {
        self.clock.store(START.saturating_add_signed(offset), Relaxed);
    }

    /// How many requests with a valid pin were served by another backend.
    pub fn violations(&self) -> u64 {
        violations(&self.backends)
    }

    /// Sends a request. The next answer of the backend has the headers `answer`.
    pub fn send(&self, request: Request<Body>, answer: HeaderMap) -> Answer {
        self.echo.0.lock().expect("no panic before").answer = answer;
        let response = self.service.clone().oneshot(request).now_or_never();
        let (parts, _) =
            response.expect("it answers at once").expect("errors are responses").into_parts();
        let outcome = Outcome::of(&parts.extensions).cloned().expect("every answer has an outcome");
        let sent = std::mem::take(&mut *self.echo.0.lock().expect("no panic before"));
        Answer { status: parts.status.as_u16(), headers: parts.headers, outcome, sent }
    }
}

/// Sends a request with these fields of a header.
pub fn send(gateway: &Gateway, name: HeaderName, fields: &[HeaderValue]) -> Answer {
    let mut request = Request::new(Body::default());
    for field in fields {
        request.headers_mut().append(name.clone(), field.clone());
    }
    gateway.send(request, HeaderMap::new())
}

impl Answer {
    /// The backend that answered.
    pub fn backend(&self) -> Option<&str> {
        self.outcome.backend().map(|id| id.as_str())
    }

    /// The value of the cookie `name` that the answer sets.
    pub fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.headers.get_all(header::SET_COOKIE).iter().find_map(|field| {
            let rest = field.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            rest.split(|byte| *byte == b';').next()
        })
    }
}
