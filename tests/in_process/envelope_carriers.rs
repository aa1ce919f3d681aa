//! The envelope in headers, in chains, and in arbitrary `Cookie` headers.

use std::sync::atomic::Ordering::SeqCst;

use http::{HeaderMap, Request};
use tower_sticky::{
    SessionAction, Verdict,
    affinity::{Chain, Cookie, Envelope},
};

use crate::{
    envelope::{begin, layer, pair, seen, service, set},
    support::{Body, Clock, Node, get, keys, nodes, send, with_cookie},
};

fn with_header(values: &[&str]) -> Request<Body> {
    let mut request = get();
    for value in values {
        request.headers_mut().append("mcp-session-id", value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn an_id_may_be_in_a_header() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let envelope = Envelope::header("Mcp-Session-Id", keys());
    let service =
        layer(&backends, envelope).application_header("x-sticky-action").unwrap().into_service();
    let say = |node: &Node, value: &str| {
        *node.control.response_headers.lock().unwrap() = vec![("mcp-session-id", value.to_owned())];
    };
    let heard = |node: &Node| {
        let headers: HeaderMap = node.control.headers.lock().unwrap().pop().unwrap();
        let values = headers.get_all("mcp-session-id").iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    say(&a, "id-1");
    let answer = send(&service, get()).await;
    let token = answer.headers["mcp-session-id"].to_str().unwrap().to_owned();
    assert!(token.starts_with("ts2~"));
    assert_eq!(answer.headers["cache-control"], "private, no-cache=\"mcp-session-id\"");
    a.control.response_headers.lock().unwrap().clear();
    for values in [&[&*token][..], &["ts2~bad", &token, &token], &[&token, "ts2~bad"]] {
        let answer = send(&service, with_header(values)).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
        assert_eq!(heard(&a), ["id-1"]);
        assert!(!answer.headers.contains_key("mcp-session-id"));
    }
    send(&service, with_header(&["raw", &token])).await;
    assert_eq!(heard(&a), ["raw", "id-1"], "what is no envelope passes");
    say(&a, "");
    let answer = send(&service, with_header(&[&token])).await;
    assert_eq!(answer.headers["mcp-session-id"], "", "an empty value passes");
    *a.control.response_headers.lock().unwrap() = vec![("x-sticky-action", "end".to_owned())];
    let answer = send(&service, with_header(&[&token])).await;
    assert_eq!(answer.headers["mcp-session-id"], "");
    a.control.refuses.store(true, SeqCst);
    let answer = send(&service, with_header(&[&token])).await;
    assert_eq!(answer.decision().0, Verdict::Moved);
    assert_eq!(heard(&b), ["id-1"]);
    let token = answer.headers["mcp-session-id"].to_str().unwrap().to_owned();
    a.control.refuses.store(false, SeqCst);
    assert_eq!(send(&service, with_header(&[&token])).await.decision().1, Some("b"));
}

#[tokio::test]
async fn in_a_chain_the_id_is_restored_behind_another_pin() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let envelope = Envelope::cookie("JSESSIONID", keys());
    let chain = Chain::of(Cookie::plain("sid")).or(envelope);
    let service = layer(&backends, chain).into_service();
    set(&a, &["JSESSIONID=1; Path=/"]);
    let answer = send(&service, get()).await;
    assert_eq!(answer.set_cookies().len(), 2, "both remember it: {:?}", answer.set_cookies());
    let session = pair(&answer);
    set(&a, &[]);
    let answer = send(&service, with_cookie(&format!("sid=a; {session}"))).await;
    assert_eq!(answer.decision().0, Verdict::Pinned);
    assert_eq!(seen(&a), "JSESSIONID=1");
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "by the envelope alone");
    a.control.refuses.store(true, SeqCst);
    let answer = send(&service, with_cookie(&format!("{session}; sid=a"))).await;
    assert_eq!(answer.decision().0, Verdict::Moved);
    assert_eq!(seen(&b), "JSESSIONID=1");
    a.control.refuses.store(false, SeqCst);
    let answer = send(&service, with_cookie(&pair(&answer))).await;
    assert_eq!(answer.decision().1, Some("b"), "the envelope moved as well");
}

#[tokio::test]
async fn an_envelope_that_moves_is_later_than_one_of_a_gateway_whose_clock_is_ahead() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let envelope = || Envelope::cookie("JSESSIONID", keys());
    let (clock, ahead) = (Clock::new(), Clock::new());
    ahead.advance(600);
    let by_envelope = layer(&backends, envelope()).clock(ahead).into_service();
    let old = begin(&by_envelope, &a, "JSESSIONID=1; Path=/").await;
    let chain = Chain::of(Cookie::plain("sid")).or(envelope());
    let service = layer(&backends, chain).clock(clock).into_service();
    a.control.refuses.store(true, SeqCst);
    let answer = send(&service, with_cookie(&format!("sid=a; {old}"))).await;
    assert_eq!(answer.decision().0, Verdict::Moved);
    a.control.refuses.store(false, SeqCst);
    let both = format!("{old}; {}", pair(&answer));
    let answer = send(&by_envelope, with_cookie(&both)).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None));
}

