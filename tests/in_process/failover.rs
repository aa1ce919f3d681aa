//! Failover: sessions of backends that are down, removed, draining or disabled.

use std::{collections::HashSet, sync::atomic::Ordering::SeqCst};

use http::{Method, Request, Response};
use tower::{BoxError, ServiceExt, service_fn};
use tower_sticky::{
    BackendId, Backends, Failover, Health, Mode, Reason, State, StickyError, StickyLayer, Verdict,
    affinity::Cookie, strategy::RoundRobin,
};

use crate::support::{
    Body, Client, MS, Node, get, nodes, plain, sealed, sealed_session, send, until, with_cookie,
};

#[tokio::test(start_paused = true)]
async fn a_new_session_is_assigned_and_stays() {
    let (backends, [a, b, _]) = nodes(["a", "b", "c"]);
    let service = sealed(&backends).into_service();
    let mut first = Client::default();
    let answer = first.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("a"), None));
    let mut second = Client::default();
    assert_eq!(second.send(&service, get()).await.body, "b");
    for _ in 0..10 {
        let answer = first.send(&service, get()).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
        assert_eq!(answer.set_cookies(), [""; 0], "nothing changed, so nothing is sent");
    }
    assert_eq!((a.served(), b.served()), (11, 1));
    assert_eq!(send(&service, get()).await.body, "c", "pinned traffic never advances round robin");
    let stats = backends.snapshot().stats;
    assert_eq!(stats.outcome(Verdict::Pinned), 10);
    assert_eq!(stats.outcome(Verdict::Assigned), 3);
    assert_eq!((stats.requests(), stats.tokens_issued(), stats.violations()), (13, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_moves_the_session_with_its_request_untouched() {
    for layer in [plain, sealed] {
        let (backends, [a, b]) = nodes(["a", "b"]);
        let service = layer(&backends).into_service();
        let mut client = Client::assigned(&service).await;
        a.control.refuses.store(true, SeqCst);
        let post = Request::post("/").body(Body::from(" got the body")).unwrap();
        let answer = client.send(&service, post).await;
        assert_eq!(answer.body, "b got the body");
        assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::ConnectFailed)));
        assert!(answer.token().is_some(), "the pin moves with the answer");
        let polled = a.control.polls.load(SeqCst);
        a.control.refuses.store(false, SeqCst);
        let answer = client.send(&service, get()).await;
        assert_eq!(
            answer.decision(),
            (Verdict::Pinned, Some("b"), None),
            "it stays on the new one"
        );
        assert_eq!(a.control.polls.load(SeqCst), polled, "no request goes to a dead backend");
        assert_eq!(b.served(), 2);
        let stats = backends.snapshot().stats;
        assert_eq!((stats.moves(), stats.violations()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn each_candidate_is_tried_once_and_then_the_answer_is_503() {
    let (backends, nodes) = nodes(["a", "b", "c"]);
    for node in &nodes {
        node.control.refuses.store(true, SeqCst);
    }
    let service = plain(&backends).into_service();
    let answer = send(&service, get()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.set_cookies(), [""; 0], "never a pin on an error of our own");
    let (verdict, last, reason) = answer.decision();
    assert_eq!((verdict, reason), (Verdict::Rejected, Some(Reason::ConnectFailed)));
    assert!(last.is_some(), "the last one tried is named");
    for node in &nodes {
        let polls = node.control.polls.swap(0, SeqCst);
        assert!(polls <= 2, "one for the request and at most one of the readiness poll");
    }
    assert_eq!(send(&service, get()).await.status, 503, "all are suspect now, and refuse again");
    for node in &nodes {
        let polls = node.control.polls.load(SeqCst);
        assert!((1..=2).contains(&polls), "a suspect is asked before anybody is refused: {polls}");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_mode_tries_all_when_all_are_down() {
    for panics in [true, false] {
        let (backends, [a, b]) = nodes(["a", "b"]);
        let health = Health::new().probe(|_: Node, _: BackendId| async { Err::<(), _>("unwell") });
        let layer = plain(&backends).health(health).panic_mode(panics);
        assert!(layer.start::<Request<Body>>());
        until(&backends, "a", State::Down).await;
        until(&backends, "b", State::Down).await;
        let service = layer.into_service();
        a.control.refuses.store(true, SeqCst);
        let answers = [send(&service, get()).await, send(&service, with_cookie("sid=b")).await];
        for answer in answers {
            assert_eq!(answer.status, if panics { 200 } else { 503 });
            assert_eq!(
                answer.decision().1,
                panics.then_some("b"),
                "all are tried, and a pin is honoured"
            );
        }
        assert_eq!(b.served(), if panics { 2 } else { 0 }, "no request is sent without it");
    }
}

#[tokio::test(start_paused = true)]
async fn borrow_serves_elsewhere_once_and_keeps_the_pin() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).on_unavailable(Failover::Borrow).into_service();
    let mut client = Client::assigned(&service).await;
    a.control.refuses.store(true, SeqCst);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Borrowed, Some("b"), Some(Reason::ConnectFailed)));
    assert_eq!(answer.token(), None);
    let answer = client.send(&service, get()).await;
    assert_eq!(
        answer.decision(),
        (Verdict::Borrowed, Some("b"), Some(Reason::Down)),
        "known to be down"
    );
    a.control.refuses.store(false, SeqCst);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "back on its own backend");
}

