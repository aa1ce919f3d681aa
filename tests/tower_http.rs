//! The layer in a stack of tower-http's: outcomes, cookies, cache headers, streams and drains with each of its layers,
//! outside and inside. The page `tower_http` of the guide explains the order.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

#[path = "../examples/support/server.rs"]
mod server;

use std::{
    convert::Infallible,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    response::IntoResponse,
    routing::{any, get},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::{sync::Semaphore, time::timeout};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService,
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::{AllowOrigin, CorsLayer},
    decompression::{DecompressionLayer, RequestDecompressionLayer},
    limit::RequestBodyLimitLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
    timeout::TimeoutLayer,
    trace::TraceLayer,
    validate_request::ValidateRequestHeaderLayer,
};
use tower_sticky::{
    Backends, DrainEnd, KeyRing, Mode, Reason, State, StickyLayer, Verdict, affinity::Cookie,
    proxy::Upstream, strategy::RoundRobin,
};

/// A timeout that no passing test reaches on any machine.
const FOREVER: Duration = Duration::from_secs(60);
const TEXT: &str = "a long text that is worth compressing, because it says the same again and again, again and again";

/// A server of an application.
struct Server {
    running: server::Server,
    /// How many requests it has received.
    received: Arc<AtomicUsize>,
    /// `/slow` answers with a permit, and `/stream` sends a chunk with each.
    permits: Arc<Semaphore>,
}

impl Server {
    fn start(name: &'static str) -> Self {
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

    fn received(&self) -> usize {
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
async fn gzipped() -> Response<Body> {
    let service = service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::from(TEXT))));
    let request = Request::get("/").header("accept-encoding", "gzip").body(Body::empty()).unwrap();
    let response = CompressionLayer::new().layer(service).oneshot(request).await.unwrap();
    response.map(Body::new)
}

