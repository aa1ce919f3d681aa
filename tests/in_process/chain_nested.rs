//! A chain as a member of another chain.

use std::time::Duration;

use http::header;
use tower_sticky::{
    Reason, SessionInfo, Verdict,
    affinity::{Chain, Cookie, Header, Key},
};

use crate::{
    chain::{cookie, of, sessions},
    support::{Client, Clock, Node, get, keys, layer, nodes, send, with_cookie},
};

#[tokio::test(start_paused = true)]
async fn a_chain_within_a_chain_keeps_its_order() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let [(on_a, _), (_, user_b), _] = sessions::<3>(&backends).await;
    let tokens = || Header::plain("x-sticky");
    let key_first = || Chain::of(Key::header("user")).or(cookie());
    let service = layer(&backends, Chain::of(key_first()).or(tokens())).into_service();
    let answer = send(&service, of(&user_b, Some(&on_a))).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None));
    assert!(answer.token().is_none() && !answer.headers.contains_key("x-sticky"));
    let service = layer(&backends, Chain::of(tokens()).or(key_first())).into_service();
    let answer = send(&service, of(&user_b, Some(&on_a))).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("b"), None));
    assert_eq!(answer.headers["x-sticky"], "b", "what is before the key is written");
    let inner = Chain::of(cookie()).or(Key::header("user"));
    let service = layer(&backends, Chain::of(inner).or(tokens())).into_service();
    let answer = send(&service, of(&user_b, Some("bad"))).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("b"), Some(Reason::Malformed)));
    assert!(answer.token().is_some(), "it is replaced");
    let service = layer(&backends, Chain::of(tokens()).or(key_first())).into_service();
    let mut request = of(&user_b, Some(&on_a));
    request.headers_mut().insert(header::HeaderName::from_static("x-sticky"), "c".parse().unwrap());
    assert_eq!(send(&service, request).await.decision(), (Verdict::Pinned, Some("c"), None));
}

#[tokio::test]
async fn only_the_token_that_was_used_is_refreshed() {
    let idle = Duration::from_secs(1800);
    let header = || Header::sealed("x-sticky", keys()).idle_timeout(idle);
    let tokens = || Chain::of(header()).or(cookie().idle_timeout(idle));
    let key = || Key::header("never");
    for chain in [Chain::of(key()).or(tokens()), Chain::of(tokens()).or(key())] {
        let (backends, _nodes) = nodes(["a"]);
        let clock = Clock::new();
        let service = layer(&backends, chain).clock(clock.clone()).into_service();
        let mut client = Client::assigned(&service).await;
        clock.advance(900);
        let answer = client.send(&service, get()).await;
        assert!(answer.token().is_some(), "the cookie is due");
        assert!(!answer.headers.contains_key("x-sticky"), "the header was not used");
    }
}

#[tokio::test]
async fn a_bad_token_before_a_chain_is_the_only_one_that_is_replaced() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let inner = Chain::of(Cookie::sealed("other", keys())).or(Header::plain("x-sticky"));
    let service = layer(&backends, Chain::of(cookie()).or(inner)).into_service();
    let mut request = with_cookie("sid=bad");
    request.headers_mut().insert("x-sticky", "b".parse().unwrap());
    let answer = send(&service, request).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None));
    assert!(answer.token().is_some());
    assert_eq!(answer.set_cookies().len(), 1, "{:?}", answer.set_cookies());
}

#[tokio::test]
async fn what_is_behind_a_chain_of_keys_is_not_written() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let by_key = Chain::of(Key::header("user")).or(Key::header("room"));
    let chain = Chain::of(cookie()).or(by_key).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).into_service();
    let answer = send(&service, of("1", None)).await;
    assert_eq!(answer.decision().0, Verdict::Assigned);
    assert!(answer.token().is_some() && !answer.headers.contains_key("x-sticky"));
}

#[tokio::test]
async fn a_session_of_a_removed_backend_keeps_its_id() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let inner = Chain::of(cookie()).or(Key::header("user"));
    let chain = Chain::of(inner).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).session_headers(true).into_service();
    let told = |node: &Node| {
        let headers = node.control.headers.lock().unwrap().pop().unwrap();
        SessionInfo::from_headers(&headers).unwrap().id()
    };
    let token = send(&service, get()).await.token().unwrap();
    let id = told(&a);
    assert!(id.is_some());
    backends.remove("a").unwrap();
    let answer = send(&service, of("1", Some(&token))).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("b"), Some(Reason::Unknown)));
    assert_eq!(told(&b), id, "the key only says where it goes on");
}