#[tokio::test(start_paused = true)]
async fn reject_answers_for_a_session_whose_backend_is_down() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).on_unavailable(Failover::Reject).into_service();
    let mut client = Client::assigned(&service).await;
    a.control.refuses.store(true, SeqCst);
    for _ in 0..2 {
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.status, 503, "after a real attempt each time");
        assert_eq!(answer.decision(), (Verdict::Rejected, Some("a"), Some(Reason::ConnectFailed)));
    }
    assert_eq!(b.served(), 0);
    assert_eq!(send(&service, get()).await.body, "b", "new sessions go on");
    a.control.refuses.store(false, SeqCst);
    let answer = client.send(&service, get()).await;
    assert_eq!(
        answer.decision(),
        (Verdict::Pinned, Some("a"), None),
        "no request is refused by evidence"
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_resort_does_not_answer_for_a_rejected_session() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let (layer, sorry) = (sealed(&backends).on_unavailable(Failover::Reject), Node::new("sorry"));
    let service = layer.last_resort(sorry.clone());
    let mut client = Client::assigned(&service).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Rejected, Some("a"), Some(Reason::Disabled)));
    assert_eq!((answer.status, sorry.served()), (503, 0));
}

#[tokio::test(start_paused = true)]
async fn draining_keeps_sessions_and_takes_no_new_ones() {
    let (backends, _nodes, service, mut client) = sealed_session(["a", "b"]).await;
    backends.set_mode("a", Mode::Draining).unwrap();
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("a"), None));
    for _ in 0..4 {
        assert_eq!(send(&service, get()).await.body, "b");
    }
    backends.set_mode("b", Mode::Draining).unwrap();
    let answer = send(&service, get()).await;
    assert_eq!(answer.status, 503, "never chosen, even when no other is left");
    assert_eq!(client.send(&service, get()).await.status, 200, "sessions that are there go on");
}

#[tokio::test(start_paused = true)]
async fn disabled_is_down_at_once_and_weight_0_keeps_its_sessions() {
    let (backends, _nodes, service, mut client) = sealed_session(["a", "b"]).await;
    backends.set_weight("a", 0).unwrap();
    assert_eq!(client.send(&service, get()).await.body, "a");
    for _ in 0..4 {
        assert_eq!(send(&service, get()).await.body, "b");
    }
    backends.set_weight("a", 1).unwrap();
    backends.set_mode("a", Mode::Disabled).unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::Disabled)));
    backends.set_mode("a", Mode::Active).unwrap();
    assert_eq!(client.send(&service, get()).await.body, "b", "no session moves back");
}

#[tokio::test(start_paused = true)]
async fn a_removed_backend_is_unknown_and_the_bad_token_is_replaced() {
    let (backends, _nodes, service, mut client) = sealed_session(["a", "b"]).await;
    backends.remove("a").unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("b"), Some(Reason::Unknown)));
    assert!(answer.token().is_some());
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("b"), None));
    assert_eq!(backends.snapshot().stats.token_errors(Reason::Unknown), 1);
}

/// Enough sessions of `a` that every other backend receives some.
const SESSIONS: usize = 80;

async fn sessions_of_a(service: &tower_sticky::StickyService<Node>) -> Vec<Client> {
    let mut sessions = Vec::new();
    while sessions.len() < SESSIONS {
        let mut client = Client::default();
        if client.send(service, get()).await.body == "a" {
            sessions.push(client);
        }
    }
    sessions
}

/// Sends parallel requests of each session with its old pin. All of one session must reach the same
/// backend; returns the number of different backends.
async fn new_homes(
    service: &tower_sticky::StickyService<Node>,
    sessions: Vec<Client>,
) -> HashSet<String> {
    let mut homes = HashSet::new();
    for session in sessions {
        let mut landed = HashSet::new();
        for _ in 0..4 {
            landed.insert(session.clone().send(service, get()).await.body);
        }
        assert_eq!(landed.len(), 1, "one session moves to one backend: {landed:?}");
        homes.extend(landed);
    }
    homes
}

#[tokio::test(start_paused = true)]
async fn parallel_requests_of_a_session_of_a_removed_backend_agree() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d", "e"]);
    let service = sealed(&backends).into_service();
    let sessions = sessions_of_a(&service).await;
    backends.remove("a").unwrap();
    let homes = new_homes(&service, sessions).await;
    assert_eq!(homes.len(), 4, "spread over those that are left: {homes:?}");
}

#[tokio::test(start_paused = true)]
async fn replacing_a_backend_keeps_its_sessions_and_counters() {
    let (backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    a.control.refuses.store(true, SeqCst);
    send(&service, with_cookie("sid=x")).await;
    let new = crate::support::Node::new("a at its new address");
    backends.replace("a", new).unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.body, "a at its new address");
    assert_eq!(answer.decision().0, Verdict::Pinned);
    assert!(backends.get("a").unwrap().requests >= 2);
}

