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

/// The connection of a gateway to a shop.
#[derive(Clone)]
pub struct Connection {
    shop: Router,
    is_down: Arc<AtomicBool>,
}

impl Service<Request<Body>> for Connection {
    type Response = axum::response::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(if self.is_down.load(SeqCst) { Err("disconnected".into()) } else { Ok(()) })
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.shop.call(request);
        Box::pin(async move { answer.await.map_err(|never| match never {}) })
    }
}

/// One of several gateways in front of the same shops.
pub struct Gateway {
    pub backends: Backends<Connection>,
    connections: [Connection; 3],
    pub service: StickyService<Connection, NoInner>,
}

impl Gateway {
    /// Adds the shops one by one, so that the epoch of the pool differs from that of an older gateway.
    pub async fn new(shops: &[Router; 3], affinity: impl Affinity) -> Self {
        let connections = shops.clone().map(|shop| Connection { shop, is_down: Arc::default() });
        let backends = Backends::new();
        for (name, connection) in NAMES.into_iter().zip(&connections) {
            backends.insert(name, connection.clone()).unwrap();
        }
        let service = StickyLayer::new(backends.clone(), affinity)
            .session_extensions(true)
            .outcome_extensions(true)
            .health(Health::new().readiness_interval(Duration::from_millis(10)))
            .into_service();
        // Each change has its own epoch, so the last one may be later than the clock.
        for _ in NAMES {
            super::next_millisecond().await;
        }
        Self { backends, connections, service }
    }

    /// Disconnects a shop. The gateway detects it with the next readiness poll.
    pub fn disconnect(&self, name: &str) {
        self.is_down(name).store(true, SeqCst);
    }

    pub async fn reconnect(&self, name: &str) {
        self.is_down(name).store(false, SeqCst);
        let is_ready = || self.backends.get(name).unwrap().state == State::Ready;
        until("the shop is ready again", is_ready).await;
    }

    fn is_down(&self, name: &str) -> &AtomicBool {
        let position = NAMES.into_iter().position(|known| known == name).unwrap();
        &self.connections[position].is_down
    }
}