fn value(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

type Backend = BoxCloneSyncService<Request, Response<Body>, BoxError>;

/// Two servers, and their pool.
struct Setup {
    servers: [Server; 2],
    backends: Backends<Backend>,
}

impl Setup {
    fn new() -> Self {
        Self::with(|upstream| upstream)
    }

    /// With layers around each backend.
    fn with<S, B>(inside: impl Fn(Upstream) -> S) -> Self
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

    fn layer(&self) -> StickyLayer<Backend> {
        let cookie = Cookie::sealed("sid", KeyRing::generate().unwrap());
        StickyLayer::new(self.backends.clone(), cookie)
            .strategy(RoundRobin::new())
            .outcome_extensions(true)
    }

    fn router(&self) -> Router {
        Router::new().fallback_service(self.layer().into_service())
    }

    fn received(&self) -> usize {
        self.servers.iter().map(Server::received).sum()
    }

    fn outcomes(&self, verdict: Verdict) -> u64 {
        self.backends.snapshot().stats.outcome(verdict)
    }

    /// Waits until nothing is in flight, and asserts that nothing is held against a backend.
    async fn settled(&self) {
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
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    verdict: Option<Verdict>,
}

impl Answer {
    fn header(&self, name: &str) -> String {
        value(&self.headers, name)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The cookie as a client sends it back.
    fn cookie(&self) -> Option<String> {
        let cookie = self.headers.get(header::SET_COOKIE)?.to_str().unwrap();
        Some(cookie.split(';').next().unwrap().to_owned())
    }
}

async fn send(app: &Router, request: Request) -> Answer {
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

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
    let request = Request::builder().method(method).uri(path).header("host", "app.example");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

async fn get_with(app: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(app, request(Method::GET, path, headers).body(Body::empty()).unwrap()).await
}

/// A session: its cookie, and its server.
async fn session(app: &Router) -> (String, String) {
    let answer = get_with(app, "/name", &[]).await;
    assert_eq!((answer.status, answer.verdict), (StatusCode::OK, Some(Verdict::Assigned)));
    assert_private(&answer);
    (answer.cookie().expect("a new session has a cookie"), answer.text())
}

/// The response sets a cookie, and no shared cache keeps it.
fn assert_private(answer: &Answer) {
    assert!(answer.cookie().is_some(), "{:?}", answer.headers);
    let cache_control = answer.header("cache-control");
    assert!(cache_control.contains("private"), "{cache_control}");
    assert!(cache_control.contains("no-cache=\"set-cookie\""), "{cache_control}");
    assert!(!cache_control.contains("public"), "{cache_control}");
}

/// A session is served by its server, and gets no second cookie.
async fn assert_stays(app: &Router, (cookie, server): &(String, String)) {
    for _ in 0..4 {
        let answer = get_with(app, "/name", &[("cookie", cookie)]).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, server.clone()));
        assert_eq!((answer.cookie(), answer.verdict), (None, Some(Verdict::Pinned)));
    }
}

fn gunzip(body: Bytes) -> impl Future<Output = String> {
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

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn trace_outside_shows_the_outcome_in_its_span() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        // The target of this crate is off.
        .with_env_filter("tower_http=debug,gateway=info")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let setup = Setup::new();
    let trace = TraceLayer::new_for_http().make_span_with(|_: &Request| {
        let empty = tracing::field::Empty;
        tracing::info_span!(
            target: "gateway",
            "request",
            sticky.backend = empty,
            sticky.outcome = empty,
            sticky.reason = empty
        )
    });
    let app = setup.router().layer(trace);
    let session = session(&app).await;
    assert_stays(&app, &session).await;
    setup.backends.set_mode(&session.1, Mode::Disabled).unwrap();
    get_with(&app, "/name", &[("cookie", &session.0)]).await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let finished = text.lines().filter(|line| line.contains("finished processing request"));
    let finished: Vec<_> = finished.collect();
    for (line, fields) in finished.iter().zip([["a", "assigned"], ["a", "pinned"]]) {
        let [backend, outcome] = fields;
        assert!(line.contains(&format!("sticky.backend=\"{backend}\"")), "{line}");
        assert!(line.contains(&format!("sticky.outcome=\"{outcome}\"")), "{line}");
    }
    let last = finished.last().unwrap();
    assert!(last.contains("sticky.outcome=\"moved\"") && last.contains("disabled"), "{last}");
}

#[tokio::test]
async fn request_id_outside_is_in_every_response() {
    let setup = Setup::new();
    let app = setup.router().layer(
        ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(PropagateRequestIdLayer::x_request_id()),
    );
    let answer = get_with(&app, "/id", &[]).await;
    assert!(!answer.text().is_empty());
    assert_eq!(
        answer.text(),
        answer.header("x-request-id"),
        "the server and the client see one id"
    );
    assert_private(&answer);
    for id in ["a", "b"] {
        setup.backends.set_mode(id, Mode::Disabled).unwrap();
    }
    let answer = get_with(&app, "/id", &[]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!answer.header("x-request-id").is_empty(), "a response of the gateway has one too");
}

#[tokio::test]
async fn cors_outside_answers_preflights_before_they_cost_a_session() {
    let setup = Setup::new();
    let cors = CorsLayer::new()
        .allow_credentials(true)
        .allow_origin(AllowOrigin::exact(HeaderValue::from_static("https://site.example")))
        .allow_methods([Method::PUT]);
    let app = setup.router().layer(cors);
    let origin = ("origin", "https://site.example");
    let preflight = [origin, ("access-control-request-method", "PUT")];
    let preflight = request(Method::OPTIONS, "/name", &preflight).body(Body::empty()).unwrap();
    let answer = send(&app, preflight).await;
    assert_eq!((answer.status, answer.cookie()), (StatusCode::OK, None));
    assert_eq!(answer.header("access-control-allow-methods"), "PUT");
    assert_eq!((setup.received(), setup.backends.snapshot().stats.requests()), (0, 0));
    let answer = get_with(&app, "/name", &[origin]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://site.example");
    assert_private(&answer);
}

#[tokio::test]
async fn a_preflight_that_reaches_the_layer_begins_no_session() {
    let setup = Setup::new();
    let app = setup.router();
    let headers = [("origin", "https://site.example"), ("access-control-request-method", "PUT")];
    let preflight = request(Method::OPTIONS, "/name", &headers).body(Body::empty()).unwrap();
    assert_eq!(send(&app, preflight).await.cookie(), None);
    assert_eq!(setup.received(), 1, "it goes to a server");
}

#[allow(clippy::result_large_err, reason = "the layer wants a response as the error")]
#[tokio::test]
async fn auth_outside_refuses_before_a_session_begins() {
    let setup = Setup::new();
    let secret = ValidateRequestHeaderLayer::custom(|request: &mut Request| {
        match request.headers().get("authorization") {
            Some(value) if value == "Bearer secret" => Ok(()),
            _ => Err(StatusCode::UNAUTHORIZED.into_response()),
        }
    });
    let app = setup.router().layer(secret);
    let answer = get_with(&app, "/name", &[]).await;
    assert_eq!((answer.status, answer.cookie()), (StatusCode::UNAUTHORIZED, None));
    assert_eq!((setup.received(), setup.backends.snapshot().stats.requests()), (0, 0));
    assert_private(&get_with(&app, "/name", &[("authorization", "Bearer secret")]).await);
}

#[tokio::test]
async fn compression_outside_keeps_cookies_and_streams() {
    let setup = Setup::new();
    let app = setup.router().layer(CompressionLayer::new());
    let gzip = ("accept-encoding", "gzip");
    let answer = get_with(&app, "/text", &[gzip]).await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert_private(&answer);
    assert_eq!(gunzip(answer.body.clone()).await, TEXT);
    let session = session(&app).await;
    assert_stays(&app, &session).await;

    // Events arrive one by one, and the request is in flight until the stream ends.
    let headers = [gzip, ("cookie", &session.0)];
    let events = request(Method::GET, "/stream", &headers).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(events).await.unwrap();
    let mut body = response.into_body();
    let server = setup.servers.iter().zip(["a", "b"]).find(|(_, id)| *id == session.1).unwrap().0;
    for number in 0..3 {
        server.permits.add_permits(1);
        let frame = timeout(FOREVER, body.frame()).await.expect("an event comes").unwrap();
        let data = frame.unwrap().into_data().unwrap();
        assert_eq!(data, format!("data: {number}\n\n"));
        assert_eq!(setup.backends.get(&session.1).unwrap().in_flight, 1);
    }
    drop(body);
    setup.settled().await;
}

#[tokio::test]
async fn decompression_inside_unpacks_what_backends_send() {
    let mut setup = Setup::with(|upstream| DecompressionLayer::new().layer(upstream));
    let app = setup.router();
    let answer = get_with(&app, "/gzip", &[]).await;
    assert_eq!(
        (answer.text(), answer.header("content-encoding")),
        (TEXT.to_owned(), String::new())
    );
    assert_private(&answer);
    // A connection that fails is still seen as one: the request goes to the other server.
    setup.servers[0].running.kill();
    for _ in 0..4 {
        let answer = get_with(&app, "/gzip", &[]).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, TEXT.to_owned()));
    }
}

#[tokio::test]
async fn decompression_outside_unpacks_what_clients_send() {
    let setup = Setup::new();
    let app = setup.router().layer(RequestDecompressionLayer::new());
    let session = session(&app).await;
    let packed = to_bytes(gzipped().await.into_body(), usize::MAX).await.unwrap();
    let headers = [("content-encoding", "gzip"), ("cookie", session.0.as_str())];
    let post = request(Method::POST, "/echo", &headers).body(Body::from(packed)).unwrap();
    let answer = send(&app, post).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, TEXT.to_owned()));
    assert_eq!(answer.verdict, Some(Verdict::Pinned));
    // A body that is no gzip is the client's fault.
    let post = request(Method::POST, "/echo", &headers).body(Body::from("no gzip")).unwrap();
    let answer = send(&app, post).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
    assert_eq!(setup.backends.snapshot().stats.reason(Reason::ClientError), 1);
    setup.settled().await;
}

