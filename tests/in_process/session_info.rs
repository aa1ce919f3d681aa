//! The session info that backends receive.

use std::sync::{Arc, Mutex, atomic::Ordering::SeqCst};

use http::{HeaderMap, Request, Response};
use tower::Layer;
use tower_sticky::{
    BackendId, Backends, KeyRing, Mode, NotSent, SessionInfo, StickyLayer, Verdict,
    affinity::{Cookie, Key, Learned},
    strategy::RoundRobin,
};

use crate::support::{
    Body, Client, Clock, Node, Warnings, get, keys, nodes, sealed, send, with_cookie,
};

/// The session info of the last request that a node received.
fn told(node: &Node) -> Option<SessionInfo> {
    SessionInfo::from_headers(node.control.headers.lock().unwrap().last().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_session_has_one_id_and_an_epoch_that_grows_with_each_move() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let clock = Clock::new();
    let service = sealed(&backends).session_headers(true).clock(clock.clone()).into_service();
    let mut client = Client::assigned(&service).await;
    let first = told(&a).unwrap();
    assert_eq!((first.verdict(), first.from()), (Verdict::Assigned, None));
    assert_eq!(first.epoch(), Some(1_800_000_000_000), "the Unix time in milliseconds");
    assert_eq!(first.backend().as_str(), "a");
    assert!(!first.is_keyed(), "it is pinned from now on");
    clock.advance(60);
    client.send(&service, get()).await;
    let pinned = told(&a).unwrap();
    assert_eq!(pinned.verdict(), Verdict::Pinned);
    assert_eq!((pinned.id(), pinned.epoch()), (first.id(), first.epoch()), "nothing has moved");

    a.control.refuses.store(true, SeqCst);
    client.send(&service, get()).await;
    let moved = told(&b).unwrap();
    assert_eq!((moved.verdict(), moved.id()), (Verdict::Moved, first.id()));
    assert_eq!(moved.from().map(BackendId::as_str), Some("a"));
    assert_eq!(moved.epoch(), Some(1_800_000_060_000));
    client.send(&service, get()).await;
    assert_eq!(told(&b).unwrap().epoch(), moved.epoch(), "the announced epoch is the written one");

    // The epoch grows by one when the clock stands still or goes back.
    clock.advance(-100);
    backends.set_mode("b", Mode::Disabled).unwrap();
    let back = Node::new("a");
    backends.replace("a", back.clone()).unwrap();
    client.send(&service, get()).await;
    assert_eq!(told(&back).unwrap().epoch(), Some(1_800_000_060_001));
    let mut other = Client::default();
    other.send(&service, get()).await;
    assert_ne!(told(&back).unwrap().id(), first.id());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_borrowed_keeps_its_epoch() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let layer = sealed(&backends).on_unavailable(tower_sticky::Failover::Borrow);
    let service = layer.session_headers(true).into_service();
    let mut client = Client::assigned(&service).await;
    let home = told(&a).unwrap();
    a.control.refuses.store(true, SeqCst);
    client.send(&service, get()).await;
    let borrowed = told(&b).unwrap();
    assert_eq!(borrowed.verdict(), Verdict::Borrowed);
    assert_eq!((borrowed.id(), borrowed.epoch()), (home.id(), home.epoch()));
    assert_eq!(borrowed.from().map(BackendId::as_str), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn session_headers_of_a_client_are_removed() {
    let (backends, [a]) = nodes(["a"]);
    let forged = || {
        let mut request = get();
        for name in ["session", "epoch", "outcome", "from", "replicas", "backend"] {
            let name = http::HeaderName::try_from(format!("x-sticky-{name}")).unwrap();
            request.headers_mut().insert(name, "7".parse().unwrap());
        }
        request
    };
    let count = |headers: &HeaderMap| {
        headers.keys().filter(|name| name.as_str().starts_with("x-sticky-")).count()
    };
    let last = || a.control.headers.lock().unwrap().last().unwrap().clone();
    send(&sealed(&backends).session_headers(false).into_service(), forged()).await;
    assert_eq!(count(&last()), 0);
    send(&sealed(&backends).session_headers(true).into_service(), forged()).await;
    assert_eq!(last()["x-sticky-outcome"], "assigned");
    assert!(!last().contains_key("x-sticky-from"));
    send(&sealed(&backends).into_service(), forged()).await;
    assert_eq!(count(&last()), 6, "by default these headers are not reserved");
}

#[tokio::test(start_paused = true)]
async fn session_headers_with_a_forged_hop_are_removed() {
    let node = Node::new("a");
    let forged = || {
        let mut request = with_cookie("sid=a");
        for (name, value) in [("forwarded", "a"), ("outcome", "pinned"), ("epoch", "7")] {
            let name = http::HeaderName::try_from(format!("x-sticky-{name}")).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    };
    let layer = StickyLayer::new(Backends::<Node>::new(), Cookie::plain("sid"));
    let service =
        layer.local("a").session_headers(true).outcome_extensions(true).layer(node.clone());
    assert_eq!(send(&service, forged()).await.decision().0, Verdict::Local, "anybody can say that");
    let seen = node.control.headers.lock().unwrap().last().unwrap().clone();
    assert!(!seen.contains_key("x-sticky-epoch"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_epoch_of_a_key_grows_when_its_owner_changes() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let spies = ["a", "b", "c"].map(|name| {
        let seen = seen.clone();
        tower::service_fn(move |request: Request<Body>| {
            seen.lock().unwrap().push(SessionInfo::of(request.extensions()).cloned().unwrap());
            async move { Ok::<_, std::convert::Infallible>(Response::new(Body::from(name))) }
        })
    });
    let [a, b, c] = spies;
    drop(backends);
    let backends = Backends::from_iter([("a", a), ("b", b)]);
    let layer = StickyLayer::new(backends.clone(), Key::header("x-user")).session_extensions(true);
    let service = layer.into_service();
    let ask = async || {
        let mut request = get();
        request.headers_mut().insert("x-user", "7".parse().unwrap());
        send(&service, request).await;
        seen.lock().unwrap().last().cloned().unwrap()
    };
    let first = ask().await;
    let again = ask().await;
    assert_eq!(first, again);
    assert!(first.id().is_some() && first.epoch().is_some());
    backends.set_weight("a", 1).unwrap();
    assert_eq!(ask().await.epoch(), first.epoch(), "nothing has changed");
    backends.insert("c", c).unwrap();
    let later = ask().await;
    assert!(later.epoch() > first.epoch(), "another backend may own the key now");
    assert_eq!(later.id(), first.id());
    backends.set_mode("c", Mode::Disabled).unwrap();
    assert!(ask().await.epoch() > later.epoch());
}

#[tokio::test(start_paused = true)]
async fn unknown_session_info_is_omitted() {
    let (backends, [a]) = nodes(["a"]);
    let service = StickyLayer::new(backends.clone(), Cookie::plain("sid"))
        .session_headers(true)
        .into_service();
    send(&service, with_cookie("sid=a")).await;
    let plain = told(&a).unwrap();
    assert_eq!((plain.id(), plain.epoch(), plain.verdict()), (None, None, Verdict::Pinned));

    let service = StickyLayer::new(backends.clone(), Learned::cookie("app"))
        .session_headers(true)
        .into_service();
    *a.control.response_headers.lock().unwrap() = vec![("set-cookie", "app=1".into())];
    send(&service, get()).await;
    assert_eq!(told(&a).unwrap().id(), None, "the application has not issued an id yet");
    send(&service, with_cookie("app=1")).await;
    let learned = told(&a).unwrap();
    assert!(learned.id().is_some() && learned.epoch().is_some());
    send(&service, with_cookie("app=1")).await;
    assert_eq!(told(&a).unwrap().epoch(), learned.epoch());

    let service = sealed(&backends).session_headers(true).bypass_if(|_| true).into_service();
    send(&service, get()).await;
    assert_eq!(told(&a).unwrap().id(), None, "it passes by");
}

#[tokio::test(start_paused = true)]
async fn failover_goes_to_the_announced_replica() {
    let names = ["a", "b", "c", "d", "e"];
    let (backends, nodes) = nodes(names);
    for (i, name) in names.iter().enumerate() {
        backends.set_zone(name, Some(if i % 2 == 0 { "east" } else { "west" })).unwrap();
    }
    backends.set_own_zone(Some("east"));
    let layer = sealed(&backends).strategy(RoundRobin::new()).session_headers(true).replicas(2);
    let service = layer.into_service();
    for _ in 0..20 {
        let mut client = Client::default();
        let home = client.send(&service, get()).await.body;
        let node = nodes.iter().find(|node| node.name == home).unwrap();
        let info = told(node).unwrap();
        let replicas: Vec<&str> = info.replicas().iter().map(BackendId::as_str).collect();
        assert_eq!(replicas.len(), 2);
        assert!(!replicas.contains(&home.as_str()) && replicas[0] != replicas[1]);
        node.control.refuses.store(true, SeqCst);
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.body, replicas[0], "the first replica takes over");
        backends.set_mode(replicas[0], Mode::Disabled).unwrap();
        assert_eq!(client.send(&service, get()).await.body, replicas[1], "and then the second");
        backends.set_mode(replicas[0], Mode::Active).unwrap();
        node.control.refuses.store(false, SeqCst);
        backends.replace(&home, node.clone()).unwrap();
    }
    // Also when the backend is removed from the pool.
    let mut client = Client::default();
    let home = client.send(&service, get()).await.body;
    let node = nodes.iter().find(|node| node.name == home).unwrap();
    let replicas = told(node).unwrap().replicas().to_vec();
    backends.remove(&home).unwrap();
    assert_eq!(client.send(&service, get()).await.body, replicas[0].as_str());
}

#[tokio::test(start_paused = true)]
async fn a_retried_request_carries_updated_session_info() {
    let refusing = tower::service_fn(|request: Request<Body>| async move {
        assert!(SessionInfo::of(request.extensions()).is_some_and(|info| *info.backend() == "a"));
        let error: tower::BoxError = NotSent::new(request, "refused").into();
        Err::<Response<Body>, _>(error)
    });
    let a = tower::util::BoxCloneSyncService::new(refusing);
    let b = tower::util::BoxCloneSyncService::new(tower::service_fn(
        |request: Request<Body>| async move {
            let info = SessionInfo::of(request.extensions()).unwrap();
            assert_eq!((info.backend().as_str(), info.verdict()), ("b", Verdict::Assigned));
            Ok(Response::new(Body::from("b")))
        },
    ));
    let backends = Backends::from_iter([("a", a), ("b", b)]);
    let layer = StickyLayer::new(backends, Cookie::sealed("sid", keys()));
    let layer = layer.strategy(RoundRobin::new()).session_extensions(true);
    assert_eq!(send(&layer.into_service(), get()).await.body, "b");
}

#[tokio::test(start_paused = true)]
async fn session_headers_of_a_client_do_not_reach_a_peer() {
    let (backends, [_here, there]) = nodes(["here", "there"]);
    let layer = sealed(&backends).session_extensions(true).local("here");
    let service = tower::Layer::layer(&layer, Node::new("here"));
    let mut client = Client::default();
    backends.set_mode("here", Mode::Disabled).unwrap();
    let mut request = get();
    for (name, value) in
        [("x-sticky-from", "z"), ("x-sticky-replicas", "y"), ("x-sticky-epoch", "7")]
    {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(client.send(&service, request).await.body, "there");
    let info = told(&there).unwrap();
    assert_eq!((info.from(), info.replicas()), (None, &[][..]));
    assert_ne!(info.epoch(), Some(7));
}

#[tokio::test]
async fn only_a_sealed_token_proves_that_a_peer_has_forwarded_a_request() {
    for (is_sealed, extensions) in [(true, true), (true, false), (false, true)] {
        let seen = Arc::new(Mutex::new(None));
        let inner = tower::service_fn({
            let seen = seen.clone();
            move |request: Request<Body>| {
                *seen.lock().unwrap() = SessionInfo::of(request.extensions()).cloned();
                async { Ok::<_, std::convert::Infallible>(Response::new(Body::default())) }
            }
        });
        let cookie = match is_sealed {
            true => Cookie::sealed("sid", keys()),
            false => Cookie::plain("sid"),
        };
        // What this node sends to itself as a peer, and then receives.
        let way = Node::new("way");
        let peers = Backends::from_iter([("a", way.clone())]);
        let entry = StickyLayer::new(peers, cookie.clone()).local("b").session_headers(true);
        let entry = entry.strategy(RoundRobin::new()).layer(Node::new("b"));
        for _ in 0..2 {
            send(&entry, get()).await;
        }
        let headers = way.control.headers.lock().unwrap().last().cloned().unwrap();
        let node = StickyLayer::new(Backends::<Node>::new(), cookie).local("a");
        let mut request = get();
        *request.headers_mut() = headers;
        send(&node.session_extensions(extensions).layer(inner), request).await;
        let is_trusted = is_sealed && extensions;
        assert_eq!(seen.lock().unwrap().is_some(), is_trusted, "{is_sealed} {extensions}");
    }
}

#[tokio::test]
async fn a_peer_with_an_unknown_key_is_warned_of_once_a_minute() {
    let unknown = tower_sticky::Key::from_bytes((1..33).collect::<Vec<u8>>()).unwrap();
    let unknown = Cookie::sealed("sid", KeyRing::new([unknown]).unwrap());
    let way = Node::new("way");
    let entry = StickyLayer::new(Backends::from_iter([("a", way.clone())]), unknown).local("b");
    let entry = entry.strategy(RoundRobin::new()).layer(Node::new("b"));
    for _ in 0..2 {
        send(&entry, get()).await;
    }
    let headers = way.control.headers.lock().unwrap().last().cloned().unwrap();
    let request = || {
        let mut request = get();
        *request.headers_mut() = headers.clone();
        request
    };
    let clock = Clock::new();
    let node = StickyLayer::new(Backends::<Node>::new(), Cookie::sealed("sid", keys()));
    let node = node.local("a").clock(clock.clone()).layer(Node::new("a"));
    // Without a subscriber, so that tests in other threads cannot be the first ones to warn.
    send(&node, request()).await;
    clock.advance(60);
    let (warnings, _guard) = Warnings::of_this_thread();
    for (seconds, expected) in [(0, 1), (1, 1), (58, 1), (1, 2)] {
        clock.advance(seconds);
        send(&node, request()).await;
        assert_eq!(warnings.count(), expected, "after {seconds} s more");
    }
}
