//! Outages of Redis: the results of requests meanwhile, and recovery.

use std::time::Duration;

use http::StatusCode;
use tower_sticky::{
    KeyRing, Verdict,
    affinity::{Chain, Cookie},
    store::{EngineState, OnDown, RedisStore, RedisStoreBuilder},
};
use tower_sticky_heavy_tests::{FOREVER, in_time, redis_server::RedisServer};

use crate::support::{Gateway, Node, learned, nodes, pinned, until_keys};

const IDLE: Duration = Duration::from_secs(1800);

/// Longer than most calls take on a busy machine, and short enough to wait for.
const BUDGET: Duration = Duration::from_millis(300);

fn store(server: &RedisServer) -> RedisStoreBuilder {
    RedisStore::builder(&server.url()).time_budget(BUDGET).failures(3)
}

async fn gateway(server: &RedisServer, nodes: &[Node]) -> Gateway {
    let gateway = Gateway::new(nodes, store(server), IDLE);
    in_time("the store connects", gateway.store.connected()).await;
    gateway
}

/// Begins the sessions `0..20` on the first gateway, and uses them on the second one.
async fn begin(first: &Gateway, second: &Gateway, nodes: &[Node], server: &RedisServer) {
    for n in 0..20 {
        first.begin(&nodes[n % nodes.len()], &n.to_string()).await;
    }
    until_keys(server, 20).await;
    for n in 0..20 {
        let routed = second.ask(&n.to_string()).await;
        assert_eq!(
            routed,
            pinned(nodes[n % nodes.len()].name),
            "the second gateway reads the pin of {n}"
        );
    }
}

/// Asserts how requests are served while Redis does not answer.
async fn assert_serves_without_redis(first: &Gateway, second: &Gateway, nodes: &[Node]) {
    let calls = first.store.stats().calls();
    for round in 0..20 {
        for n in 0..20 {
            let expected = pinned(nodes[n % nodes.len()].name);
            assert_eq!(first.ask(&n.to_string()).await, expected, "from the local copy");
            assert_eq!(second.ask(&n.to_string()).await, expected, "from the local copy");
        }
        let id = format!("new-{round}");
        let (one, other) = (first.ask(&id).await, second.ask(&id).await);
        assert_eq!((one.status, one.verdict), (StatusCode::OK, Verdict::Assigned));
        assert_eq!(one, other, "all gateways assign it by rank");
        assert_eq!(
            first.ask(&id).await,
            pinned(one.to.as_deref().unwrap()),
            "it stays on its backend"
        );
    }
    let stats = first.store.stats();
    assert_eq!(stats.calls(), calls, "no calls are made while the breaker is open: {stats:?}");
    assert!(stats.lost_writes() >= 20, "lost writes are counted: {stats:?}");
    assert!(stats.unanswered() >= 20, "look-ups without an answer are counted: {stats:?}");
}

/// Asserts that pins are written and shared when Redis answers again.
async fn assert_recovers(first: &Gateway, second: &Gateway, nodes: &[Node], server: &RedisServer) {
    first.until(EngineState::Up).await;
    second.until(EngineState::Up).await;
    let mut backends = Vec::new();
    for round in 0..20 {
        backends.push(first.ask(&format!("new-{round}")).await.to.unwrap());
    }
    first.written().await;
    let third = gateway(server, nodes).await;
    for (round, backend) in backends.iter().enumerate() {
        let routed = third.ask(&format!("new-{round}")).await;
        assert_eq!(routed, pinned(backend), "lost writes are repeated");
    }
}

