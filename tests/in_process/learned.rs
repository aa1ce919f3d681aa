//! Learned ids: when a session is learned, where it goes, and when it expires.

use std::{collections::HashSet, sync::atomic::Ordering::SeqCst, time::Duration};

use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_sticky::{
    Backends, Key, KeyRing, NoInner, Outcome, Preference, Reason, SessionAction, StickyLayer,
    StickyService, Verdict,
    affinity::{Affinity, Chain, Cookie, Header, Learned},
    store::{MemoryStore, PinStore},
    strategy::RoundRobin,
};

use crate::support::{Body, Clock, Node, get, nodes, send, with_cookie};

pub const PINNED: (Verdict, Option<Reason>) = (Verdict::Pinned, None);
const UNKNOWN: (Verdict, Option<Reason>) = (Verdict::Assigned, None);

pub fn layer(backends: &Backends<Node>, affinity: impl Affinity) -> StickyLayer<Node> {
    StickyLayer::new(backends.clone(), affinity)
        .strategy(RoundRobin::new())
        .outcome_extensions(true)
}

pub type Sticky = StickyService<Node, NoInner>;

fn service(backends: &Backends<Node>) -> Sticky {
    layer(backends, Learned::cookie("JSESSIONID")).into_service()
}

/// The same with this store.
pub fn remembering(backends: &Backends<Node>, store: &(impl PinStore + Clone)) -> Sticky {
    layer(backends, Learned::cookie("JSESSIONID").store(store.clone())).into_service()
}

fn secret() -> Key {
    Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap()
}

pub fn set(node: &Node, field: &str) {
    *node.control.response_headers.lock().unwrap() = vec![("set-cookie", field.to_owned())];
}

/// Begins a session with this id on the node.
pub async fn begin(service: &Sticky, node: &Node, id: &str) {
    set(node, &format!("JSESSIONID={id}; Path=/"));
    for _ in 0..100 {
        let answer = send(service, get()).await;
        if answer.decision().1 == Some(node.name) {
            assert_eq!(
                answer.set_cookies(),
                [format!("JSESSIONID={id}; Path=/")],
                "nothing of ours"
            );
            node.control.response_headers.lock().unwrap().clear();
            return;
        }
    }
    panic!("{} never had its turn", node.name);
}

/// The verdict and the reason of a request with this id, and the backend that answered.
pub async fn ask(service: &Sticky, id: &str) -> ((Verdict, Option<Reason>), &'static str) {
    let answer = send(service, with_cookie(&format!("x=1; JSESSIONID={id}"))).await;
    let (verdict, backend, reason) = answer.decision();
    let name = ["a", "b", "c", "d"].into_iter().find(|name| Some(*name) == backend);
    ((verdict, reason), name.expect("a backend answered"))
}

#[tokio::test]
async fn a_session_is_learned_from_the_response_that_sets_its_id() {
    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    let service = service(&backends);
    for (node, id) in [(&b, "1"), (&c, "2"), (&a, "3"), (&b, "\"4\"")] {
        begin(&service, node, id).await;
    }
    for _ in 0..3 {
        for (node, id) in [("b", "1"), ("c", "2"), ("a", "3"), ("b", "\"4\""), ("b", "4")] {
            assert_eq!(ask(&service, id).await, (PINNED, node), "{id}");
        }
    }
    let seen = b.control.cookies.lock().unwrap().pop().unwrap();
    assert_eq!(seen, "x=1; JSESSIONID=4", "the backend gets what the client sent");
    let answer = send(&service, with_cookie("JSESSIONID=1")).await;
    assert!(answer.set_cookies().is_empty() && !answer.headers.contains_key("cache-control"));
    assert_eq!(backends.snapshot().stats.tokens_issued(), 0);
}

