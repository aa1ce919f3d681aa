//! A chain uses its first member for which the request carries a usable pin or key.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::Request;
use tower_sticky::{
    Backends, Failover, Key as Secret, Mode, Reason, SessionAction, StickyLayer, StickyService,
    Verdict,
    affinity::{Chain, Cookie, Envelope, Header, Key, Learned, Table},
};

use crate::support::{Body, Clock, Node, get, keys, layer, nodes, send, with_cookie};

pub fn cookie() -> Cookie {
    Cookie::sealed("sid", keys())
}

fn key_first() -> Chain {
    Chain::of(Key::header("user")).or(cookie())
}

/// A request of `user`, with the cookie `sid` if there is one.
pub fn of(user: &str, token: Option<&str>) -> Request<Body> {
    let mut request = token.map_or_else(get, |token| with_cookie(&format!("sid={token}")));
    request.headers_mut().insert("user", user.parse().unwrap());
    request
}

/// A token for a session on each of the backends, and a user whose key chooses each.
pub async fn sessions<const N: usize>(backends: &Backends<Node>) -> [(String, String); N] {
    let cookies = layer(backends, cookie()).into_service();
    let users = layer(backends, Key::header("user")).into_service();
    let names = ["a", "b", "c"];
    let mut found = std::array::from_fn(|_| (String::new(), String::new()));
    for user in 0..60 {
        let answer = send(&cookies, get()).await;
        let place = |name: &str| names.iter().position(|one| *one == name).unwrap();
        found[place(&answer.body)].0 = answer.token().unwrap();
        let home = send(&users, of(&user.to_string(), None)).await.body;
        found[place(&home)].1 = user.to_string();
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_key_before_a_cookie_decides_and_writes_nothing() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let [(on_a, _), (_, user_b), _] = sessions::<3>(&backends).await;
    let service = layer(&backends, key_first()).into_service();
    for token in [Some(&*on_a), Some("bad"), None] {
        let answer = send(&service, of(&user_b, token)).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None), "{token:?}");
        assert_eq!(answer.set_cookies(), [""; 0], "nothing is written: {token:?}");
    }
    let answer = send(&service, with_cookie(&format!("sid={on_a}"))).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "without the key the cookie");
    assert!(send(&service, get()).await.token().is_some(), "without both a session begins");
    assert_eq!(backends.snapshot().stats.moves(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deciding_key_does_not_refresh_later_tokens() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let hour = Duration::from_secs(3600);
    let chain = Chain::of(Key::header("user")).or(cookie().idle_timeout(hour));
    let service = layer(&backends, chain).clock(clock.clone()).into_service();
    let token = send(&service, get()).await.token().unwrap();
    clock.advance(1800);
    assert_eq!(send(&service, of("1", Some(&token))).await.token(), None, "due, and not touched");
    let alone = send(&service, with_cookie(&format!("sid={token}"))).await;
    assert!(alone.token().is_some(), "by itself it is refreshed");
}

#[tokio::test(start_paused = true)]
async fn a_cookie_before_a_key_decides_and_is_issued_for_the_key() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let [(on_a, _), (_, user_b), _] = sessions::<3>(&backends).await;
    let chain = Chain::of(cookie()).or(Key::header("user")).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).into_service();
    let answer = send(&service, of(&user_b, Some(&on_a))).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    for (token, reason) in [(None, None), (Some("bad"), Some(Reason::Malformed))] {
        let answer = send(&service, of(&user_b, token)).await;
        assert_eq!(answer.decision(), (Verdict::Assigned, Some("b"), reason), "where the key says");
        let token = answer.token().expect("what is before the key is written");
        assert!(!answer.headers.contains_key("x-sticky"), "and what is behind it is not");
        let next = send(&service, of("somebody else", Some(&token))).await;
        assert_eq!(next.decision(), (Verdict::Pinned, Some("b"), None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_of_a_removed_backend_follows_the_key() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let [(on_a, _), ..] = sessions::<3>(&backends).await;
    backends.remove("a").unwrap();
    let users = layer(&backends, Key::header("user")).into_service();
    let chain = Chain::of(cookie()).or(Key::header("user"));
    let service = layer(&backends, chain).into_service();
    for user in 0..12 {
        let home = send(&users, of(&user.to_string(), None)).await.body;
        let answer = send(&service, of(&user.to_string(), Some(&on_a))).await;
        assert_eq!(answer.decision(), (Verdict::Assigned, Some(&*home), Some(Reason::Unknown)));
        assert!(answer.token().is_some(), "it is replaced");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_of_a_removed_backend_follows_the_next_member_while_the_owner_is_unavailable() {
    let (backends, [_a, b, _c, _d]) = nodes(["a", "b", "c", "d"]);
    let begun = send(&layer(&backends, cookie()).into_service(), get()).await;
    assert_eq!(begun.body, "a");
    let token = begun.token().unwrap();
    backends.remove("a").unwrap();
    let users = layer(&backends, Key::header("user")).into_service();
    let mut user = 0;
    while send(&users, of(&user.to_string(), None)).await.body != "b" {
        user += 1;
    }
    b.control.refuses.store(true, SeqCst);
    assert_ne!(send(&users, of(&user.to_string(), None)).await.body, "b", "now it is known");
    let chain = Chain::of(cookie()).or(Key::header("user")).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).into_service();
    for next in ["c", "d"] {
        let mut request = of(&user.to_string(), Some(&token));
        request.headers_mut().insert("x-sticky", next.parse().unwrap());
        let answer = send(&service, request).await;
        assert_eq!(answer.decision(), (Verdict::Assigned, Some(next), Some(Reason::Unknown)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_member_decides_while_the_owner_is_unavailable() {
    let (backends, [_a, b, _c]) = nodes(["a", "b", "c"]);
    let found = sessions::<3>(&backends).await;
    let user_b = &found[1].1;
    let service = layer(&backends, key_first()).into_service();
    let borrowed = async |service: &StickyService<Node>, why: &str| {
        for (home, (token, _)) in ["a", "c"].into_iter().zip([&found[0], &found[2]]) {
            let answer = send(service, of(user_b, Some(token))).await;
            assert_eq!(answer.decision().0, Verdict::Borrowed, "{why}");
            assert_eq!(answer.body, home, "where the cookie says: {why}");
            assert_eq!(answer.token(), None, "{why}");
        }
    };
    b.control.refuses.store(true, SeqCst);
    borrowed(&service, "it refuses").await;
    borrowed(&service, "it is known to refuse").await;
    let by_rank = send(&service, of(user_b, None)).await;
    assert_eq!((by_rank.decision().0, by_rank.token()), (Verdict::Borrowed, None), "then the rank");
    assert_eq!(send(&service, of(user_b, Some(&found[1].0))).await.body, by_rank.body, "also out");
    b.control.refuses.store(false, SeqCst);
    for (control, why) in
        [(&b.control.readiness_fails, "it fails"), (&b.control.busy, "it is busy")]
    {
        control.store(true, SeqCst);
        borrowed(&service, why).await;
        control.store(false, SeqCst);
    }
    b.control.set_busy(false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let back = send(&service, of(user_b, Some(&found[0].0))).await;
    assert_eq!(back.decision(), (Verdict::Pinned, Some("b"), None), "it has returned");
    backends.set_mode("a", Mode::Draining).unwrap();
    b.control.refuses.store(true, SeqCst);
    borrowed(&service, "a drain keeps its sessions").await;
    let rejects = layer(&backends, key_first()).on_unavailable(Failover::Reject).into_service();
    assert_eq!(
        send(&rejects, of(user_b, Some(&found[0].0))).await.status,
        503,
        "no other backend serves it"
    );
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_second_key_decides_while_the_owner_of_the_first_is_unavailable() {
    let (backends, [_a, b, _c]) = nodes(["a", "b", "c"]);
    let found = sessions::<3>(&backends).await;
    let user_b = &found[1].1;
    let chain = || Chain::of(Key::header("user")).or(Key::header("room"));
    let remembered = Chain::of(Header::plain("x-sticky")).or(chain());
    b.control.refuses.store(true, SeqCst);
    for (affinity, verdict) in [(chain(), Verdict::Borrowed), (remembered, Verdict::Assigned)] {
        let service = layer(&backends, affinity).into_service();
        for (home, (_, room)) in ["a", "c"].into_iter().zip([&found[0], &found[2]]) {
            for _ in 0..2 {
                let mut request = of(user_b, None);
                request.headers_mut().insert("room", room.parse().unwrap());
                let answer = send(&service, request).await;
                assert_eq!((answer.decision().0, &*answer.body), (verdict, home));
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_placed_by_rank_beside_a_key_with_a_table() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d"]);
    let by_table = || Key::header("user").maglev(Table::Small);
    let secret = Secret::from_bytes((0..32).collect::<Vec<u8>>()).unwrap();
    let learned = || Learned::cookie("id").secret(secret.clone());
    let ids = layer(&backends, learned()).into_service();
    let chain = layer(&backends, Chain::of(by_table()).or(learned())).into_service();
    for id in 0..12 {
        let request = || with_cookie(&format!("id={id}"));
        let home = send(&ids, request()).await.body;
        assert_eq!(send(&chain, request()).await.body, home, "an id that is new to the gateway");
    }
    let cookies = layer(&backends, cookie()).into_service();
    let mut on_a = Vec::new();
    for _ in 0..48 {
        let answer = send(&cookies, get()).await;
        on_a.extend(answer.token().filter(|_| answer.body == "a"));
    }
    assert_eq!(on_a.len(), 12);
    backends.remove("a").unwrap();
    let chain = layer(&backends, Chain::of(cookie()).or(by_table())).into_service();
    for token in on_a {
        let request = || with_cookie(&format!("sid={token}"));
        let home = send(&cookies, request()).await.body;
        assert_eq!(send(&chain, request()).await.body, home, "its backend has left the pool");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_by_key_do_not_delay_a_drain() {
    let (backends, _nodes) = nodes(["a"]);
    let service = layer(&backends, key_first()).into_service();
    // Sessions from before the start of this process would have been seen by now.
    tokio::time::sleep(Duration::from_secs(31 * 60)).await;
    send(&service, of("1", None)).await;
    let drained = tokio::time::timeout(Duration::from_secs(5), backends.drain("a")).await;
    assert!(drained.is_ok(), "the session has no stored pin");
}

#[tokio::test(start_paused = true)]
async fn the_application_may_pin_a_session_that_came_by_a_key() {
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, key_first()).into_service();
    *a.control.action.lock().unwrap() = Some(SessionAction::Pin);
    assert!(send(&service, of("1", None)).await.token().is_some(), "it says so");
}

#[test]
fn a_chain_uses_each_carrier_once() {
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(Cookie::plain("sid"));
    let error = StickyLayer::try_new(Backends::<Node>::new(), chain).unwrap_err().to_string();
    assert!(error.contains("\"sid\""), "{error}");
    let headers = Chain::of(Header::plain("X-Sticky")).or(Header::plain("x-sticky"));
    assert!(StickyLayer::try_new(Backends::<Node>::new(), headers).is_err());
    let envelopes = Chain::of(Envelope::cookie("sid", keys())).or(Cookie::plain("sid"));
    let error = StickyLayer::try_new(Backends::<Node>::new(), envelopes).unwrap_err().to_string();
    assert!(error.contains("the cookie \"sid\""), "{error}");
    let headers = Chain::of(Envelope::header("X-Sticky", keys())).or(Header::plain("x-sticky"));
    let error = StickyLayer::try_new(Backends::<Node>::new(), headers).unwrap_err().to_string();
    assert!(error.contains("the header \"x-sticky\""), "{error}");
    let all = Chain::of(Header::plain("sid"))
        .or(Cookie::plain("sid"))
        .or(Envelope::header("one", keys()))
        .or(Envelope::cookie("two", keys()));
    assert!(StickyLayer::try_new(Backends::<Node>::new(), all).is_ok());
}

#[tokio::test]
async fn a_bad_token_is_replaced_when_another_member_has_a_good_one() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).into_service();
    let mut request = with_cookie("sid=bad");
    request.headers_mut().insert("x-sticky", "b".parse().unwrap());
    let answer = send(&service, request).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None));
    let token = answer.token().expect("the bad one is replaced");
    let answer = send(&service, with_cookie(&format!("sid={token}"))).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None), "by one that is as good");
    let mut request = get();
    request.headers_mut().insert("x-sticky", "b".parse().unwrap());
    assert_eq!(send(&service, request).await.token(), None, "a missing one is not added");
}

#[tokio::test(start_paused = true)]
async fn a_new_session_does_not_follow_the_next_member_to_a_draining_backend() {
    let (backends, [_a, b, _c]) = nodes(["a", "b", "c"]);
    let [_, (_, user_b), _] = sessions::<3>(&backends).await;
    let chain = Chain::of(cookie()).or(Key::header("user")).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).into_service();
    let request = || {
        let mut request = of(&user_b, None);
        request.headers_mut().insert("x-sticky", "a".parse().unwrap());
        request
    };
    b.control.refuses.store(true, SeqCst);
    assert_eq!(send(&service, request()).await.body, "a", "where the next member says");
    backends.set_mode("a", Mode::Draining).unwrap();
    for _ in 0..2 {
        let answer = send(&service, request()).await;
        assert_eq!((answer.decision().0, &*answer.body), (Verdict::Assigned, "c"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_without_an_owner_writes_nothing() {
    let (backends, _nodes) = nodes(["a"]);
    let cookies = layer(&backends, cookie()).into_service();
    let token = send(&cookies, get()).await.token().unwrap();
    let service = layer(&backends, key_first()).into_service();
    backends.set_mode("a", Mode::Draining).unwrap();
    let answer = send(&service, of("1", Some(&token))).await;
    assert_eq!((&*answer.body, answer.token()), ("a", None), "where the cookie says");
}
