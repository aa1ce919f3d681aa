//! All layers of the guide's page at once.

use std::time::Duration;

use axum::{Router, body::Body};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::CorsLayer,
    decompression::RequestDecompressionLayer,
    limit::RequestBodyLimitLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_sticky::{DrainEnd, Verdict};

use crate::support::*;

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
