//! Several gateways, one answer.

use std::{sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};

use tower_sticky::{Verdict, store::RedisStore};
use tower_sticky_heavy_tests::redis_server::RedisServer;

use crate::support::{Gateway, PATIENT, nodes, pinned, until_keys};

#[tokio::test]
async fn what_one_gateway_learned_the_others_know() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c", "d"]);
    let first = Gateway::patient(&server, &nodes).await;
    let second = Gateway::patient(&server, &nodes).await;
    for (position, node) in nodes.iter().enumerate() {
        for n in 0..10 {
            first.begin(node, &format!("{position}-{n}")).await;
        }
    }
    until_keys(&server, 40).await;
    for (position, node) in nodes.iter().enumerate() {
        for n in 0..10 {
            let id = format!("{position}-{n}");
            assert_eq!(second.ask(&id).await, pinned(node.name), "{id} on another gateway");
            assert_eq!(first.ask(&id).await, pinned(node.name), "{id} where it began");
        }
    }
    assert_eq!(second.store.stats().found(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_requests_that_race_on_two_gateways_agree() {
    const SESSIONS: usize = 20_000;
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c", "d"]);
    let first = Arc::new(Gateway::patient(&server, &nodes).await);
    let second = Arc::new(Gateway::patient(&server, &nodes).await);
    // By rank alone they would agree without a store.
    second.backends.set_weight("a", 0).unwrap();
    let mut races = Vec::new();
    for start in (0..SESSIONS).step_by(500) {
        let mut batch = Vec::new();
        for id in start..start + 500 {
            for gateway in [&first, &second] {
                let gateway = gateway.clone();
                batch.push(tokio::spawn(async move { gateway.ask(&id.to_string()).await.to }));
            }
        }
        for one in batch {
            races.push(one.await.unwrap());
        }
    }
    let differed = races.chunks(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(differed > 0, "there was a race to decide");
    until_keys(&server, SESSIONS).await;
    for gateway in [&first, &second] {
        gateway.written().await;
        assert_eq!(gateway.store.stats().lost_writes(), 0);
    }
    let mut wrong = 0;
    for id in 0..SESSIONS {
        let (one, other) = (first.ask(&id.to_string()).await, second.ask(&id.to_string()).await);
        assert_eq!((one.verdict, other.verdict), (Verdict::Pinned, Verdict::Pinned), "{id}");
        wrong += usize::from(one.to != other.to);
    }
    assert_eq!(wrong, 0, "of {SESSIONS} sessions, {differed} of which were begun in two places");
}

#[tokio::test]
async fn a_session_that_two_gateways_move_goes_where_the_first_one_says() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c", "d"]);
    let idle = Duration::from_secs(1800);
    let gateway = || {
        let store = RedisStore::builder(&server.url()).time_budget(PATIENT);
        Gateway::new(&nodes, store, idle)
    };
    let (first, second, third) = (gateway(), gateway(), gateway());
    for gateway in [&first, &second, &third] {
        gateway.store.connected().await;
    }
    for n in 0..30 {
        first.begin(&nodes[0], &n.to_string()).await;
    }
    until_keys(&server, 30).await;
    for n in 0..30 {
        assert_eq!(second.ask(&n.to_string()).await, pinned("a"), "it has a copy now");
    }
    nodes[0].told.refuses.store(true, SeqCst);
    // The second gateway would not move it to where the first one does.
    let mut homes = Vec::new();
    for n in 0..30 {
        let went = first.ask(&n.to_string()).await;
        assert_eq!(went.verdict, Verdict::Moved);
        homes.push(went.to.unwrap());
    }
    first.written().await;
    let mut differed = 0;
    for (n, home) in homes.iter().enumerate() {
        let id = n.to_string();
        second.backends.set_weight(home, 0).unwrap();
        let went = second.ask(&id).await;
        assert_eq!(went.verdict, Verdict::Moved, "its copy says a");
        differed += usize::from(went.to.as_ref() != Some(home));
        second.backends.set_weight(home, 1).unwrap();
        second.written().await;
        assert_eq!(second.ask(&id).await, pinned(home), "{id}: the first one has moved it");
        assert_eq!(third.ask(&id).await, pinned(home), "{id} in Redis");
    }
    assert!(differed > 0, "there was something to agree on");
    // Each backend that the session was at last told of had never been told a greater epoch.
    for (n, home) in homes.iter().enumerate() {
        let id = n.to_string();
        let of = |node: &crate::support::Node| {
            let epochs = node.told.epochs.lock().unwrap();
            epochs.get(&id).cloned().unwrap_or_default()
        };
        let all: Vec<_> = nodes.iter().map(|node| (node.name, of(node))).collect();
        let here = &all.iter().find(|(name, _)| name == home).unwrap().1;
        let elsewhere = all.iter().filter(|(name, _)| name != home).flat_map(|(_, all)| all);
        assert!(
            here.last() > elsewhere.max(),
            "the last epoch of {id} at {home} is above all that others were told: {all:?}"
        );
    }
}

#[tokio::test]
async fn a_session_that_one_gateway_ends_another_begins_anew() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let first = Gateway::patient(&server, &nodes).await;
    let second = Gateway::patient(&server, &nodes).await;
    first.begin(&nodes[0], "1").await;
    until_keys(&server, 1).await;
    // Another id takes its place.
    *nodes[0].told.issues.lock().unwrap() = Some("2".to_owned());
    assert_eq!(first.ask("1").await, pinned("a"));
    *nodes[0].told.issues.lock().unwrap() = None;
    first.written().await;
    assert_eq!(second.ask("2").await, pinned("a"));
    assert_eq!(second.ask("1").await.verdict, Verdict::Assigned, "it is unknown");
}
