//! Something under our keys that is no pin of ours.

use tower_sticky::Verdict;
use tower_sticky_heavy_tests::redis_server::RedisServer;

use crate::support::{Gateway, nodes, pinned, until_keys};

#[tokio::test]
async fn what_is_no_pin_is_a_miss_and_no_panic() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let values: [&[u8]; 6] = [
        b"",
        b"x",
        &[1; 20],                          // truncated
        &[2; 21],                          // another version
        &[&[1][..], &[0xff; 20]].concat(), // an epoch that never was
        &[1; 4096],
    ];
    for value in values {
        server.command(&["FLUSHALL"]);
        let first = Gateway::patient(&server, &nodes).await;
        first.begin(&nodes[0], "1").await;
        until_keys(&server, 1).await;
        let key = server.key();
        server.command_bytes(&[b"SET", key.as_bytes(), value]);
        let second = Gateway::patient(&server, &nodes).await;
        let went = second.ask("1").await;
        assert_eq!(went.verdict, Verdict::Assigned, "{value:?} is a miss");
        assert_eq!(second.store.stats().unreadable(), 1, "{value:?} is counted");
        second.written().await;
        let home = went.to.unwrap();
        assert_eq!(second.ask("1").await, pinned(&home), "and known here from then on");
        let stats = second.store.stats();
        assert_eq!((stats.opened(), stats.failures()), (0, 0), "it is no outage");
        if value != [&[1][..], &[0xff; 20]].concat() {
            let third = Gateway::patient(&server, &nodes).await;
            assert_eq!(third.ask("1").await, pinned(&home), "{value:?} has been replaced");
        }
    }
}

#[tokio::test]
async fn what_belongs_to_others_is_left_alone() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let first = Gateway::patient(&server, &nodes).await;
    first.begin(&nodes[0], "1").await;
    until_keys(&server, 1).await;
    let key = server.key();
    server.command(&["DEL", &key]);
    server.command(&["RPUSH", &key, "theirs"]);
    let second = Gateway::patient(&server, &nodes).await;
    let went = second.ask("1").await;
    assert_eq!(went.verdict, Verdict::Assigned);
    second.written().await;
    for _ in 0..10 {
        assert_eq!(second.ask("1").await, pinned(went.to.as_deref().unwrap()));
    }
    let stats = second.store.stats();
    assert_eq!((stats.unreadable(), stats.opened()), (2, 0), "a look and a write: {stats:?}");
    assert_eq!(server.command(&["LINDEX", &key, "0"]), "theirs");
}
