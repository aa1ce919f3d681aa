//! The number of calls to Redis.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_sticky::store::{RedisStore, RedisStoreBuilder};
use tower_sticky_heavy_tests::{redis_server::RedisServer, until};

use crate::support::{Gateway, LONG_BUDGET, Node, learned, nodes, pinned, until_keys};

/// Connected gateways, each with its own store.
async fn gateways<const N: usize>(
    server: &RedisServer,
    nodes: &[Node],
    idle: Duration,
) -> [Gateway; N] {
    gateways_with(server, nodes, idle, |store| store).await
}

/// The same with options of their stores.
async fn gateways_with<const N: usize>(
    server: &RedisServer,
    nodes: &[Node],
    idle: Duration,
    options: impl Fn(RedisStoreBuilder) -> RedisStoreBuilder,
) -> [Gateway; N] {
    let gateways = std::array::from_fn(|_| {
        let store = RedisStore::builder(&server.url()).time_budget(LONG_BUDGET);
        Gateway::new(nodes, options(store), idle)
    });
    for gateway in &gateways {
        gateway.store.connected().await;
    }
    gateways
}

#[tokio::test]
async fn requests_with_a_local_copy_make_no_call() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let first = Gateway::connected(&server, &nodes).await;
    let second = Arc::new(Gateway::connected(&server, &nodes).await);
    server.reset_calls();
    for n in 0..50 {
        first.begin(&nodes[n % 2], &n.to_string()).await;
    }
    until_keys(&server, 50).await;
    for _ in 0..20 {
        for n in 0..50 {
            assert_eq!(first.ask(&n.to_string()).await, pinned(nodes[n % 2].name));
        }
    }
    assert_eq!(server.calls("evalsha"), 50, "one write per session, and no look-up");
    // Concurrent requests on a gateway without local copies.
    for n in 0..50 {
        let id = n.to_string();
        let all: Vec<_> = (0..20)
            .map(|_| {
                let (gateway, id) = (second.clone(), id.clone());
                tokio::spawn(async move { gateway.ask(&id).await })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), pinned(nodes[n % 2].name));
        }
    }
    assert_eq!(server.calls("evalsha"), 100, "one look-up per session on another gateway");
    assert_eq!(second.store.stats().calls(), 50);
    assert_eq!(second.store.stats().local_hits() + second.store.stats().found(), 50);
}

#[tokio::test]
async fn a_session_is_touched_once_per_sixteenth_of_its_idle_time() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let idle = Duration::from_secs(4);
    let [first, second] = gateways(&server, &nodes, idle).await;
    server.reset_calls();
    // The most calls since a time: at least one sixteenth of the idle time lies between two calls.
    let most = |since: Instant| {
        let intervals = since.elapsed().as_micros() / (idle / 16).as_micros();
        1 + u64::try_from(intervals).unwrap()
    };
    let began = Instant::now();
    first.begin(&nodes[1], "1").await;
    first.written().await;
    while second.store.stats().calls() < 5 {
        assert_eq!(first.ask("1").await, pinned("b"));
        assert_eq!(second.ask("1").await, pinned("b"));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let calls = [&first, &second].map(|gateway| gateway.store.stats().calls());
    let most_of_each = most(began);
    for calls in calls {
        assert!((5..=most_of_each).contains(&calls), "{calls} of at most {most_of_each}");
    }
    assert_eq!(server.calls("evalsha"), calls[0] + calls[1], "Redis counts the same calls");

    // A session without requests makes no calls, and one call with its next request.
    let before = first.store.stats().calls();
    tokio::time::sleep(3 * idle / 16).await;
    assert_eq!(first.store.stats().calls(), before);
    let resumed = Instant::now();
    for _ in 0..20 {
        assert_eq!(first.ask("1").await, pinned("b"));
    }
    let calls = first.store.stats().calls() - before;
    assert!((1..=most(resumed)).contains(&calls), "{calls} calls since the next request");
}

#[tokio::test]
async fn an_unknown_id_is_looked_up_once_and_written_once() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let gateway = Gateway::connected(&server, &nodes).await;
    for n in 0..20 {
        for _ in 0..5 {
            gateway.ask(&n.to_string()).await;
        }
    }
    gateway.written().await;
    let stats = gateway.store.stats();
    assert_eq!(
        (stats.unknown(), stats.calls()),
        (20, 40),
        "a look-up and a write per session: {stats:?}"
    );
}

