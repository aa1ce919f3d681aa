//! Strict sessions: which are rejected, and with which status.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::StatusCode;
use tower_sticky::{
    Backends, Busy, Failover, Mode, Reason, StickyLayer, Strict, Verdict,
    affinity::{Chain, Cookie, Key},
};

use crate::support::{
    Client, Clock, Node, get, keys, nodes, sealed, send, with_cookie, with_header,
};

/// The statuses that the Model Context Protocol asks for.
fn mcp() -> Strict {
    let strict = Strict::new().status(StatusCode::NOT_FOUND).unwrap();
    strict.unavailable_status(StatusCode::NOT_FOUND).unwrap()
}

/// A token sealed under other keys.
async fn forged(backends: &Backends<Node>) -> String {
    let keys = tower_sticky::KeyRing::generate().unwrap();
    let other = StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys)).into_service();
    send(&other, get()).await.token().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_unusable_token_is_rejected_and_deleted() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let forged = forged(&backends).await;
    let mut gone = Client::default();
    gone.send(&sealed(&backends).into_service(), get()).await;
    backends.remove("a").unwrap();
    let gone = gone.token.unwrap();
    for (strict, status) in [(Strict::from(true), 410), (mcp(), 404)] {
        let service = sealed(&backends).strict(strict).into_service();
        for token in ["", "nonsense", &*forged, &*gone] {
            let answer = send(&service, with_cookie(&format!("sid={token}"))).await;
            assert_eq!(
                (answer.status, answer.decision().0),
                (status, Verdict::Rejected),
                "{token:?}"
            );
            let cookies = answer.set_cookies();
            assert!(cookies.len() == 1 && cookies[0].contains("Max-Age=0"), "{cookies:?}");
            assert_eq!(answer.headers["cache-control"], "no-store");
            assert!(!answer.headers.contains_key("retry-after"), "it will not get better");
        }
        assert_eq!(send(&service, get()).await.status, 200, "without a token a session begins");
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_backend_that_cannot_serve_has_its_own_status() {
    for (strict, status) in [(Strict::from(true), 503), (mcp(), 404)] {
        let (backends, [a, b]) = nodes(["a", "b"]);
        let service = sealed(&backends).strict(strict).into_service();
        let mut client = Client::assigned(&service).await;
        let mut refused = async |why: &str| {
            let answer = client.send(&service, get()).await;
            assert_eq!((answer.status, answer.decision().1), (status, Some("a")), "{why}");
            assert_eq!(answer.headers["retry-after"], "1", "{why}");
            assert_eq!(answer.set_cookies(), [""; 0], "it stays: {why}");
        };
        a.control.set_busy(true);
        refused("busy").await;
        a.control.set_busy(false);
        a.control.refuses.store(true, SeqCst);
        refused("it refuses").await;
        backends.set_mode("a", Mode::Disabled).unwrap();
        refused("disabled").await;
        let outcome = client.send(&service, get()).await.outcome.unwrap();
        assert_eq!(outcome.attempts(), 0, "it was not sent");
        b.control.set_busy(true);
        let new = send(&service, get()).await;
        assert_eq!(new.status, 503, "a new session has no backend that is known");
    }
}

#[tokio::test(start_paused = true)]
async fn the_busy_owner_of_a_key_is_a_known_backend() {
    let (backends, nodes) = nodes(["a", "b"]);
    let layer = StickyLayer::new(backends, Key::header("user")).outcome_extensions(true);
    let service = layer.strict(mcp()).into_service();
    for node in &nodes {
        node.control.set_busy(true);
    }
    let answer = send(&service, with_header("user", "1")).await;
    let (verdict, _, reason) = answer.decision();
    assert_eq!((verdict, reason), (Verdict::Rejected, Some(Reason::Busy)));
    assert_eq!(answer.status, 404, "as for a session whose backend stays busy");
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_is_replaced_unless_rejected_by_option() {
    for (expired, status) in [(false, 200), (true, 410)] {
        let (backends, _nodes) = nodes(["a"]);
        let clock = Clock::new();
        let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(60));
        let layer = StickyLayer::new(backends, cookie).outcome_extensions(true);
        let strict = Strict::new().expired(expired);
        let service = layer.clock(clock.clone()).strict(strict).into_service();
        let mut client = Client::assigned(&service).await;
        clock.advance(61);
        let answer = client.send(&service, get()).await;
        assert_eq!((answer.status, answer.decision().2), (status, Some(Reason::ExpiredIdle)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_refuses_only_when_nothing_in_it_is_usable() {
    let (backends, _nodes) = nodes(["a"]);
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(Key::header("user"));
    let layer = StickyLayer::new(backends, chain).outcome_extensions(true);
    let service = layer.strict(mcp()).into_service();
    assert_eq!(send(&service, with_cookie("sid=bad")).await.status, 404);
    let mut request = with_cookie("sid=bad");
    request.headers_mut().insert("user", "1".parse().unwrap());
    let answer = send(&service, request).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("a"), Some(Reason::Malformed)));
    assert!(answer.token().is_some_and(|token| !token.is_empty()), "it is replaced");
}

#[tokio::test(start_paused = true)]
async fn reject_applies_to_known_backends_only() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let layer = sealed(&backends).on_unavailable(Failover::Reject);
    let service = layer.on_busy(Busy::default().then(Failover::Reject)).into_service();
    let mut client = Client::assigned(&service).await;
    a.control.refuses.store(true, SeqCst);
    assert_eq!(client.send(&service, get()).await.status, 503, "it is known, and out");
    backends.remove("a").unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(
        answer.decision(),
        (Verdict::Assigned, Some("b"), Some(Reason::Unknown)),
        "it is not"
    );
}

#[test]
fn strict_statuses_must_be_errors() {
    let status = |code: u16| StatusCode::from_u16(code).unwrap();
    for code in [200, 301, 399, 500, 503] {
        let error = Strict::new().status(status(code)).unwrap_err().to_string();
        assert!(error.contains("400 to 499") && error.contains(&code.to_string()), "{error}");
    }
    for code in [200, 399, 600] {
        let error = Strict::new().unavailable_status(status(code)).unwrap_err().to_string();
        assert!(error.contains("400 to 599"), "{error}");
    }
    assert_eq!(Strict::default(), Strict::from(true));
    assert_ne!(Strict::default(), Strict::from(false));
}

#[tokio::test]
async fn a_strict_client_can_start_a_new_session() {
    let (backends, _nodes) = nodes(["a"]);
    let service = sealed(&backends).strict(true).into_service();
    let answer = send(&service, with_cookie("sid=old")).await;
    assert_eq!(answer.status, 410);
    assert_eq!(answer.token().as_deref(), Some(""), "the token that is worth nothing goes");
}
