//! Drains that end: with the last session, or at a deadline; and the count of sessions.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_sticky::{
    Backends, DrainEnd, DrainOver, Event, Failover, Mode, Reason, SessionAction, StickyLayer,
    UpgradeGuard, Verdict,
    affinity::{Cookie, Key, Learned},
};

use crate::support::{Body, Client, Clock, UNGATED, get, keys, nodes, plain, send, with_cookie};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn sealed(backends: &Backends<crate::support::Node>) -> StickyLayer<crate::support::Node> {
    StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys()).idle_timeout(10 * MINUTE))
        .strategy(tower_sticky::strategy::RoundRobin::new())
        .outcome_extensions(true)
}

async fn after(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Lets as much time pass as it takes until the sessions of a pool are known, and has these seen in it.
async fn watched<S>(service: &S, sessions: &mut [&mut Client])
where
    S: tower::Service<
            Request<Body>,
            Response = Response<tower_sticky::StickyBody<Body>>,
            Error = Infallible,
        > + Clone,
{
    for _ in 0..2 {
        after(5 * MINUTE + SECOND).await;
        for session in &mut *sessions {
            assert_eq!(session.send(service, get()).await.status, 200);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_nobody_has_been_seen_for_the_idle_timeout() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "a");
    watched(&service, &mut [&mut client]).await;
    let start = Instant::now();
    let drain = backends.drain("a").start().unwrap();
    after(5 * MINUTE).await;
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.why(), (Verdict::Pinned, Some("a"), None), "its sessions go on");
    assert_eq!(send(&service, get()).await.body, "b", "and no new ones come");
    let report = drain.ended().await;
    assert_eq!((report.end, report.backend.as_str()), (DrainEnd::Completed, "a"));
    assert_eq!((report.sessions_before, report.sessions_left), (Some(1), Some(0)));
    let took = start.elapsed();
    assert!(took >= 15 * MINUTE && took < 15 * MINUTE + 3 * SECOND, "it took {took:?}");
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining, "who comes late is still served");
    assert_eq!(client.send(&service, get()).await.body, "a");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_the_last_session_has_logged_out() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let (mut first, mut second) = (Client::default(), Client::default());
    first.send(&service, get()).await;
    backends.set_mode("b", Mode::Disabled).unwrap();
    second.send(&service, get()).await;
    backends.set_mode("b", Mode::Active).unwrap();
    watched(&service, &mut [&mut first, &mut second]).await;
    assert_eq!(backends.get("a").unwrap().sessions, Some(2));
    let start = Instant::now();
    let drain = tokio::spawn(backends.drain("a").into_future());
    after(SECOND).await;
    *a.told.word.lock().unwrap() = Some(SessionAction::End);
    first.send(&service, get()).await;
    after(3 * SECOND).await;
    assert!(!drain.is_finished(), "one is left");
    assert_eq!(backends.get("a").unwrap().sessions, Some(1));
    second.send(&service, get()).await;
    let report = drain.await.unwrap().unwrap();
    assert_eq!((report.end, report.sessions_before), (DrainEnd::Completed, Some(2)));
    assert!(start.elapsed() < 10 * SECOND, "it did not wait for any timeout");
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_holds_a_drain_up() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service =
        StickyLayer::new(backends.clone(), Key::header("x-user")).strategy(First).into_service();
    a.told.gate.forget_permits(UNGATED);
    let busy = tokio::spawn({
        let service = service.clone();
        async move { send(&service, get()).await.status }
    });
    after(SECOND).await;
    let drain = tokio::spawn(backends.drain("a").into_future());
    after(MINUTE).await;
    assert!(!drain.is_finished(), "one request is in flight");
    a.told.gate.add_permits(UNGATED);
    assert_eq!(busy.await.unwrap(), 200);
    let report = drain.await.unwrap().unwrap();
    assert_eq!(report.end, DrainEnd::Completed, "keys are nobody's sessions");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_cannot_be_told_apart_hold_a_drain_up_together() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    send(&service, with_cookie("sid=a")).await;
    let (a, b) = (backends.get("a").unwrap(), backends.get("b").unwrap());
    assert_eq!((a.sessions, a.sessions_seen), (None, 1), "at least one");
    assert_eq!((b.sessions, b.sessions_seen), (None, 0), "it has not been watched for long enough");
    let start = Instant::now();
    let report = backends.drain("a").idle_for(2 * MINUTE).await.unwrap();
    assert_eq!((report.end, report.sessions_before), (DrainEnd::Completed, None));
    assert!(start.elapsed() >= 2 * MINUTE, "it took {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_sessions_move() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    watched(&service, &mut [&mut client]).await;
    let start = Instant::now();
    let report = backends.drain("a").deadline(MINUTE).await.unwrap();
    assert_eq!(report.end, DrainEnd::Deadline);
    assert_eq!((report.sessions_left, report.in_flight), (Some(1), 0));
    assert_eq!(start.elapsed(), MINUTE);
    assert_eq!(backends.get("a").unwrap().mode, Mode::Drained);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.why(), (Verdict::Moved, Some("b"), Some(Reason::Draining)));
    assert_eq!(client.send(&service, get()).await.why(), (Verdict::Pinned, Some("b"), None));
    let sessions = |id| backends.get(id).unwrap().sessions;
    assert_eq!((sessions("a"), sessions("b")), (Some(0), Some(1)), "it is counted where it is");
    backends.set_mode("a", Mode::Active).unwrap();
    assert_eq!(client.send(&service, get()).await.body, "b", "it stays there");
    let mut bodies = [send(&service, get()).await.body, send(&service, get()).await.body];
    bodies.sort();
    assert_eq!(bodies, ["a", "b"], "the drained one takes new sessions again");
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_sessions_may_be_rejected_or_lent() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    backends.drain("a").deadline(SECOND).then(Failover::Reject).await.unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.why(), (Verdict::Rejected, Some("a"), Some(Reason::Draining)));
    assert!(answer.headers.contains_key("retry-after"));
    backends.set_mode("a", Mode::Active).unwrap();
    backends.drain("a").deadline(SECOND).then(Failover::Borrow).await.unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.why(), (Verdict::Borrowed, Some("b"), Some(Reason::Draining)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_cancelled_by_another_mode_and_ends_with_its_backend() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    let drain = backends.drain("a").deadline(MINUTE).start().unwrap();
    backends.set_mode("a", Mode::Active).unwrap();
    assert_eq!(drain.ended().await.end, DrainEnd::Cancelled);
    after(2 * MINUTE).await;
    assert_eq!(client.send(&service, get()).await.body, "a", "there is no deadline any more");
    let drain = backends.drain("a").start().unwrap();
    backends.remove("a").unwrap();
    assert_eq!(drain.ended().await.end, DrainEnd::Left);
    let unknown = backends.drain("a").await.unwrap_err();
    assert_eq!(unknown.to_string(), "no backend has the id \"a\"");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_nobody_awaits_ends_as_well() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    drop(backends.drain("a").deadline(MINUTE).start().unwrap());
    after(MINUTE + SECOND).await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Drained);
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_told_as_it_happens() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    watched(&service, &mut [&mut client]).await;
    let mut events = backends.events();
    drop(backends.drain("a").deadline(MINUTE).start().unwrap());
    let id = |event: &Event| event.backend().map(|id| id.as_str().to_owned());
    let next = events.next().await.unwrap();
    assert_eq!(id(&next).as_deref(), Some("a"));
    assert!(matches!(next, Event::Mode { from: Mode::Active, to: Mode::Draining, .. }));
    let next = events.next().await.unwrap();
    assert!(
        matches!(next, Event::Draining { in_flight: 0, streams: 0, sessions: Some(1), .. }),
        "got {next:?}"
    );
    let next = events.next().await.unwrap();
    assert!(
        matches!(&next, Event::Drained { report } if report.end == DrainEnd::Deadline),
        "got {next:?}: progress is told once while nothing changes"
    );
    client.send(&service, get()).await;
    let next = events.next().await.unwrap();
    let Event::Moved { from, to, reason } = next else { panic!("got {next:?}") };
    assert_eq!((from.unwrap().as_str(), to.as_str()), ("a", "b"));
    assert_eq!(reason, Some(Reason::Draining));
}

