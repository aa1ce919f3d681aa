//! The envelope: what the application and the client see, and which backend serves the session.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use tower_sticky::{
    Backends, Key, KeyRing, NoInner, Preference, Reason, StickyLayer, StickyService, Verdict,
    affinity::{Affinity, Envelope},
    strategy::RoundRobin,
};

use crate::support::{Answer, Clock, Node, get, keys, nodes, send, with_cookie};

pub fn layer(backends: &Backends<Node>, affinity: impl Affinity) -> StickyLayer<Node> {
    StickyLayer::new(backends.clone(), affinity)
        .strategy(RoundRobin::new())
        .outcome_extensions(true)
}

pub type Sticky = StickyService<Node, NoInner>;

pub fn service(backends: &Backends<Node>) -> Sticky {
    layer(backends, Envelope::cookie("JSESSIONID", keys())).into_service()
}

pub fn set(node: &Node, fields: &[&str]) {
    let fields = fields.iter().map(|field| ("set-cookie", (*field).to_owned()));
    *node.control.response_headers.lock().unwrap() = fields.collect();
}

/// The last cookie that the backend received.
pub fn seen(node: &Node) -> String {
    node.control.cookies.lock().unwrap().pop().expect("it had a request")
}

/// The cookie pair to send back.
pub fn pair(answer: &Answer) -> String {
    let field = answer.set_cookies().into_iter().find(|field| field.starts_with("JSESSIONID="));
    field.expect("the cookie is set").split(';').next().unwrap().to_owned()
}

fn is_wrapped(pair: &str) -> bool {
    pair.starts_with("JSESSIONID=ts2~")
}

/// Begins a session on the node, which sets `field`, and returns the cookie pair.
pub async fn begin(service: &Sticky, node: &Node, field: &str) -> String {
    set(node, &[field]);
    // Round robin reaches this node after some requests.
    for _ in 0..100 {
        let answer = send(service, get()).await;
        if answer.decision().1 == Some(node.name) {
            set(node, &[]);
            return pair(&answer);
        }
    }
    panic!("{} never had its turn", node.name);
}

#[tokio::test]
async fn the_application_sees_its_id_and_the_client_an_opaque_value() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = service(&backends);
    set(
        &a,
        &["x=1", " JSESSIONID = 0123ABC ; Path=/shop;HttpOnly; Max-Age=60 ; Odd", "y=2; Path=/"],
    );
    let answer = send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("a"), None));
    let fields = answer.set_cookies();
    assert_eq!((fields[0], fields[2]), ("x=1", "y=2; Path=/"), "others stay");
    let (before, rest) = fields[1].split_once("ts2~").unwrap();
    assert_eq!(before, " JSESSIONID = ");
    assert!(rest.ends_with(" ; Path=/shop;HttpOnly; Max-Age=60 ; Odd"), "byte for byte: {rest}");
    assert!(!fields[1].contains("0123ABC"), "the id is not shown");
    assert_eq!(answer.headers["cache-control"], "private, no-cache=\"set-cookie\"");
    let value = rest.split(' ').next().unwrap();
    set(&a, &[]);
    for (cookie, at_backend) in [
        (format!("JSESSIONID=ts2~{value}"), "JSESSIONID=0123ABC"),
        (format!("x=1; JSESSIONID=ts2~{value}; y=\"2\""), "x=1; JSESSIONID=0123ABC; y=\"2\""),
        (format!("x=1;JSESSIONID =\"ts2~{value}\" ;y"), "x=1;JSESSIONID =0123ABC ;y"),
    ] {
        for _ in 0..3 {
            let answer = send(&service, with_cookie(&cookie)).await;
            assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
            assert_eq!(seen(&a), at_backend);
            assert!(answer.set_cookies().is_empty(), "nothing is due");
            assert!(!answer.headers.contains_key("cache-control"));
        }
    }
    assert_eq!(b.served(), 0);
}

#[tokio::test]
async fn quotes_around_an_id_are_part_of_it() {
    let (backends, [a]) = nodes(["a"]);
    let service = service(&backends);
    let pair = begin(&service, &a, "JSESSIONID=\"q\"; Path=/").await;
    assert!(is_wrapped(&pair) && !pair.contains('"'), "{pair}");
    send(&service, with_cookie(&pair)).await;
    assert_eq!(seen(&a), "JSESSIONID=\"q\"");
}

