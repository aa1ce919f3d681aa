//! The kinds of Redis addresses: a cluster, and sentinels.

use std::time::Duration;

use tower_sticky::store::{EngineState, RedisStore};
use tower_sticky_heavy_tests::redis_server::RedisServer;

use crate::support::{Gateway, LONG_BUDGET, nodes, pinned, until_keys};

/// Asserts that two gateways share pins through the Redis at `url`.
async fn works(url: &str, server: &RedisServer) {
    let nodes = nodes(["a", "b"]);
    let gateway = || {
        let store = RedisStore::builder(url).time_budget(LONG_BUDGET);
        Gateway::new(&nodes, store, Duration::from_secs(1800))
    };
    let (first, second) = (gateway(), gateway());
    first.store.connected().await;
    for n in 0..20 {
        first.begin(&nodes[n % 2], &n.to_string()).await;
    }
    until_keys(server, 20).await;
    for n in 0..20 {
        assert_eq!(second.ask(&n.to_string()).await, pinned(nodes[n % 2].name), "{n} at {url}");
    }
    assert_eq!(second.store.stats().state(), EngineState::Up);
}

#[tokio::test]
async fn pins_are_shared_through_a_cluster() {
    let server = RedisServer::with(&["--cluster-enabled", "yes"]);
    server.form_cluster().await;
    works(&format!("redis-cluster://{}", server.addr()), &server).await;
}

#[tokio::test]
async fn pins_are_shared_through_the_master_of_a_sentinel() {
    let server = RedisServer::start();
    let sentinel = RedisServer::sentinel("shop", server.addr());
    works(&format!("redis-sentinel://{}/shop", sentinel.addr()), &server).await;
}
