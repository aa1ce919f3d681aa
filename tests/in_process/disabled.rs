//! Requests that are dispatched while their backend is disabled, drained or replaced.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::Request;
use http_body_util::BodyExt;
use tower::{Service, ServiceExt};
use tower_sticky::{Backends, DrainEnd, Failover, Mode, Outcome, Reason, State, Verdict};

use crate::support::{
    Body, Client, Node, get, load, nodes, sealed, sealed_session, send, with_cookie,
};

/// Replaces the service of `a` by one that refuses requests once its responses are released.
fn replace_with_connecting(backends: &Backends<Node>) -> Node {
    let connecting = Node::new("connecting");
    connecting.control.refuses_after_gate.store(true, SeqCst);
    connecting.hold_responses();
    backends.replace("a", connecting.clone()).unwrap();
    connecting
}

/// A request of the session of `client`.
fn with_token(client: &Client) -> Request<Body> {
    with_cookie(&format!("sid={}", client.token.as_ref().unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_dispatched_request_fails_over_when_its_backend_is_disabled() {
    let (backends, [a, _b], mut service, client) = sealed_session(["a", "b"]).await;
    let pinned = with_token(&client);
    // Dispatched, but not sent yet: to `a`, `b` and `a`.
    let on_their_way = [pinned, get(), get()].map(|request| service.call(request));
    let report = backends.drain("a").deadline(Duration::ZERO).await.unwrap();
    assert_eq!((report.end, report.in_flight), (DrainEnd::Deadline, 0));
    let mut why = Vec::new();
    for request in on_their_way {
        let response = request.await.unwrap();
        why.push(Outcome::of(response.extensions()).unwrap().to_string());
    }
    assert_eq!(why, ["moved b (draining)", "assigned b", "assigned b"]);
    assert_eq!(a.served(), 1, "nothing was in flight, so nothing came any more");
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_fails_over_when_its_backend_is_disabled() {
    let (backends, [a, _b], service, client) = sealed_session(["a", "b"]).await;
    backends.set_limit("a", 1).unwrap();
    a.hold_responses();
    let requests = [(); 2].map(|()| client.spawn(&service, get()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(load(&backends, "a"), (1, 1));
    backends.set_mode("a", Mode::Disabled).unwrap();
    a.release_responses();
    let [first, second] = requests;
    assert_eq!(first.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None), "it was there");
    let why = (Verdict::Moved, Some("b"), Some(Reason::Disabled));
    assert_eq!(
        second.await.unwrap().decision(),
        why,
        "it has its turn, and does not want it any more"
    );
    assert_eq!(load(&backends, "a"), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_follows_the_policy_of_the_drain_when_that_has_ended() {
    let (backends, [a, _b], service, client) = sealed_session(["a", "b"]).await;
    backends.set_limit("a", 1).unwrap();
    a.hold_responses();
    let [first, second] = [(); 2].map(|()| client.spawn(&service, get()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(load(&backends, "a"), (1, 1));
    let drain = backends.drain("a").deadline(Duration::from_millis(20)).then(Failover::Borrow);
    assert_eq!(drain.await.unwrap().end, DrainEnd::Deadline);
    a.release_responses();
    assert_eq!(first.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None), "it was there");
    let why = (Verdict::Borrowed, Some("b"), Some(Reason::Draining));
    assert_eq!(second.await.unwrap().decision(), why, "by default it would move");
}

#[tokio::test(start_paused = true)]
async fn a_response_not_read_before_the_deadline_is_complete() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let response = service.oneshot(get()).await.unwrap();
    let report = backends.drain("a").deadline(Duration::from_secs(1)).await.unwrap();
    assert_eq!((report.end, report.in_flight, report.streams_cut), (DrainEnd::Deadline, 1, 0));
    let body = response.into_body().collect().await.expect("the body was complete");
    assert_eq!(body.to_bytes(), "a");
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dispatched_request_uses_the_replaced_service() {
    let (backends, [old, _b], mut service, client) = sealed_session(["a", "b"]).await;
    let pinned = with_token(&client);
    let on_its_way = service.call(pinned);
    let new = Node::new("the new a");
    backends.replace("a", new.clone()).unwrap();
    let response = on_its_way.await.unwrap();
    assert_eq!(Outcome::of(response.extensions()).unwrap().to_string(), "pinned a");
    assert_eq!((old.served(), new.served()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_refused_by_the_old_service_goes_to_the_new_one() {
    let (backends, _nodes, service, client) = sealed_session(["a", "b"]).await;
    let connecting = replace_with_connecting(&backends);
    let sent = client.spawn(&service, get());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1);
    backends.replace("a", Node::new("the new a")).unwrap();
    connecting.release_responses();
    let answer = sent.await.unwrap();
    assert_eq!(
        (answer.decision(), answer.body.as_str()),
        ((Verdict::Pinned, Some("a"), None), "the new a")
    );
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_a_pinned_request_waits_until_the_new_service_is_ready() {
    for is_pinned in [true, false] {
        let (backends, _nodes, service, pinned) = sealed_session(["a", "b"]).await;
        // The next new session begins at "a" again.
        send(&service, get()).await;
        let connecting = replace_with_connecting(&backends);
        let client = if is_pinned { pinned } else { Client::default() };
        let sent = client.spawn(&service, get());
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(backends.get("a").unwrap().in_flight, 1);
        let new = Node::new("the new a");
        new.control.set_busy(true);
        backends.replace("a", new.clone()).unwrap();
        let start = tokio::time::Instant::now();
        connecting.release_responses();
        tokio::time::sleep(Duration::from_millis(100)).await;
        new.control.set_busy(false);
        let answer = sent.await.unwrap();
        let body = if is_pinned { "the new a" } else { "b" };
        assert_eq!(answer.body, body, "after {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_old_service_do_not_count_against_the_new_one() {
    let (backends, [a, _b], service, client) = sealed_session(["a", "b"]).await;
    a.control.set_busy(true);
    let waiting = client.spawn(&service, get());
    tokio::time::sleep(Duration::from_millis(1)).await;
    backends.replace("a", Node::new("the new a")).unwrap();
    a.control.readiness_fails.store(true, SeqCst);
    a.control.set_busy(false);
    let answer = waiting.await.unwrap();
    assert_eq!(
        (answer.decision(), answer.body.as_str()),
        ((Verdict::Pinned, Some("a"), None), "the new a")
    );
    assert_eq!(backends.get("a").unwrap().state, State::Ready);

    // The same for a backend that is removed and inserted again with requests in flight.
    let connecting = replace_with_connecting(&backends);
    let sent = client.spawn(&service, get());
    tokio::time::sleep(Duration::from_millis(1)).await;
    backends.remove("a").unwrap();
    backends.insert("a", Node::new("back")).unwrap();
    connecting.release_responses();
    assert_eq!(sent.await.unwrap().body, "back");
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
}
