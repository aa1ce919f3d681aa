//! What a probe sends, which answers pass, and which configuration is rejected.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tower_sticky::{
    BackendId, Backends, BoxError, GrpcProbe, Health, HttpProbe, Probe, State, StickyLayer,
    affinity::Cookie,
};

use crate::{
    probes::start,
    support::{Body, Node, after, nodes, plain, state},
    unending::Unending,
};

#[tokio::test(start_paused = true)]
async fn the_probe_request_is_as_configured() {
    let (backends, [a]) = nodes(["a"]);
    let probe =
        HttpProbe::head("/up?deep=1").host("shop").header("x-key", "1").header("x-key", "2");
    let layer = start(&backends, Health::new().probe(probe.map_body(|_| Body::default())));
    after(500).await;
    let headers = a.control.headers.lock().unwrap()[0].clone();
    assert_eq!(headers["host"], "shop");
    assert_eq!(headers.get_all("x-key").iter().collect::<Vec<_>>(), ["2"]);
    assert!(headers["user-agent"].to_str().unwrap().starts_with("tower-sticky/"));
    drop(layer);
}

#[tokio::test(start_paused = true)]
async fn status_and_body_decide() {
    for (status, probe, well) in [
        (200, HttpProbe::get("/"), true),
        (302, HttpProbe::get("/"), true),
        (404, HttpProbe::get("/"), false),
        (503, HttpProbe::get("/"), false),
        (404, HttpProbe::get("/").expect_status(404), true),
        (200, HttpProbe::get("/").expect_status(204), false),
        (302, HttpProbe::get("/").expect_statuses(200..=299), false),
        (302, HttpProbe::get("/").expect_statuses([204, 302]), true),
        (203, HttpProbe::get("/").expect_statuses([200, 204]), false),
        (200, HttpProbe::get("/").expect_body("a"), true),
        (200, HttpProbe::get("/").expect_body("ok"), false),
    ] {
        let (backends, [a]) = nodes(["a"]);
        a.control.status.store(status, SeqCst);
        let said = format!("{status} to {probe:?}");
        let _layer = start(&backends, Health::new().probe(probe.map_body(|_| Body::default())));
        after(2_000).await;
        assert_eq!(state(&backends, "a") == State::Ready, well, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_axum_router_can_be_a_backend() {
    use axum::{Router, routing};
    let ok = Router::new().route("/healthz", routing::get(async || "ok"));
    let backends = Backends::from_iter([("a", ok), ("b", Router::new())]);
    let probe = HttpProbe::get("/healthz").map_body(axum::body::Body::new);
    let layer =
        StickyLayer::new(backends.clone(), Cookie::plain("sid")).health(Health::new().probe(probe));
    assert!(layer.start::<axum::extract::Request>());
    after(2_000).await;
    let states: Vec<_> = backends.iter().map(|backend| backend.state).collect();
    assert_eq!(states, [State::Ready, State::Down], "b has no such path");
    assert_eq!(
        backends.get("b").unwrap().probe_failure.unwrap(),
        "it answered 404 Not Found, not 200 to 399"
    );
}

#[test]
fn an_invalid_probe_is_rejected_at_build_time() {
    let error = |probe: HttpProbe| {
        let (backends, _nodes) = nodes(["a"]);
        let health = Health::new().probe(probe.map_body(|_| Body::default()));
        plain(&backends).try_health(health).unwrap_err().to_string()
    };
    for path in ["", "healthz", "http://a/healthz", "/a b", "/a#b"] {
        let said = error(HttpProbe::get(path));
        assert!(said.contains(&format!("{path:?}")) && said.contains("begin with '/'"), "{said}");
    }
    assert!(error(HttpProbe::get("/").header("a b", "1")).contains("\"a b\""));
    assert!(error(HttpProbe::get("/").header("x-key", "1\r\n2")).contains("x-key"));
    for host in ["a\nb", "a b", "", "user@a", "http://a/"] {
        assert!(error(HttpProbe::get("/").host(host)).contains("host is not one"), "{host:?}");
    }
    for name in ["Content-Length", "transfer-encoding", "connection", "upgrade", "expect"] {
        assert!(error(HttpProbe::get("/").header(name, "1")).contains(&name.to_lowercase()));
    }
    for method in ["", "GET /", "CONNECT"] {
        let said = error(HttpProbe::get("/").method(method));
        assert!(said.contains(&format!("{method:?} is not the method")), "{said}");
    }
    assert!(error(HttpProbe::get("/").expect_status(42)).contains("200 to 599"));
    assert!(error(HttpProbe::get("/").expect_statuses([200, 600])).contains("600"));
    assert!(error(HttpProbe::get("/").expect_statuses([])).contains("at least one"));
    assert!(error(HttpProbe::head("/").expect_body("x")).contains("HttpProbe::get"));
    assert!(
        error(HttpProbe::get("/").expect_body("x").method("HEAD")).contains("HttpProbe::get"),
        "in either order"
    );
    let first = HttpProbe::get("/").expect_status(42).header("a b", "1");
    assert!(error(first).contains("200 to 599"), "the first mistake is reported");
}

#[test]
#[should_panic(expected = "begin with '/'")]
fn health_panics_with_the_error_of_try_health() {
    let (backends, _nodes) = nodes(["a"]);
    let probe = HttpProbe::get("nowhere").map_body(|_| Body::default());
    let _ = plain(&backends).health(Health::new().probe(probe));
}

#[test]
fn debug_output_shows_no_header() {
    let shown = format!("{:?}", HttpProbe::get("/up").header("authorization", "secret"));
    assert!(shown.contains("/up") && !shown.contains("secret"), "{shown}");
    let shown = format!("{:?}", GrpcProbe::new().service("shop.Cart"));
    assert!(shown.contains("shop.Cart"), "{shown}");
    let health = Health::new().probe(|_: Node, _: BackendId| async { Ok::<_, Infallible>(()) });
    assert!(format!("{health:?}").contains("rise"));
}

/// A probe with its own state.
struct Lazy {
    connected: Arc<AtomicBool>,
    asked: AtomicUsize,
}

impl Probe<Node> for Lazy {
    async fn probe(&self, service: Node, backend: &BackendId) -> Result<(), BoxError> {
        assert_eq!(*backend, *service.name);
        self.connected.store(true, SeqCst);
        self.asked.fetch_add(1, Relaxed);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_can_be_of_any_type() {
    let (backends, _nodes) = nodes(["a"]);
    let connected = Arc::new(AtomicBool::new(false));
    let probe = Lazy { connected: connected.clone(), asked: 0.into() };
    let _layer = start(&backends, Health::new().probe(probe).probe_interval(Duration::ZERO));
    after(10).await;
    assert!(connected.load(SeqCst), "the probe has connected");
}

#[tokio::test(start_paused = true)]
async fn a_probe_does_not_wait_for_the_end_of_a_long_answer() {
    let page: &'static str = "x".repeat(64 * 1024).leak();
    let endless = tower::service_fn(move |_: Request<Body>| async move {
        Ok::<_, Infallible>(Response::new(Unending::after(page)))
    });
    let backends = Backends::from_iter([("a", endless)]);
    let health = Health::new().probe(HttpProbe::get("/").map_body(|_| Body::default()));
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid")).health(health);
    assert!(layer.start::<Request<Body>>());
    after(10_000).await;
    let backend = backends.get("a").unwrap();
    assert_eq!((backend.state, backend.probe_failure), (State::Ready, None));
}

#[tokio::test(start_paused = true)]
async fn the_expected_text_must_be_within_the_first_64_kib() {
    let within = |before: usize| "x".repeat(before) + "ok";
    for (page, failure) in [
        (within(64 * 1024 - 2), None),
        (within(64 * 1024 - 1), Some("but without \"ok\" within 64 KiB")),
        (within(70_000), Some("but without \"ok\" within 64 KiB")),
        ("no".to_owned(), Some("but without \"ok\"")),
    ] {
        let length = page.len();
        let answer = tower::service_fn(move |_: Request<Body>| {
            let frames = page.as_bytes().chunks(40_000).map(Bytes::copy_from_slice);
            let frames: Vec<_> =
                frames.map(|part| Ok::<_, Infallible>(Frame::data(part))).collect();
            let body = StreamBody::new(tokio_stream::iter(frames));
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        let backends = Backends::from_iter([("a", answer)]);
        let probe = HttpProbe::get("/").expect_body("ok").map_body(|_| Body::default());
        let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"));
        let layer = layer.health(Health::new().probe(probe));
        assert!(layer.start::<Request<Body>>());
        after(2_000).await;
        let failure = failure.map(|failure| format!("it answered 200 OK, {failure}"));
        assert_eq!(backends.get("a").unwrap().probe_failure, failure, "{length} bytes");
    }
}