#[tokio::test]
async fn a_killed_redis_is_detected_without_a_timeout() {
    let mut server = RedisServer::start();
    let nodes = nodes(["a", "b", "c"]);
    let (first, second) = (gateway(&server, &nodes).await, gateway(&server, &nodes).await);
    begin(&first, &second, &nodes, &server).await;
    server.kill();
    for gateway in [&first, &second] {
        // The next calls notice the end of the connection.
        in_time("the breaker opens", async {
            while gateway.store.stats().state() != EngineState::Down {
                assert_eq!(gateway.ask("notice").await.status, StatusCode::OK);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(gateway.store.stats().timeouts(), 0, "no call waits on a broken connection");
    }
    assert_serves_without_redis(&first, &second, &nodes).await;
    server.restart();
    assert_recovers(&first, &second, &nodes, &server).await;
}

#[tokio::test]
async fn a_hung_redis_opens_the_breaker() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c"]);
    let (first, second) = (gateway(&server, &nodes).await, gateway(&server, &nodes).await);
    begin(&first, &second, &nodes, &server).await;
    server.hang();
    for gateway in [&first, &second] {
        let before = gateway.store.stats();
        let began = tokio::time::Instant::now();
        let mut asked = 0;
        while gateway.store.stats().state() == EngineState::Up {
            assert_eq!(gateway.ask(&format!("notice-{asked}")).await.verdict, Verdict::Assigned);
            asked += 1;
            assert!(asked <= 3, "three timeouts open the breaker, after {asked} requests");
        }
        let stats = gateway.store.stats();
        assert_eq!(
            stats.timeouts() - before.timeouts(),
            3,
            "the failures that open the breaker: {stats:?}"
        );
        assert!(began.elapsed() >= BUDGET && began.elapsed() < FOREVER);
        assert_eq!((stats.opened(), stats.state()), (1, EngineState::Down));
    }
    assert_serves_without_redis(&first, &second, &nodes).await;
    assert_eq!(first.store.stats().timeouts(), 3, "no request waits while the breaker is open");
    server.go_on();
    assert_recovers(&first, &second, &nodes, &server).await;
    let known = second.ask("0").await;
    assert_eq!(known, pinned("a"));
}

#[tokio::test]
async fn a_slow_redis_opens_the_breaker() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let gateway = gateway(&server, &nodes).await;
    gateway.begin(&nodes[0], "0").await;
    gateway.written().await;
    server.command(&["CLIENT", "PAUSE", "3000", "ALL"]);
    let mut asked = 0;
    while gateway.store.stats().state() == EngineState::Up {
        gateway.ask(&format!("new-{asked}")).await;
        asked += 1;
        assert!(asked <= 3, "three timeouts open the breaker, after {asked} requests");
    }
    let stats = gateway.store.stats();
    assert_eq!(stats.timeouts(), 3, "{stats:?}");
    assert_eq!(gateway.ask("0").await, pinned("a"), "from the local copy");
    gateway.until(EngineState::Up).await;
    assert_eq!(gateway.ask("0").await, pinned("a"));
}

#[tokio::test]
async fn a_redis_that_starts_later_is_connected() {
    let mut server = RedisServer::start();
    server.kill();
    let nodes = nodes(["a", "b"]);
    let gateway = Gateway::new(&nodes, store(&server), IDLE);
    let routed = gateway.ask("1").await;
    assert_eq!((routed.status, routed.verdict), (StatusCode::OK, Verdict::Assigned));
    gateway.until(EngineState::Down).await;
    assert_eq!(
        gateway.ask("1").await,
        pinned(routed.to.as_deref().unwrap()),
        "from the local copy"
    );
    assert_eq!(gateway.store.stats().calls(), 0);
    server.restart();
    gateway.until(EngineState::Up).await;
    gateway.ask("1").await;
    until_keys(&server, 1).await;
}

#[tokio::test]
async fn the_first_connection_is_waited_for() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c", "d"]);
    let before = gateway(&server, &nodes).await;
    for (n, node) in nodes.iter().enumerate() {
        before.begin(node, &n.to_string()).await;
    }
    until_keys(&server, nodes.len()).await;
    server.hang();
    let restarted = Gateway::new(&nodes, store(&server), IDLE);
    let requests = async {
        for (n, node) in nodes.iter().enumerate() {
            assert_eq!(
                restarted.ask(&n.to_string()).await,
                pinned(node.name),
                "the session is not moved"
            );
        }
    };
    let resume = async {
        tokio::time::sleep(BUDGET * 2).await;
        server.go_on();
    };
    tokio::join!(requests, resume);
}

#[tokio::test]
async fn on_down_reject_fails_requests_that_need_a_lookup() {
    let mut server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let gateway = Gateway::new(&nodes, store(&server).on_down(OnDown::Reject), IDLE);
    in_time("the store connects", gateway.store.connected()).await;
    gateway.begin(&nodes[1], "1").await;
    until_keys(&server, 1).await;
    server.kill();
    let routed = gateway.ask("2").await;
    assert_eq!((routed.status, routed.to), (StatusCode::SERVICE_UNAVAILABLE, None));
    gateway.until(EngineState::Down).await;
    assert_eq!(gateway.ask("2").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.ask("1").await, pinned("b"), "from the local copy");
    assert_eq!(
        gateway.send(None).await.status,
        StatusCode::OK,
        "a request without an id needs no look-up"
    );
    server.restart();
    gateway.until(EngineState::Up).await;
    assert_eq!(gateway.ask("2").await.verdict, Verdict::Assigned);
}

#[tokio::test]
async fn sessions_with_a_token_are_served_while_redis_is_down() {
    let mut server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    for on_down in [OnDown::Open, OnDown::Reject] {
        server.restart();
        let store = store(&server).on_down(on_down).build().unwrap();
        let keys = KeyRing::generate().unwrap();
        let chain = Chain::of(learned(&store, IDLE)).or(Cookie::sealed("sid", keys));
        let gateway = Gateway::with(&nodes, store, chain);
        in_time("the store connects", gateway.store.connected()).await;
        let (routed, token) = gateway.send_for_cookie(None, "sid").await;
        let (backend, token) = (routed.to.unwrap(), token.unwrap());
        server.kill();
        for n in 0..10 {
            let routed = gateway.send(Some(&format!("JSESSIONID=x{n}; sid={token}"))).await;
            assert_eq!(routed, pinned(&backend), "the token is used with {on_down:?}");
        }
        assert!(gateway.store.stats().unanswered() >= 10);
    }
}
