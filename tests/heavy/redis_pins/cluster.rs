//! A cluster of three nodes.

use std::time::Duration;

use http::StatusCode;
use tower_sticky::{
    Verdict,
    store::{EngineState, RedisStore},
};
use tower_sticky_heavy_tests::{in_time, redis_cluster::RedisCluster, until};

use crate::support::{Gateway, Node, PATIENT, nodes, pinned};

async fn gateway(cluster: &RedisCluster, nodes: &[Node], budget: Duration) -> Gateway {
    let store = RedisStore::builder(&cluster.url()).time_budget(budget);
    let gateway = Gateway::new(nodes, store, Duration::from_secs(1800));
    in_time("it connects", gateway.store.connected()).await;
    gateway
}

#[tokio::test]
async fn pins_are_on_all_nodes() {
    let cluster = RedisCluster::start().await;
    let nodes = nodes(["a", "b"]);
    let first = gateway(&cluster, &nodes, PATIENT).await;
    cluster.forget_scripts();
    for n in 0..100 {
        first.begin(&nodes[n % 2], &n.to_string()).await;
    }
    until("all are there", || cluster.sizes().iter().sum::<usize>() == 100).await;
    assert!(cluster.sizes().iter().all(|size| *size >= 15), "{:?}", cluster.sizes());
    for node in &cluster.nodes {
        assert!(node.calls("eval") >= 1, "each has been given the script");
    }
    cluster.forget_scripts();
    let second = gateway(&cluster, &nodes, PATIENT).await;
    for n in 0..100 {
        assert_eq!(second.ask(&n.to_string()).await, pinned(nodes[n % 2].name), "{n}");
    }
    for node in &cluster.nodes {
        assert!(node.calls("eval") >= 1, "and again when it had forgotten it");
    }
    let stats = second.store.stats();
    assert_eq!((stats.found(), stats.failures(), stats.timeouts()), (100, 0, 0), "{stats:?}");
}

#[tokio::test]
async fn a_node_is_killed_and_started_again() {
    // Long enough that no live node is that slow, and short enough to wait for a dead one.
    let budget = Duration::from_secs(1);
    let mut cluster = RedisCluster::start().await;
    let nodes = nodes(["a", "b"]);
    let first = gateway(&cluster, &nodes, PATIENT).await;
    // Which sessions are on which node.
    let mut homes = vec![Vec::new(); 3];
    for n in 0..60 {
        let before = cluster.sizes();
        first.begin(&nodes[n % 2], &n.to_string()).await;
        first.written().await;
        let after = cluster.sizes();
        homes[(0..3).find(|node| after[*node] > before[*node]).unwrap()].push(n);
    }
    let second = gateway(&cluster, &nodes, budget).await;
    cluster.nodes[1].kill();

    // Each of the dead node's sessions between two of the others: the breaker stays closed.
    let living = homes[0].iter().chain(&homes[2]).collect::<Vec<_>>();
    for (position, n) in living.iter().enumerate() {
        assert_eq!(second.ask(&n.to_string()).await, pinned(nodes[**n % 2].name), "{n}");
        if let Some(lost) = homes[1].get(position).filter(|_| position < 3) {
            let went = second.ask(&lost.to_string()).await;
            assert_eq!((went.status, went.verdict), (StatusCode::OK, Verdict::Assigned));
        }
    }
    let stats = second.store.stats();
    assert_eq!((stats.state(), stats.opened()), (EngineState::Up, 0), "{stats:?}");
    assert_eq!(stats.unanswered(), 3, "those of the dead node: {stats:?}");
    for n in &homes[1] {
        assert_eq!(first.ask(&n.to_string()).await, pinned(nodes[n % 2].name), "a local copy");
    }

    // Only of the dead node: the breaker opens, and closes over the nodes that are left.
    let third = gateway(&cluster, &nodes, budget).await;
    let mut lost = homes[1].iter();
    while third.store.stats().opened() == 0 {
        let n = lost.next().expect("five failures in a row open it");
        assert_eq!(third.ask(&n.to_string()).await.status, StatusCode::OK);
    }
    third.until(EngineState::Up).await;
    for n in living {
        let went = third.ask(&n.to_string()).await;
        assert_eq!(went, pinned(nodes[*n % 2].name), "{n} is found");
    }

    cluster.nodes[1].restart();
    cluster.until_complete().await;
    let healed = in_time("sessions of all nodes are shared again", async {
        // It is empty; the gateway that has copies writes them anew when they are due, and new ones at
        // once.
        let mut n = 0;
        while cluster.sizes()[1] < 5 {
            second.begin(&nodes[0], &format!("later-{n}")).await;
            second.written().await;
            n += 1;
        }
        let fourth = gateway(&cluster, &nodes, PATIENT).await;
        for later in (n - 5)..n {
            let went = fourth.ask(&format!("later-{later}")).await;
            assert_eq!(went, pinned("a"), "{later}");
        }
    });
    healed.await;
}