#[tokio::test]
async fn no_session_begins_before_the_application_sets_an_id() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = service(&backends);
    for expected in ["a", "b", "a"] {
        let answer = send(&service, get()).await;
        assert_eq!(answer.decision(), (Verdict::Assigned, Some(expected), None));
        assert!(answer.set_cookies().is_empty());
        assert!(!answer.headers.contains_key("cache-control"));
    }
    assert_eq!(backends.snapshot().stats.tokens_issued(), 0);
}

#[tokio::test]
async fn removals_by_the_application_are_not_wrapped() {
    let (backends, [a]) = nodes(["a"]);
    let service = service(&backends);
    let session = begin(&service, &a, "JSESSIONID=1").await;
    for removal in [
        "JSESSIONID=; Path=/",
        "JSESSIONID=gone; Max-Age=0; Path=/",
        "JSESSIONID=gone; Max-Age=-1",
        "JSESSIONID=deleted; expires=Wed, 01-Jan-2020 00:00:01 GMT; path=/",
    ] {
        set(&a, &[removal]);
        for request in [get(), with_cookie(&session)] {
            let answer = send(&service, request).await;
            assert_eq!(answer.set_cookies(), [removal]);
            assert!(!answer.headers.contains_key("cache-control"), "it has no cookie of the layer");
        }
    }
}

#[tokio::test]
async fn a_new_id_is_wrapped_with_the_answering_backend() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = service(&backends);
    let before = begin(&service, &a, "JSESSIONID=guest").await;
    // The login sets a new id on another backend, because the pinned one is down.
    a.control.refuses.store(true, SeqCst);
    set(&b, &["JSESSIONID=user; Path=/"]);
    let answer = send(&service, with_cookie(&before)).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::ConnectFailed)));
    assert_eq!(answer.set_cookies().len(), 1, "one field: {:?}", answer.set_cookies());
    set(&b, &[]);
    let after = pair(&answer);
    assert_eq!(send(&service, with_cookie(&after)).await.decision().1, Some("b"));
    assert_eq!(seen(&b), "JSESSIONID=user");
}

#[tokio::test]
async fn a_moved_session_is_wrapped_again_without_the_application() {
    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    let clock = Clock::new();
    let envelope = Envelope::cookie("JSESSIONID", keys());
    let service = layer(&backends, envelope).clock(clock.clone()).into_service();
    let field = "JSESSIONID=42; Path=/shop; Secure; HttpOnly; Max-Age=3600; SameSite=Lax";
    let session = begin(&service, &a, field).await;
    clock.advance(600);
    a.control.refuses.store(true, SeqCst);
    let answer = send(&service, with_cookie(&session)).await;
    let (verdict, to, reason) = answer.decision();
    assert_eq!((verdict, reason), (Verdict::Moved, Some(Reason::ConnectFailed)));
    let to = if to == Some("b") { &b } else { &c };
    assert_eq!(seen(to), "JSESSIONID=42", "the new one gets the id");
    let moved = answer.set_cookies()[0];
    assert!(
        moved.ends_with("; Path=/shop; Secure; HttpOnly; SameSite=Lax; Max-Age=3000"),
        "what is left of its time: {moved}"
    );
    assert_eq!(answer.headers["cache-control"], "private, no-cache=\"set-cookie\"");
    a.control.refuses.store(false, SeqCst);
    let moved = pair(&answer);
    for _ in 0..3 {
        assert_eq!(
            send(&service, with_cookie(&moved)).await.decision(),
            (Verdict::Pinned, Some(to.name), None),
            "it stays where it is"
        );
    }
    assert_eq!(backends.snapshot().stats.moves(), 1);
}

#[tokio::test]
async fn parallel_requests_of_a_session_that_moves_agree() {
    let (backends, [a, _, _, _]) = nodes(["a", "b", "c", "d"]);
    let service = service(&backends);
    let session = begin(&service, &a, "JSESSIONID=42").await;
    a.control.refuses.store(true, SeqCst);
    let mut all = std::collections::HashSet::new();
    for _ in 0..10 {
        all.insert(send(&service, with_cookie(&session)).await.body);
    }
    assert_eq!(all.len(), 1, "{all:?}");
}

#[tokio::test]
async fn an_id_of_a_removed_backend_continues_elsewhere() {
    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    let service = service(&backends);
    let session = begin(&service, &a, "JSESSIONID=42; Path=/").await;
    backends.remove("a").unwrap();
    let answer = send(&service, with_cookie(&session)).await;
    let (verdict, to, reason) = answer.decision();
    assert_eq!((verdict, reason), (Verdict::Assigned, Some(Reason::Unknown)));
    let to = if to == Some("b") { &b } else { &c };
    assert_eq!(seen(to), "JSESSIONID=42");
    let again = pair(&answer);
    assert!(is_wrapped(&again));
    assert_eq!(send(&service, with_cookie(&again)).await.decision().1, Some(to.name));
    for _ in 0..5 {
        assert_eq!(
            send(&service, with_cookie(&session)).await.decision().1,
            Some(to.name),
            "by rank"
        );
    }
}

