//! A chain of two tokens and a key: which of them decides, and which are rewritten.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::header;
use tower_sticky::{
    Reason, Rebalance, SessionAction, SessionInfo, Verdict,
    affinity::{Chain, Cookie, Header, Key},
};

use crate::support::{
    Node, after, get, header_token, keys, layer, nodes, send, spawn, with_cookie, with_header,
};

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

/// The `Cookie` header that the backend received last, and whether it received `x-sticky`.
fn received(node: &Node) -> (String, bool) {
    let headers = node.control.headers.lock().unwrap().pop().unwrap();
    let cookie = headers[header::COOKIE].to_str().unwrap().to_owned();
    (cookie, headers.contains_key("x-sticky"))
}

#[tokio::test]
async fn tokens_that_do_not_decide_are_removed_from_the_request() {
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, three_members()).into_service();
    for user in [None, Some("7")] {
        let mut request = with_cookie("x=1; sid=bad");
        request.headers_mut().insert("x-sticky", "bad".parse().unwrap());
        if let Some(user) = user {
            request.headers_mut().insert("x-user-id", user.parse().unwrap());
        }
        assert_eq!(send(&service, request).await.decision().0, Verdict::Assigned);
        assert_eq!(received(&a), ("x=1".to_owned(), false), "{user:?}");
    }
    let chain = Chain::of(Cookie::plain("sid").forward(true)).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).into_service();
    let mut request = with_cookie("sid=a");
    request.headers_mut().insert("x-sticky", "a".parse().unwrap());
    let answer = send(&service, request).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(received(&a), ("sid=a".to_owned(), false), "behind one that is forwarded");
}

#[tokio::test]
async fn all_tokens_of_a_client_are_of_one_session() {
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, three_members()).session_headers(true).into_service();
    let told = || {
        let headers = a.control.headers.lock().unwrap().pop().unwrap();
        SessionInfo::from_headers(&headers).unwrap().id()
    };
    let first = send(&service, get()).await;
    let id = told();
    assert!(id.is_some(), "it is told with the first request");
    send(&service, with_cookie(&format!("sid={}", first.token().unwrap()))).await;
    assert_eq!(told(), id, "by the cookie");
    send(&service, with_header("x-sticky", &header_token(&first).unwrap())).await;
    assert_eq!(told(), id, "by the header");
    send(&service, get()).await;
    assert_ne!(told(), id, "another client has another session");
}

#[tokio::test]
async fn of_two_cookies_only_those_with_the_path_of_the_request_are_set() {
    let (backends, _nodes) = nodes(["a"]);
    let shop = Cookie::sealed("shop", keys()).path("/shop");
    let chain = Chain::of(shop).or(Cookie::sealed("sid", keys()));
    let service = layer(&backends, chain).into_service();
    for (path, cookies) in [("/", 1), ("/shop/cart", 2)] {
        let mut request = get();
        *request.uri_mut() = path.parse().unwrap();
        let answer = send(&service, request).await;
        assert!(answer.token().is_some(), "{path}");
        assert_eq!(answer.set_cookies().len(), cookies, "{path}: {:?}", answer.set_cookies());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_sent_back_is_refreshed_where_its_pin_came_from() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = layer(&backends, three_members()).into_service();
    let first = send(&service, get()).await;
    assert_eq!(first.body, "a");
    let mut request = with_cookie(&format!("sid={}", first.token().unwrap()));
    request.headers_mut().insert("x-sticky", header_token(&first).unwrap().parse().unwrap());
    backends.remove("a").unwrap();
    b.hold_responses();
    let sent = spawn(&service, request);
    after(50).await;
    backends.insert("a", a).unwrap();
    *b.control.action.lock().unwrap() = Some(SessionAction::Move("a".parse().unwrap()));
    b.release_responses();
    let answer = sent.await.unwrap();
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("b"), Some(Reason::Unknown)));
    assert!(answer.token().is_some(), "the cookie was read first");
    assert_eq!(header_token(&answer), None);
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

#[tokio::test(start_paused = true)]
async fn a_session_of_a_plain_token_gets_an_id_when_it_moves() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let chain = Chain::of(Cookie::plain("sid")).or(Header::sealed("x-sticky", keys()));
    let service = layer(&backends, chain).session_headers(true).into_service();
    a.control.refuses.store(true, SeqCst);
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!((answer.decision().0, answer.decision().1), (Verdict::Moved, Some("b")));
    let token = header_token(&answer).expect("both tokens are written");
    let answer = send(&service, with_header("x-sticky", &token)).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None));
    let told = b.control.headers.lock().unwrap().pop().unwrap();
    assert!(SessionInfo::from_headers(&told).unwrap().id().is_some());
}

#[tokio::test]
async fn a_rejected_token_is_replaced_wherever_it_stands_before_the_valid_one() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let chain = Chain::of(Cookie::sealed("sid", keys()))
        .or(Header::sealed("x-sticky", keys()))
        .or(Header::sealed("x-valid", keys()));
    let service = layer(&backends, chain).into_service();
    let first = send(&service, get()).await;
    let mut request = with_header("x-sticky", "bad");
    request.headers_mut().insert("x-valid", first.headers["x-valid"].clone());
    let answer = send(&service, request).await;
    assert_eq!((answer.decision().0, &*answer.body), (Verdict::Pinned, &*first.body));
    assert_eq!(answer.token(), None, "a missing one is not added");
    assert!(header_token(&answer).is_some());
    assert!(!answer.headers.contains_key("x-valid"), "and the valid one stays");
}

#[tokio::test]
async fn a_chain_without_sealed_tokens_cannot_tell_idle_sessions() {
    let (backends, _nodes) = nodes(["a"]);
    let plain = Chain::of(Cookie::plain("sid")).or(Header::plain("x-sticky"));
    assert!(layer(&backends, plain.clone()).rebalance(Rebalance::new()).is_err());
    let mixed = plain.or(Header::sealed("x-sealed", keys()));
    assert!(layer(&backends, mixed).rebalance(Rebalance::new()).is_ok());
}

#[tokio::test]
async fn a_session_that_ends_loses_all_of_its_tokens() {
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, three_members()).into_service();
    let first = send(&service, get()).await;
    assert!(first.token().is_some() && header_token(&first).is_some());
    *a.control.action.lock().unwrap() = Some(SessionAction::End);
    let request = with_cookie(&format!("sid={}", first.token().unwrap()));
    let answer = send(&service, request).await;
    assert!(answer.set_cookies()[0].contains("Max-Age=0"), "{:?}", answer.set_cookies());
    assert_eq!(header_token(&answer).as_deref(), Some(""));
}
