//! Backends in this process that record their requests, and gateways in front of them.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use tower::ServiceExt;
use tower_service::Service;
use tower_sticky::{
    Backends, BoxError, Key, NoInner, NotSent, Outcome, Reason, SessionInfo, StickyLayer,
    StickyService, Verdict,
    affinity::{Affinity, Learned},
    store::{EngineState, RedisStore, RedisStoreBuilder},
};
use tower_sticky_heavy_tests::{client, redis_server::RedisServer, until};

pub type Body = Full<Bytes>;

/// Longer than any call takes, for tests in which no call may time out.
pub const LONG_BUDGET: Duration = Duration::from_secs(20);

/// One backend; every gateway has a clone.
#[derive(Clone)]
pub struct Node {
    pub name: &'static str,
    pub state: Arc<NodeState>,
}

#[derive(Default)]
pub struct NodeState {
    /// Whether connections are refused.
    pub refuses: AtomicBool,
    /// The session id that responses set.
    pub issues: Mutex<Option<String>>,
    /// The epochs of requests by their session id.
    pub epochs: Mutex<HashMap<String, Vec<u64>>>,
}

impl Service<Request<Body>> for Node {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.state.refuses.load(SeqCst) {
            return ready(Err(NotSent::new(request, "refused").into()));
        }
        let cookie = request.headers().get(header::COOKIE);
        if let Some(id) = cookie.and_then(|value| value.to_str().ok()?.strip_prefix("JSESSIONID="))
            && let Some(epoch) = SessionInfo::of(request.extensions()).and_then(|info| info.epoch())
        {
            let mut epochs = self.state.epochs.lock().unwrap();
            epochs.entry(id.to_owned()).or_default().push(epoch);
        }
        let mut response = Response::new(Full::from(self.name));
        if let Some(id) = &*self.state.issues.lock().unwrap() {
            let field = format!("JSESSIONID={id}; Path=/").parse().unwrap();
            response.headers_mut().insert(header::SET_COOKIE, field);
        }
        ready(Ok(response))
    }
}

pub fn nodes<const N: usize>(names: [&'static str; N]) -> [Node; N] {
    names.map(|name| Node { name, state: Arc::default() })
}

/// One of several gateways.
pub struct Gateway {
    pub backends: Backends<Node>,
    pub store: RedisStore,
    pub service: StickyService<Node, NoInner>,
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    pub status: StatusCode,
    pub verdict: Verdict,
    pub reason: Option<Reason>,
    pub to: Option<String>,
}

pub fn learned(store: &RedisStore, idle: Duration) -> Learned {
    let secret = Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap();
    Learned::cookie("JSESSIONID").idle_timeout(idle).secret(secret).store(store.clone())
}

impl Gateway {
    pub fn new(nodes: &[Node], store: RedisStoreBuilder, idle: Duration) -> Self {
        let store = store.build().unwrap();
        let learned = learned(&store, idle);
        Self::with(nodes, store, learned)
    }

    pub fn with(nodes: &[Node], store: RedisStore, affinity: impl Affinity) -> Self {
        let backends = Backends::from_iter(nodes.iter().map(|node| (node.name, node.clone())));
        let layer = StickyLayer::new(backends.clone(), affinity)
            .outcome_extensions(true)
            .session_extensions(true);
        Self { backends, store, service: layer.into_service() }
    }

    /// A connected gateway with an idle timeout of half an hour, whose calls do not time out.
    pub async fn connected(server: &RedisServer, nodes: &[Node]) -> Self {
        let store = RedisStore::builder(&server.url()).time_budget(LONG_BUDGET);
        let gateway = Self::new(nodes, store, Duration::from_secs(1800));
        gateway.store.connected().await;
        gateway
    }

    /// Several of them.
    pub async fn connected_all<const N: usize>(server: &RedisServer, nodes: &[Node]) -> [Self; N] {
        let gateways = join_all([(); N].map(|()| Self::connected(server, nodes))).await;
        gateways.try_into().unwrap_or_else(|_| unreachable!())
    }

    pub async fn send(&self, cookie: Option<&str>) -> Routed {
        self.send_for_cookie(cookie, "").await.0
    }

    /// The same, and the cookie of this name in the response.
    pub async fn send_for_cookie(
        &self,
        cookie: Option<&str>,
        name: &str,
    ) -> (Routed, Option<String>) {
        let response = self.call(cookie).await;
        let outcome = response.extensions().get::<Outcome>().unwrap();
        let routed = Routed {
            status: response.status(),
            verdict: outcome.verdict(),
            reason: outcome.reason(),
            to: outcome.backend().map(|id| id.as_str().to_owned()),
        };
        (routed, client::cookie(&response, name))
    }

    /// A request whose response is not read to its end: it is in flight until the response is dropped.
    pub async fn open_stream(&self, id: &str) -> Response<impl Sized + use<>> {
        self.call(Some(&format!("JSESSIONID={id}"))).await
    }

    async fn call(&self, cookie: Option<&str>) -> Response<impl Sized + use<>> {
        let mut request = Request::new(Body::default());
        if let Some(cookie) = cookie {
            request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
        }
        let response: Result<_, Infallible> = self.service.clone().oneshot(request).await;
        response.unwrap()
    }

    /// A request with this session id.
    pub async fn ask(&self, id: &str) -> Routed {
        self.send(Some(&format!("JSESSIONID={id}"))).await
    }

    /// Lets the node begin a session with this id, whose pin is then written to Redis.
    pub async fn begin(&self, node: &Node, id: &str) {
        for other in self.backends.iter() {
            let weight = u32::from(other.id.as_str() == node.name);
            self.backends.set_weight(other.id.as_str(), weight).unwrap();
        }
        *node.state.issues.lock().unwrap() = Some(id.to_owned());
        let routed = self.send(None).await;
        *node.state.issues.lock().unwrap() = None;
        assert_eq!(routed.to.as_deref(), Some(node.name), "other nodes have weight 0");
        for other in self.backends.iter() {
            self.backends.set_weight(other.id.as_str(), 1).unwrap();
        }
    }

    /// Waits until no write is in flight, so that the gateway has adopted the first writer's pin.
    pub async fn written(&self) {
        until("all writes have ended", || self.store.stats().writing() == 0).await;
    }

    /// Waits until the store is in this state.
    pub async fn until(&self, state: EngineState) {
        until(&format!("the store is {state}"), || self.store.stats().state() == state).await;
    }
}

/// The number of pins in Redis.
pub fn keys(server: &RedisServer) -> usize {
    server.command(&["DBSIZE"]).trim_start_matches(':').parse().unwrap()
}

/// Waits until Redis has this many pins.
pub async fn until_keys(server: &RedisServer, count: usize) {
    until(&format!("Redis has {count} pins"), || keys(server) == count).await;
}

pub fn pinned(to: &str) -> Routed {
    let to = Some(to.to_owned());
    Routed { status: StatusCode::OK, verdict: Verdict::Pinned, reason: None, to }
}
