//! A drain ends when its sessions have ended, when its deadline passes, or when it is cancelled.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response};
use tokio::time::Instant;
use tower_sticky::{
    Backends, DrainEnd, Event, Failover, Mode, Reason, SessionAction, StickyLayer, Verdict,
    affinity::{Cookie, Key},
    strategy::{Candidates, Strategy},
};

use crate::support::{Body, Client, First, get, keys, nodes, plain, send, spawn, with_cookie};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn sealed(
    backends: &Backends<crate::support::Node>,
) -> StickyLayer<crate::support::Node> {
    StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys()).idle_timeout(10 * MINUTE))
        .strategy(tower_sticky::strategy::RoundRobin::new())
        .outcome_extensions(true)
}

pub(crate) async fn after(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Waits until the number of sessions is known, and sends requests of these sessions meanwhile.
pub(crate) async fn watched<S>(service: &S, sessions: &mut [&mut Client])
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
async fn a_drain_ends_when_no_session_was_seen_for_the_idle_timeout() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "a");
    watched(&service, &mut [&mut client]).await;
    let start = Instant::now();
    let drain = backends.drain("a").start().unwrap();
    after(5 * MINUTE).await;
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "its sessions go on");
    assert_eq!(send(&service, get()).await.body, "b", "and no new ones come");
    let report = drain.ended().await;
    assert_eq!((report.end, report.backend.as_str()), (DrainEnd::Completed, "a"));
    assert_eq!((report.sessions_before, report.sessions_left), (Some(1), Some(0)));
    let took = start.elapsed();
    assert!(took >= 15 * MINUTE && took < 15 * MINUTE + 3 * SECOND, "it took {took:?}");
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining, "late sessions are still served");
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
    *a.control.action.lock().unwrap() = Some(SessionAction::End);
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
async fn a_request_in_flight_delays_the_end_of_a_drain() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service =
        StickyLayer::new(backends.clone(), Key::header("x-user")).strategy(First).into_service();
    a.hold_responses();
    let busy = spawn(&service, get());
    after(SECOND).await;
    let drain = tokio::spawn(backends.drain("a").into_future());
    after(MINUTE).await;
    assert!(!drain.is_finished(), "one request is in flight");
    a.release_responses();
    assert_eq!(busy.await.unwrap().status, 200);
    let report = drain.await.unwrap().unwrap();
    assert_eq!(report.end, DrainEnd::Completed, "keys do not count as sessions");
}

#[tokio::test(start_paused = true)]
async fn sessions_without_ids_delay_a_drain_together() {
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
    let mut client = Client::assigned(&service).await;
    watched(&service, &mut [&mut client]).await;
    let start = Instant::now();
    let report = backends.drain("a").deadline(MINUTE).await.unwrap();
    assert_eq!(report.end, DrainEnd::Deadline);
    assert_eq!((report.sessions_left, report.in_flight), (Some(1), 0));
    assert_eq!(start.elapsed(), MINUTE);
    assert_eq!(backends.get("a").unwrap().mode, Mode::Drained);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::Draining)));
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("b"), None));
    let sessions = |id| backends.get(id).unwrap().sessions;
    assert_eq!((sessions("a"), sessions("b")), (Some(0), Some(1)), "it is counted where it is");
    backends.set_mode("a", Mode::Active).unwrap();
    assert_eq!(client.send(&service, get()).await.body, "b", "it stays there");
    let mut bodies = [send(&service, get()).await.body, send(&service, get()).await.body];
    bodies.sort();
    assert_eq!(bodies, ["a", "b"], "the drained one takes new sessions again");
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_sessions_may_be_rejected_or_borrowed() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    backends.drain("a").deadline(SECOND).then(Failover::Reject).await.unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.decision(), (Verdict::Rejected, Some("a"), Some(Reason::Draining)));
    assert!(answer.headers.contains_key("retry-after"));
    backends.set_mode("a", Mode::Active).unwrap();
    backends.drain("a").deadline(SECOND).then(Failover::Borrow).await.unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Borrowed, Some("b"), Some(Reason::Draining)));
}

#[tokio::test(start_paused = true)]
async fn another_mode_cancels_a_drain_and_removal_ends_it() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
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
async fn a_drain_that_is_not_awaited_ends_at_its_deadline() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let _client = Client::assigned(&service).await;
    drop(backends.drain("a").deadline(MINUTE).start().unwrap());
    after(MINUTE + SECOND).await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_drain_emits_events_in_order() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
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
        "got {next:?}: progress is reported once while nothing changes"
    );
    client.send(&service, get()).await;
    let next = events.next().await.unwrap();
    let Event::Moved { from, to, reason } = next else { panic!("got {next:?}") };
    assert_eq!((from.unwrap().as_str(), to.as_str()), ("a", "b"));
    assert_eq!(reason, Some(Reason::Draining));
}

#[tokio::test(start_paused = true)]
async fn past_its_deadline_a_drain_honours_no_pin() {
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
    assert_eq!(report.end, DrainEnd::Completed, "no session was seen");
    assert!(start.elapsed() < 3 * SECOND);
    let early = client.clone().send(&service, get()).await;
    assert_eq!(early.decision(), (Verdict::Pinned, Some("a"), None), "until then it is honoured");
    after(MINUTE + SECOND).await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Drained);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::Draining)));
    let mut reports = 0;
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        reports += usize::from(matches!(event, Event::Drained { .. }));
    }
    assert_eq!(reports, 1, "its end was reported once");
}

/// Chooses the first backend, and counts how often it is asked.
#[derive(Debug, Default)]
struct Asked(AtomicUsize);

impl Strategy for Asked {
    fn choose(&self, _: &Candidates<'_>) -> usize {
        self.0.fetch_add(1, Relaxed);
        0
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_sessions_that_stay_are_no_turns_of_the_strategy() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let strategy = Arc::new(Asked::default());
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"));
    let service = layer.strategy(strategy.clone()).into_service();
    let mut client = Client::assigned(&service).await;
    backends.set_mode("a", Mode::Draining).unwrap();
    assert_eq!(client.send(&service, get()).await.body, "a");
    let _drain = backends.drain("a").start().unwrap();
    assert_eq!(client.send(&service, get()).await.body, "a");
    assert_eq!(strategy.0.load(Relaxed), 1, "only the new session is one");
}
