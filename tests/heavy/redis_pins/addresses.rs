//! A cluster, and whoever a sentinel names.

use std::time::Duration;

use tower_sticky::store::{EngineState, RedisStore};
use tower_sticky_heavy_tests::{redis_server::RedisServer, until};

use crate::support::{Gateway, PATIENT, nodes, pinned, until_keys};

async fn works(url: &str, server: &RedisServer) {
    let nodes = nodes(["a", "b"]);
    let gateway = || {
        let store = RedisStore::builder(url).time_budget(PATIENT);
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
async fn a_cluster() {
    let server = RedisServer::with(&["--cluster-enabled", "yes"]);
    assert_eq!(server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "+OK");
    let ok = || server.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    until("the cluster is there", ok).await;
    works(&format!("redis-cluster://{}", server.addr()), &server).await;
}

#[tokio::test]
async fn a_master_that_a_sentinel_names() {
    let server = RedisServer::start();
    let sentinel = RedisServer::sentinel("shop", server.addr());
    works(&format!("redis-sentinel://{}/shop", sentinel.addr()), &server).await;
}