#[tokio::test]
async fn a_touch_renews_the_time_to_live_and_reads_the_pin() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let [first, second, third] =
        gateways_with(&server, &nodes, Duration::from_secs(1800), |store| {
            store.recheck(Duration::from_millis(20))
        })
        .await;
    first.begin(&nodes[0], "1").await;
    until_keys(&server, 1).await;
    assert_eq!(second.ask("1").await, pinned("a"));
    // The application issues the id again on another backend.
    first.begin(&nodes[1], "1").await;
    first.written().await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(second.ask("1").await, pinned("b"), "the next touch reads the new pin");
    // The time to live is 17/16 of the idle time.
    let key = server.key();
    server.command(&["PEXPIRE", &key, "60000"]);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(second.ask("1").await, pinned("b"));
    let left = time_to_live(&server, &key);
    let most = 1_800_000 + 1_800_000 / 16;
    assert!((most - 60_000..=most).contains(&left), "{left} ms are left");
    // The pin expires.
    server.command(&["PEXPIRE", &key, "1"]);
    until_keys(&server, 0).await;
    assert_eq!(third.ask("1").await.verdict, tower_sticky::Verdict::Assigned);
    until("the session was looked up", || third.store.stats().unknown() == 1).await;
}

/// The time to live of a key in milliseconds; negative if the key is missing.
fn time_to_live(server: &RedisServer, key: &str) -> i64 {
    server.command(&["PTTL", key]).trim_start_matches(':').parse().unwrap()
}

#[tokio::test]
async fn an_open_stream_keeps_its_session_alive_for_all_gateways() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let idle = Duration::from_secs(4);
    let [first, second, third] = gateways(&server, &nodes, idle).await;
    first.begin(&nodes[1], "1").await;
    until_keys(&server, 1).await;
    let key = server.key();
    // The first gateway has begun the session; the second one reads its pin for this request.
    for gateway in [&first, &second] {
        let stream = gateway.open_stream("1").await;
        for _ in 0..3 {
            server.command(&["PEXPIRE", &key, "3000"]);
            until("the session is touched", || time_to_live(&server, &key) > 3500).await;
        }
        drop(stream);
        tokio::time::sleep(idle / 8).await;
        gateway.written().await;
        let calls = gateway.store.stats().calls();
        tokio::time::sleep(idle / 4).await;
        assert_eq!(gateway.store.stats().calls(), calls, "no touch after the stream has ended");
    }
    assert_eq!(third.ask("1").await, pinned("b"));
}

#[tokio::test]
async fn each_open_session_is_kept_alive_by_its_own_idle_time() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let store = RedisStore::builder(&server.url()).time_budget(LONG_BUDGET).build().unwrap();
    let (short, long) = (Duration::from_secs(2), Duration::from_secs(3600));
    let [by_long, by_short] =
        [long, short].map(|idle| Gateway::with(&nodes, store.clone(), learned(&store, idle)));
    store.connected().await;
    by_long.begin(&nodes[0], "long").await;
    until_keys(&server, 1).await;
    let long_key = server.key();
    by_short.begin(&nodes[1], "short").await;
    until_keys(&server, 2).await;
    let other = "for _, key in ipairs(redis.call('KEYS', '*')) do
        if key ~= ARGV[1] then return key end
    end";
    let short_key = server.command(&["EVAL", other, "0", &long_key]);
    let streams = (by_long.open_stream("long").await, by_short.open_stream("short").await);
    let began = Instant::now();
    let calls = store.stats().calls();
    let most = i64::try_from((short + short / 16).as_millis()).unwrap();
    while began.elapsed() < 2 * short {
        let left = time_to_live(&server, &short_key);
        assert!((1..=most).contains(&left), "{left} ms are left, of at most {most}");
        tokio::time::sleep(short / 32).await;
    }
    let left = time_to_live(&server, &long_key);
    assert!(left > 3_500_000, "the other session keeps its longer time: {left}");
    let touches = u128::from(store.stats().calls() - calls);
    let intervals = began.elapsed().as_micros() / (short / 16).as_micros();
    assert!(touches <= intervals + 1, "only the short one is touched: {touches} in {intervals}");
    drop(streams);
}
