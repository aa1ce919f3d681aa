//! `session()`: a client that remembers its own pin.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    task::{Context, Waker},
    time::Duration,
};

use futures_core::future::BoxFuture;
use tower_sticky::{
    BackendId, Backends, DrainEnd, Mode, Preference, Reason, SessionAction, State, StickyLayer,
    Verdict, affinity::Key, strategy::RoundRobin,
};

use crate::support::{Answer, Node, get, nodes, send};

fn layer(backends: &Backends<Node>) -> StickyLayer<Node> {
    StickyLayer::new(backends.clone(), Key::header("x-user"))
        .strategy(RoundRobin::new())
        .outcome_extensions(true)
}

#[tokio::test(start_paused = true)]
async fn a_session_service_stays_with_one_backend() {
    let (backends, nodes) = nodes(["a", "b", "c"]);
    let sticky = layer(&backends).into_service();
    let mut homes = BTreeSet::new();
    let mut open = Vec::new();
    for _ in 0..6 {
        let session = sticky.session();
        assert_eq!((session.backend(), session.outcome()), (None, None));
        let first = send(&session, get()).await;
        assert_eq!(first.decision().0, Verdict::Assigned);
        assert!(first.set_cookies().is_empty());
        for _ in 0..3 {
            let answer = send(&session.clone(), get()).await;
            assert_eq!((answer.decision().0, &answer.body), (Verdict::Pinned, &first.body));
        }
        assert_eq!(session.backend().unwrap().as_str(), first.body);
        assert_eq!(session.outcome().unwrap().verdict(), Verdict::Pinned);
        homes.insert(first.body);
        open.push(session);
    }
    assert_eq!(homes.len(), 3, "the strategy places them");
    assert_eq!(nodes.iter().map(Node::served).sum::<usize>(), 24);
    let sessions: u64 = backends.iter().map(|backend| backend.sessions_seen).sum();
    assert_eq!(sessions, 6);
}