#[tokio::test]
async fn of_several_ids_the_first_that_is_known_counts() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = service(&backends);
    begin(&service, &b, "1").await;
    begin(&service, &a, "2").await;
    for (ids, node) in [("x; JSESSIONID=1", "b"), ("; JSESSIONID=2; JSESSIONID=1", "a")] {
        assert_eq!(ask(&service, ids).await, (PINNED, node), "{ids}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_moves_stays_where_it_went() {
    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    let service = service(&backends);
    begin(&service, &a, "1").await;
    a.control.refuses.store(true, SeqCst);
    let ((verdict, reason), to) = ask(&service, "1").await;
    assert_eq!((verdict, reason), (Verdict::Moved, Some(Reason::ConnectFailed)));
    a.control.refuses.store(false, SeqCst);
    assert_eq!(ask(&service, "1").await, (PINNED, to));
    // Until the backend is ready again.
    tokio::time::advance(Duration::from_secs(60)).await;
    let moved = Some(SessionAction::Move("a".parse().unwrap()));
    for node in [&b, &c] {
        *node.control.action.lock().unwrap() = moved.clone();
    }
    assert_eq!(ask(&service, "1").await, (PINNED, to), "the application moves it");
    assert_eq!(ask(&service, "1").await, (PINNED, "a"));
}

#[tokio::test]
async fn a_borrowed_backend_is_not_remembered() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let learned = layer(&backends, Learned::cookie("JSESSIONID"));
    let service = learned.on_unavailable(tower_sticky::Failover::Borrow).into_service();
    begin(&service, &a, "1").await;
    a.control.refuses.store(true, SeqCst);
    assert_eq!(ask(&service, "1").await.0.0, Verdict::Borrowed);
    a.control.refuses.store(false, SeqCst);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(ask(&service, "1").await, (PINNED, "a"));
}

#[tokio::test]
async fn the_application_ends_a_session() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let store = MemoryStore::new(100);
    let service = remembering(&backends, &store);
    for removal in ["", "gone; Max-Age=0", "gone; Expires=Thu, 01 Jan 1970 00:00:00 GMT"] {
        begin(&service, &a, "1").await;
        set(&a, &format!("JSESSIONID={removal}"));
        assert_eq!(ask(&service, "1").await, (PINNED, "a"));
        assert!(store.is_empty(), "{removal:?}");
    }
    begin(&service, &a, "1").await;
    *a.control.action.lock().unwrap() = Some(SessionAction::End);
    assert_eq!(ask(&service, "1").await, (PINNED, "a"));
    assert!(store.is_empty(), "by its action");
    *a.control.action.lock().unwrap() = None;
    assert_eq!(ask(&service, "1").await.0, UNKNOWN);
}

#[tokio::test]
async fn a_new_id_replaces_the_old_one() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let store = MemoryStore::new(100);
    let service = remembering(&backends, &store);
    begin(&service, &b, "guest").await;
    set(&b, "JSESSIONID=user");
    assert_eq!(ask(&service, "guest").await, (PINNED, "b"), "the login");
    assert_eq!(store.len(), 1);
    assert_eq!(ask(&service, "user").await, (PINNED, "b"));
    assert_eq!(store.len(), 1, "the same id again is no other");
}

#[tokio::test]
async fn requests_with_an_unknown_id_agree_and_are_learned() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    // Two gateways with one secret, as after a restart.
    let service =
        || layer(&backends, Learned::cookie("JSESSIONID").secret(secret())).into_service();
    let mut everywhere = HashSet::new();
    for id in 0..20 {
        let (first, second) = (service(), service());
        for node in &nodes {
            node.hold_responses();
        }
        let cookie = format!("JSESSIONID={id}");
        let both = [&first, &second];
        let all = (0..6).map(|n| tokio::spawn(send_owned(both[n % 2].clone(), cookie.clone())));
        let all: Vec<_> = all.collect();
        tokio::task::yield_now().await;
        for node in &nodes {
            node.release_responses();
        }
        let mut went = HashSet::new();
        for one in all {
            went.insert(one.await.unwrap());
        }
        assert_eq!(went.len(), 1, "{id}: {went:?}");
        let there = went.into_iter().next().unwrap();
        everywhere.insert(there.clone());
        for service in both {
            let (why, node) = ask(service, &id.to_string()).await;
            assert_eq!((why, node), (PINNED, &*there), "learned from the answer");
        }
    }
    assert_eq!(everywhere.len(), 4, "all backends have their share");
}

