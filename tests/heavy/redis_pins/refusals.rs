//! Redis answers with errors, or has lost its data.

use std::time::Duration;

use http::StatusCode;
use tower_sticky::{
    Verdict,
    store::{EngineState, RedisStore},
};
use tower_sticky_heavy_tests::{redis_server::RedisServer, until};

use crate::support::{Gateway, LONG_BUDGET, Node, nodes, pinned, until_keys};

const RECHECK: Duration = Duration::from_millis(20);

/// A gateway that rechecks pins often.
async fn gateway(url: &str, nodes: &[Node]) -> Gateway {
    let store = RedisStore::builder(url).time_budget(LONG_BUDGET).recheck(RECHECK);
    let gateway = Gateway::new(nodes, store, Duration::from_secs(1800));
    gateway.store.connected().await;
    gateway
}

#[tokio::test]
async fn flushed_pins_are_written_again() {
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
        let routed = second.ask(&n.to_string()).await;
        assert_eq!(routed, pinned(nodes[n % 2].name), "the first gateway has written it again");
    }
    assert_eq!(first.store.stats().failures(), 0);
}

#[tokio::test]
async fn a_full_redis_refuses_writes_and_stays_connected() {
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
    assert_eq!(second.ask("old").await, pinned("a"), "stored pins can be read");
    assert_eq!(second.ask("new").await.status, StatusCode::OK);
    let stats = first.store.stats();
    assert_eq!(
        (stats.state(), stats.opened()),
        (EngineState::Up, 0),
        "the breaker stays closed: {stats:?}"
    );
    assert!(stats.lost_writes() > 0, "{stats:?}");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    tokio::time::sleep(2 * RECHECK).await;
    assert_eq!(first.ask("new").await, pinned("b"));
    until_keys(&server, 2).await;
    let third = gateway(&server.url(), &nodes).await;
    assert_eq!(third.ask("new").await, pinned("b"), "the pin was written when Redis had room");
}

#[tokio::test]
async fn a_wrong_password_or_database_counts_as_down() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    for url in
        [format!("redis://:hunter2@{}", server.addr()), format!("redis://{}/99", server.addr())]
    {
        let store = RedisStore::builder(&url).time_budget(LONG_BUDGET);
        assert!(!format!("{store:?}").contains("hunter2"), "{store:?}");
        let gateway = Gateway::new(&nodes, store, Duration::from_secs(1800));
        let routed = gateway.ask("1").await;
        assert_eq!((routed.status, routed.verdict), (StatusCode::OK, Verdict::Assigned));
        gateway.until(EngineState::Down).await;
        let debug = format!("{:?} {:?}", gateway.store, gateway.service);
        assert!(!debug.contains("hunter2") && debug.contains("RedisStore"), "{debug}");
        assert_eq!(gateway.ask("1").await, pinned(routed.to.as_deref().unwrap()));
        if !url.ends_with("99") {
            // Makes the password valid.
            server.command(&["CONFIG", "SET", "requirepass", "hunter2"]);
            gateway.until(EngineState::Up).await;
            server.command_after_auth("hunter2", &["CONFIG", "SET", "requirepass", ""]);
        }
    }
}
