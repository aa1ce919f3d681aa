//! Session data in a cluster of three nodes.

use std::{collections::HashMap, time::Duration};

use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::Error,
};
use tower_sticky::{session_data::RedisStore, store::client::cluster_async::ClusterConnection};
use tower_sticky_heavy_tests::{FOREVER, in_time, redis_cluster::RedisCluster, until_ok};

use super::shops::{Client, Fleet};

fn record(id: i128) -> Record {
    Record {
        id: Id(id),
        data: HashMap::from([("count".to_owned(), 1.into())]),
        expiry_date: OffsetDateTime::now_utc() + Duration::from_secs(600),
    }
}

#[tokio::test]
async fn sessions_are_distributed_over_all_nodes() {
    let cluster = RedisCluster::start().await;
    let store = RedisStore::cluster(&cluster.url()).unwrap().time_budget(FOREVER);
    cluster.forget_scripts();
    for id in 0..100 {
        store.save(&record(id)).await.unwrap();
    }
    let sizes = cluster.sizes();
    assert!(sizes.iter().sum::<usize>() == 100 && sizes.iter().all(|s| *s >= 15), "{sizes:?}");
    cluster.forget_scripts();
    for id in 0..100 {
        assert!(store.load(&Id(id)).await.unwrap().is_some(), "{id}");
    }
    for node in &cluster.nodes {
        assert_eq!(node.calls("script|load"), 1, "the script is loaded once on each node");
    }
    for id in 0..100 {
        store.delete(&Id(id)).await.unwrap();
        assert_eq!(store.load(&Id(id)).await.unwrap(), None);
    }
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    for (shop, count) in ["a", "a", "b", "b", "a", "b"].iter().zip(1..) {
        fleet.only(shop);
        assert_eq!(client.ok(&fleet, "/count").await, count.to_string());
    }
}

#[tokio::test]
async fn other_nodes_serve_their_sessions_while_one_hangs_or_is_killed() {
    let mut cluster = RedisCluster::start().await;
    let store = RedisStore::cluster(&cluster.url()).unwrap().time_budget(Duration::from_secs(1));
    let mut by_node = vec![Vec::new(); 3];
    for id in 0..60 {
        store.save(&record(id)).await.unwrap();
        by_node[cluster.home(&format!("session:{}", Id(id)))].push(id);
    }
    let sizes: Vec<_> = by_node.iter().map(Vec::len).collect();
    assert_eq!(cluster.sizes(), sizes);

    cluster.nodes[1].hang();
    assert_others_serve(&store, &by_node).await;
    cluster.nodes[1].go_on();
    assert_recovers(&cluster, &store, &by_node[1]).await;

    cluster.nodes[1].kill();
    assert_others_serve(&store, &by_node).await;
    cluster.nodes[1].restart();
    assert_recovers(&cluster, &store, &by_node[1]).await;
    assert_eq!(cluster.sizes(), sizes, "all sessions are stored again");
}

/// Asserts that calls fail for sessions on the second node only.
async fn assert_others_serve(store: &RedisStore<ClusterConnection>, by_node: &[Vec<i128>]) {
    for lost in by_node[1].iter().take(3) {
        let error = in_time("the result", store.load(&Id(*lost))).await.unwrap_err();
        assert!(matches!(error, Error::Backend(_)), "{error}");
        for id in by_node[0].iter().chain(&by_node[2]) {
            assert!(store.load(&Id(*id)).await.unwrap().is_some(), "{id} is on another node");
            store.save(&record(*id)).await.unwrap();
        }
    }
}

async fn assert_recovers(
    cluster: &RedisCluster,
    store: &RedisStore<ClusterConnection>,
    ids: &[i128],
) {
    cluster.until_complete().await;
    let healed = async {
        for id in ids {
            while store.save(&record(*id)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(store.load(&Id(*id)).await.unwrap().is_some());
        }
    };
    in_time("the store uses the node again", healed).await;
}

#[tokio::test]
async fn a_cluster_that_starts_later_is_connected() {
    let mut cluster = RedisCluster::start().await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let store = RedisStore::cluster(&cluster.url()).unwrap();
    assert!(in_time("the result", store.load(&Id(1))).await.is_err());
    for node in &mut cluster.nodes {
        node.restart();
    }
    cluster.until_complete().await;
    until_ok("the store connects to the cluster", async || store.save(&record(1)).await).await;
}

#[tokio::test]
async fn addresses_of_another_kind_are_errors() {
    let error = |url: &str| RedisStore::cluster(url).unwrap_err().to_string();
    for url in ["redis://:secret@one", "redis-sentinel://:secret@one/master", "nothing://:secret@"]
    {
        let error = error(url);
        assert!(error.contains("redis-cluster://") && !error.contains("secret"), "{error}");
    }
    let error = RedisStore::new("redis-cluster://one,two").unwrap_err().to_string();
    assert!(error.contains("use RedisStore::cluster"), "{error}");
    let error = RedisStore::new("redis-sentinel://one/master").unwrap_err().to_string();
    assert!(error.contains("sentinels are not supported"), "{error}");
    let url = "redis-cluster://one";
    let elsewhere = std::thread::spawn(|| RedisStore::cluster(url).unwrap_err());
    assert!(elsewhere.join().unwrap().to_string().contains("Tokio runtime"));
}