#[tokio::test]
async fn unusable_envelopes_are_removed_and_have_distinct_reasons() {
    let (backends, [a]) = nodes(["a"]);
    let clock = Clock::new();
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let envelope = |keys| {
        Envelope::cookie("JSESSIONID", keys).idle_timeout(minutes(20)).absolute_timeout(minutes(60))
    };
    let service = layer(&backends, envelope(keys())).clock(clock.clone()).into_service();
    let foreign = layer(&backends, envelope(KeyRing::generate().unwrap()))
        .clock(clock.clone())
        .into_service();
    let foreign = begin(&foreign, &a, "JSESSIONID=1").await;
    let other_name = layer(&backends, Envelope::cookie("sid", keys())).into_service();
    set(&a, &["sid=1"]);
    let other_name = send(&other_name, get()).await.set_cookies()[0].replace("sid=", "JSESSIONID=");
    let good = begin(&service, &a, "JSESSIONID=1").await;
    let check = async |cookie: &str, reason: Option<Reason>, at_backend: &str| {
        let answer = send(&service, with_cookie(cookie)).await;
        assert_eq!(answer.decision().2, reason, "{cookie}");
        assert_eq!(seen(&a), at_backend, "{cookie}");
        let pinned = answer.decision().0 == Verdict::Pinned;
        assert_eq!(pinned, at_backend.contains("JSESSIONID=1"), "{cookie}");
    };
    check(&foreign, Some(Reason::Forged), "").await;
    check(&other_name, Some(Reason::Forged), "").await;
    let (mut flipped, middle) = (good.clone(), good.len() / 2);
    let other = if &good[middle..=middle] == "A" { "B" } else { "A" };
    flipped.replace_range(middle..=middle, other);
    check(&flipped, Some(Reason::Forged), "").await;
    check("JSESSIONID=ts2~", Some(Reason::Malformed), "").await;
    check("JSESSIONID=ts9~abc; x=1", Some(Reason::Malformed), "x=1").await;
    check(&format!("{foreign}; {good}; x=1"), None, "JSESSIONID=1; x=1").await;
    check(&format!("{good}; {foreign}; {good}"), None, "JSESSIONID=1").await;
    check("JSESSIONID=old", None, "JSESSIONID=old").await;
    check(&format!("JSESSIONID=old; {good}"), None, "JSESSIONID=old; JSESSIONID=1").await;
    check(&format!("JSESSIONID=old;{foreign}"), Some(Reason::Forged), "JSESSIONID=old").await;
    clock.advance(20 * 60);
    check(&format!("{good}; x=1"), Some(Reason::ExpiredIdle), "x=1").await;
    clock.advance(60 * 60);
    check(&good, Some(Reason::ExpiredAbsolute), "").await;
    clock.advance(-3 * 60 * 60);
    check(&good, Some(Reason::Malformed), "").await;
}

#[tokio::test]
async fn an_envelope_is_refreshed_when_due() {
    let (backends, [a]) = nodes(["a"]);
    let clock = Clock::new();
    let ring = KeyRing::new([Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap()]).unwrap();
    let envelope = Envelope::cookie("JSESSIONID", ring.clone())
        .idle_timeout(Duration::from_secs(1200))
        .absolute_timeout(Duration::from_secs(3600));
    let service = layer(&backends, envelope).clock(clock.clone()).into_service();
    let mut session = begin(&service, &a, "JSESSIONID=1; Path=/; HttpOnly").await;
    clock.advance(299);
    assert!(send(&service, with_cookie(&session)).await.set_cookies().is_empty());
    for _ in 0..5 {
        clock.advance(600);
        let answer = send(&service, with_cookie(&session)).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
        assert!(answer.set_cookies()[0].ends_with("; Path=/; HttpOnly"), "still a session cookie");
        assert_eq!(seen(&a), "JSESSIONID=1");
        session = pair(&answer);
    }
    clock.advance(600);
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(answer.decision().2, Some(Reason::ExpiredAbsolute), "the first date never changes");

    let session = begin(&service, &a, "JSESSIONID=2").await;
    let old = Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap();
    ring.set([Key::generate().unwrap(), old]).unwrap();
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(answer.decision().0, Verdict::Pinned);
    assert_ne!(pair(&answer), session, "sealed again under the first key");
    let answer = send(&service, with_cookie(&pair(&answer))).await;
    assert!(answer.set_cookies().is_empty(), "once");
}

