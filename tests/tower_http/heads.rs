//! Layers that read or change heads: traces, ids, CORS, authorization and cache headers.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use axum::{body::Body, extract::Request, response::IntoResponse};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tower::{Layer, ServiceBuilder};
use tower_http::{
    cors::{AllowOrigin, CorsLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
    trace::TraceLayer,
    validate_request::ValidateRequestHeaderLayer,
};
use tower_sticky::Mode;

use crate::support::*;

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
