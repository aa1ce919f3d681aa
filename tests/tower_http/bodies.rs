//! Layers that change bodies or end them: compression, time limits, a limit of size, and panics.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    routing::get,
};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::{Layer, ServiceExt};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    decompression::{DecompressionLayer, RequestDecompressionLayer},
    limit::RequestBodyLimitLayer,
    timeout::TimeoutLayer,
};
use tower_sticky::{Reason, Verdict};

use crate::support::*;

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
