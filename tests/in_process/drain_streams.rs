//! Streams, upgraded connections and slow requests on a backend that drains.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_sticky::{
    Backends, DrainEnd, DrainOver, Mode, StickyLayer, UpgradeGuard,
    affinity::{Chain, Cookie, Key},
};

use crate::{
    drain::{MINUTE, SECOND, after, sealed},
    support::{Body, Client, First, get, keys, nodes, spawn, with_header},
    unending::Unending,
};

#[tokio::test(start_paused = true)]
async fn open_streams_end_at_the_deadline() {
    let open = Arc::new(());
    let stream = tower::service_fn({
        let open = open.clone();
        move |_: Request<Body>| {
            let open = open.clone();
            // The body owns the clone.
            let body = Unending::after("word").map_frame(move |frame| (&open, frame).1);
            async move { Ok::<_, Infallible>(Response::new(body)) }
        }
    });
    let backends = Backends::from_iter([("a", stream.clone()), ("b", stream)]);
    let layer = StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys())).strategy(First);
    let service = layer.into_service();
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let response = service.clone().oneshot(get()).await.unwrap();
        bodies.push(response.into_body());
    }
    let mut readers: Vec<_> = bodies
        .into_iter()
        .map(|mut body| {
            tokio::spawn(async move {
                let word = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(word, "word");
                body.frame().await.unwrap().map(|_| ()).unwrap_err()
            })
        })
        .collect();
    after(SECOND).await;
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.streams), (3, 3));
    readers.pop().unwrap().abort();
    after(SECOND).await;
    assert_eq!(backends.get("a").unwrap().streams, 2, "a reader that goes away is forgotten");

    let mut signal = backends.drain_signal("a").unwrap();
    let mut other = backends.drain_signal("b").unwrap();
    let start = Instant::now();
    let drain = backends.drain("a").deadline(MINUTE).start().unwrap();
    signal.begun().await;
    assert_eq!(start.elapsed(), Duration::ZERO, "the signal arrives at once");
    assert_eq!(drain.ended().await.streams_cut, 2);
    signal.over().await;
    for reader in readers {
        let error = reader.await.unwrap();
        let error = error.downcast_ref::<DrainOver>().expect("the error says why");
        assert_eq!(error.backend().as_str(), "a");
    }
    assert_eq!(start.elapsed(), MINUTE);
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
    assert_eq!(Arc::strong_count(&open), 3, "what they came from is gone");
    let elsewhere = tokio::time::timeout(SECOND, other.begun()).await;
    assert!(elsewhere.is_err(), "another backend's signal is silent");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_finishes_after_the_deadline() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    a.hold_responses();
    let slow = spawn(&service, get());
    after(SECOND).await;
    let report = backends.drain("a").deadline(SECOND).await.unwrap();
    assert_eq!((report.end, report.in_flight, report.streams_cut), (DrainEnd::Deadline, 1, 0));
    a.release_responses();
    let answer = slow.await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_signalled_and_counted() {
    let ends = Arc::new(std::sync::Mutex::new(Vec::new()));
    let upgrade = tower::service_fn({
        let ends = ends.clone();
        move |_: Request<Body>| {
            let (hold, end) = UpgradeGuard::pair();
            ends.lock().unwrap().push(end);
            async move {
                let mut response = Response::new(Body::default());
                *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
                response.extensions_mut().insert(hold);
                Ok::<_, Infallible>(response)
            }
        }
    });
    let backends = Backends::from_iter([("a", upgrade)]);
    let service = StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys())).into_service();
    drop(service.clone().oneshot(get()).await.unwrap());
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.streams), (1, 1));
    let end = ends.lock().unwrap().pop().unwrap();
    let mut signal = end.signal().await;
    let drain = backends.drain("a").deadline(MINUTE).start().unwrap();
    signal.begun().await;
    let report = drain.ended().await;
    signal.over().await;
    assert_eq!((report.in_flight, report.streams_cut), (1, 1));
    end.release();
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.streams), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_signal_reports_the_current_drain() {
    let (backends, _nodes) = nodes(["a"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    let drain = backends.drain("a").deadline(MINUTE).start().unwrap();
    backends.set_mode("a", Mode::Active).unwrap();
    drop(drain);
    let mut signal = backends.drain_signal("a").unwrap();
    assert!(tokio::time::timeout(SECOND, signal.begun()).await.is_err(), "it was cancelled");
    backends.set_mode("a", Mode::Draining).unwrap();
    signal.begun().await;
    client.send(&service, get()).await;
    assert!(tokio::time::timeout(SECOND, signal.over()).await.is_err(), "it has no deadline");
    backends.drain("a").deadline(SECOND).await.unwrap();
    signal.over().await;
    backends.set_mode("a", Mode::Active).unwrap();
    assert!(tokio::time::timeout(SECOND, signal.begun()).await.is_err(), "it serves again");
}

#[tokio::test(start_paused = true)]
async fn a_stream_by_a_key_does_not_delay_a_drain_after_its_end() {
    let stream = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Unending::after("word")))
    });
    let backends = Backends::from_iter([("a", stream)]);
    let chain = Chain::of(Key::header("user")).or(Cookie::sealed("sid", keys()));
    let service = StickyLayer::new(backends.clone(), chain).into_service();
    // Sessions from before the start of this process would have been seen by now.
    after(31 * MINUTE).await;
    let mut body = service.oneshot(with_header("user", "1")).await.unwrap().into_body();
    let reader = tokio::spawn(async move { while body.frame().await.is_some() {} });
    after(3 * SECOND).await;
    assert_eq!(backends.get("a").unwrap().streams, 1);
    reader.abort();
    let drained = tokio::time::timeout(5 * SECOND, backends.drain("a")).await;
    assert!(drained.is_ok(), "the session has no stored pin");
}
