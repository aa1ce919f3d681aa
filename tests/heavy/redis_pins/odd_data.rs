//! Values under keys of the store that are not pins.

use tower_sticky::Verdict;
use tower_sticky_heavy_tests::redis_server::RedisServer;

use crate::support::{Gateway, nodes, pinned, until_keys};

#[tokio::test]
async fn invalid_values_count_as_no_pin_and_are_replaced() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let values: [&[u8]; 6] = [
        b"",
        b"x",
        &[1; 20],                          // truncated
        &[2; 21],                          // another version
        &[&[1][..], &[0xff; 20]].concat(), // an epoch out of range
        &[1; 4096],
    ];
    for value in values {
        server.command(&["FLUSHALL"]);
        let first = Gateway::connected(&server, &nodes).await;
        first.begin(&nodes[0], "1").await;
        until_keys(&server, 1).await;
        let key = server.key();
        server.command_bytes(&[b"SET", key.as_bytes(), value]);
        let second = Gateway::connected(&server, &nodes).await;
        let routed = second.ask("1").await;
        assert_eq!(routed.verdict, Verdict::Assigned, "{value:?} counts as no pin");
        assert_eq!(second.store.stats().unreadable(), 1, "{value:?} is counted");
        second.written().await;
        let backend = routed.to.unwrap();
        assert_eq!(second.ask("1").await, pinned(&backend), "the gateway has a local copy");
        let stats = second.store.stats();
        assert_eq!((stats.opened(), stats.failures()), (0, 0), "the breaker stays closed");
        if value != [&[1][..], &[0xff; 20]].concat() {
            let third = Gateway::connected(&server, &nodes).await;
            assert_eq!(third.ask("1").await, pinned(&backend), "{value:?} has been replaced");
        }
    }
}

#[tokio::test]
async fn a_value_of_another_type_is_not_changed() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let first = Gateway::connected(&server, &nodes).await;
    first.begin(&nodes[0], "1").await;
    until_keys(&server, 1).await;
    let key = server.key();
    server.command(&["DEL", &key]);
    server.command(&["RPUSH", &key, "theirs"]);
    let second = Gateway::connected(&server, &nodes).await;
    let routed = second.ask("1").await;
    assert_eq!(routed.verdict, Verdict::Assigned);
    second.written().await;
    for _ in 0..10 {
        assert_eq!(second.ask("1").await, pinned(routed.to.as_deref().unwrap()));
    }
    let stats = second.store.stats();
    assert_eq!((stats.unreadable(), stats.opened()), (2, 0), "a look-up and a write: {stats:?}");
    assert_eq!(server.command(&["LINDEX", &key, "0"]), "theirs");
}
