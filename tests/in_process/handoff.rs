//! The handoff hook: an application transfers the state of a session before it moves.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tower_sticky::{
    BoxError, DrainEnd, Mode, Move, Reason, SessionInfo, StickyLayer, StickyService, Verdict,
    affinity::Cookie,
};

use crate::support::{
    Answer, Client, Clock, Node, get, keys, nodes, plain, sealed, send, with_cookie,
};

const SECOND: Duration = Duration::from_secs(1);

type Moves = Arc<Mutex<Vec<Move>>>;

/// A service whose hook records the moves, and fails when a test says so.
fn noting(layer: StickyLayer<Node>) -> (StickyService<Node>, Moves, Arc<AtomicBool>) {
    let (moves, fails) = (Moves::default(), Arc::new(AtomicBool::new(false)));
    let layer = layer.before_move(SECOND, {
        let (moves, fails) = (moves.clone(), fails.clone());
        move |session| {
            moves.lock().unwrap().push(session);
            let fails = fails.load(SeqCst);
            async move {
                tokio::time::sleep(SECOND / 10).await;
                if fails { Err(BoxError::from("no room")) } else { Ok(()) }
            }
        }
    });
    (layer.into_service(), moves, fails)
}

fn epoch(answer: &Answer) -> Option<u64> {
    answer.outcome.as_ref().unwrap().epoch()
}

fn last(moves: &Moves) -> Move {
    moves.lock().unwrap().last().cloned().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_drain_may_hand_its_sessions_over() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let (service, moves, fails) = noting(sealed(&backends).session_headers(true));
    let mut client = Client::default();
    let begun = client.send(&service, get()).await;
    assert_eq!(begun.body, "a");
    let drain = backends.drain("a").hand_over(100).start().unwrap();
    fails.store(true, SeqCst);
    let stays = client.send(&service, get()).await;
    assert_eq!(stays.decision(), (Verdict::Pinned, Some("a"), None), "its handoff failed");
    assert_eq!(epoch(&stays), epoch(&begun), "it is still in its epoch");
    fails.store(false, SeqCst);
    tokio::time::sleep(SECOND).await;
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::Draining)));
    let session = last(&moves);
    assert_eq!((session.from().as_str(), session.to().as_str()), ("a", "b"));
    assert_eq!(session.reason(), Reason::Draining);
    let control =
        SessionInfo::from_headers(b.control.headers.lock().unwrap().last().unwrap()).unwrap();
    assert_eq!((control.id(), control.epoch()), (Some(session.id()), Some(session.epoch())));
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("b"), None));
    let report = drain.ended().await;
    assert_eq!(
        (report.end, report.sessions_before),
        (DrainEnd::Completed, None),
        "not watched yet"
    );
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

/// The clock advances while the hook runs.
#[tokio::test(start_paused = true)]
async fn the_hook_and_the_new_backend_get_the_same_epoch() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let (clock, epoch) = (Clock::new(), Arc::new(Mutex::new(None)));
    let layer = sealed(&backends).session_headers(true).clock(clock.clone());
    let layer = layer.before_move(SECOND, {
        let epoch = epoch.clone();
        move |session| {
            *epoch.lock().unwrap() = Some(session.epoch());
            clock.advance(60);
            async { Ok::<_, BoxError>(()) }
        }
    });
    let service = layer.into_service();
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "a");
    let _drain = backends.drain("a").hand_over(100).start().unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::Draining)));
    let info = SessionInfo::from_headers(b.control.headers.lock().unwrap().last().unwrap());
    assert_eq!(info.unwrap().epoch(), *epoch.lock().unwrap());
}

