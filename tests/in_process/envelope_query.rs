//! The envelope in the query of requests, for clients that can set neither headers nor cookies.

use std::sync::atomic::Ordering::SeqCst;

use http::Request;
use tower_sticky::{
    Reason, Verdict,
    affinity::{Affinity, Chain, Cookie, Envelope, Key},
};

use crate::{
    envelope::{Sticky, layer},
    support::{Body, Node, get, keys, nodes, send},
};

fn rooms() -> Envelope {
    Envelope::header("x-room", keys()).query("room")
}

fn to(target: &str) -> Request<Body> {
    let mut request = get();
    *request.uri_mut() = target.parse().unwrap();
    request
}

/// The last target that the backend received.
fn target(node: &Node) -> String {
    node.control.targets.lock().unwrap().pop().expect("it had a request")
}

/// A service whose first session is on `a`, and has this id; and its envelope.
async fn room(id: &str, affinity: impl Affinity) -> (Sticky, [Node; 2], String) {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = layer(&backends, affinity).into_service();
    *a.control.response_headers.lock().unwrap() = vec![("x-room", id.to_owned())];
    let answer = send(&service, get()).await;
    a.control.response_headers.lock().unwrap().clear();
    let token = answer.headers["x-room"].to_str().unwrap().to_owned();
    assert!(token.starts_with("ts2~"), "{token}");
    (service, [a, b], token)
}

#[tokio::test]
async fn the_application_receives_its_id_in_the_query() {
    let (service, [a, b], token) = room("4/2 b", rooms()).await;
    for _ in 0..3 {
        let answer = send(&service, to(&format!("/events?x=%7e&room={token}&&y"))).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
        assert_eq!(target(&a), "/events?x=%7e&room=4%2F2%20b&&y");
        assert!(!answer.headers.contains_key("x-room"), "nothing is due");
    }
    a.control.refuses.store(true, SeqCst);
    let answer = send(&service, to(&format!("/events?room={token}"))).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::ConnectFailed)));
    assert_eq!(target(&b), "/events?room=4%2F2%20b");
    let moved = answer.headers["x-room"].to_str().unwrap().to_owned();
    a.control.refuses.store(false, SeqCst);
    let answer = send(&service, to(&format!("/?room={moved}"))).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None));
}

#[tokio::test]
async fn an_envelope_in_the_header_is_preferred() {
    let (service, [a, _], token) = room("1", rooms()).await;
    let mut request = to(&format!("/?room={token}&x"));
    request.headers_mut().insert("x-room", token.parse().unwrap());
    let answer = send(&service, request).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(target(&a), "/?x", "the application gets its id once");
    assert_eq!(a.control.headers.lock().unwrap().pop().unwrap()["x-room"], "1");
}

#[tokio::test]
async fn only_valid_envelopes_reach_the_application_as_ids() {
    let (service, [a, b], token) = room("1", rooms()).await;
    // The last character has bits that must be 0.
    let (mut forged, middle) = (token.clone(), token.len() / 2);
    let other = if token[middle..].starts_with('A') { "B" } else { "A" };
    forged.replace_range(middle..=middle, other);
    for (query, reason, received) in [
        (format!("room={forged}"), Some(Reason::Forged), "/"),
        (format!("room={forged}&room={token}"), None, "/?room=1"),
        ("room=raw&x".to_owned(), None, "/?room=raw&x"),
        (format!("Room={token}"), None, &*format!("/?Room={token}")),
    ] {
        let answer = send(&service, to(&format!("/?{query}"))).await;
        let (_, backend, found) = answer.decision();
        assert_eq!(found, reason, "{query}");
        let node = if backend == Some("a") { &a } else { &b };
        assert_eq!(target(node), received, "{query}");
    }
}

#[tokio::test]
async fn in_a_chain_the_id_is_restored_behind_another_pin() {
    let inner = Chain::of(rooms()).or(Key::header("user"));
    let cookie = || Chain::of(Cookie::plain("sid"));
    for chain in [cookie().or(rooms()), cookie().or(inner)] {
        let (service, [a, _], token) = room("1", chain).await;
        let mut request = to(&format!("/?room={token}"));
        request.headers_mut().insert("cookie", "sid=a".parse().unwrap());
        assert_eq!(send(&service, request).await.decision(), (Verdict::Pinned, Some("a"), None));
        assert_eq!(target(&a), "/?room=1");
        let answer = send(&service, to(&format!("/?room={token}"))).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "by the envelope alone");
        assert_eq!(target(&a), "/?room=1");
    }
}

#[test]
fn the_name_of_the_parameter_is_checked() {
    let (backends, _) = nodes(["a"]);
    let error = tower_sticky::StickyLayer::try_new(backends, rooms().query("")).unwrap_err();
    assert!(error.to_string().contains("its name is empty"), "{error}");
}