pub async fn send_owned(service: Sticky, cookie: String) -> String {
    send(&service, with_cookie(&cookie)).await.body
}

#[tokio::test(start_paused = true)]
async fn learned_sessions_expire() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let clock = Clock::new();
    let hour = 3600;
    let learned = Learned::cookie("JSESSIONID").absolute_timeout(Duration::from_secs(hour));
    let service = layer(&backends, learned).clock(clock.clone()).into_service();
    let pass = async |seconds: u64| {
        clock.advance(seconds as i64);
        tokio::time::advance(Duration::from_secs(seconds)).await;
    };
    begin(&service, &a, "1").await;
    pass(29 * 60).await;
    assert_eq!(ask(&service, "1").await, (PINNED, "a"));
    pass(29 * 60).await;
    assert_eq!(ask(&service, "1").await, (PINNED, "a"), "kept alive");
    pass(2 * 60).await;
    assert_eq!(ask(&service, "1").await.0, (Verdict::Assigned, Some(Reason::ExpiredAbsolute)));
    assert_eq!(ask(&service, "1").await.0, PINNED, "learned again");
    begin(&service, &a, "2").await;
    pass(30 * 60).await;
    assert_eq!(ask(&service, "2").await.0, (Verdict::Assigned, Some(Reason::ExpiredIdle)));
    assert_eq!(ask(&service, "2").await.0, PINNED, "learned again");
    let stats = backends.snapshot().stats;
    assert_eq!(stats.token_errors(Reason::ExpiredIdle), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_its_session_alive() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = service(&backends);
    begin(&service, &a, "1").await;
    let stream = service.clone().oneshot(with_cookie("JSESSIONID=1")).await.unwrap();
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(ask(&service, "1").await, (PINNED, "a"), "a stream is open");
    tokio::time::advance(Duration::from_secs(3600)).await;
    stream.into_body().collect().await.unwrap();
    tokio::time::advance(Duration::from_secs(29 * 60)).await;
    assert_eq!(ask(&service, "1").await, (PINNED, "a"), "its end restarted the time");
    // The response that sets the id may itself be a stream.
    set(&a, "JSESSIONID=2");
    let stream = service.clone().oneshot(with_cookie("JSESSIONID=1")).await.unwrap();
    a.control.response_headers.lock().unwrap().clear();
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(ask(&service, "2").await, (PINNED, "a"));
    drop(stream);
    tokio::time::advance(Duration::from_secs(1800)).await;
    assert_eq!(ask(&service, "2").await.0.1, Some(Reason::ExpiredIdle));
}

#[tokio::test]
async fn an_id_of_a_removed_backend_is_learned_again() {
    let (backends, [a, _b, _c]) = nodes(["a", "b", "c"]);
    let service = service(&backends);
    begin(&service, &a, "1").await;
    backends.remove("a").unwrap();
    let (why, to) = ask(&service, "1").await;
    assert_eq!(why, (Verdict::Assigned, Some(Reason::Unknown)));
    assert_eq!(ask(&service, "1").await, (PINNED, to));
}

#[tokio::test]
async fn responses_that_begin_no_session_are_not_learned() {
    let (backends, [a]) = nodes(["a"]);
    let store = MemoryStore::new(100);
    let service = remembering(&backends, &store);
    set(&a, "JSESSIONID=1");
    let mut bypass = get();
    bypass.extensions_mut().insert(Preference::bypass());
    send(&service, bypass).await;
    *a.control.action.lock().unwrap() = Some(SessionAction::NoPin);
    send(&service, get()).await;
    send(&service, with_cookie("JSESSIONID=2")).await;
    assert!(store.is_empty());
    *a.control.action.lock().unwrap() = None;
    a.control.response_headers.lock().unwrap().clear();
    send(&service, get()).await;
    assert!(store.is_empty(), "there was no id");
}

