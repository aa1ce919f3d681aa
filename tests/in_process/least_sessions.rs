//! New sessions go to the backend with the fewest sessions.

use std::{collections::HashMap, time::Duration};

use tower_sticky::{
    Backends, StickyService,
    affinity::{Cookie, Key},
    strategy::LeastSessions,
};

use crate::support::{Client, Node, get, keys, layer, nodes, send, with_header};

fn service(backends: &Backends<Node>, seed: u64) -> StickyService<Node> {
    let layer = layer(backends, Cookie::sealed("sid", keys()));
    layer.strategy(LeastSessions::seeded(seed)).into_service()
}

/// How many of the clients each backend has.
fn shares(homes: &[String]) -> HashMap<&str, usize> {
    let mut shares = HashMap::new();
    for home in homes {
        *shares.entry(&**home).or_default() += 1;
    }
    shares
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_sessions_of_eight_gateways_are_even() {
    let names = ["a", "b", "c", "d", "e"];
    let pools: Vec<_> = (0..8).map(|_| nodes(names).0).collect();
    let gateways: Vec<_> = pools.iter().zip(1..).map(|(pool, seed)| service(pool, seed)).collect();
    let mut homes = Vec::new();
    for number in 0..10_000 {
        let mut client = Client::default();
        homes.push(client.send(&gateways[number % 8], get()).await.body);
        // The token comes back, most often at another gateway.
        client.send(&gateways[number * 7 % 8], get()).await;
        if number % 500 == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let shares = shares(&homes);
    let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
    assert_eq!(shares.len(), 5);
    assert!(*most as f64 / (*least as f64) < 1.1, "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_backend_catches_up_and_one_with_many_sessions_gets_none() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = service(&backends, 1);
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(Client::assigned(&service).await);
    }
    for client in &mut clients {
        client.send(&service, get()).await;
    }
    backends.insert("c", Node::new("c")).unwrap();
    // Counted once a second.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let mut homes = Vec::new();
    for _ in 0..30 {
        homes.push(Client::default().send(&service, get()).await.body);
    }
    assert_eq!(shares(&homes), HashMap::from([("c", 30)]), "it has as many as the others now");
    homes.clear();
    for _ in 0..9 {
        homes.push(Client::default().send(&service, get()).await.body);
    }
    assert_eq!(shares(&homes), HashMap::from([("a", 3), ("b", 3), ("c", 3)]));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_have_ended_make_room() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(600));
    let service = layer(&backends, cookie).strategy(LeastSessions::seeded(1)).into_service();
    backends.set_weight("b", 0).unwrap();
    let mut on_a = Vec::new();
    for _ in 0..40 {
        on_a.push(Client::assigned(&service).await);
    }
    for client in &mut on_a {
        client.send(&service, get()).await;
    }
    backends.set_weight("b", 1).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut homes = Vec::new();
    for _ in 0..20 {
        homes.push(Client::default().send(&service, get()).await.body);
    }
    assert_eq!(shares(&homes), HashMap::from([("b", 20)]));
    // Those of b never send their token back, and those of a become idle.
    tokio::time::sleep(Duration::from_secs(700)).await;
    homes.clear();
    for _ in 0..20 {
        homes.push(Client::default().send(&service, get()).await.body);
    }
    assert_eq!(shares(&homes), HashMap::from([("a", 10), ("b", 10)]));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_cannot_be_told_apart_are_placed_by_connections() {
    let (backends, [a, ..]) = nodes(["a", "b"]);
    let plain = layer(&backends, Cookie::plain("sid"));
    let service = plain.strategy(LeastSessions::new()).into_service();
    let client = Client { token: Some("a".into()) };
    client.clone().send(&service, get()).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    a.hold_responses();
    let held = client.spawn(&service, get());
    tokio::task::yield_now().await;
    for _ in 0..5 {
        assert_eq!(send(&service, get()).await.body, "b", "a has a request in flight");
    }
    a.release_responses();
    held.await.unwrap();
    let by_key = layer(&backends, Key::header("u")).strategy(LeastSessions::new()).into_service();
    assert_eq!(send(&by_key, with_header("u", "1")).await.status, 200);
}