/// The request may have been executed, so it is retried on its own backend: the move is voluntary.
#[tokio::test(start_paused = true)]
async fn a_voluntary_move_is_undone_when_the_new_backend_disconnects() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let (service, moves, fails) = noting(sealed(&backends).retry_idempotent(true));
    let mut client = Client::default();
    let begun = client.send(&service, get()).await;
    assert_eq!(begun.body, "a");
    let token = client.token.clone();
    let _drain = backends.drain("a").hand_over(100).start().unwrap();
    b.control.disconnects.store(true, SeqCst);
    for hook_fails in [false, true] {
        fails.store(hook_fails, SeqCst);
        tokio::time::sleep(SECOND).await;
        let (before, asked) = (a.served(), moves.lock().unwrap().len());
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "{hook_fails}");
        assert_eq!(epoch(&answer), epoch(&begun), "no epoch begins: {hook_fails}");
        assert_eq!(a.served(), before + 1);
        // Once: a failed attempt does not run the hook again.
        assert!(moves.lock().unwrap().len() <= asked + 1, "{hook_fails}");
        assert_eq!(client.token, token, "nothing is written for a move that was none");
    }
    assert_eq!(backends.snapshot().stats.moves(), 0);
    assert_eq!(b.served(), 1, "the node has noted what it broke off");
}

#[tokio::test(start_paused = true)]
async fn parallel_requests_of_a_session_run_its_handoff_once() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let (service, moves, _) = noting(sealed(&backends));
    let client = Client::assigned(&service).await;
    let _drain = backends.drain("a").hand_over(1000).start().unwrap();
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let (service, mut client) = (service.clone(), client.clone());
            tokio::spawn(async move { client.send(&service, get()).await.body })
        })
        .collect();
    let mut bodies = Vec::new();
    for call in calls {
        bodies.push(call.await.unwrap());
    }
    bodies.sort();
    assert_eq!(bodies, ["a", "a", "a", "a", "b"], "the others are served where it was");
    assert_eq!(moves.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_handed_over_at_a_bounded_rate_and_only_by_option() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut clients = vec![Client::default(); 40];
    backends.set_mode("b", Mode::Disabled).unwrap();
    for client in &mut clients {
        client.send(&service, get()).await;
    }
    backends.set_mode("b", Mode::Active).unwrap();
    drop(backends.drain("a").start().unwrap());
    for client in &mut clients {
        assert_eq!(
            client.send(&service, get()).await.body,
            "a",
            "no session is handed over by default"
        );
    }
    drop(backends.drain("a").hand_over(10).start().unwrap());
    let mut moved = Vec::new();
    for _ in 0..3 {
        let mut now = 0;
        for client in &mut clients {
            let answer = client.send(&service, get()).await;
            now += usize::from(answer.decision().0 == Verdict::Moved);
        }
        moved.push(now);
        tokio::time::sleep(SECOND / 5).await;
    }
    assert_eq!(moved, [1, 1, 1], "ten per second, and these arrive at once");
}

