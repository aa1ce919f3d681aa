//! Pins in a cluster of three nodes.

use std::time::Duration;

use http::StatusCode;
use tower_sticky::{
    Verdict,
    store::{EngineState, RedisStore},
};
use tower_sticky_heavy_tests::{in_time, redis_cluster::RedisCluster, until};

use crate::support::{Gateway, LONG_BUDGET, Node, nodes, pinned};

async fn gateway(cluster: &RedisCluster, nodes: &[Node], budget: Duration) -> Gateway {
    let store = RedisStore::builder(&cluster.url()).time_budget(budget);
    let gateway = Gateway::new(nodes, store, Duration::from_secs(1800));
    in_time("the store connects", gateway.store.connected()).await;
    gateway
}

#[tokio::test]
async fn pins_are_distributed_over_all_nodes() {
    let cluster = RedisCluster::start().await;
    let nodes = nodes(["a", "b"]);
    let first = gateway(&cluster, &nodes, LONG_BUDGET).await;
    cluster.forget_scripts();
    for n in 0..100 {
        first.begin(&nodes[n % 2], &n.to_string()).await;
    }
    until("all pins are stored", || cluster.sizes().iter().sum::<usize>() == 100).await;
    assert!(cluster.sizes().iter().all(|size| *size >= 15), "{:?}", cluster.sizes());
    for node in &cluster.nodes {
        assert!(node.calls("eval") >= 1, "the script is loaded on each node");
    }
    cluster.forget_scripts();
    let second = gateway(&cluster, &nodes, LONG_BUDGET).await;
    for n in 0..100 {
        assert_eq!(second.ask(&n.to_string()).await, pinned(nodes[n % 2].name), "{n}");
    }
    for node in &cluster.nodes {
        assert!(node.calls("eval") >= 1, "the script is loaded again after it was flushed");
    }
    let stats = second.store.stats();
    assert_eq!((stats.found(), stats.failures(), stats.timeouts()), (100, 0, 0), "{stats:?}");
}

#[tokio::test]
async fn other_nodes_are_used_while_one_is_down() {
    // Long enough for live nodes, and short enough to wait for calls to the killed one.
    let budget = Duration::from_secs(1);
    let mut cluster = RedisCluster::start().await;
    let nodes = nodes(["a", "b"]);
    let first = gateway(&cluster, &nodes, LONG_BUDGET).await;
    let by_node = begin_sessions(&cluster, &first, &nodes).await;
    let living: Vec<usize> = by_node[0].iter().chain(&by_node[2]).copied().collect();
    let second = gateway(&cluster, &nodes, budget).await;
    cluster.nodes[1].kill();

    // No two calls in a row are for the killed node, so the breaker stays closed.
    for (position, &n) in living.iter().enumerate() {
        assert_eq!(second.ask(&n.to_string()).await, pinned(nodes[n % 2].name), "{n}");
        if let Some(lost) = by_node[1].get(position).filter(|_| position < 3) {
            let routed = second.ask(&lost.to_string()).await;
            assert_eq!((routed.status, routed.verdict), (StatusCode::OK, Verdict::Assigned));
        }
    }
    let stats = second.store.stats();
    assert_eq!((stats.state(), stats.opened()), (EngineState::Up, 0), "{stats:?}");
    assert_eq!(stats.unanswered(), 3, "only sessions of the killed node: {stats:?}");
    for n in &by_node[1] {
        assert_eq!(
            first.ask(&n.to_string()).await,
            pinned(nodes[n % 2].name),
            "from the local copy"
        );
    }

    // All calls are for the killed node: the breaker opens, and closes when another node answers.
    let third = gateway(&cluster, &nodes, budget).await;
    let mut lost = by_node[1].iter();
    while third.store.stats().opened() == 0 {
        let n = lost.next().expect("five failures in a row open the breaker");
        assert_eq!(third.ask(&n.to_string()).await.status, StatusCode::OK);
    }
    third.until(EngineState::Up).await;
    for n in living {
        let routed = third.ask(&n.to_string()).await;
        assert_eq!(routed, pinned(nodes[n % 2].name), "{n} is on a live node");
    }

    cluster.nodes[1].restart();
    cluster.until_complete().await;
    let stored = store_new_pins(&cluster, &second, &nodes);
    in_time("pins are stored on all nodes again", stored).await;
}

/// The restarted node has lost its pins. New pins are written at once, and other gateways find them.
async fn store_new_pins(cluster: &RedisCluster, writer: &Gateway, nodes: &[Node]) {
    let mut n = 0;
    while cluster.sizes()[1] < 5 {
        writer.begin(&nodes[0], &format!("later-{n}")).await;
        writer.written().await;
        n += 1;
    }
    let reader = gateway(cluster, nodes, LONG_BUDGET).await;
    for later in (n - 5)..n {
        let routed = reader.ask(&format!("later-{later}")).await;
        assert_eq!(routed, pinned("a"), "{later}");
    }
}

/// Begins 60 sessions. Returns their numbers by the cluster node that has their pin.
async fn begin_sessions(
    cluster: &RedisCluster,
    gateway: &Gateway,
    nodes: &[Node],
) -> [Vec<usize>; 3] {
    let mut by_node = [const { Vec::new() }; 3];
    for n in 0..60 {
        let before = cluster.sizes();
        gateway.begin(&nodes[n % 2], &n.to_string()).await;
        gateway.written().await;
        let after = cluster.sizes();
        by_node[(0..3).find(|node| after[*node] > before[*node]).unwrap()].push(n);
    }
    by_node
}
