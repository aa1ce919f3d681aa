//! The readiness poll and passive detection.

use std::{convert::Infallible, io, sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{ServiceExt, service_fn};
use tower_sticky::{
    Backends, Cause, Health, Reason, State, StickyLayer, SuccessRate, Verdict,
    affinity::{Cookie, Learned},
};

use crate::support::{
    Body, Client, Node, after, get, layer, nodes, plain, sealed, send, spawn, with_cookie,
};

#[tokio::test(start_paused = true)]
async fn the_readiness_poll_sees_ready_busy_and_failed() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let layer = sealed(&backends).health(Health::new().readiness_interval(Duration::from_secs(5)));
    assert!(layer.start::<Request<Body>>(), "started by hand");
    let state = || backends.iter().map(|backend| backend.state).collect::<Vec<_>>();
    after(1).await;
    assert_eq!(state(), [State::Ready, State::Ready]);
    a.control.set_busy(true);
    b.control.readiness_fails.store(true, SeqCst);
    after(4000).await;
    assert_eq!(state(), [State::Ready, State::Ready], "not asked yet");
    after(1000).await;
    assert_eq!(state(), [State::Busy, State::Suspect]);
    b.control.readiness_fails.store(false, SeqCst);
    after(200).await;
    assert_eq!(state(), [State::Busy, State::Ready], "what has failed is asked soon");
    a.control.set_busy(false);
    after(5000).await;
    assert_eq!(state(), [State::Ready, State::Ready]);
    assert_eq!(a.control.clones.load(SeqCst), 2, "no probe is kept: the test's and the pool's");
}

#[test]
fn the_readiness_poll_needs_a_runtime() {
    let (backends, _nodes) = nodes(["a"]);
    assert!(!plain(&backends).start::<Request<Body>>());
}

#[tokio::test(start_paused = true)]
async fn a_saturated_backend_gets_no_new_session_and_keeps_its_own() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let layer = sealed(&backends);
    let service = layer.clone().into_service();
    let mut client = Client::assigned(&service).await;
    a.control.set_busy(true);
    after(1500).await;
    assert_eq!(backends.get("a").unwrap().state, State::Busy);
    a.control.set_busy(false);
    for _ in 0..3 {
        assert_eq!(send(&service, get()).await.body, "b", "busy when last seen");
    }
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test(start_paused = true)]
async fn a_failed_service_is_rebuilt() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).into_service();
    backends.rebuild_with(|id| (*id == "a").then(|| Node::new("a anew")));
    send(&service, get()).await;
    a.control.readiness_fails.store(true, SeqCst);
    after(2500).await;
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "a anew");
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_makes_a_backend_suspect_until_a_trial_is_answered() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    a.control.refuses.store(true, SeqCst);
    assert_eq!(backends.get("a").unwrap().state_cause, None, "unchanged since it joined");
    assert_eq!(send(&service, get()).await.body, "b");
    let status = backends.get("a").unwrap();
    assert_eq!((status.state, status.state_cause), (State::Suspect, Some(Cause::ConnectFailed)));
    a.control.polls.store(0, SeqCst);
    for _ in 0..10 {
        assert_eq!(send(&service, get()).await.decision(), (Verdict::Assigned, Some("b"), None));
    }
    assert_eq!(a.control.polls.load(SeqCst), 0, "new sessions do not pay for a dead backend");

    after(100).await;
    // The readiness poll has started meanwhile.
    a.control.polls.store(0, SeqCst);
    assert_eq!(send(&service, get()).await.body, "b", "the trial failed, and cost nothing");
    assert_eq!(a.control.polls.load(SeqCst), 1, "it was one");
    after(100).await;
    assert_eq!(send(&service, get()).await.body, "b");
    assert_eq!(a.control.polls.load(SeqCst), 1, "the next one is due after 200 ms");
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    a.control.refuses.store(false, SeqCst);
    after(100).await;
    assert_eq!(send(&service, get()).await.body, "a", "a trial was answered: back again");
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
    assert!(b.served() > 10);
}