#[tokio::test(start_paused = true)]
async fn parallel_requests_of_a_sealed_session_fail_over_to_the_same_backend() {
    let (backends, [a, ..]) = nodes(["a", "b", "c", "d", "e"]);
    let service = sealed(&backends).into_service();
    let sessions = sessions_of_a(&service).await;
    a.control.refuses.store(true, SeqCst);
    let homes = new_homes(&service, sessions).await;
    assert_eq!(homes.len(), 4, "and the sessions spread over the survivors: {homes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_is_retried_once_by_option() {
    let (backends, [a, ..]) = nodes(["a", "b", "c"]);
    let service = sealed(&backends).retry_idempotent(false).into_service();
    a.control.disconnects.store(true, SeqCst);
    let answer = send(&service, get()).await;
    assert_eq!(
        (answer.status, answer.decision().0),
        (502, Verdict::Rejected),
        "not if it is not wanted"
    );

    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    let service = sealed(&backends).into_service();
    a.control.disconnects.store(true, SeqCst);
    let answer = send(&service, get()).await;
    assert_ne!(answer.body, "a");
    assert_eq!(answer.decision().2, Some(Reason::ConnectFailed));
    for node in [&b, &c] {
        node.control.disconnects.store(true, SeqCst);
    }
    let served = a.served() + b.served() + c.served();
    assert_eq!(send(&service, get()).await.status, 502);
    let served = a.served() + b.served() + c.served() - served;
    assert_eq!(served, 2, "once to another, not to all");
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_moves_no_session() {
    let (_backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    a.control.call_fails.store(true, SeqCst);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.decision(), (Verdict::Rejected, Some("a"), None));
    assert_eq!(answer.token(), None);
    a.control.call_fails.store(false, SeqCst);
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_fails_over_without_losing_the_request() {
    let (_backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    a.control.readiness_fails.store(true, SeqCst);
    let mut put = Request::new(Body::from("!"));
    *put.method_mut() = Method::PUT;
    let answer = client.send(&service, put).await;
    assert_eq!(answer.body, "b!");
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::NotReady)));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_been_executed_is_answered_502() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).retry_idempotent(true).propagate_errors().into_service();
    a.control.disconnects.store(true, SeqCst);
    b.control.refuses.store(true, SeqCst);
    let error = service.oneshot(with_cookie("x=1")).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, StickyError::Backend { backend, .. } if *backend == "a"), "{error}");
    assert_eq!(error.status(), 502);
}

#[tokio::test(start_paused = true)]
async fn a_retried_request_moves_its_session_by_policy() {
    for (policy, verdict, home) in
        [(Failover::Repin, Verdict::Moved, "b"), (Failover::Borrow, Verdict::Borrowed, "a")]
    {
        let (backends, [a, _b]) = nodes(["a", "b"]);
        let service = sealed(&backends).on_unavailable(policy).into_service();
        let mut client = Client::assigned(&service).await;
        a.control.disconnects.store(true, SeqCst);
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.decision(), (verdict, Some("b"), Some(Reason::ConnectFailed)));
        assert_eq!(answer.token().is_some(), verdict == Verdict::Moved, "in the same step");
        a.control.disconnects.store(false, SeqCst);
        assert_eq!(client.send(&service, get()).await.body, home, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_starts_to_drain_is_skipped() {
    let (_, [b, c]) = nodes(["b", "c"]);
    // `a` refuses after 100 ms; meanwhile `b` begins to drain.
    let slow = service_fn(|request: Request<Body>| async move {
        tokio::time::sleep(100 * MS).await;
        Err::<Response<Body>, BoxError>(tower_sticky::NotSent::new(request, "refused").into())
    });
    let pool = Backends::from_iter([
        ("a", tower::util::BoxCloneSyncService::new(slow)),
        ("b", tower::util::BoxCloneSyncService::new(b.clone())),
        ("c", tower::util::BoxCloneSyncService::new(c.clone())),
    ]);
    let first = StickyLayer::new(pool.clone(), Cookie::plain("sid")).strategy(RoundRobin::new());
    let service = first.into_service();
    let drain = async {
        tokio::time::sleep(50 * MS).await;
        pool.set_mode("b", Mode::Draining).unwrap();
    };
    let (answer, ()) = tokio::join!(send(&service, get()), drain);
    assert_eq!(answer.body, "c");
}

#[tokio::test(start_paused = true)]
async fn panic_mode_tries_none_that_is_down_while_another_backend_may_serve() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let probe = |_: Node, id: BackendId| async move { if id == *"a" { Err("no") } else { Ok(()) } };
    let layer = plain(&backends).health(Health::new().probe(probe)).panic_mode(true);
    assert!(layer.start::<Request<Body>>());
    until(&backends, "a", State::Down).await;
    let service = layer.into_service();
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    b.control.refuses.store(true, SeqCst);
    assert_eq!(send(&service, get()).await.status, 503);
    b.control.refuses.store(false, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b", "not even a suspect one");
    assert_eq!(a.served(), 0);
}
