//! A bound on how far the load of one backend may exceed its share.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tower_sticky::{
    Backends, Reason, StickyLayer, Verdict,
    affinity::{Chain, Cookie, Key},
};

use crate::support::{Answer, MS, Node, get, keys, layer, nodes, send, with_header};

/// Holds all responses back, and sends one request for each of these users.
async fn hold<'a>(
    service: &tower_sticky::StickyService<Node>,
    nodes: &[Node],
    users: impl Iterator<Item = &'a str>,
) -> Vec<tokio::task::JoinHandle<Answer>> {
    for node in nodes {
        node.hold_responses();
    }
    let mut requests = Vec::new();
    for user in users {
        let (service, request) = (service.clone(), with_header("u", user));
        requests.push(tokio::spawn(async move { send(&service, request).await }));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    requests
}

#[tokio::test(start_paused = true)]
async fn a_load_bound_spreads_the_requests_of_one_key() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    let service = layer(&backends, Key::header("u").balance_factor(1.25)).into_service();
    let requests = hold(&service, &nodes, std::iter::repeat_n("everybody", 100)).await;
    let most = backends.iter().map(|backend| backend.in_flight).max().unwrap();
    assert_eq!(most, 32, "1.25 times a fair share of 25, rounded up");
    for node in &nodes {
        node.release_responses();
    }
    let mut reasons = HashMap::new();
    for request in requests {
        let (verdict, _, reason) = request.await.unwrap().owned_decision();
        *reasons.entry((verdict, reason)).or_insert(0) += 1;
    }
    assert_eq!(reasons.len(), 2, "pinned, or borrowed because it was busy: {reasons:?}");
    assert!(reasons[&(Verdict::Borrowed, Some(Reason::Busy))] > 50);
    assert_eq!(backends.snapshot().stats.violations(), 0, "a stated policy");
    for bad in [0.5, f64::NAN, 1e9] {
        let key = Key::header("u").balance_factor(bad);
        assert!(StickyLayer::try_new(Backends::<Node>::new(), key).is_err(), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn parallel_first_requests_agree_under_a_load_bound() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(Key::header("u").balance_factor(1.0));
    let service = layer(&backends, chain).into_service();
    let users = ["one", "one", "one", "two", "one", "two", "two", "two", "one", "two"];
    let requests = hold(&service, &nodes, users.into_iter()).await;
    for node in &nodes {
        node.release_responses();
    }
    let mut homes = HashMap::<_, HashSet<String>>::new();
    for (user, request) in users.into_iter().zip(requests) {
        homes.entry(user).or_default().insert(request.await.unwrap().body);
    }
    assert!(homes.values().all(|homes| homes.len() == 1), "one first choice each: {homes:?}");
    assert_ne!(homes["one"], homes["two"], "and the bound spread them");
}

#[tokio::test(start_paused = true)]
async fn without_a_load_bound_a_first_request_goes_where_every_gateway_sends_it() {
    let chain = || Chain::of(Cookie::sealed("sid", keys())).or(Key::header("u"));
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, chain()).into_service();
    let names: Vec<_> = (0..16).map(|number| format!("user {number}")).collect();
    let users = || names.iter().map(String::as_str);
    let first = hold(&service, std::slice::from_ref(&a), users()).await;
    backends.insert("b", Node::new("b")).unwrap();
    let second = hold(&service, &[], users()).await;
    a.release_responses();
    // The other gateway has no first requests in progress that were sent before the backend joined.
    let (backends, _nodes) = nodes(["a", "b"]);
    let other = layer(&backends, chain()).into_service();
    let mut homes = HashSet::new();
    for (user, request) in users().zip(second) {
        let home = send(&other, with_header("u", user)).await.body;
        assert_eq!(request.await.unwrap().body, home, "{user}");
        homes.insert(home);
    }
    assert_eq!(homes.len(), 2, "some of the users belong to the new backend: {homes:?}");
    for request in first {
        assert_eq!(request.await.unwrap().body, "a");
    }
}

#[tokio::test(start_paused = true)]
async fn the_load_bound_is_that_of_the_deciding_key() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    let chain = Chain::of(Key::header("user")).or(Key::header("ip").balance_factor(1.0));
    let service = layer(&backends, chain).into_service();
    for node in &nodes {
        node.hold_responses();
    }
    let mut requests = Vec::new();
    for name in ["ip", "user"] {
        for _ in 0..8 {
            let (service, mut request) = (service.clone(), get());
            request.headers_mut().insert(name, "1".parse().unwrap());
            requests.push(tokio::spawn(async move { send(&service, request).await }));
            tokio::time::sleep(MS).await;
        }
        let most = backends.iter().map(|backend| backend.in_flight).max().unwrap();
        assert_eq!(most, if name == "ip" { 2 } else { 10 }, "{name}");
    }
    for node in &nodes {
        node.release_responses();
    }
}