#[tokio::test(start_paused = true)]
async fn only_one_request_at_a_time_tries_a_backend_that_is_half_open() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    a.control.refuses.store(true, SeqCst);
    send(&service, get()).await;
    a.control.refuses.store(false, SeqCst);
    after(1100).await;
    a.hold_responses();
    let trial = spawn(&service, with_cookie("sid=none"));
    let other = spawn(&service, with_cookie("sid=none"));
    after(10).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "one trial");
    for _ in 0..4 {
        assert_eq!(send(&service, get()).await.body, "b", "the others go elsewhere");
    }
    assert_eq!(backends.get("a").unwrap().in_flight, 1);
    let (on_trial, elsewhere) = if trial.is_finished() { (other, trial) } else { (trial, other) };
    assert_eq!(elsewhere.await.unwrap().body, "b");
    on_trial.abort();
    let _ = on_trial.await;
    a.release_responses();
    let mut bodies = Vec::new();
    for _ in 0..2 {
        bodies.push(send(&service, get()).await.body);
    }
    assert!(bodies.contains(&"a".to_owned()), "a trial without a result is given back: {bodies:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pinned_session_can_be_the_trial() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let layer = sealed(&backends).on_unavailable(tower_sticky::Failover::Borrow);
    let service = layer.into_service();
    let mut client = Client::assigned(&service).await;
    a.control.refuses.store(true, SeqCst);
    assert_eq!(client.send(&service, get()).await.decision().2, Some(Reason::ConnectFailed));
    assert_eq!(client.send(&service, get()).await.decision().2, Some(Reason::Down));
    after(100).await;
    assert_eq!(
        client.send(&service, get()).await.decision().2,
        Some(Reason::ConnectFailed),
        "a trial"
    );
    a.control.refuses.store(false, SeqCst);
    after(200).await;
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test(start_paused = true)]
async fn passive_detection_can_be_off_or_slower() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).health(Health::new().connect_failures(0)).into_service();
    a.control.refuses.store(true, SeqCst);
    for _ in 0..4 {
        assert_eq!(send(&service, get()).await.body, "b");
    }
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).health(Health::new().connect_failures(2)).into_service();
    a.control.refuses.store(true, SeqCst);
    send(&service, with_cookie("x=1")).await;
    assert_eq!(backends.get("a").unwrap().state, State::Ready, "one of two");
    send(&service, get()).await;
    send(&service, get()).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
}

#[tokio::test(start_paused = true)]
async fn success_rates_are_compared_over_the_whole_interval() {
    let (backends, nodes) = nodes(["a", "b", "c", "d", "e"]);
    let rate = SuccessRate::new().interval(Duration::from_secs(5)).min_requests(20);
    let service = plain(&backends).health(Health::new().success_rate(rate)).into_service();
    for _ in 0..4 {
        for node in &nodes {
            for request in 0..5 {
                let fails = node.name == "a" && request < 2;
                node.control.status.store(if fails { 500 } else { 200 }, SeqCst);
                send(&service, with_cookie(&format!("sid={}", node.name))).await;
            }
        }
        after(1_000).await;
    }
    assert_eq!(backends.get("a").unwrap().state, State::Ready, "the interval is not over");
    after(1_100).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect, "8 of 20 have failed");
}

#[tokio::test(start_paused = true)]
async fn no_session_begins_at_an_ejected_backend_although_it_is_first_in_rank() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let learned = layer(&backends, Learned::cookie("app"));
    let service = learned.health(Health::new().consecutive_failures(1)).into_service();
    a.control.status.store(500, SeqCst);
    let mut ids = (0..).map(|number| with_cookie(&format!("app=id-{number}")));
    while backends.get("a").unwrap().state == State::Ready {
        send(&service, ids.next().unwrap()).await;
    }
    for request in ids.take(20) {
        assert_eq!(send(&service, request).await.body, "b");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_body_breaks_off_is_a_failure() {
    let handler = service_fn(|_: Request<Body>| async {
        let frames = [Ok(Frame::data(Bytes::from("123"))), Err(io::Error::other("broken"))];
        Ok::<_, Infallible>(Response::new(StreamBody::new(tokio_stream::iter(frames))))
    });
    let backends = Backends::from_iter([("a", handler)]);
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"));
    let service = layer.health(Health::new().consecutive_failures(2)).into_service();
    for state in [State::Ready, State::Suspect] {
        let response = service.clone().oneshot(get()).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap_err();
        assert_eq!(backends.get("a").unwrap().state, state);
    }
}
