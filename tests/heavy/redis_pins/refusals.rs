//! Redis answers, but does not want to, or has lost what it had.

use std::time::Duration;

use http::StatusCode;
use tower_sticky::{
    Verdict,
    store::{EngineState, RedisStore},
};
use tower_sticky_heavy_tests::{redis_server::RedisServer, until};

use crate::support::{Gateway, Node, PATIENT, nodes, pinned, until_keys};

const RECHECK: Duration = Duration::from_millis(20);

/// One that asks often.
async fn gateway(url: &str, nodes: &[Node]) -> Gateway {
    let store = RedisStore::builder(url).time_budget(PATIENT).recheck(RECHECK);
    let gateway = Gateway::new(nodes, store, Duration::from_secs(1800));
    gateway.store.connected().await;
    gateway
}

#[tokio::test]
async fn flushed() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let first = gateway(&server.url(), &nodes).await;
    for n in 0..10 {
        first.begin(&nodes[n % 2], &n.to_string()).await;
    }
    until_keys(&server, 10).await;
    server.command(&["FLUSHALL"]);
    server.command(&["SCRIPT", "FLUSH"]);
    tokio::time::sleep(2 * RECHECK).await;
    for n in 0..10 {
        assert_eq!(first.ask(&n.to_string()).await, pinned(nodes[n % 2].name));
    }
    until_keys(&server, 10).await;
    let second = gateway(&server.url(), &nodes).await;
    for n in 0..10 {
        let went = second.ask(&n.to_string()).await;
        assert_eq!(went, pinned(nodes[n % 2].name), "the first gateway has restored it");
    }
    assert_eq!(first.store.stats().failures(), 0);
}

#[tokio::test]
async fn full() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let first = gateway(&server.url(), &nodes).await;
    let second = gateway(&server.url(), &nodes).await;
    first.begin(&nodes[0], "old").await;
    until_keys(&server, 1).await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    first.begin(&nodes[1], "new").await;
    until("the write is refused", || first.store.stats().refused() > 0).await;
    first.written().await;
    for _ in 0..20 {
        assert_eq!(first.ask("new").await, pinned("b"), "from the local copy");
    }
    assert_eq!(second.ask("old").await, pinned("a"), "what is there can be read");
    assert_eq!(second.ask("new").await.status, StatusCode::OK);
    let stats = first.store.stats();
    assert_eq!((stats.state(), stats.opened()), (EngineState::Up, 0), "it does answer: {stats:?}");
    assert!(stats.lost_writes() > 0, "{stats:?}");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    tokio::time::sleep(2 * RECHECK).await;
    assert_eq!(first.ask("new").await, pinned("b"));
    until_keys(&server, 2).await;
    let third = gateway(&server.url(), &nodes).await;
    assert_eq!(third.ask("new").await, pinned("b"), "it was written when there was room");
}

#[tokio::test]
async fn wrong_password_or_database() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    for url in
        [format!("redis://:hunter2@{}", server.addr()), format!("redis://{}/99", server.addr())]
    {
        let store = RedisStore::builder(&url).time_budget(PATIENT);
        assert!(!format!("{store:?}").contains("hunter2"), "{store:?}");
        let gateway = Gateway::new(&nodes, store, Duration::from_secs(1800));
        let went = gateway.ask("1").await;
        assert_eq!((went.status, went.verdict), (StatusCode::OK, Verdict::Assigned));
        gateway.until(EngineState::Down).await;
        let seen = format!("{:?} {:?}", gateway.store, gateway.service);
        assert!(!seen.contains("hunter2") && seen.contains("RedisStore"), "{seen}");
        assert_eq!(gateway.ask("1").await, pinned(went.to.as_deref().unwrap()));
        if !url.ends_with("99") {
            // It becomes right.
            server.command(&["CONFIG", "SET", "requirepass", "hunter2"]);
            gateway.until(EngineState::Up).await;
            server.command_after_auth("hunter2", &["CONFIG", "SET", "requirepass", ""]);
        }
    }
}
