//! Session actions of the application, preferences of the caller, and strict sessions.

use std::{convert::Infallible, sync::atomic::Ordering::SeqCst};

use http::{Request, Response};
use tower::service_fn;
use tower_sticky::{
    Backends, Busy, Failover, Mode, Preference, Reason, SessionAction, StickyLayer, Verdict,
    affinity::Cookie, strategy::RoundRobin,
};

use crate::support::{
    Body, Client, get, keys, nodes, plain, sealed, sealed_session, send, with_cookie,
};

/// Sets the header `x-app` of the node's responses.
fn say(node: &crate::support::Node, word: &str) {
    let mut answers = node.control.response_headers.lock().unwrap();
    answers.clear();
    if !word.is_empty() {
        answers.push(("x-app", word.to_owned()));
    }
}

#[tokio::test]
async fn the_application_header_sets_every_session_action() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).application_header("x-app").unwrap().into_service();
    say(&a, "no-pin");
    let mut client = Client::default();
    let answer = client.send(&service, get()).await;
    assert_eq!((answer.decision().1, answer.token()), (Some("a"), None), "no session begins");
    assert!(!answer.headers.contains_key("x-app"), "taken out before the client");
    assert_eq!(client.send(&service, get()).await.body, "b");
    say(&b, "move a");
    say(&a, "");
    let answer = client.send(&service, get()).await;
    assert_eq!((answer.decision().0, answer.token().is_some()), (Verdict::Pinned, true));
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "moved by its own action");
    say(&a, "end");
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.set_cookies().len(), 1);
    assert!(answer.set_cookies()[0].starts_with("sid=; "), "{:?}", answer.set_cookies());
    assert!(answer.set_cookies()[0].contains("Max-Age=0"), "the token is taken away");
    for unknown in ["stop", "move nowhere"] {
        say(&a, unknown);
        let answer = send(&service, with_cookie("x=1")).await;
        assert_eq!(answer.status, 200, "{unknown:?} is ignored");
        assert!(!answer.headers.contains_key("x-app"));
    }
    assert_eq!(backends.snapshot().stats.moves(), 1);
    assert!(sealed(&backends).application_header("content-length").is_err());
}

#[tokio::test]
async fn the_application_header_is_read_only_when_configured() {
    let (backends, [a]) = nodes(["a"]);
    say(&a, "end");
    let service = sealed(&backends).into_service();
    let answer = send(&service, get()).await;
    assert_eq!(answer.headers["x-app"], "end");
    assert!(answer.token().is_some());
}

#[tokio::test]
async fn a_handler_sets_a_session_action_in_extensions() {
    let handler = service_fn(|request: Request<Body>| async move {
        let mut response = Response::new(Body::default());
        let action = match request.uri().path() {
            "/logout" => Some(SessionAction::End),
            "/static" => Some(SessionAction::NoPin),
            _ => None,
        };
        response.extensions_mut().extend(action.map_or_else(http::Extensions::new, |action| {
            let mut extensions = http::Extensions::new();
            extensions.insert(action);
            extensions
        }));
        Ok::<_, Infallible>(response)
    });
    let backends = Backends::from_iter([("a", handler)]);
    let layer = StickyLayer::new(backends, Cookie::sealed("sid", keys()));
    let service = layer.strategy(RoundRobin::new()).into_service();
    let at = |path: &str| Request::get(path).body(Body::default()).unwrap();
    assert_eq!(send(&service, at("/static")).await.set_cookies(), [""; 0]);
    assert!(send(&service, at("/")).await.token().is_some());
    assert_eq!(send(&service, at("/logout")).await.token().as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn pin_keeps_a_borrowed_session_where_it_is() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let layer = sealed(&backends).on_unavailable(Failover::Borrow);
    let service = layer.application_header("x-app").unwrap().into_service();
    let mut client = Client::assigned(&service).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    assert_eq!(client.send(&service, get()).await.token(), None);
    say(&b, "pin");
    let answer = client.send(&service, get()).await;
    assert!(answer.token().is_some(), "the application brought its state along");
    backends.set_mode("a", Mode::Active).unwrap();
    say(&b, "");
    assert_eq!(client.send(&service, get()).await.body, "b");
    drop(a);
}

#[tokio::test]
async fn bypassed_requests_neither_read_nor_write_a_pin() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let layer = sealed(&backends).bypass_if(|head| head.uri().path().starts_with("/static/"));
    let service = layer.into_service();
    let mut client = Client::assigned(&service).await;
    let cookie = format!("sid={}", client.token.clone().unwrap());
    let request = |path: &str, wish: bool| {
        let mut request = with_cookie(&cookie);
        *request.uri_mut() = path.parse().unwrap();
        if wish {
            request.extensions_mut().insert(Preference::bypass());
        }
        request
    };
    let mut bodies = Vec::new();
    for wish in [false, true] {
        for _ in 0..2 {
            let path = if wish { "/" } else { "/static/logo.png" };
            let answer = send(&service, request(path, wish)).await;
            assert_eq!(answer.decision().2, Some(Reason::Requested));
            assert_eq!(answer.token(), None);
            bodies.push(answer.body);
        }
    }
    assert_eq!(bodies, ["b", "a", "b", "a"], "the strategy chooses");
    assert!(a.control.cookies.lock().unwrap().iter().all(|cookie| !cookie.contains("sid")));
    drop(b);
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("a"), None));
    let stats = backends.snapshot().stats;
    assert_eq!((stats.tokens_issued(), stats.violations()), (1, 0));
}

