//! Timeouts and dates of sealed tokens.

use std::time::Duration;

use http::Request;
use tower_sticky::{Failover, Mode, Reason, SessionAction, Verdict, affinity::Cookie};

use crate::support::{Body, Client, Clock, get, keys, layer, nodes, sealed};

#[tokio::test]
async fn sessions_expire_on_the_gateway() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let clock = Clock::new();
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let cookie =
        Cookie::sealed("sid", keys()).idle_timeout(minutes(20)).absolute_timeout(minutes(60));
    let service = layer(&backends, cookie.permanent()).clock(clock.clone()).into_service();
    let mut client = Client::default();
    let answer = client.send(&service, get()).await;
    assert!(answer.set_cookies()[0].ends_with("; Max-Age=3600"), "{:?}", answer.set_cookies());
    clock.advance(4 * 60);
    assert_eq!(client.send(&service, get()).await.token(), None, "not a quarter yet");
    clock.advance(60);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision().0, Verdict::Pinned);
    assert!(answer.set_cookies()[0].ends_with("; Max-Age=3300"), "reissued with the first date");
    clock.advance(20 * 60);
    let mut late = client.clone();
    let answer = late.send(&service, get()).await;
    assert_eq!(answer.decision().2, Some(Reason::ExpiredIdle));
    clock.advance(-6 * 60);
    for _ in 0..4 {
        assert_eq!(client.send(&service, get()).await.decision().0, Verdict::Pinned, "kept alive");
        clock.advance(10 * 60);
    }
    clock.advance(60);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision().2, Some(Reason::ExpiredAbsolute), "the first date never changes");
    assert_eq!(answer.decision().0, Verdict::Assigned);
}

#[tokio::test]
async fn the_first_date_survives_a_move() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let clock = Clock::new();
    let cookie = Cookie::sealed("sid", keys()).absolute_timeout(Duration::from_secs(100));
    let service = layer(&backends, cookie).clock(clock.clone()).into_service();
    let mut client = Client::assigned(&service).await;
    clock.advance(60);
    backends.remove("a").unwrap();
    assert_eq!(client.send(&service, get()).await.decision().2, Some(Reason::Unknown));
    clock.advance(39);
    assert_eq!(client.send(&service, get()).await.decision().0, Verdict::Pinned);
    clock.advance(1);
    assert_eq!(client.send(&service, get()).await.decision().2, Some(Reason::ExpiredAbsolute));
}

#[tokio::test]
async fn future_dates_are_accepted_within_the_skew() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let service = sealed(&backends).clock(clock.clone()).into_service();
    let mut client = Client::assigned(&service).await;
    clock.advance(-3600);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision().0, Verdict::Pinned, "an hour");
    assert!(answer.token().is_some(), "reissued with current dates");
    let answer = client.send(&service, get()).await;
    assert_eq!((answer.decision().0, answer.token()), (Verdict::Pinned, None), "once");
    clock.advance(-3601);
    assert_eq!(client.send(&service, get()).await.decision().2, Some(Reason::Malformed));

    let cookie = Cookie::sealed("sid", keys()).clock_skew(Duration::from_secs(10));
    let service = layer(&backends, cookie).clock(clock.clone()).into_service();
    let mut client = Client::assigned(&service).await;
    clock.advance(-11);
    assert_eq!(
        client.send(&service, get()).await.decision().2,
        Some(Reason::Malformed),
        "an option"
    );
}

#[tokio::test]
async fn gateways_with_different_clocks_agree_on_sessions() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let (behind, ahead) = (Clock::new(), Clock::new());
    ahead.advance(20 * 60);
    let cookie = || {
        let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(30 * 60));
        cookie.absolute_timeout(Duration::from_secs(3600))
    };
    let gateways = [&ahead, &behind]
        .map(|clock| layer(&backends, cookie()).clock(clock.clone()).into_service());
    let mut client = Client::default();
    let home = client.send(&gateways[0], get()).await.body;
    for round in 0..8 {
        for gateway in &gateways {
            let answer = client.send(gateway, get()).await;
            assert_eq!((answer.decision().0, &answer.body), (Verdict::Pinned, &home), "{round}");
        }
        [&ahead, &behind].into_iter().for_each(|clock| clock.advance(240));
    }
    // The first date came from the fast clock, and was replaced by that of the slow one.
    [&ahead, &behind].into_iter().for_each(|clock| clock.advance(600));
    let answer = client.send(&gateways[1], get()).await;
    assert_eq!(answer.decision().0, Verdict::Pinned, "42 minutes by the slow clock");
    let answer = client.send(&gateways[0], get()).await;
    assert_eq!(answer.decision().2, Some(Reason::ExpiredAbsolute), "62 minutes by the fast clock");
}

#[tokio::test]
async fn a_borrowed_session_does_not_expire() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let clock = Clock::new();
    let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(1800));
    let layer = layer(&backends, cookie).clock(clock.clone());
    let service = layer.on_unavailable(Failover::Borrow).into_service();
    let mut client = Client::assigned(&service).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    for _ in 0..4 {
        clock.advance(600);
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.decision(), (Verdict::Borrowed, Some("b"), Some(Reason::Disabled)));
    }
    backends.set_mode("a", Mode::Active).unwrap();
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test]
async fn a_pin_on_a_bypassed_request_keeps_the_first_date() {
    let (backends, [a]) = nodes(["a"]);
    let clock = Clock::new();
    let cookie = Cookie::sealed("sid", keys()).absolute_timeout(Duration::from_secs(3600));
    let layer = layer(&backends, cookie).clock(clock.clone());
    let service = layer.bypass_if(|head| head.uri().path() == "/static").into_service();
    let mut client = Client::assigned(&service).await;
    clock.advance(3000);
    *a.control.action.lock().unwrap() = Some(SessionAction::Pin);
    let request = Request::get("/static").body(Body::default()).unwrap();
    assert!(client.send(&service, request).await.token().is_some());
    *a.control.action.lock().unwrap() = None;
    clock.advance(3000);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision().2, Some(Reason::ExpiredAbsolute), "its first date never changes");
}