#[tokio::test(start_paused = true)]
async fn a_required_move_runs_the_hook_and_happens_even_if_it_fails() {
    for reason in [Reason::ConnectFailed, Reason::Disabled, Reason::Draining] {
        let (backends, [a, _b]) = nodes(["a", "b"]);
        let (service, moves, fails) = noting(sealed(&backends));
        let mut clients = [Client::default(), Client::default()];
        backends.set_mode("b", Mode::Disabled).unwrap();
        for client in &mut clients {
            client.send(&service, get()).await;
        }
        backends.set_mode("b", Mode::Active).unwrap();
        match reason {
            Reason::ConnectFailed => a.control.refuses.store(true, SeqCst),
            Reason::Disabled => backends.set_mode("a", Mode::Disabled).unwrap(),
            _ => drop(backends.drain("a").deadline(Duration::ZERO).await.unwrap()),
        }
        for (client, failure) in clients.iter_mut().zip([false, true]) {
            fails.store(failure, SeqCst);
            // The first refused connection makes the backend a suspect for the second request.
            a.control.refuses.store(reason == Reason::ConnectFailed, SeqCst);
            let answer = client.send(&service, get()).await;
            assert_eq!((answer.decision().0, answer.decision().1), (Verdict::Moved, Some("b")));
            let session = last(&moves);
            assert_eq!(Some(session.reason()), answer.decision().2, "the hook receives the reason");
            assert_eq!((session.from().as_str(), session.to().as_str()), ("a", "b"));
        }
        assert_eq!(moves.lock().unwrap().len(), 2, "once for each");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_hook_times_out() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let layer =
        sealed(&backends).before_move(SECOND, |_| std::future::pending::<Result<(), BoxError>>());
    let service = layer.into_service();
    let mut client = Client::assigned(&service).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(client.send(&service, get()).await.body, "b");
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn sessions_without_an_id_move_without_it() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let (service, moves, _) = noting(plain(&backends));
    backends.set_mode("a", Mode::Disabled).unwrap();
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::Disabled)));
    assert!(moves.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_handoff_can_be_retried() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let (service, moves, _) = noting(sealed(&backends));
    let mut client = Client::assigned(&service).await;
    let _drain = backends.drain("a").hand_over(1000).start().unwrap();
    let gone = client.spawn(&service, get());
    tokio::time::sleep(SECOND / 20).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(client.send(&service, get()).await.body, "b", "the next request tries again");
    assert_eq!(moves.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_sessions_leave_in_half_a_minute() {
    const SESSIONS: usize = 10_000;
    let answer = |name: &'static str| {
        tower::service_fn(move |_: http::Request<crate::support::Body>| async move {
            Ok::<_, std::convert::Infallible>(http::Response::new(crate::support::Body::from(name)))
        })
    };
    let backends =
        tower_sticky::Backends::from_iter(["a", "b", "c", "d"].map(|name| (name, answer(name))));
    let carried = Arc::new(Mutex::new(BTreeSet::new()));
    let layer = StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys()));
    let layer = layer.before_move(SECOND, {
        let carried = carried.clone();
        move |session: Move| {
            carried.lock().unwrap().insert(session.id().to_bits());
            async { Ok::<(), BoxError>(()) }
        }
    });
    let service = layer.outcome_extensions(true).into_service();
    for other in ["b", "c", "d"] {
        backends.set_mode(other, Mode::Disabled).unwrap();
    }
    let mut clients = vec![Client::default(); SESSIONS];
    for client in &mut clients {
        client.send(&service, get()).await;
    }
    for other in ["b", "c", "d"] {
        backends.set_mode(other, Mode::Active).unwrap();
    }
    let start = tokio::time::Instant::now();
    let drain = backends.drain("a").hand_over(400).start().unwrap();
    // Every session sends a request about every 7.5 seconds.
    let mut left: Vec<&mut Client> = clients.iter_mut().collect();
    while !left.is_empty() {
        let mut stay = Vec::new();
        for (i, client) in left.into_iter().enumerate() {
            if i % 14 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let answer = client.send(&service, get()).await;
            assert_eq!(answer.status, 200);
            match answer.decision() {
                (Verdict::Moved, Some(_), Some(Reason::Draining)) => {}
                (Verdict::Pinned, Some("a"), None) => stay.push(client),
                other => panic!("got {other:?}"),
            }
        }
        left = stay;
    }
    let took = start.elapsed();
    assert!(took < 30 * SECOND, "it took {took:?}");
    assert_eq!(carried.lock().unwrap().len(), SESSIONS, "each was carried over");
    let report = drain.ended().await;
    assert_eq!(report.end, DrainEnd::Completed);
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_handed_over_to_a_busy_backend() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    let _drain = backends.drain("a").hand_over(100).start().unwrap();
    b.control.set_busy(true);
    let begun = tokio::time::Instant::now();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert!(answer.token().is_none() && begun.elapsed() < SECOND / 10, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_strict_layer_hands_no_session_over() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).strict(true).into_service();
    let mut client = Client::assigned(&service).await;
    let _drain = backends.drain("a").hand_over(100).start().unwrap();
    for _ in 0..3 {
        assert_eq!(client.send(&service, get()).await.decision().0, Verdict::Pinned);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_handed_over_to_a_node_that_is_not_served_here() {
    let (backends, _nodes) = nodes(["a", "b"]);
    // Without an inner service `b` has none.
    let (service, moves, _) = noting(sealed(&backends).local("b"));
    let mut client = Client::assigned(&service).await;
    let _drain = backends.drain("a").hand_over(100).start().unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert!(moves.lock().unwrap().is_empty(), "the application transfers nothing");
}
