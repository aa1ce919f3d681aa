//! Sessions whose backend is chosen by a key: no token carries an epoch, and each gateway has its own.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, http::Request, http::StatusCode};
use tower::{BoxError, Service};
use tower_sessions::SessionStore;
use tower_sticky::{
    Backends, Health, Mode, NoInner, State, StickyLayer, StickyService,
    affinity::Key,
    session_data::{MemoryStore, RedisStore},
};
use tower_sticky_heavy_tests::{redis_server::RedisServer, until};

use super::shops::{Client, Slow, fenced_shop};

over_both_stores!(
    gateways_of_different_ages_agree,
    a_session_goes_on_elsewhere_and_comes_back,
    a_session_goes_elsewhere_when_its_shop_is_closed,
    a_gateway_that_has_not_seen_an_outage_goes_on_after_it,
);

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A shop as one gateway reaches it, or does not.
#[derive(Clone)]
struct Line {
    shop: Router,
    is_cut: Arc<AtomicBool>,
}

impl Service<Request<Body>> for Line {
    type Response = axum::response::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(if self.is_cut.load(SeqCst) { Err("cut".into()) } else { Ok(()) })
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.shop.call(request);
        Box::pin(async move { answer.await.map_err(|never| match never {}) })
    }
}

/// One of several gateways in front of the same shops.
struct Gateway {
    backends: Backends<Line>,
    lines: [Line; 3],
    service: StickyService<Line, NoInner>,
}

/// The shops `a`, `b` and `c`, which share a store, and keep copies.
fn shops<S: SessionStore + Clone>(store: &S) -> [Router; 3] {
    NAMES.map(|_| fenced_shop(store, &Slow::default()))
}

impl Gateway {
    /// The pool is filled one by one, so that it ends with another epoch than one that has been there
    /// for longer.
    async fn new(shops: &[Router; 3]) -> Self {
        let lines = shops.clone().map(|shop| Line { shop, is_cut: Arc::default() });
        let backends = Backends::new();
        for (name, line) in NAMES.into_iter().zip(&lines) {
            backends.insert(name, line.clone()).unwrap();
        }
        let service = StickyLayer::new(backends.clone(), Key::header("x-user"))
            .session_extensions(true)
            .health(Health::new().readiness_interval(Duration::from_millis(10)))
            .into_service();
        // Each change has an epoch of its own, so they may be ahead of the clock now.
        for _ in NAMES {
            super::next_millisecond().await;
        }
        Self { backends, lines, service }
    }

    async fn get(&self, client: &mut Client, path: &str) -> (StatusCode, String) {
        let answer = client.get_as("anna", self.service.clone(), path).await;
        (answer.status, answer.body)
    }

    async fn ok(&self, client: &mut Client, path: &str) -> String {
        let (status, body) = self.get(client, path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// The shop that has served something, which only the session's has.
    fn home(&self) -> &'static str {
        let served = |name: &&str| self.backends.get(*name).unwrap().requests > 0;
        NAMES.into_iter().find(served).unwrap()
    }

    /// Cuts the line to a shop, which nobody knows yet.
    fn cut(&self, name: &str) {
        self.line(name).store(true, SeqCst);
    }

    async fn mend(&self, name: &str) {
        self.line(name).store(false, SeqCst);
        let is_ready = || self.backends.get(name).unwrap().state == State::Ready;
        until("the shop is reached again", is_ready).await;
    }

    fn line(&self, name: &str) -> &AtomicBool {
        let position = NAMES.into_iter().position(|known| known == name).unwrap();
        &self.lines[position].is_cut
    }
}

async fn gateways_of_different_ages_agree(store: impl SessionStore + Clone) {
    let shops = shops(&store);
    let first = Gateway::new(&shops).await;
    let second = Gateway::new(&shops).await;
    let mut client = Client::default();
    for (count, gateway) in (1..).zip([&second, &first, &first, &second, &first, &second]) {
        assert_eq!(gateway.ok(&mut client, "/count").await, count.to_string());
    }
    assert_eq!(first.home(), second.home());
}

async fn a_session_goes_on_elsewhere_and_comes_back(store: impl SessionStore + Clone) {
    let gateway = Gateway::new(&shops(&store)).await;
    let mut client = Client::default();
    assert_eq!(gateway.ok(&mut client, "/count").await, "1");
    assert_eq!(gateway.ok(&mut client, "/read").await, "1", "there is a copy");
    let home = gateway.home();
    for counts in [["2", "3", "4"], ["5", "6", "7"]] {
        gateway.cut(home);
        for count in &counts[..2] {
            assert_eq!(gateway.ok(&mut client, "/count").await, *count, "elsewhere");
        }
        gateway.mend(home).await;
        assert_eq!(gateway.ok(&mut client, "/count").await, counts[2], "at home again");
    }
}

/// The same when the operator takes the shop out.
async fn a_session_goes_elsewhere_when_its_shop_is_closed(store: impl SessionStore + Clone) {
    let gateway = Gateway::new(&shops(&store)).await;
    let mut client = Client::default();
    assert_eq!(gateway.ok(&mut client, "/count").await, "1");
    let home = gateway.home();
    for (mode, count) in [(Mode::Disabled, 2), (Mode::Active, 3), (Mode::Draining, 4)] {
        gateway.backends.set_mode(home, mode).unwrap();
        let said = gateway.ok(&mut client, "/count").await;
        assert_eq!(said, count.to_string(), "{mode}");
    }
}

async fn a_gateway_that_has_not_seen_an_outage_goes_on_after_it(store: impl SessionStore + Clone) {
    let shops = shops(&store);
    let (first, second) = (Gateway::new(&shops).await, Gateway::new(&shops).await);
    let mut client = Client::default();
    assert_eq!(second.ok(&mut client, "/count").await, "1");
    let home = second.home();
    // Only the first gateway does not reach it for a while.
    first.cut(home);
    assert_eq!(first.ok(&mut client, "/count").await, "2");
    first.mend(home).await;
    let (status, body) = second.get(&mut client, "/count").await;
    assert_eq!(status, StatusCode::CONFLICT, "its copy is out of date: {body}");
    assert_eq!(second.ok(&mut client, "/count").await, "3", "and no more than once");
    assert_eq!(second.ok(&mut client, "/count").await, "4");
    assert_eq!(first.ok(&mut client, "/count").await, "5");
    assert_eq!(second.ok(&mut client, "/count").await, "6");
}