#[tokio::test]
async fn a_timeout_outside_is_no_fault_of_a_backend() {
    let setup = Setup::new();
    let limit = Duration::from_millis(200);
    let status = StatusCode::GATEWAY_TIMEOUT;
    let app = setup.router().layer(TimeoutLayer::with_status_code(status, limit));
    let answer = get_with(&app, "/slow", &[]).await;
    assert_eq!((answer.status, answer.cookie()), (status, None), "no session begins");
    setup.settled().await;
    let session = session(&app).await;
    let answer = get_with(&app, "/slow", &[("cookie", &session.0)]).await;
    assert_eq!(answer.status, status);
    assert_stays(&app, &session).await;
    setup.settled().await;
}

#[tokio::test]
async fn a_timeout_inside_is_a_response_of_its_backend() {
    let status = StatusCode::GATEWAY_TIMEOUT;
    let setup = Setup::with(|upstream| {
        let limit = TimeoutLayer::with_status_code(status, Duration::from_millis(200));
        // Its own response has an empty body of the same type.
        limit.layer(ServiceExt::<Request>::map_response(upstream, |response: Response<_>| {
            response.map(Body::new)
        }))
    });
    let answer = get_with(&setup.router(), "/slow", &[]).await;
    assert_eq!((answer.status, answer.verdict), (status, Some(Verdict::Assigned)));
    assert_private(&answer);
    setup.settled().await;
}

#[tokio::test]
async fn a_body_limit_outside_is_the_fault_of_the_client() {
    let setup = Setup::new();
    let app = setup.router().layer(RequestBodyLimitLayer::new(1000));
    let known = request(Method::POST, "/echo", &[("content-length", "1001")]);
    let answer = send(&app, known.body(Body::from(vec![b'x'; 1001])).unwrap()).await;
    assert_eq!((answer.status, answer.cookie()), (StatusCode::PAYLOAD_TOO_LARGE, None));
    assert_eq!(setup.received(), 0);
    // The length of this one is not known before.
    let chunks = (0..11).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 100])));
    let unknown = Body::from_stream(tokio_stream::iter(chunks));
    let answer = send(&app, request(Method::POST, "/echo", &[]).body(unknown).unwrap()).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
    assert_eq!(answer.cookie(), None);
    assert_eq!(setup.backends.snapshot().stats.reason(Reason::ClientError), 1);
    setup.settled().await;
    let within = request(Method::POST, "/echo", &[]).body(Body::from("within it")).unwrap();
    assert_eq!(send(&app, within).await.text(), "within it");
}

