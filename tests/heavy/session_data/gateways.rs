//! Several gateways in front of the same shops.

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

use axum::{Router, body::Body, http::Request};
use tower::{BoxError, Service};
use tower_sticky::{
    Backends, Health, NoInner, State, StickyLayer, StickyService, affinity::Affinity,
};
use tower_sticky_heavy_tests::until;

pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// A shop as one gateway reaches it, or does not.
#[derive(Clone)]
pub struct Line {
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
pub struct Gateway {
    pub backends: Backends<Line>,
    lines: [Line; 3],
    pub service: StickyService<Line, NoInner>,
}

impl Gateway {
    /// The pool is filled one by one, so that it ends with another epoch than one that has been there
    /// for longer.
    pub async fn new(shops: &[Router; 3], affinity: impl Affinity) -> Self {
        let lines = shops.clone().map(|shop| Line { shop, is_cut: Arc::default() });
        let backends = Backends::new();
        for (name, line) in NAMES.into_iter().zip(&lines) {
            backends.insert(name, line.clone()).unwrap();
        }
        let service = StickyLayer::new(backends.clone(), affinity)
            .session_extensions(true)
            .outcome_extensions(true)
            .health(Health::new().readiness_interval(Duration::from_millis(10)))
            .into_service();
        // Each change has an epoch of its own, so they may be ahead of the clock now.
        for _ in NAMES {
            super::next_millisecond().await;
        }
        Self { backends, lines, service }
    }

    /// Cuts the line to a shop, which nobody knows yet.
    pub fn cut(&self, name: &str) {
        self.line(name).store(true, SeqCst);
    }

    pub async fn mend(&self, name: &str) {
        self.line(name).store(false, SeqCst);
        let is_ready = || self.backends.get(name).unwrap().state == State::Ready;
        until("the shop is reached again", is_ready).await;
    }

    fn line(&self, name: &str) -> &AtomicBool {
        let position = NAMES.into_iter().position(|known| known == name).unwrap();
        &self.lines[position].is_cut
    }
}