#[tokio::test]
async fn an_id_that_the_application_removes_is_not_set_again_by_a_move() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = service(&backends);
    let session = begin(&service, &a, "JSESSIONID=1; Path=/").await;
    a.control.refuses.store(true, SeqCst);
    let removal = "JSESSIONID=deleted; expires=Wed, 01-Jan-2020 00:00:01 GMT; path=/";
    set(&b, &[removal]);
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(answer.decision().0, Verdict::Moved);
    assert_eq!(answer.set_cookies(), [removal]);
}

#[tokio::test]
async fn a_cookie_whose_time_is_over_is_not_set_again_by_a_move() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let clock = Clock::new();
    let envelope = Envelope::cookie("JSESSIONID", keys());
    let service = layer(&backends, envelope).clock(clock.clone()).into_service();
    let session = begin(&service, &a, "JSESSIONID=1; Path=/; Max-Age=60").await;
    clock.advance(60);
    a.control.refuses.store(true, SeqCst);
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(answer.decision().0, Verdict::Moved);
    assert_eq!(seen(&b), "JSESSIONID=1", "the clock of its client is late");
    let set = answer.set_cookies();
    assert!(set.is_empty(), "neither removed nor kept for longer: {set:?}");
}

#[tokio::test]
async fn a_session_action_in_an_extension_is_applied() {
    let (backends, [a]) = nodes(["a"]);
    let service = service(&backends);
    let session = begin(&service, &a, "JSESSIONID=1; Path=/x").await;
    *a.control.action.lock().unwrap() = Some(SessionAction::End);
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(answer.set_cookies(), ["JSESSIONID=; Path=/x; Max-Age=0"]);
}

/// A deterministic random number generator.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) as usize) % sides
    }
}

#[tokio::test]
async fn only_the_value_is_replaced_in_any_cookie_header() {
    let (backends, [a]) = nodes(["a"]);
    let service = service(&backends);
    let mut dice = Dice(7);
    const PIECES: [&str; 12] = [
        "a=1",
        "",
        " ",
        "JSESSIONID",
        "XJSESSIONID=ts2~x",
        "jsessionid=ts2~y",
        "b=\"q;",
        "=",
        "c=JSESSIONID=ts2~z",
        "\t",
        "JSESSIONID2=2",
        "d=e=f",
    ];
    for _ in 0..300 {
        let id: String =
            (0..1 + dice.roll(40)).map(|_| (b'!' + dice.roll(90) as u8) as char).collect();
        let id = id.replace([';', '"', ','], "_");
        let session = begin(&service, &a, &format!("JSESSIONID={id}; Path=/")).await;
        let mut piece = |pieces: usize| -> Vec<&str> {
            (0..dice.roll(pieces)).map(|_| PIECES[dice.roll(PIECES.len())]).collect()
        };
        let (before, after) = (piece(5), piece(5));
        let whole = |pair: &str| {
            let all: Vec<_> =
                before.iter().copied().chain([pair]).chain(after.iter().copied()).collect();
            all.join(";")
        };
        seen(&a);
        let answer = send(&service, with_cookie(&whole(&session))).await;
        assert_eq!(answer.decision().0, Verdict::Pinned, "{:?}", whole("…"));
        assert_eq!(seen(&a), whole(&format!("JSESSIONID={id}")));
    }
}

#[tokio::test]
async fn an_id_with_an_end_in_the_future_is_wrapped() {
    let (backends, [a]) = nodes(["a"]);
    let service = service(&backends);
    set(&a, &["JSESSIONID=1; expires=Thu, 01-Jan-2099 00:00:00 GMT; path=/"]);
    let answer = send(&service, get()).await;
    assert!(answer.set_cookies()[0].starts_with("JSESSIONID=ts2~"), "{:?}", answer.set_cookies());
}