#[tokio::test(start_paused = true)]
async fn sessions_are_counted_whatever_identifies_them() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let layer = StickyLayer::new(backends.clone(), Learned::cookie("app"));
    let service = layer.strategy(tower_sticky::strategy::RoundRobin::new()).into_service();
    for (i, node) in [&a, &b, &a, &b].into_iter().enumerate() {
        *node.told.answers.lock().unwrap() = vec![("set-cookie", format!("app=session-{i}"))];
        send(&service, get()).await;
    }
    let sessions = || {
        let counts = backends.iter().map(|b| (b.sessions_seen, b.unconfirmed));
        counts.collect::<Vec<_>>()
    };
    assert_eq!(sessions(), [(0, 2), (0, 2)], "learned from the answers");
    for node in [&a, &b] {
        node.told.answers.lock().unwrap().clear();
    }
    for _ in 0..2 {
        send(&service, with_cookie("app=session-0")).await;
        assert_eq!(sessions()[0].0, 1, "the client has sent it");
    }

    let (backends, _nodes) = nodes(["a", "b"]);
    let service = StickyLayer::new(backends.clone(), Key::header("x-user")).into_service();
    for user in 0..100 {
        for _ in 0..3 {
            let mut request = get();
            request.headers_mut().insert("x-user", (user % 50).into());
            send(&service, request).await;
        }
    }
    let total: u64 = backends.iter().map(|b| b.sessions_seen).sum();
    assert!(total.abs_diff(50) <= 4, "50 users were counted as {total}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_lent_is_counted_where_it_is_pinned() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).on_unavailable(Failover::Borrow).into_service();
    let mut client = Client::default();
    for _ in 0..2 {
        client.send(&service, get()).await;
    }
    a.told.refuses.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(client.send(&service, get()).await.body, "b");
    let sessions = |id| backends.get(id).unwrap().sessions_seen;
    assert_eq!((sessions("a"), sessions("b")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_idle_for_too_long_are_not_counted_any_more() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let service = sealed(&backends).clock(clock.clone()).into_service();
    let (mut idle, mut active) = (Client::default(), Client::default());
    idle.send(&service, get()).await;
    for _ in 0..3 {
        active.send(&service, get()).await;
        after(4 * MINUTE).await;
        clock.advance(240);
    }
    assert_eq!(backends.get("a").unwrap().sessions, Some(1));
}

// --- streams -------------------------------------------------------------------------------------

/// A body that says one word and then nothing, for ever.
struct Silent {
    spoken: bool,
    _open: Arc<()>,
}

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::replace(&mut self.spoken, true) {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"word")))))
    }
}

