//! A chain of two tokens and a key: which of them decides, and which are rewritten.

use std::time::Duration;

use http::header;
use tower_sticky::{
    Verdict,
    affinity::{Chain, Cookie, Header, Key},
};

use crate::support::{after, get, header_token, keys, layer, nodes, send, spawn, with_header};

fn three_members() -> Chain {
    Chain::of(Cookie::sealed("sid", keys()))
        .or(Header::sealed("x-sticky", keys()))
        .or(Key::header("x-user-id"))
}

#[tokio::test]
async fn a_chain_uses_its_members_in_order() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let service = layer(&backends, three_members()).into_service();
    let by_key = layer(&backends, Key::header("x-user-id")).into_service();
    for user in 0..10 {
        let user = user.to_string();
        let home = send(&by_key, with_header("x-user-id", &user)).await.body;
        let first = send(&service, with_header("x-user-id", &user)).await;
        assert_eq!(
            first.decision(),
            (Verdict::Assigned, Some(&*home), None),
            "the key chooses at once"
        );
        let (cookie, header) = (first.token().unwrap(), header_token(&first).unwrap());
        let elsewhere = format!("{user}0");
        let mut request = with_header("x-user-id", &elsewhere);
        request.headers_mut().insert(header::COOKIE, format!("sid={cookie}").parse().unwrap());
        let answer = send(&service, request).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some(&*home), None), "the cookie wins");
        let mut request = with_header("x-sticky", &header);
        request.headers_mut().insert("x-user-id", elsewhere.parse().unwrap());
        let answer = send(&service, request).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some(&*home), None), "then the header");
        assert_eq!(
            (answer.token(), header_token(&answer)),
            (None, None),
            "a good pin, nothing to write"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn parallel_first_requests_of_a_user_agree() {
    let (backends, nodes) = nodes(["a", "b", "c"]);
    let service = layer(&backends, three_members()).into_service();
    for node in &nodes {
        node.hold_responses();
    }
    let requests: Vec<_> = (0..6)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, with_header("x-user-id", "42")).await.body })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for node in &nodes {
        node.release_responses();
    }
    let mut homes = Vec::new();
    for request in requests {
        homes.push(request.await.unwrap());
    }
    homes.dedup();
    assert_eq!(homes.len(), 1, "six slow first requests share one backend: {homes:?}");
}

#[tokio::test]
async fn every_token_of_a_chain_is_removed_from_the_request() {
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, three_members()).into_service();
    let first = send(&service, get()).await;
    let mut request = with_header("x-sticky", &header_token(&first).unwrap());
    let cookie = format!("x=1; sid={}", first.token().unwrap());
    request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
    assert_eq!(send(&service, request).await.decision().0, Verdict::Pinned);
    assert_eq!(a.control.cookies.lock().unwrap().last().unwrap(), "x=1");
}

#[tokio::test(start_paused = true)]
async fn a_missing_token_is_not_added_when_the_request_has_waited() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).into_service();
    b.control.set_busy(true);
    let waiting = spawn(&service, with_header("x-sticky", "b"));
    after(50).await;
    b.control.set_busy(false);
    let answer = waiting.await.unwrap();
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None));
    assert!(answer.outcome.as_ref().unwrap().waited().is_some(), "it has waited");
    assert_eq!(answer.token(), None);
}
