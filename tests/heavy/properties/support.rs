//! A backend that records its requests, and a client for it.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::Full;
use proptest::test_runner::{Config, RngSeed};
use tower::{Service, ServiceExt};
use tower_sticky::{
    Backends, Key, KeyRing, Outcome, Reason, StickyService, Verdict, affinity::Cookie,
    strategy::RoundRobin,
};

pub type Body = Full<Bytes>;
pub type Gateway = StickyService<Echo, tower_sticky::NoInner>;

/// The configuration: the same cases in every run, and nothing written to disk.
pub fn config(cases: u32) -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x57_1c_4b);
    }
    config
}

/// A backend in process.
#[derive(Debug, Clone)]
pub struct Echo {
    pub id: &'static str,
    pub told: Arc<Told>,
}

#[derive(Debug, Default)]
pub struct Told {
    /// The `Cookie` fields of each request that came.
    pub cookies: Mutex<Vec<Vec<Bytes>>>,
    /// Headers to answer with.
    pub answer: Mutex<HeaderMap>,
}

impl Echo {
    pub fn new(id: &'static str) -> Self {
        Self { id, told: Arc::default() }
    }
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.told.cookies.lock().unwrap().push(fields(request.headers(), header::COOKIE));
        let mut response = Response::new(Body::from(self.id));
        response.headers_mut().extend(self.told.answer.lock().unwrap().clone());
        ready(Ok(response))
    }
}

/// Two backends, `a` and `b`, that share their controls.
pub fn two(pool: &str) -> (Backends<Echo>, Arc<Told>) {
    let backends = Backends::named(pool);
    let a = Echo::new("a");
    let b = Echo { id: "b", told: a.told.clone() };
    let told = a.told.clone();
    backends.insert("a", a).unwrap();
    backends.insert("b", b).unwrap();
    (backends, told)
}

pub fn gateway(backends: &Backends<Echo>, cookie: Cookie) -> Gateway {
    let layer = tower_sticky::StickyLayer::new(backends.clone(), cookie);
    layer.strategy(RoundRobin::new()).outcome_extensions(true).into_service()
}

/// A key ring of one key; the same number makes the same key.
pub fn keys(number: u8) -> KeyRing {
    KeyRing::new([key(number)]).unwrap()
}

pub fn key(number: u8) -> Key {
    Key::from_bytes((0..32).map(|i| number.wrapping_add(i)).collect::<Vec<u8>>()).unwrap()
}

/// All values of one header, as bytes.
pub fn fields(headers: &HeaderMap, name: header::HeaderName) -> Vec<Bytes> {
    headers.get_all(name).iter().map(|field| Bytes::copy_from_slice(field.as_bytes())).collect()
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub outcome: Outcome,
}

impl Answer {
    pub fn verdict(&self) -> Verdict {
        self.outcome.verdict()
    }

    pub fn reason(&self) -> Option<Reason> {
        self.outcome.reason()
    }

    pub fn backend(&self) -> Option<&str> {
        self.outcome.backend().map(|id| id.as_str())
    }

    /// The value of the cookie `name` that the response sets.
    pub fn token(&self, name: &str) -> Option<String> {
        let set = fields(&self.headers, header::SET_COOKIE);
        set.iter().find_map(|field| {
            let rest = std::str::from_utf8(field).ok()?.strip_prefix(name)?.strip_prefix('=')?;
            Some(rest.split(';').next()?.to_owned())
        })
    }
}

/// Sends one request with these `Cookie` fields.
///
/// The backends are never pending, so no runtime is needed.
pub fn send(gateway: &Gateway, cookies: &[impl AsRef<[u8]>]) -> Answer {
    use futures_util::FutureExt as _;
    let mut request = Request::new(Body::default());
    for field in cookies {
        let field = HeaderValue::from_bytes(field.as_ref()).unwrap();
        request.headers_mut().append(header::COOKIE, field);
    }
    let response = gateway.clone().oneshot(request).now_or_never().expect("it answers at once");
    let (parts, _) = response.unwrap().into_parts();
    let outcome = Outcome::of(&parts.extensions).cloned().expect("every answer has an outcome");
    Answer { status: parts.status.as_u16(), headers: parts.headers, outcome }
}

/// Bytes that may stand in a header's value, among them all that matter to a cookie.
pub fn header_bytes(max: usize) -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let byte = prop_oneof![
        4 => prop::sample::select(&b"sid=;; \t\"$,ab\\Ss\xa0\xff"[..]),
        1 => any_header_byte(),
    ];
    prop::collection::vec(byte, 0..=max)
}

/// Any byte that may stand in a header's value.
pub fn any_header_byte() -> impl proptest::strategy::Strategy<Value = u8> {
    let allowed: Vec<_> = (0..=u8::MAX).filter(|byte| header_byte(*byte)).collect();
    proptest::sample::select(allowed)
}

pub fn header_byte(byte: u8) -> bool {
    HeaderValue::from_bytes(&[byte]).is_ok()
}