#[tokio::test(start_paused = true)]
async fn a_session_knows_the_outcome_of_its_last_call_whatever_those_before_were() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let session = layer(&backends).into_service().session();
    let at_b = || {
        let mut request = get();
        request.extensions_mut().insert(Preference::backend("b").unwrap());
        request
    };
    let moved = (Verdict::Moved, "b", Some(Reason::ConnectFailed));
    let requested = (Verdict::Pinned, "b", Some(Reason::Requested));
    for (step, (request, refuses, expected)) in [
        (get(), false, (Verdict::Assigned, "a", None)),
        (get(), false, (Verdict::Pinned, "a", None)),
        (get(), false, (Verdict::Pinned, "a", None)),
        (at_b(), false, requested),
        (get(), false, (Verdict::Pinned, "a", None)),
        (get(), true, moved),
        (get(), true, (Verdict::Pinned, "b", None)),
        (get(), true, (Verdict::Pinned, "b", None)),
        (at_b(), true, requested),
    ]
    .into_iter()
    .enumerate()
    {
        a.control.refuses.store(refuses, SeqCst);
        send(&session, request).await;
        let outcome = session.outcome().unwrap();
        let backend = outcome.backend().map(BackendId::as_str).unwrap_or_default();
        assert_eq!((outcome.verdict(), backend, outcome.reason()), expected, "step {step}");
        let is_forced = expected.2 == Some(Reason::Requested);
        assert_eq!(outcome.session().is_some(), !is_forced, "step {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_knows_whether_its_last_call_has_waited() {
    let (backends, [a]) = nodes(["a"]);
    let session = layer(&backends).into_service().session();
    let waited = || session.outcome().unwrap().waited();
    for _ in 0..3 {
        send(&session, get()).await;
        assert_eq!(waited(), None);
    }
    a.control.set_busy(true);
    let call = session.clone();
    let call = tokio::spawn(async move { send(&call, get()).await });
    tokio::time::sleep(Duration::from_millis(120)).await;
    a.control.set_busy(false);
    assert_eq!(call.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(waited(), Some(Duration::from_millis(120)));
    send(&session, get()).await;
    assert_eq!(waited(), None, "this one has not");
}

#[tokio::test(start_paused = true)]
async fn a_session_may_have_a_name() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d"]);
    let sticky = layer(&backends).into_service();
    for user in ["alice", "bob", "carol", "dave", "eve"] {
        let (one, other) = (sticky.session_named(user), sticky.session_named(user));
        assert_eq!(one.name(), Some(user));
        let home = send(&one, get()).await.body;
        assert_eq!(send(&other, get()).await.body, home, "the name decides");
        let mut request = get();
        request.headers_mut().insert("x-user", user.parse().unwrap());
        assert_eq!(send(&sticky, request).await.body, home, "as the key does");
        assert_eq!(one.id(), other.id());
    }
}

#[tokio::test(start_paused = true)]
async fn the_session_moves_when_its_backend_cannot_serve_and_stays_there() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let session = layer(&backends).into_service().session();
    assert_eq!(send(&session, get()).await.body, "a");
    a.control.refuses.store(true, SeqCst);
    let answer = send(&session, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::ConnectFailed)));
    assert_eq!(session.backend().unwrap(), "b");
    a.control.refuses.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(send(&session, get()).await.decision(), (Verdict::Pinned, Some("b"), None));
    assert_eq!(backends.get("b").unwrap().state, State::Ready);

    backends.remove("b").unwrap();
    assert_eq!(session.backend(), None, "that backend has left");
    let answer = send(&session, get()).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("a"), Some(Reason::Unknown)));
    assert_eq!(session.backend().unwrap(), "a");
    assert_eq!((b.served(), backends.snapshot().stats.violations()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_service_ends_on_request() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let session = layer(&backends).into_service().session();
    assert_eq!(send(&session, get()).await.body, "a");
    session.end();
    assert_eq!(session.backend(), None);
    assert_eq!(backends.get("a").unwrap().sessions_seen, 0);
    assert_eq!(send(&session, get()).await.decision(), (Verdict::Assigned, Some("b"), None));

    backends.set_mode("b", Mode::Disabled).unwrap();
    *a.control.action.lock().unwrap() = Some(SessionAction::End);
    send(&session, get()).await;
    assert_eq!(session.backend(), None, "the application has ended it");
}

#[tokio::test(start_paused = true)]
async fn concurrent_first_calls_agree() {
    let (backends, nodes) = nodes(["a", "b", "c"]);
    let session = layer(&backends).into_service().session();
    for node in &nodes {
        node.hold_responses();
    }
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let session = session.clone();
            let call: BoxFuture<'static, Answer> =
                Box::pin(async move { send(&session, get()).await });
            tokio::spawn(call)
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    for node in &nodes {
        node.release_responses();
    }
    let mut bodies = BTreeSet::new();
    for call in calls {
        bodies.insert(call.await.unwrap().body);
    }
    assert_eq!(bodies.len(), 1, "one session, one backend");
}

#[tokio::test(start_paused = true)]
async fn a_completed_first_call_decides_for_a_concurrent_one() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let first = Arc::new(Mutex::new(None::<BoxFuture<'static, Answer>>));
    let slot = first.clone();
    // Called after a request has read its pin, and before it chooses.
    let layer = layer(&backends).bypass_if(move |head| {
        if head.headers().contains_key("x-second")
            && let Some(mut first) = slot.lock().unwrap().take()
        {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(first.as_mut().poll(&mut cx).is_ready(), "the first call ends just now");
        }
        false
    });
    let session = layer.into_service().session();
    *first.lock().unwrap() = Some(Box::pin({
        let session = session.clone();
        async move { send(&session, get()).await }
    }));
    let mut second = get();
    second.headers_mut().insert("x-second", "1".parse().unwrap());
    let answer = send(&session, second).await;
    assert!(first.lock().unwrap().is_none());
    assert_eq!(answer.body, session.backend().unwrap().as_str(), "one session, one backend");
}

#[tokio::test(start_paused = true)]
async fn a_call_from_before_the_end_leaves_no_pin() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let session = layer(&backends).into_service().session();
    a.hold_responses();
    let slow = tokio::spawn({
        let session = session.clone();
        async move { send(&session, get()).await.body }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    session.end();
    a.release_responses();
    assert_eq!(slow.await.unwrap(), "a");
    assert_eq!(session.backend(), None);
}

#[tokio::test(start_paused = true)]
async fn a_strict_session_is_rejected_when_its_backend_is_removed() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let session = layer(&backends).strict(true).into_service().session();
    assert_eq!(send(&session, get()).await.body, "a");
    backends.set_mode("a", Mode::Disabled).unwrap();
    assert_eq!(send(&session, get()).await.status, 503, "it is there, and cannot serve");
    backends.remove("a").unwrap();
    assert_eq!(send(&session, get()).await.status, 410);
    assert_eq!(send(&session, get()).await.decision(), (Verdict::Assigned, Some("b"), None));
}

#[tokio::test(start_paused = true)]
async fn session_services_drain_like_other_sessions() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let session = layer(&backends).into_service().session();
    assert_eq!(send(&session, get()).await.body, "a");
    let drain = backends.drain("a").deadline(Duration::from_secs(10)).start().unwrap();
    assert_eq!(send(&session, get()).await.body, "a");
    assert_eq!(drain.ended().await.end, DrainEnd::Deadline);
    let answer = send(&session, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::Draining)));
    // Sessions from before the start of this process would have been seen by now.
    tokio::time::sleep(Duration::from_secs(31 * 60)).await;
    assert_eq!(send(&session, get()).await.body, "b");
    let drain = backends.drain("b").start().unwrap();
    drop(session);
    let report = drain.ended().await;
    assert_eq!(report.end, DrainEnd::Completed, "no handle is left");
    assert!(report.elapsed < Duration::from_secs(5), "it took {:?}", report.elapsed);
}

#[tokio::test(start_paused = true)]
async fn a_late_call_does_not_count_an_ended_session() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let session = layer(&backends).into_service().session();
    a.hold_responses();
    let late = session.clone();
    let late = tokio::spawn(async move { send(&late, get()).await.body });
    tokio::time::sleep(Duration::from_millis(1)).await;
    session.end();
    a.release_responses();
    assert_eq!(late.await.unwrap(), "a");
    assert_eq!(backends.get("a").unwrap().sessions_seen, 0);
}