#[tokio::test]
async fn a_panic_outside_or_inside_leaves_nothing_behind() {
    // Outside, it catches panics of all layers; here of one that is between it and the sticky layer.
    let setup = Setup::new();
    let panics = axum::middleware::map_response(|response: axum::response::Response| async {
        assert!(response.status() != StatusCode::NOT_FOUND, "a layer panics");
        response
    });
    let app = setup.router().layer(panics).layer(CatchPanicLayer::new());
    let answer = get_with(&app, "/unknown", &[]).await;
    assert_eq!((answer.status, answer.cookie()), (StatusCode::INTERNAL_SERVER_ERROR, None));
    setup.settled().await;
    let session = session(&app).await;
    assert_stays(&app, &session).await;

    // Inside, the application of this node panics: its response keeps the session where it is.
    let local = Router::new()
        .route("/name", get(async || "a"))
        .route("/panic", get(async || -> &'static str { panic!("a handler panics") }))
        .layer(CatchPanicLayer::new())
        .layer(setup.layer().local("a"));
    let answer = get_with(&local, "/panic", &[]).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_private(&answer);
    let cookie = answer.cookie().unwrap();
    assert_eq!(get_with(&local, "/name", &[("cookie", &cookie)]).await.text(), "a");
    setup.settled().await;
}

fn cache_for_a_minute(mode: &str) -> SetResponseHeaderLayer<HeaderValue> {
    let value = HeaderValue::from_static("public, max-age=60");
    match mode {
        "if-not-present" => SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, value),
        _ => SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, value),
    }
}

#[tokio::test]
async fn set_header_inside_does_not_undo_the_protection_from_caches() {
    let setup = Setup::with(|upstream| cache_for_a_minute("overriding").layer(upstream));
    let app = setup.router();
    assert_private(&get_with(&app, "/name", &[]).await);
    let session = session(&app).await;
    let answer = get_with(&app, "/name", &[("cookie", &session.0)]).await;
    assert_eq!(
        answer.header("cache-control"),
        "public, max-age=60",
        "without a cookie it is as set"
    );

    // Outside, it would: a shared cache may keep the cookie.
    let setup = Setup::new();
    let app = setup.router().layer(cache_for_a_minute("overriding"));
    let answer = get_with(&app, "/name", &[]).await;
    assert_eq!(answer.header("cache-control"), "public, max-age=60");
    assert!(answer.cookie().is_some());
    // A header of another name may stand outside, and where it is missing only.
    let app = setup.router().layer(cache_for_a_minute("if-not-present")).layer(
        SetResponseHeaderLayer::overriding(
            HeaderName::from_static("x-frame-options"),
            HeaderValue::from_static("DENY"),
        ),
    );
    let answer = get_with(&app, "/name", &[]).await;
    assert_eq!(answer.header("x-frame-options"), "DENY");
    assert_private(&answer);
}

/// The order of the page.
fn whole(setup: &Setup) -> Router {
    let outside = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(TraceLayer::new_for_http())
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(CompressionLayer::new())
        .layer(RequestBodyLimitLayer::new(1 << 20))
        .layer(RequestDecompressionLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, FOREVER));
    setup.router().layer(outside)
}

#[tokio::test]
async fn a_drain_ends_streams_through_the_whole_stack() {
    let setup = Setup::new();
    let app = whole(&setup);
    let session = session(&app).await;
    assert_stays(&app, &session).await;
    let headers = [("accept-encoding", "gzip"), ("cookie", session.0.as_str())];
    let events = request(Method::GET, "/stream", &headers).body(Body::empty()).unwrap();
    let mut body = app.clone().oneshot(events).await.unwrap().into_body();
    for server in &setup.servers {
        server.permits.add_permits(1);
    }
    let first = timeout(FOREVER, body.frame()).await.expect("an event comes").unwrap();
    assert_eq!(first.unwrap().into_data().unwrap(), "data: 0\n\n");
    let drain = setup.backends.drain(&session.1).deadline(Duration::from_millis(300));
    let report = timeout(FOREVER, async { drain.await }).await.expect("the drain ends").unwrap();
    assert_eq!(report.end, DrainEnd::Deadline);
    let end = timeout(FOREVER, body.frame()).await.expect("the stream ends");
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    // The session goes on elsewhere.
    let answer = get_with(&app, "/name", &[("cookie", &session.0)]).await;
    assert_eq!((answer.status, answer.verdict), (StatusCode::OK, Some(Verdict::Moved)));
    assert_ne!(answer.text(), session.1);
    assert_private(&answer);
    assert_eq!(setup.outcomes(Verdict::Moved), 1);
}
