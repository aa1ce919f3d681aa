//! Sessions in a cluster of three nodes.

use std::{collections::HashMap, time::Duration};

use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::Error,
};
use tower_sticky::{session_data::RedisStore, store::client::cluster_async::ClusterConnection};
use tower_sticky_heavy_tests::{FOREVER, in_time, redis_cluster::RedisCluster};

use super::shops::{Client, Fleet};

fn record(id: i128) -> Record {
    Record {
        id: Id(id),
        data: HashMap::from([("count".to_owned(), 1.into())]),
        expiry_date: OffsetDateTime::now_utc() + Duration::from_secs(600),
    }
}

#[tokio::test]
async fn sessions_are_on_all_nodes() {
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
        assert_eq!(node.calls("script|load"), 1, "each is given the script again, once");
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
async fn a_node_hangs_or_is_killed_and_started_again() {
    let mut cluster = RedisCluster::start().await;
    let store = RedisStore::cluster(&cluster.url()).unwrap().time_budget(Duration::from_secs(1));
    let mut homes = vec![Vec::new(); 3];
    for id in 0..60 {
        store.save(&record(id)).await.unwrap();
        homes[cluster.home(&format!("session:{}", Id(id)))].push(id);
    }
    let sizes: Vec<_> = homes.iter().map(Vec::len).collect();
    assert_eq!(cluster.sizes(), sizes);

    cluster.nodes[1].hang();
    others_go_on(&store, &homes).await;
    cluster.nodes[1].go_on();
    heals(&cluster, &store, &homes[1]).await;

    cluster.nodes[1].kill();
    others_go_on(&store, &homes).await;
    cluster.nodes[1].restart();
    heals(&cluster, &store, &homes[1]).await;
    assert_eq!(cluster.sizes(), sizes, "all are there again");
}

/// What is on the second node fails, and nothing else does.
async fn others_go_on(store: &RedisStore<ClusterConnection>, homes: &[Vec<i128>]) {
    for lost in homes[1].iter().take(3) {
        let error = in_time("an answer", store.load(&Id(*lost))).await.unwrap_err();
        assert!(matches!(error, Error::Backend(_)), "{error}");
        for id in homes[0].iter().chain(&homes[2]) {
            assert!(store.load(&Id(*id)).await.unwrap().is_some(), "{id} is on another node");
            store.save(&record(*id)).await.unwrap();
        }
    }
}

async fn heals(cluster: &RedisCluster, store: &RedisStore<ClusterConnection>, ids: &[i128]) {
    cluster.until_complete().await;
    let healed = async {
        for id in ids {
            while store.save(&record(*id)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(store.load(&Id(*id)).await.unwrap().is_some());
        }
    };
    in_time("the node is found again", healed).await;
}

#[tokio::test]
async fn a_cluster_that_is_not_there_yet_is_found() {
    let mut cluster = RedisCluster::start().await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let store = RedisStore::cluster(&cluster.url()).unwrap();
    assert!(in_time("an answer", store.load(&Id(1))).await.is_err());
    for node in &mut cluster.nodes {
        node.restart();
    }
    cluster.until_complete().await;
    let found = async {
        while store.save(&record(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time("the cluster is found", found).await;
}

#[tokio::test]
async fn addresses_of_another_kind_are_said_at_once() {
    let said = |url: &str| RedisStore::cluster(url).unwrap_err().to_string();
    for url in ["redis://:secret@one", "redis-sentinel://:secret@one/master", "nothing://:secret@"]
    {
        let error = said(url);
        assert!(error.contains("redis-cluster://") && !error.contains("secret"), "{error}");
    }
    let error = RedisStore::new("redis-cluster://one,two").unwrap_err().to_string();
    assert!(error.contains("use RedisStore::cluster"), "{error}");
    let error = RedisStore::new("redis-sentinel://one/master").unwrap_err().to_string();
    assert!(error.contains("sentinels are not asked for sessions"), "{error}");
    let url = "redis-cluster://one";
    let elsewhere = std::thread::spawn(|| RedisStore::cluster(url).unwrap_err());
    assert!(elsewhere.join().unwrap().to_string().contains("Tokio runtime"));
}
