//! Gateways that share a Redis agree on the backend of a session.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use tower_sticky::Verdict;
use tower_sticky_heavy_tests::redis_server::RedisServer;

use crate::support::{Gateway, Node, nodes, pinned, until_keys};

#[tokio::test]
async fn a_pin_of_one_gateway_is_used_by_the_others() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c", "d"]);
    let [first, second] = Gateway::connected_all(&server, &nodes).await;
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
async fn concurrent_first_requests_on_two_gateways_get_the_same_backend() {
    const SESSIONS: usize = 20_000;
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c", "d"]);
    let [first, second] = Gateway::connected_all(&server, &nodes).await.map(Arc::new);
    // With equal weights they would agree by rank, without a store.
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
    assert!(differed > 0, "some first requests reached different backends");
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
    assert_eq!(wrong, 0, "of {SESSIONS} sessions, {differed} of which began on two backends");
}

#[tokio::test]
async fn a_session_that_moves_twice_before_redis_answers_stays_where_it_is() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c"]);
    let [first, second] = Gateway::connected_all(&server, &nodes).await;
    first.begin(&nodes[0], "1").await;
    until_keys(&server, 1).await;
    server.command(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let mut homes = vec!["a".to_owned()];
    for _ in 0..2 {
        let home = nodes.iter().find(|node| node.name == homes[homes.len() - 1]).unwrap();
        home.state.refuses.store(true, SeqCst);
        let moved = first.ask("1").await;
        assert_eq!(moved.verdict, Verdict::Moved);
        homes.extend(moved.to);
    }
    server.command(&["CLIENT", "UNPAUSE"]);
    first.written().await;
    for gateway in [&first, &second] {
        assert_eq!(gateway.ask("1").await, pinned(&homes[2]), "{homes:?}");
    }
}

#[tokio::test]
async fn a_session_that_two_gateways_move_goes_to_the_backend_of_the_first_one() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c", "d"]);
    let [first, second, third] = Gateway::connected_all(&server, &nodes).await;
    for n in 0..30 {
        first.begin(&nodes[0], &n.to_string()).await;
    }
    until_keys(&server, 30).await;
    for n in 0..30 {
        assert_eq!(
            second.ask(&n.to_string()).await,
            pinned("a"),
            "the second gateway has a local copy"
        );
    }
    nodes[0].state.refuses.store(true, SeqCst);
    // The second gateway must choose other backends than the first one.
    let mut backends = Vec::new();
    for n in 0..30 {
        let routed = first.ask(&n.to_string()).await;
        assert_eq!(routed.verdict, Verdict::Moved);
        backends.push(routed.to.unwrap());
    }
    first.written().await;
    let mut differed = 0;
    for (n, backend) in backends.iter().enumerate() {
        let id = n.to_string();
        second.backends.set_weight(backend, 0).unwrap();
        let routed = second.ask(&id).await;
        assert_eq!(routed.verdict, Verdict::Moved, "its local copy has backend a");
        differed += usize::from(routed.to.as_ref() != Some(backend));
        second.backends.set_weight(backend, 1).unwrap();
        second.written().await;
        assert_eq!(
            second.ask(&id).await,
            pinned(backend),
            "{id} is on the backend of the first gateway"
        );
        assert_eq!(third.ask(&id).await, pinned(backend), "{id} as stored in Redis");
    }
    assert!(differed > 0, "some moves went to different backends");
    for (n, backend) in backends.iter().enumerate() {
        assert_last_epoch_is_greatest(&nodes, &n.to_string(), backend);
    }
}

/// Asserts that the last epoch on a session's backend is greater than those on the other backends.
fn assert_last_epoch_is_greatest(nodes: &[Node], id: &str, backend: &str) {
    let epochs = |node: &Node| {
        let epochs = node.state.epochs.lock().unwrap();
        epochs.get(id).cloned().unwrap_or_default()
    };
    let all: Vec<_> = nodes.iter().map(|node| (node.name, epochs(node))).collect();
    let (_, own) = all.iter().find(|(name, _)| *name == backend).unwrap();
    let others = all.iter().filter(|(name, _)| *name != backend).flat_map(|(_, epochs)| epochs);
    assert!(own.last() > others.max(), "epochs of {id} on {backend} and others: {all:?}");
}

#[tokio::test]
async fn a_session_that_one_gateway_ends_is_unknown_to_another() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let [first, second] = Gateway::connected_all(&server, &nodes).await;
    first.begin(&nodes[0], "1").await;
    until_keys(&server, 1).await;
    // The response replaces the id.
    *nodes[0].state.issues.lock().unwrap() = Some("2".to_owned());
    assert_eq!(first.ask("1").await, pinned("a"));
    *nodes[0].state.issues.lock().unwrap() = None;
    first.written().await;
    assert_eq!(second.ask("2").await, pinned("a"));
    assert_eq!(second.ask("1").await.verdict, Verdict::Assigned, "its pin was removed");
}