#[tokio::test]
async fn a_request_may_be_forced_to_one_backend() {
    let (backends, [_a, b], service, mut client) = sealed_session(["a", "b"]).await;
    backends.set_mode("b", Mode::Draining).unwrap();
    let mut request = get();
    request.extensions_mut().insert(Preference::backend("b").unwrap());
    let answer = client.send(&service, request).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), Some(Reason::Requested)));
    assert_eq!(answer.token(), None, "the pin stays as it is");
    assert_eq!(client.send(&service, get()).await.body, "a");
    b.control.refuses.store(true, SeqCst);
    for id in ["b", "nowhere"] {
        let mut request = get();
        request.extensions_mut().insert(Preference::backend(id).unwrap());
        assert_eq!(send(&service, request).await.status, 503, "that one and no other");
    }
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn strict_sessions_are_served_by_their_backend_or_rejected() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    // Strictness overrides these policies.
    let layer = sealed(&backends)
        .strict(true)
        .retry_idempotent(true)
        .on_busy(Busy::default().then(Failover::Borrow));
    let service = layer.into_service();
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.status, 200, "a new session begins");
    for unknown in ["", "nonsense", &"A".repeat(90)] {
        let answer = send(&service, with_cookie(&format!("sid={unknown}"))).await;
        assert_eq!(answer.status, 410, "{unknown:?} is not known");
        assert_eq!(answer.decision().0, Verdict::Rejected);
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    let mut lenient = with_cookie("sid=nonsense");
    lenient.extensions_mut().insert(Preference::strict(false));
    assert_eq!(send(&service, lenient).await.status, 200);

    let mut status = async |reason: Reason| {
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.decision(), (Verdict::Rejected, Some("a"), Some(reason)));
        assert_eq!(answer.token(), None);
        answer.status
    };
    a.control.set_busy(true);
    assert_eq!(status(Reason::Busy).await, 503);
    a.control.set_busy(false);
    a.control.disconnects.store(true, SeqCst);
    assert_eq!(status(Reason::ConnectFailed).await, 503, "it holds across retries");
    a.control.disconnects.store(false, SeqCst);
    a.control.refuses.store(true, SeqCst);
    assert_eq!(status(Reason::ConnectFailed).await, 503, "and across failover");
    assert_eq!(status(Reason::ConnectFailed).await, 503, "a suspect is asked each time");
    backends.set_mode("a", Mode::Disabled).unwrap();
    assert_eq!(status(Reason::Disabled).await, 503);
    let served = b.served();
    backends.remove("a").unwrap();
    assert_eq!(client.send(&service, get()).await.status, 410, "gone for good: unknown");
    assert_eq!(b.served(), served, "never served elsewhere");
}

#[tokio::test]
async fn a_plain_session_can_be_strict_for_one_request() {
    let (backends, _nodes) = nodes(["a"]);
    let service = plain(&backends).into_service();
    let mut request = with_cookie("sid=gone");
    request.extensions_mut().insert(Preference::strict(true));
    assert_eq!(send(&service, request).await.status, 410);
}

#[tokio::test]
async fn moving_a_session_to_its_own_backend_changes_nothing() {
    let (backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    let here: tower_sticky::BackendId = "a".parse().unwrap();
    *a.control.action.lock().unwrap() = Some(SessionAction::Move(here));
    for _ in 0..3 {
        assert_eq!(client.send(&service, get()).await.body, "a");
    }
    assert_eq!(backends.snapshot().stats.moves(), 0);
    assert_eq!(backends.get("a").unwrap().sessions_seen, 1, "it is there, and counted");
}

#[tokio::test]
async fn a_backend_that_is_no_peer_cannot_act_by_the_header_of_peers() {
    let (_backends, [a], service, mut client) = sealed_session(["a"]).await;
    let header = ("x-sticky-action", "end".to_owned());
    a.control.response_headers.lock().unwrap().push(header);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.set_cookies(), [""; 0], "the session goes on");
    assert_eq!(answer.headers["x-sticky-action"], "end", "the header is the application's own");
}

#[tokio::test]
async fn pin_writes_a_token_only_for_a_session_that_is_not_yet_there() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).application_header("x-app").unwrap().into_service();
    let mut client = Client::assigned(&service).await;
    say(&a, "pin");
    say(&b, "pin");
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(answer.token(), None, "nothing changes");
    // The pin does not follow a preference by itself.
    let mut request = get();
    request.extensions_mut().insert(Preference::backend("b").unwrap());
    assert!(client.send(&service, request).await.token().is_some());
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("b"), None));
    assert_eq!(backends.snapshot().stats.moves(), 1);
    // A bypassed request has no session: one begins.
    let mut request = get();
    request.extensions_mut().insert(Preference::bypass());
    assert!(send(&service, request).await.token().is_some());
    assert_eq!(backends.snapshot().stats.moves(), 1);
}
