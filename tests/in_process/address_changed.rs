//! A backend whose address changes keeps its sessions, in a new epoch.

use std::{net::SocketAddr, time::SystemTime};

use tower::Service;
use tower_sticky::{
    Event, Preference, SessionInfo, StickyLayer, Verdict,
    affinity::{Key, Learned},
};

use crate::support::{Client, Node, get, nodes, sealed, send, with_cookie};

fn addrs() -> (SocketAddr, SocketAddr) {
    ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap())
}

fn epoch(node: &Node) -> u64 {
    let headers = node.control.headers.lock().unwrap();
    SessionInfo::from_headers(headers.last().unwrap()).unwrap().epoch().unwrap()
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_gives_a_token_one_new_epoch() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).session_headers(true).into_service();
    let mut client = Client::assigned(&service).await;
    let first = epoch(&a);
    let mut events = backends.events();
    let (from, to) = addrs();
    let before = now();
    backends.address_changed("a", from, to).unwrap();
    let Some(Event::AddressChanged { backend, .. }) = events.next().await else { panic!() };
    assert_eq!(backend.as_str(), "a");

    let token = client.token.clone();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "it does not move");
    let second = epoch(&a);
    assert!(second > first && second >= before, "{first} {second}");
    assert_ne!(client.token, token, "the announced epoch is written");
    let answer = client.send(&service, get()).await;
    assert!(answer.set_cookies().is_empty(), "once");
    assert_eq!(epoch(&a), second);
    assert_eq!(backends.snapshot().stats.moves(), 0);

    // Also for two changes within one millisecond.
    backends.address_changed("a", to, from).unwrap();
    client.send(&service, get()).await;
    assert!(epoch(&a) > second);
    client.send(&service, get()).await;
    let later = Client::assigned(&service).await;
    let answer = later.clone().send(&service, get()).await;
    assert!(answer.set_cookies().is_empty(), "a session that began later needs no new token");
    assert!(backends.address_changed("x", to, from).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_gives_learned_keyed_and_client_sessions_a_new_epoch() {
    let (from, to) = addrs();
    let (backends, [a]) = nodes(["a"]);
    let layer = StickyLayer::new(backends.clone(), Learned::cookie("id"));
    let service = layer.session_headers(true).into_service();
    *a.control.response_headers.lock().unwrap() = vec![("set-cookie", "id=1".to_owned())];
    send(&service, get()).await;
    a.control.response_headers.lock().unwrap().clear();
    send(&service, with_cookie("id=1")).await;
    let first = epoch(&a);
    backends.address_changed("a", from, to).unwrap();
    send(&service, with_cookie("id=1")).await;
    let second = epoch(&a);
    assert!(second > first);
    send(&service, with_cookie("id=1")).await;
    assert_eq!(epoch(&a), second, "it is remembered");

    let (backends, [a]) = nodes(["a"]);
    let layer = StickyLayer::new(backends.clone(), Key::header("x-user"));
    let service = layer.session_headers(true).into_service();
    let mut held = service.session();
    let ask = async || {
        let mut request = get();
        request.headers_mut().insert("x-user", "7".parse().unwrap());
        send(&service, request).await;
        epoch(&a)
    };
    let first = ask().await;
    backends.address_changed("a", from, to).unwrap();
    assert!(ask().await > first);

    held.call(get()).await.unwrap();
    let first = epoch(&a);
    backends.address_changed("a", to, from).unwrap();
    held.call(get()).await.unwrap();
    let second = epoch(&a);
    assert!(second > first);
    held.call(get()).await.unwrap();
    assert_eq!(epoch(&a), second);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_follow_the_pin_of_a_client_session_leaves_its_epoch() {
    let (backends, _nodes) = nodes(["a"]);
    let session = sealed(&backends).into_service().session();
    send(&session, get()).await;
    let forced = async || {
        let mut request = get();
        request.extensions_mut().insert(Preference::backend("a").unwrap());
        send(&session, request).await.outcome.unwrap().epoch()
    };
    let before = forced().await;
    assert!(before.is_some());
    let (from, to) = addrs();
    backends.address_changed("a", from, to).unwrap();
    for _ in 0..2 {
        assert_eq!(forced().await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_without_an_epoch_is_not_renewed() {
    let (backends, _nodes) = nodes(["a"]);
    let service = crate::support::plain(&backends).into_service();
    let (from, to) = addrs();
    backends.address_changed("a", from, to).unwrap();
    assert!(send(&service, with_cookie("sid=a")).await.set_cookies().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_listener_does_not_keep_the_pool_alive() {
    let (backends, _nodes) = nodes(["a"]);
    let (from, to) = addrs();
    let listener = backends.address_listener("a");
    let mut events = backends.events();
    listener(from, to);
    assert!(matches!(events.next().await, Some(Event::AddressChanged { .. })));
    backends.remove("a").unwrap();
    listener(from, to);
    drop(backends);
    listener(from, to);
    assert!(matches!(events.next().await, Some(Event::Left { .. })));
    assert_eq!(events.next().await, None);
}
