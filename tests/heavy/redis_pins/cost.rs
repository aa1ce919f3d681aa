//! How often Redis is asked.

use std::{sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_sticky::store::RedisStore;
use tower_sticky_heavy_tests::{redis_server::RedisServer, until};

use crate::support::{Body, Gateway, PATIENT, nodes, pinned, until_keys};

#[tokio::test]
async fn a_session_known_here_costs_no_call() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let first = Gateway::patient(&server, &nodes).await;
    let second = Arc::new(Gateway::patient(&server, &nodes).await);
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
    assert_eq!(server.calls("evalsha"), 50, "one write for each session, and not a look-up");
    // Many requests at once that know nothing yet.
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
    assert_eq!(server.calls("evalsha"), 100, "one look-up for each session on another gateway");
    assert_eq!(second.store.stats().calls(), 50);
    assert_eq!(second.store.stats().local_hits() + second.store.stats().found(), 50);
}

#[tokio::test]
async fn a_session_is_touched_once_per_fraction_of_its_idle_time() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let idle = Duration::from_secs(4);
    let gateway = || {
        let store = RedisStore::builder(&server.url()).time_budget(PATIENT);
        Gateway::new(&nodes, store, idle)
    };
    let (first, second) = (gateway(), gateway());
    first.store.connected().await;
    second.store.connected().await;
    server.reset_calls();
    // From before the first call until after the last one: as many fractions lie between two calls.
    let most = |since: Instant| {
        let fractions = since.elapsed().as_micros() / (idle / 16).as_micros();
        1 + u64::try_from(fractions).unwrap()
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
    assert_eq!(server.calls("evalsha"), calls[0] + calls[1], "Redis has counted the same");

    // A silent session costs nothing, and one touch when it comes back.
    let before = first.store.stats().calls();
    tokio::time::sleep(3 * idle / 16).await;
    assert_eq!(first.store.stats().calls(), before);
    let back = Instant::now();
    for _ in 0..20 {
        assert_eq!(first.ask("1").await, pinned("b"));
    }
    let calls = first.store.stats().calls() - before;
    assert!((1..=most(back)).contains(&calls), "{calls} since it came back");
}

#[tokio::test]
async fn an_id_that_nobody_knows_is_looked_up_and_written() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let gateway = Gateway::patient(&server, &nodes).await;
    for n in 0..20 {
        for _ in 0..5 {
            gateway.ask(&n.to_string()).await;
        }
    }
    gateway.written().await;
    let stats = gateway.store.stats();
    assert_eq!((stats.unknown(), stats.calls()), (20, 40), "one of each, and no more: {stats:?}");
}

#[tokio::test]
async fn a_touch_keeps_a_session_alive_and_brings_news() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let gateway = || {
        let store = RedisStore::builder(&server.url()).time_budget(PATIENT);
        Gateway::new(&nodes, store.recheck(Duration::from_millis(20)), Duration::from_secs(1800))
    };
    let (first, second) = (gateway(), gateway());
    first.store.connected().await;
    second.store.connected().await;
    first.begin(&nodes[0], "1").await;
    until_keys(&server, 1).await;
    assert_eq!(second.ask("1").await, pinned("a"));
    // The application begins the session anew, elsewhere.
    first.begin(&nodes[1], "1").await;
    first.written().await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(second.ask("1").await, pinned("b"), "the next look at Redis brings it");
    // The time in Redis is the idle time and a fraction.
    let key = server.key();
    server.command(&["PEXPIRE", &key, "60000"]);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(second.ask("1").await, pinned("b"));
    let left: u64 = server.command(&["PTTL", &key]).trim_start_matches(':').parse().unwrap();
    let most = 1_800_000 + 1_800_000 / 16;
    assert!((most - 60_000..=most).contains(&left), "{left} ms are left");
    // And it does end.
    server.command(&["PEXPIRE", &key, "1"]);
    until_keys(&server, 0).await;
    let third = gateway();
    third.store.connected().await;
    assert_eq!(third.ask("1").await.verdict, tower_sticky::Verdict::Assigned);
    until("it was asked", || third.store.stats().unknown() == 1).await;
}

#[tokio::test]
async fn a_stream_keeps_its_session_alive_for_all_gateways() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let idle = Duration::from_secs(4);
    let gateway = || {
        let store = RedisStore::builder(&server.url()).time_budget(PATIENT);
        Gateway::new(&nodes, store, idle)
    };
    let (first, second) = (gateway(), gateway());
    first.store.connected().await;
    second.store.connected().await;
    first.begin(&nodes[1], "1").await;
    until_keys(&server, 1).await;
    let request = Request::get("/").header("cookie", "JSESSIONID=1").body(Body::default());
    // An answer whose body has not ended.
    let stream = first.service.clone().oneshot(request.unwrap()).await.unwrap();
    let key = server.key();
    let left =
        || -> u64 { server.command(&["PTTL", &key]).trim_start_matches(':').parse().unwrap_or(0) };
    for _ in 0..3 {
        server.command(&["PEXPIRE", &key, "3000"]);
        until("it is told that the session lives", || left() > 3500).await;
    }
    assert_eq!(second.ask("1").await, pinned("b"));
    drop(stream);
    // Nothing is under way: nothing is told.
    tokio::time::sleep(idle / 8).await;
    first.written().await;
    let calls = first.store.stats().calls();
    tokio::time::sleep(idle / 4).await;
    assert_eq!(first.store.stats().calls(), calls);
}