#[tokio::test]
async fn an_id_may_be_in_a_header() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let store = MemoryStore::new(100);
    let learned = Learned::header("Mcp-Session-Id").store(store.clone());
    let service = layer(&backends, learned).into_service();
    let request = || {
        let mut request: Request<Body> = get();
        request.headers_mut().insert("mcp-session-id", "1".parse().unwrap());
        request
    };
    *b.control.response_headers.lock().unwrap() = vec![("mcp-session-id", "1".into())];
    send(&service, get()).await;
    let answer = send(&service, get()).await;
    assert_eq!(
        (answer.decision().1, &answer.headers["mcp-session-id"]),
        (Some("b"), &"1".parse().unwrap())
    );
    for _ in 0..3 {
        assert_eq!(send(&service, request()).await.decision(), (Verdict::Pinned, Some("b"), None));
    }
    *b.control.response_headers.lock().unwrap() = vec![("mcp-session-id", String::new())];
    send(&service, request()).await;
    assert!(store.is_empty(), "an empty value ends it");
    assert_eq!(a.served(), 1);
}

#[tokio::test]
async fn in_a_chain_the_table_follows_another_pin() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let store = MemoryStore::new(100);
    let learned = Learned::cookie("JSESSIONID").store(store.clone());
    let chain = Chain::of(Cookie::plain("sid")).or(learned);
    let service = layer(&backends, chain).into_service();
    set(&a, "JSESSIONID=1");
    assert_eq!(send(&service, get()).await.decision().1, Some("a"));
    a.control.response_headers.lock().unwrap().clear();
    assert_eq!(ask(&service, "1").await, (PINNED, "a"), "by the id alone");
    a.control.refuses.store(true, SeqCst);
    assert_eq!(ask(&service, "1; sid=a").await.0.0, Verdict::Moved);
    a.control.refuses.store(false, SeqCst);
    assert_eq!(ask(&service, "1").await, (PINNED, "b"));
    set(&b, "JSESSIONID=");
    assert_eq!(ask(&service, "1; sid=b").await, (PINNED, "b"));
    assert!(store.is_empty(), "the removal was heard behind the cookie");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_learned_sessions_no_longer_than_they_are_remembered() {
    let minute = Duration::from_secs(60);
    let learned = || Learned::cookie("JSESSIONID").idle_timeout(2 * minute);
    let header = Header::sealed("x-sticky", KeyRing::generate().unwrap()).idle_timeout(minute);
    for affinity in [Chain::of(learned()), Chain::of(learned()).or(header)] {
        let (backends, [_a, b]) = nodes(["a", "b"]);
        let service = layer(&backends, affinity).into_service();
        begin(&service, &b, "1").await;
        assert_eq!(ask(&service, "1").await, (PINNED, "b"));
        let start = tokio::time::Instant::now();
        let drained = tokio::time::timeout(3 * minute, backends.drain("b")).await;
        assert!(drained.is_ok(), "the session has ended");
        assert!(start.elapsed() >= 2 * minute, "after {:?}", start.elapsed());
    }
}

#[test]
fn invalid_configuration_is_rejected_at_build_time() {
    let with_timeouts = |timeout: Duration| {
        [Learned::cookie("a").idle_timeout(timeout), Learned::cookie("a").absolute_timeout(timeout)]
    };
    let [idle, absolute] = with_timeouts(Duration::from_millis(999));
    for (learned, word) in [
        (Learned::cookie("a b"), "name"),
        (Learned::header("content-length"), "HTTP itself"),
        (idle, "idle"),
        (absolute, "absolute"),
        (Learned::cookie("a").capacity(0), "capacity"),
    ] {
        let backends: Backends<Node> = Backends::new();
        let error = StickyLayer::try_new(backends, learned).expect_err("it cannot work");
        assert!(error.to_string().contains(word), "{error} should name {word:?}");
    }
    for learned in with_timeouts(Duration::from_secs(1)) {
        let backends: Backends<Node> = Backends::new();
        assert!(StickyLayer::try_new(backends, learned).is_ok(), "a second is enough");
    }
}

#[tokio::test]
async fn learned_sessions_have_ordinary_outcomes() {
    let (backends, [a]) = nodes(["a"]);
    let service = service(&backends);
    begin(&service, &a, "1").await;
    send(&service, with_cookie("JSESSIONID=1")).await;
    let control = a.control.outcomes.lock().unwrap().pop().unwrap();
    assert_eq!(control.as_ref().map(Outcome::verdict), Some(Verdict::Pinned));
}
