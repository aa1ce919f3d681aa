//! Busy backends: at their limit, or with a service that is not ready.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::Request;
use tower_sticky::{
    Backends, Busy, Failover, Health, Reason, State, StickyLayer, Verdict, affinity::Cookie,
};

use crate::support::{
    Body, Client, First, MS, Node, after, get, load, nodes, refuse, sealed, sealed_session, send,
    spawn,
};

#[tokio::test(start_paused = true)]
async fn a_pinned_request_waits_and_then_borrows() {
    let (_backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    a.control.set_busy(true);
    let started = tokio::time::Instant::now();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Borrowed, Some("b"), Some(Reason::Busy)));
    assert_eq!(answer.token(), None, "the pin stays");
    assert!((200 * MS..210 * MS).contains(&started.elapsed()), "{:?}", started.elapsed());

    let (mut waiting, control) = (client.clone(), a.control.clone());
    let request = tokio::spawn({
        let service = service.clone();
        async move { waiting.send(&service, get()).await }
    });
    tokio::time::sleep(100 * MS).await;
    control.set_busy(false);
    assert_eq!(
        request.await.unwrap().decision(),
        (Verdict::Pinned, Some("a"), None),
        "it waited until the backend was ready"
    );
}

#[tokio::test(start_paused = true)]
async fn a_busy_backend_may_repin_or_reject() {
    for (then, why) in [
        (Failover::Repin, (Verdict::Moved, Some("b"), Some(Reason::Busy))),
        (Failover::Reject, (Verdict::Rejected, Some("a"), Some(Reason::Busy))),
    ] {
        let (backends, [a, _b]) = nodes(["a", "b"]);
        let service = sealed(&backends).on_busy(Busy::wait(50 * MS).then(then)).into_service();
        let mut client = Client::assigned(&service).await;
        a.control.set_busy(true);
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.decision(), why);
        assert_eq!(answer.token().is_some(), then == Failover::Repin);
        assert_eq!(answer.headers.contains_key("retry-after"), then == Failover::Reject);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_session_does_not_wait_while_another_backend_is_free() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    a.control.set_busy(true);
    let started = tokio::time::Instant::now();
    for _ in 0..4 {
        let answer = send(&service, get()).await;
        assert_eq!(answer.decision(), (Verdict::Assigned, Some("b"), None));
    }
    assert!(started.elapsed() < MS, "no request waits");
}

#[tokio::test(start_paused = true)]
async fn when_all_are_busy_a_request_waits_until_its_deadline() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).ready_timeout(300 * MS).into_service();
    a.control.set_busy(true);
    b.control.set_busy(true);
    let started = tokio::time::Instant::now();
    let answer = send(&service, get()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.decision(), (Verdict::Rejected, Some("a"), Some(Reason::Busy)));
    assert!(
        (300 * MS..310 * MS).contains(&started.elapsed()),
        "one deadline for the whole dispatch dispatch"
    );
    let control = b.control.clone();
    let wait = async {
        tokio::time::sleep(100 * MS).await;
        a.control.set_busy(false);
        control.set_busy(false);
    };
    let (answer, ()) = tokio::join!(send(&service, get()), wait);
    assert_eq!((answer.status, answer.decision().0), (200, Verdict::Assigned));
}

#[tokio::test(start_paused = true)]
async fn a_limit_overrides_affinity() {
    let (backends, [a, b], service, client) = sealed_session(["a", "b"]).await;
    backends.set_limit("a", 2).unwrap();
    a.hold_responses();
    let mut replayed = Vec::new();
    for _ in 0..6 {
        replayed.push(client.spawn(&service, get()));
    }
    tokio::time::sleep(100 * MS).await;
    assert_eq!(load(&backends, "a"), (2, 4), "one token replayed by many");
    assert_eq!(send(&service, get()).await.body, "b", "others are not starved");
    tokio::time::sleep(200 * MS).await;
    assert_eq!(backends.get("a").unwrap().waiting, 0, "four have borrowed");
    a.release_responses();
    let mut served = Vec::new();
    for replayed in replayed {
        served.push(replayed.await.unwrap().body);
    }
    served.sort();
    assert_eq!(served, ["a", "a", "b", "b", "b", "b"]);
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
    assert_eq!(b.served(), 5);
}

#[tokio::test(start_paused = true)]
async fn permits_pass_to_waiting_requests_in_order() {
    let (backends, [a]) = nodes(["a"]);
    backends.set_limit("a", 1).unwrap();
    let service = sealed(&backends).into_service();
    a.hold_responses();
    let mut requests = Vec::new();
    for _ in 0..5 {
        requests.push(tokio::spawn({
            let service = service.clone();
            async move { send(&service, get()).await.status }
        }));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(10 * MS).await;
    assert_eq!(backends.get("a").unwrap().waiting, 4);
    requests.remove(2).abort();
    a.release_responses();
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.waiting, status.requests), (0, 0, 4));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded() {
    let (backends, [a]) = nodes(["a"]);
    a.control.set_busy(true);
    // Requests without a session use half of the queue.
    let service = sealed(&backends).max_waiters(4).into_service();
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, get()).await.status })
        })
        .collect();
    tokio::time::sleep(10 * MS).await;
    assert_eq!(requests.iter().filter(|request| request.is_finished()).count(), 3, "refused");
    a.control.set_busy(false);
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(request.await.unwrap());
    }
    statuses.sort();
    assert_eq!(statuses, [200, 200, 503, 503, 503]);
    assert_eq!(a.control.served.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_longest_durations_do_not_overflow() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let health = Health::new().ejection(Duration::MAX).readiness_interval(Duration::MAX);
    let layer = sealed(&backends).ready_timeout(Duration::MAX).health(health);
    let service = layer.on_busy(Busy::wait(Duration::MAX)).into_service();
    let mut client = Client::assigned(&service).await;
    a.control.set_busy(true);
    let control = a.control.clone();
    let later = async {
        tokio::time::sleep(500 * MS).await;
        control.set_busy(false);
    };
    let (answer, ()) = tokio::join!(client.send(&service, get()), later);
    assert_eq!(answer.decision().0, Verdict::Pinned, "it waited");
    a.control.refuses.store(true, SeqCst);
    assert_eq!(client.send(&service, get()).await.decision().0, Verdict::Moved);
}

#[tokio::test]
async fn a_large_pool_that_is_idle_is_not_busy() {
    let limited = || tower::ServiceBuilder::new().concurrency_limit(9).concurrency_limit(9);
    let backends =
        Backends::from_iter((0..150).map(|i| (format!("b{i}"), limited().service(Node::new("x")))));
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"));
    assert!(layer.start::<Request<Body>>());
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(backends.iter().all(|backend| backend.state == State::Ready));
}

#[tokio::test(start_paused = true)]
async fn no_other_backend_is_tried_once_the_deadline_has_come() {
    for (millis, in_time) in [(299, true), (300, false)] {
        let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
        let service = sealed(&backends).strategy(First).ready_timeout(300 * MS).into_service();
        refuse(&a, true);
        b.control.refuses_after_gate.store(true, SeqCst);
        b.hold_responses();
        let request = spawn(&service, get());
        after(millis).await;
        assert_eq!(load(&backends, "b").0, 1, "the first failure was at once");
        b.release_responses();
        let answer = request.await.unwrap();
        assert_eq!((answer.status == 200, c.served()), (in_time, usize::from(in_time)));
    }
}
