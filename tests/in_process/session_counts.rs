//! How many sessions a backend has, and which requests count as one.

use http::Request;
use tokio::time::Instant;
use tower_sticky::{
    DrainEnd, Failover, Mode, StickyLayer, Verdict,
    affinity::{Cookie, Key, Learned},
};

use crate::{
    drain::{MINUTE, SECOND, after, sealed, watched},
    support::{Body, Client, Clock, get, keys, nodes, plain, send, with_cookie},
};

#[tokio::test(start_paused = true)]
async fn sessions_are_counted_for_every_affinity() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let layer = StickyLayer::new(backends.clone(), Learned::cookie("app"));
    let service = layer.strategy(tower_sticky::strategy::RoundRobin::new()).into_service();
    for (i, node) in [&a, &b, &a, &b].into_iter().enumerate() {
        *node.control.response_headers.lock().unwrap() =
            vec![("set-cookie", format!("app=session-{i}"))];
        send(&service, get()).await;
    }
    let sessions = || {
        let counts = backends.iter().map(|b| (b.sessions_seen, b.unconfirmed));
        counts.collect::<Vec<_>>()
    };
    assert_eq!(sessions(), [(0, 2), (0, 2)], "learned from the answers");
    for node in [&a, &b] {
        node.control.response_headers.lock().unwrap().clear();
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
async fn a_borrowed_session_is_counted_where_it_is_pinned() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).on_unavailable(Failover::Borrow).into_service();
    let mut client = Client::default();
    for _ in 0..2 {
        client.send(&service, get()).await;
    }
    a.control.refuses.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(client.send(&service, get()).await.body, "b");
    let sessions = |id| backends.get(id).unwrap().sessions_seen;
    assert_eq!((sessions("a"), sessions("b")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn expired_sessions_are_not_counted() {
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

#[tokio::test(start_paused = true)]
async fn a_session_without_a_timeout_counts_for_half_an_hour() {
    let (backends, _nodes) = nodes(["a"]);
    let service = crate::support::sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    let sessions = || backends.get("a").unwrap().sessions_seen;
    client.send(&service, get()).await;
    after(29 * MINUTE).await;
    assert_eq!(sessions(), 1, "it may still return");
    after(2 * MINUTE).await;
    assert_eq!(sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_count_is_unknown_until_an_idle_timeout_was_watched() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    client.send(&service, get()).await;
    let status = |id: &str| backends.get(id).unwrap();
    assert_eq!((status("a").sessions, status("a").sessions_seen), (None, 1));
    // A session may be idle since before this process started, so the drain waits.
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
    // A backend that joins later is watched from that time.
    backends.insert("c", crate::support::Node::new("c")).unwrap();
    assert_eq!(status("c").sessions, None);
    after(11 * MINUTE).await;
    assert_eq!(status("c").sessions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_never_returns_is_not_a_session() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let clock = Clock::new();
    let service = sealed(&backends).clock(clock.clone()).into_service();
    watched(&service, &mut []).await;
    backends.set_weight("b", 0).unwrap();
    for _ in 0..60 {
        // A health check without a cookie jar.
        send(&service, get()).await;
    }
    let mut client = Client::assigned(&service).await;
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
async fn preflights_and_requests_outside_the_path_begin_no_session() {
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
    // A preflight with a cookie continues its session.
    let mut client = Client::default();
    client.send(&service, request("GET", "/shop", false)).await;
    let answer = client.send(&service, request("OPTIONS", "/shop", true)).await;
    assert_eq!((answer.decision().0, answer.token()), (Verdict::Pinned, None));
    assert_eq!(backends.get("a").unwrap().sessions_seen, 0, "a preflight is not counted");
    client.send(&service, request("GET", "/shop", false)).await;
    assert_eq!(backends.get("a").unwrap().sessions_seen, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_without_an_id_is_seen_where_it_moves_at_once() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    backends.set_mode("a", Mode::Disabled).unwrap();
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!((answer.decision().0, answer.token().as_deref()), (Verdict::Moved, Some("b")));
    let status = backends.get("b").unwrap();
    assert_eq!((status.sessions_seen, status.unconfirmed), (1, 0), "it has sent a token already");
}