#[tokio::test]
async fn setting_the_same_id_again_continues_the_session() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let clock = Clock::new();
    let envelope =
        Envelope::cookie("JSESSIONID", keys()).absolute_timeout(Duration::from_secs(1000));
    let service = layer(&backends, envelope).clock(clock.clone()).into_service();
    let session = begin(&service, &a, "JSESSIONID=1; Path=/").await;
    set(&a, &["JSESSIONID=1; Path=/; Max-Age=60"]);
    clock.advance(900);
    let answer = send(&service, with_cookie(&session)).await;
    let again = pair(&answer);
    assert!(is_wrapped(&again) && answer.set_cookies()[0].ends_with("; Path=/; Max-Age=60"));
    clock.advance(100);
    let answer = send(&service, with_cookie(&again)).await;
    assert_eq!(answer.decision().2, Some(Reason::ExpiredAbsolute), "since it first was set");
}

#[tokio::test]
async fn end_deletes_the_cookie_with_its_path_and_domain() {
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, Envelope::cookie("JSESSIONID", keys()))
        .application_header("x-sticky-action")
        .unwrap()
        .into_service();
    let session = begin(&service, &a, "JSESSIONID=1; Path=/shop; Domain=x.org; Max-Age=60").await;
    let end = ("x-sticky-action", "end".to_owned());
    *a.control.response_headers.lock().unwrap() = vec![end.clone()];
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(
        answer.set_cookies(),
        ["JSESSIONID=; Path=/shop; Domain=x.org; Max-Age=0"],
        "as it was set"
    );
    let answer = send(&service, get()).await;
    assert_eq!(answer.set_cookies(), ["JSESSIONID=; Path=/; Max-Age=0"], "nothing is known");
    let own = "JSESSIONID=; Path=/shop; Max-Age=0";
    *a.control.response_headers.lock().unwrap() = vec![end.clone(), ("set-cookie", own.to_owned())];
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(answer.set_cookies(), [own], "the application has done it");
    *a.control.response_headers.lock().unwrap() =
        vec![end, ("set-cookie", "JSESSIONID=2".to_owned())];
    let answer = send(&service, with_cookie(&session)).await;
    assert_eq!(answer.set_cookies(), ["JSESSIONID=; Path=/shop; Domain=x.org; Max-Age=0"]);
}

#[tokio::test]
async fn a_bypassed_request_still_carries_the_id() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = service(&backends);
    let session = begin(&service, &a, "JSESSIONID=1").await;
    let mut forced = with_cookie(&session);
    forced.extensions_mut().insert(Preference::backend("b").unwrap());
    set(&b, &["JSESSIONID=1; Path=/"]);
    let answer = send(&service, forced).await;
    assert_eq!(seen(&b), "JSESSIONID=1");
    let again = pair(&answer);
    assert!(is_wrapped(&again), "the client's envelope is not lost");
    let answer = send(&service, with_cookie(&again)).await;
    assert_eq!(answer.decision().1, Some("a"), "and its pin is as it was");
    let mut bypass = get();
    bypass.extensions_mut().insert(Preference::bypass());
    for node in [&a, &b] {
        set(node, &["JSESSIONID=3"]);
    }
    assert_eq!(send(&service, bypass).await.set_cookies(), ["JSESSIONID=3"], "begins nothing");
}

#[tokio::test]
async fn a_second_gateway_with_the_keys_opens_the_envelopes() {
    let (backends, [a, ..]) = nodes(["a", "b", "c"]);
    let others = ["c", "b", "a"].map(Node::new);
    let other = Backends::from_iter(others.iter().map(|node| (node.name, node.clone())));
    let (first, second) = (service(&backends), service(&other));
    let session = begin(&first, &a, "JSESSIONID=1").await;
    let answer = send(&second, with_cookie(&session)).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(seen(&others[2]), "JSESSIONID=1");
}

#[tokio::test]
async fn ids_that_are_too_long_are_not_wrapped() {
    let (backends, [a]) = nodes(["a"]);
    let service = service(&backends);
    let field = format!("JSESSIONID={}", "x".repeat(2049));
    set(&a, &[&field]);
    assert_eq!(send(&service, get()).await.set_cookies(), [&*field]);
    let session = begin(&service, &a, &field[..field.len() - 1]).await;
    assert!(session.len() < 2900, "a cookie that every browser keeps");
    send(&service, with_cookie(&session)).await;
    assert_eq!(seen(&a), field[..field.len() - 1]);
}
