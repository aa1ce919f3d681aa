//! Servers, the layer in front of them, and requests to it.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    routing::{any, get},
};
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::{sync::Semaphore, time::timeout};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::{compression::CompressionLayer, decompression::DecompressionLayer};
use tower_sticky::{
    Backends, KeyRing, State, StickyLayer, Verdict, affinity::Cookie, proxy::Upstream,
    strategy::RoundRobin,
};

use crate::server;

/// A timeout that no passing test reaches on any machine.
pub(crate) const FOREVER: Duration = Duration::from_secs(60);
pub(crate) const TEXT: &str = "a long text that is worth compressing, because it says the same again and again, again and again";

/// A server of an application.
pub(crate) struct Server {
    pub(crate) running: server::Server,
    /// How many requests it has received.
    received: Arc<AtomicUsize>,
    /// `/slow` answers with a permit, and `/stream` sends a chunk with each.
    pub(crate) permits: Arc<Semaphore>,
}

impl Server {
    pub(crate) fn start(name: &'static str) -> Self {
        let (received, permits) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let (counter, slow, stream) = (received.clone(), permits.clone(), permits.clone());
        let app = Router::new()
            .route("/name", get(move || async move { name }))
            .route("/text", get(async || TEXT))
            .route("/gzip", get(gzipped))
            .route("/echo", any(async |body: Bytes| body))
            .route("/id", get(async |headers: HeaderMap| value(&headers, "x-request-id")))
            .route("/slow", get(async move || slow.acquire().await.unwrap().forget()))
            .route("/stream", get(async move || events(stream)))
            .layer(axum::middleware::map_request(move |request: Request| {
                counter.fetch_add(1, Ordering::Relaxed);
                async { request }
            }));
        let running = server::Server::start(async move |listener| axum::serve(listener, app).await);
        Self { running, received, permits }
    }

    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }
}

/// Server-sent events, one for each permit.
fn events(permits: Arc<Semaphore>) -> Response<Body> {
    let events = tokio_stream::iter(0..);
    let events = tokio_stream::StreamExt::then(events, move |number: u32| {
        let permits = permits.clone();
        async move {
            permits.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Bytes::from(format!("data: {number}\n\n")))
        }
    });
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(Body::from_stream(events)).unwrap()
}

/// `TEXT`, compressed by the application.
pub(crate) async fn gzipped() -> Response<Body> {
    let service = service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::from(TEXT))));
    let request = Request::get("/").header("accept-encoding", "gzip").body(Body::empty()).unwrap();
    let response = CompressionLayer::new().layer(service).oneshot(request).await.unwrap();
    response.map(Body::new)
}

pub(crate) fn value(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

pub(crate) type Backend = BoxCloneSyncService<Request, Response<Body>, BoxError>;

/// Two servers, and their pool.
pub(crate) struct Setup {
    pub(crate) servers: [Server; 2],
    pub(crate) backends: Backends<Backend>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with(|upstream| upstream)
    }

    /// With layers around each backend.
    pub(crate) fn with<S, B>(inside: impl Fn(Upstream) -> S) -> Self
    where
        S: Service<Request, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let servers = ["a", "b"].map(Server::start);
        let backends = Backends::new();
        for (id, server) in ["a", "b"].into_iter().zip(&servers) {
            let upstream = Upstream::new(&server.running.url()).unwrap();
            let service = ServiceExt::<Request>::map_err(inside(upstream), Into::<BoxError>::into);
            let service = service.map_response(|response: Response<B>| response.map(Body::new));
            backends.insert(id, BoxCloneSyncService::new(service)).unwrap();
        }
        Self { servers, backends }
    }

    pub(crate) fn layer(&self) -> StickyLayer<Backend> {
        let cookie = Cookie::sealed("sid", KeyRing::generate().unwrap());
        StickyLayer::new(self.backends.clone(), cookie)
            .strategy(RoundRobin::new())
            .outcome_extensions(true)
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().fallback_service(self.layer().into_service())
    }

    pub(crate) fn received(&self) -> usize {
        self.servers.iter().map(Server::received).sum()
    }

    pub(crate) fn outcomes(&self, verdict: Verdict) -> u64 {
        self.backends.snapshot().stats.outcome(verdict)
    }

    /// Waits until nothing is in flight, and asserts that nothing is held against a backend.
    pub(crate) async fn settled(&self) {
        let idle = async {
            while self.backends.iter().any(|backend| backend.in_flight > 0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(FOREVER, idle).await.expect("nothing stays in flight");
        for backend in self.backends.iter() {
            assert_eq!(backend.state, State::Ready, "nothing is held against {}", backend.id);
        }
        assert_eq!(self.backends.snapshot().stats.violations(), 0);
    }
}

/// A response, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) verdict: Option<Verdict>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> String {
        value(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The cookie as a client sends it back.
    pub(crate) fn cookie(&self) -> Option<String> {
        let cookie = self.headers.get(header::SET_COOKIE)?.to_str().unwrap();
        Some(cookie.split(';').next().unwrap().to_owned())
    }
}

pub(crate) async fn send(app: &Router, request: Request) -> Answer {
    let exchange = async {
        let response = app.clone().oneshot(request).await.unwrap();
        let verdict =
            tower_sticky::Outcome::of(response.extensions()).map(|outcome| outcome.verdict());
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body, verdict }
    };
    timeout(FOREVER, exchange).await.expect("a response in time")
}

pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> http::request::Builder {
    let request = Request::builder().method(method).uri(path).header("host", "app.example");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

pub(crate) async fn get_with(app: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(app, request(Method::GET, path, headers).body(Body::empty()).unwrap()).await
}

/// A session: its cookie, and its server.
pub(crate) async fn session(app: &Router) -> (String, String) {
    let answer = get_with(app, "/name", &[]).await;
    assert_eq!((answer.status, answer.verdict), (StatusCode::OK, Some(Verdict::Assigned)));
    assert_private(&answer);
    (answer.cookie().expect("a new session has a cookie"), answer.text())
}

/// The response sets a cookie, and no shared cache keeps it.
pub(crate) fn assert_private(answer: &Answer) {
    assert!(answer.cookie().is_some(), "{:?}", answer.headers);
    let cache_control = answer.header("cache-control");
    assert!(cache_control.contains("private"), "{cache_control}");
    assert!(cache_control.contains("no-cache=\"set-cookie\""), "{cache_control}");
    assert!(!cache_control.contains("public"), "{cache_control}");
}

/// A session is served by its server, and gets no second cookie.
pub(crate) async fn assert_stays(app: &Router, (cookie, server): &(String, String)) {
    for _ in 0..4 {
        let answer = get_with(app, "/name", &[("cookie", cookie)]).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, server.clone()));
        assert_eq!((answer.cookie(), answer.verdict), (None, Some(Verdict::Pinned)));
    }
}

pub(crate) fn gunzip(body: Bytes) -> impl Future<Output = String> {
    let service = service_fn(move |_: Request| {
        let response = Response::builder().header("content-encoding", "gzip");
        std::future::ready(Ok::<_, BoxError>(response.body(Body::from(body.clone())).unwrap()))
    });
    async move {
        let service = DecompressionLayer::new().layer(service);
        let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }
}
