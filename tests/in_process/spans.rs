//! The spans of waits and attempts.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use http::{Request, Response};
use tower::ServiceBuilder;
use tower_http::trace::TraceLayer;
use tower_sticky::{
    Backends, StickyLayer,
    affinity::Cookie,
    trace::{RecordAnswer, RequestSpan},
};
use tracing::{Instrument, level_filters::LevelFilter};
use tracing_subscriber::layer::SubscriberExt;

use crate::support::{
    Body, Client, Controls, Spans, after, get, refuse, sealed_session, send, with_header,
};

#[tokio::test(start_paused = true)]
async fn a_request_has_children_for_its_attempts_and_its_wait() {
    let (spans, _guard) = Spans::record();
    let (_backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    let trace = TraceLayer::new_for_http()
        .make_span_with(RequestSpan::new())
        .on_response(RecordAnswer::new());
    let service = ServiceBuilder::new().layer(trace).service(service);
    spans.clear();
    client.send(&service, get()).await;
    assert!(spans.named("wait").is_empty(), "it did not wait");
    let [attempt] = &spans.named("attempt")[..] else { panic!("there is one attempt") };
    assert_eq!(attempt.parent, Some("request"));
    assert_eq!(attempt.fields["sticky.backend"], "a");
    assert_eq!(attempt.fields["http.response.status_code"], "200");
    let request = spans.last("request").fields;
    assert_eq!(request["sticky.backend"], "a");
    assert_eq!(request["http.response.status_code"], "200");
    assert!(request["sticky.epoch"].parse::<u64>().unwrap() > 0);

    spans.clear();
    refuse(&a, true);
    client.send(&service, get()).await;
    let [failed, answered] = &spans.named("attempt")[..] else { panic!("there are two attempts") };
    assert_eq!((&*failed.fields["sticky.backend"], &*failed.fields["sticky.attempt"]), ("a", "1"));
    assert_eq!(failed.fields["error.type"], "connect-failed");
    assert_eq!(
        (&*answered.fields["sticky.backend"], &*answered.fields["sticky.attempt"]),
        ("b", "2")
    );
    assert_eq!(spans.last("request").fields["sticky.outcome"], "moved");
}

#[tokio::test(start_paused = true)]
async fn the_span_of_an_attempt_says_how_it_failed() {
    type Fault = fn(&Controls) -> &AtomicBool;
    let ways: [(&str, Fault); 4] = [
        ("connect-failed", |control| &control.refuses),
        ("broken", |control| &control.disconnects),
        ("broken", |control| &control.breaks_after_gate),
        ("no-answer", |control| &control.call_fails),
    ];
    for (error, way) in ways {
        let (spans, _guard) = Spans::record();
        let (_backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
        spans.clear();
        way(&a.control).store(true, SeqCst);
        client.send(&service, get()).await;
        assert_eq!(spans.named("attempt")[0].fields["error.type"], error);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_a_span_of_the_request() {
    let (spans, _guard) = Spans::record();
    let (_backends, [a], service, client) = sealed_session(["a"]).await;
    a.control.set_busy(true);
    spans.clear();
    let request = client.spawn(&service, get());
    after(120).await;
    assert!(spans.named("wait").is_empty(), "it lasts");
    a.hold_responses();
    a.control.set_busy(false);
    after(1).await;
    assert_eq!(spans.named("wait").len(), 1, "it ends before the answer");
    assert!(spans.named("attempt").is_empty());
    a.release_responses();
    request.await.unwrap();
    assert_eq!((spans.named("wait").len(), spans.named("attempt").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_span_of_ones_own_gets_the_fields_of_a_request_that_is_given_up() {
    let (spans, _guard) = Spans::record();
    let (_backends, [a], service, client) = sealed_session(["a"]).await;
    a.hold_responses();
    let span = tracing::info_span!("mine", sticky.outcome = tracing::field::Empty);
    let mut client: Client = client;
    let request = client.send(&service, get()).instrument(span);
    let request = tokio::time::timeout(std::time::Duration::from_secs(1), request);
    assert!(request.await.is_err(), "it is given up");
    assert_eq!(spans.last("mine").fields["sticky.outcome"], "pinned");
}

#[tokio::test(start_paused = true)]
async fn without_the_level_there_are_no_children() {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone()).with(LevelFilter::INFO);
    let _guard = tracing::subscriber::set_default(subscriber);
    let (_backends, _nodes, service, mut client) = sealed_session(["a"]).await;
    let trace = TraceLayer::new_for_http().make_span_with(RequestSpan::new());
    let service = ServiceBuilder::new().layer(trace).service(service);
    client.send(&service, get()).await;
    assert!(spans.named("attempt").is_empty());
    assert_eq!(spans.last("request").fields["sticky.outcome"], "pinned");
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_request_has_the_names_of_opentelemetry() {
    let (spans, _guard) = Spans::record();
    let (_backends, _nodes, service, _) = sealed_session(["a"]).await;
    let trace = TraceLayer::new_for_http().make_span_with(RequestSpan::new());
    let service = ServiceBuilder::new().layer(trace).service(service);
    let mut request = with_header("host", "shop.example:8080");
    *request.uri_mut() = "/cart?secret=1".parse().unwrap();
    *request.method_mut() = "BREW".parse().unwrap();
    request.headers_mut().insert("x-request-id", "one".parse().unwrap());
    request.extensions_mut().insert(tower_sticky::Peer::new("10.0.0.7:51000".parse().unwrap()));
    send(&service, request).await;
    let fields = spans.last("request").fields;
    for (field, value) in [
        ("otel.kind", "server"),
        ("http.request.method", "_OTHER"),
        ("url.path", "/cart"),
        ("url.scheme", "http"),
        ("server.address", "shop.example"),
        ("client.address", "10.0.0.7"),
        ("network.protocol.version", "1.1"),
        ("request_id", "one"),
    ] {
        assert_eq!(fields.get(field).map(String::as_str), Some(value), "{field}: {fields:?}");
    }
    assert!(!format!("{fields:?}").contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_request_that_is_given_up_outside_of_it_gets_its_fields() {
    let (spans, _guard) = Spans::record();
    let (_backends, [a], service, mut client) = sealed_session(["a"]).await;
    a.hold_responses();
    // The future of this layer enters the span when it is polled, and not when it is dropped.
    let trace = TraceLayer::new_for_http().make_span_with(RequestSpan::new());
    let service = ServiceBuilder::new().layer(trace).service(service);
    let request = client.send(&service, get());
    assert!(tokio::time::timeout(Duration::from_secs(1), request).await.is_err());
    assert_eq!(spans.last("request").fields["sticky.outcome"], "pinned");
}

#[tokio::test(start_paused = true)]
async fn spans_of_a_backend_are_children_of_the_attempt() {
    let (spans, _guard) = Spans::record();
    let backend = tower::service_fn(|_: Request<Body>| {
        drop(tracing::info_span!("called"));
        async {
            tokio::task::yield_now().await;
            drop(tracing::info_span!("polled"));
            Ok::<_, Infallible>(Response::new(Body::default()))
        }
    });
    let backends = Backends::from_iter([("a", backend)]);
    let service = StickyLayer::new(backends, Cookie::plain("sid")).into_service();
    send(&service, get()).await;
    for name in ["called", "polled"] {
        assert_eq!(spans.last(name).parent, Some("attempt"), "{name}");
    }
}