#[derive(Debug)]
struct First;

impl tower_sticky::strategy::Strategy for First {
    fn choose(&self, _: &tower_sticky::strategy::Candidates<'_>) -> usize {
        0
    }
}

#[tokio::test(start_paused = true)]
async fn open_streams_are_cut_off_at_the_deadline() {
    let open = Arc::new(());
    let stream = tower::service_fn({
        let open = open.clone();
        move |_: Request<Body>| {
            let body = Silent { spoken: false, _open: open.clone() };
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
    assert_eq!(start.elapsed(), Duration::ZERO, "those who can close cleanly are told at once");
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
async fn a_request_that_is_not_answered_at_the_deadline_is_left_to_finish() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    a.told.gate.forget_permits(UNGATED);
    let slow = tokio::spawn({
        let service = service.clone();
        async move { send(&service, get()).await }
    });
    after(SECOND).await;
    let report = backends.drain("a").deadline(SECOND).await.unwrap();
    assert_eq!((report.end, report.in_flight, report.streams_cut), (DrainEnd::Deadline, 1, 0));
    a.told.gate.add_permits(UNGATED);
    let answer = slow.await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_told_and_counted() {
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
async fn a_signal_is_about_the_drain_that_is_under_way() {
    let (backends, _nodes) = nodes(["a"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
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
async fn a_count_is_unknown_until_an_idle_timeout_was_watched() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    client.send(&service, get()).await;
    let status = |id: &str| backends.get(id).unwrap();
    assert_eq!((status("a").sessions, status("a").sessions_seen), (None, 1));
    // Somebody may be idle since before this process began: a drain cannot know that it is done.
    let start = Instant::now();
    let report = backends.drain("b").await.unwrap();
    assert_eq!((report.end, report.sessions_before), (DrainEnd::Completed, None));
    let took = start.elapsed();
    assert!(took >= 10 * MINUTE && took < 10 * MINUTE + 3 * SECOND, "it took {took:?}");
    client.send(&service, get()).await;
    assert_eq!((status("a").sessions, status("b").sessions), (Some(1), Some(0)));
    let start = Instant::now();
    let report = backends.drain("b").await.unwrap();
    assert_eq!((report.end, report.sessions_before), (DrainEnd::Completed, Some(0)));
    assert!(start.elapsed() < 3 * SECOND, "now it knows");
    // A backend that joins later is watched from then on.
    backends.insert("c", crate::support::Node::new("c")).unwrap();
    assert_eq!(status("c").sessions, None);
    after(11 * MINUTE).await;
    assert_eq!(status("c").sessions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn past_its_deadline_a_drain_honours_no_pin_whatever_was_counted() {
    // Another gateway has issued the token, and this one has never seen it.
    let (others, _nodes) = nodes(["a", "b"]);
    let mut client = Client::default();
    assert_eq!(client.send(&sealed(&others).into_service(), get()).await.body, "a");
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    watched(&service, &mut []).await;
    let mut events = backends.events();
    let start = Instant::now();
    let report = backends.drain("a").deadline(MINUTE).await.unwrap();
    assert_eq!(report.end, DrainEnd::Completed, "nobody was seen");
    assert!(start.elapsed() < 3 * SECOND);
    let early = client.clone().send(&service, get()).await;
    assert_eq!(early.why(), (Verdict::Pinned, Some("a"), None), "until then it is honoured");
    after(MINUTE + SECOND).await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Drained);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.why(), (Verdict::Moved, Some("b"), Some(Reason::Draining)));
    let mut reports = 0;
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        reports += usize::from(matches!(event, Event::Drained { .. }));
    }
    assert_eq!(reports, 1, "its end was told once");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_never_comes_back_is_no_session() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let clock = Clock::new();
    let service = sealed(&backends).clock(clock.clone()).into_service();
    watched(&service, &mut []).await;
    backends.set_weight("b", 0).unwrap();
    for _ in 0..60 {
        // A health check without a cookie jar.
        send(&service, get()).await;
    }
    let mut client = Client::default();
    client.send(&service, get()).await;
    let status = || backends.get("a").unwrap();
    assert_eq!((status().sessions, status().unconfirmed), (Some(0), 61));
    clock.advance(10);
    after(10 * SECOND).await;
    client.send(&service, get()).await;
    assert_eq!((status().sessions, status().unconfirmed), (Some(1), 60), "it has come back");
    clock.advance(51);
    after(51 * SECOND).await;
    assert_eq!((status().sessions, status().unconfirmed), (Some(1), 0), "for a minute");
    for _ in 0..60 {
        send(&service, get()).await;
    }
    backends.set_weight("b", 1).unwrap();
    client.send(&service, get()).await;
    let start = Instant::now();
    let report = backends.drain("a").idle_for(30 * SECOND).await.unwrap();
    assert_eq!(report.end, DrainEnd::Completed);
    let took = start.elapsed();
    assert!(took >= 59 * SECOND && took <= 62 * SECOND, "not for 10 minutes: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn plain_tokens_are_counted_as_they_are_issued() {
    let (backends, _nodes) = nodes(["a"]);
    let service = plain(&backends).into_service();
    for _ in 0..3 {
        send(&service, get()).await;
    }
    after(31 * MINUTE).await;
    let status = || backends.get("a").unwrap();
    assert_eq!((status().sessions, status().sessions_seen, status().unconfirmed), (Some(0), 0, 0));
    send(&service, get()).await;
    assert_eq!((status().sessions_seen, status().unconfirmed), (0, 1));
    send(&service, with_cookie("sid=a")).await;
    assert_eq!((status().sessions, status().sessions_seen), (None, 1), "at least one");
}

#[tokio::test(start_paused = true)]
async fn preflights_and_requests_outside_of_the_path_begin_no_session() {
    let (backends, _nodes) = nodes(["a"]);
    let cookie = Cookie::sealed("sid", keys()).path("/shop");
    let service =
        StickyLayer::new(backends.clone(), cookie).outcome_extensions(true).into_service();
    let request = |method: &str, path: &str, preflight: bool| {
        let mut request = Request::builder().method(method).uri(path);
        if preflight {
            request = request.header("origin", "https://a.example");
            request = request.header("access-control-request-method", "PUT");
        }
        request.body(Body::default()).unwrap()
    };
    for (method, path, preflight, begins) in [
        ("OPTIONS", "/shop", true, false),
        ("OPTIONS", "/shop", false, true),
        ("GET", "/shop", true, true),
        ("GET", "/shop/cart", false, true),
        ("GET", "/shop?x=/", false, true),
        ("GET", "/shopping", false, false),
        ("GET", "/", false, false),
        ("GET", "/other/shop", false, false),
    ] {
        let before = backends.get("a").unwrap().unconfirmed;
        let answer = send(&service, request(method, path, preflight)).await;
        assert_eq!((answer.status, answer.token().is_some()), (200, begins), "{method} {path}");
        let counted = backends.get("a").unwrap().unconfirmed - before;
        assert_eq!(counted, u64::from(begins), "{method} {path}");
    }
    // A session goes on through a preflight, should the client send its cookie.
    let mut client = Client::default();
    client.send(&service, request("GET", "/shop", false)).await;
    let answer = client.send(&service, request("OPTIONS", "/shop", true)).await;
    assert_eq!((answer.why().0, answer.token()), (Verdict::Pinned, None));
}
