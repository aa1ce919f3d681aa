//! Redis killed, hung, slow, started again: what each request got, and that it heals by itself.

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

/// Longer than a call takes on a busy machine, most of the time, and short enough to wait for.
const BUDGET: Duration = Duration::from_millis(300);

fn store(server: &RedisServer) -> RedisStoreBuilder {
    RedisStore::builder(&server.url()).time_budget(BUDGET).failures(3)
}

async fn gateway(server: &RedisServer, nodes: &[Node]) -> Gateway {
    let gateway = Gateway::new(nodes, store(server), IDLE);
    in_time("it connects", gateway.store.connected()).await;
    gateway
}

/// Sessions `0..20` begun by the first gateway, known to the second.
async fn begin(first: &Gateway, second: &Gateway, nodes: &[Node], server: &RedisServer) {
    for n in 0..20 {
        first.begin(&nodes[n % nodes.len()], &n.to_string()).await;
    }
    until_keys(server, 20).await;
    for n in 0..20 {
        let went = second.ask(&n.to_string()).await;
        assert_eq!(went, pinned(nodes[n % nodes.len()].name), "{n} is known to the second");
    }
}

/// What must hold while Redis does not answer, however that came about.
async fn serves_without_redis(first: &Gateway, second: &Gateway, nodes: &[Node]) {
    let calls = first.store.stats().calls();
    for round in 0..20 {
        for n in 0..20 {
            let at_home = pinned(nodes[n % nodes.len()].name);
            assert_eq!(first.ask(&n.to_string()).await, at_home, "from the local copy");
            assert_eq!(second.ask(&n.to_string()).await, at_home, "from the local copy");
        }
        let id = format!("new-{round}");
        let (one, other) = (first.ask(&id).await, second.ask(&id).await);
        assert_eq!((one.status, one.verdict), (StatusCode::OK, Verdict::Assigned));
        assert_eq!(one, other, "all gateways place it by its rank");
        assert_eq!(first.ask(&id).await, pinned(one.to.as_deref().unwrap()), "and it stays there");
    }
    let stats = first.store.stats();
    assert_eq!(stats.calls(), calls, "while the breaker is open nobody is asked: {stats:?}");
    assert!(stats.lost_writes() >= 20, "the lost writes are counted: {stats:?}");
    assert!(stats.unanswered() >= 20, "and the look-ups: {stats:?}");
}

/// What must hold when Redis answers again: the same gateways know all, and another one learns it.
async fn heals(first: &Gateway, second: &Gateway, nodes: &[Node], server: &RedisServer) {
    first.until(EngineState::Up).await;
    second.until(EngineState::Up).await;
    let mut homes = Vec::new();
    for round in 0..20 {
        homes.push(first.ask(&format!("new-{round}")).await.to.unwrap());
    }
    first.written().await;
    let third = gateway(server, nodes).await;
    for (round, home) in homes.iter().enumerate() {
        let went = third.ask(&format!("new-{round}")).await;
        assert_eq!(went, pinned(home), "what was not written was written later");
    }
}

#[tokio::test]
async fn killed_and_started_again() {
    let mut server = RedisServer::start();
    let nodes = nodes(["a", "b", "c"]);
    let (first, second) = (gateway(&server, &nodes).await, gateway(&server, &nodes).await);
    begin(&first, &second, &nodes, &server).await;
    server.kill();
    for gateway in [&first, &second] {
        // The end of the connection is noticed by whoever needs it next.
        in_time("the breaker opens", async {
            while gateway.store.stats().state() != EngineState::Down {
                assert_eq!(gateway.ask("notice").await.status, StatusCode::OK);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(gateway.store.stats().timeouts(), 0, "a broken connection is no wait");
    }
    serves_without_redis(&first, &second, &nodes).await;
    server.restart();
    heals(&first, &second, &nodes, &server).await;
}

#[tokio::test]
async fn hung_and_going_on() {
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
            assert!(asked <= 3, "each request waits at most once: {asked}");
        }
        let stats = gateway.store.stats();
        assert_eq!(stats.timeouts() - before.timeouts(), 3, "as many as may fail: {stats:?}");
        assert!(began.elapsed() >= BUDGET && began.elapsed() < FOREVER);
        assert_eq!((stats.opened(), stats.state()), (1, EngineState::Down));
    }
    serves_without_redis(&first, &second, &nodes).await;
    assert_eq!(first.store.stats().timeouts(), 3, "and nobody waits after that");
    server.go_on();
    heals(&first, &second, &nodes, &server).await;
    let known = second.ask("0").await;
    assert_eq!(known, pinned("a"));
}

#[tokio::test]
async fn slow_and_fast_again() {
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
        assert!(asked <= 3, "each request waits at most once: {asked}");
    }
    let stats = gateway.store.stats();
    assert_eq!(stats.timeouts(), 3, "{stats:?}");
    assert_eq!(gateway.ask("0").await, pinned("a"), "from the local copy");
    gateway.until(EngineState::Up).await;
    assert_eq!(gateway.ask("0").await, pinned("a"));
}

#[tokio::test]
async fn not_there_from_the_beginning() {
    let mut server = RedisServer::start();
    server.kill();
    let nodes = nodes(["a", "b"]);
    let gateway = Gateway::new(&nodes, store(&server), IDLE);
    let went = gateway.ask("1").await;
    assert_eq!((went.status, went.verdict), (StatusCode::OK, Verdict::Assigned));
    gateway.until(EngineState::Down).await;
    assert_eq!(gateway.ask("1").await, pinned(went.to.as_deref().unwrap()), "it has a copy");
    assert_eq!(gateway.store.stats().calls(), 0);
    server.restart();
    gateway.until(EngineState::Up).await;
    gateway.ask("1").await;
    until_keys(&server, 1).await;
}

#[tokio::test]
async fn slow_at_the_beginning() {
    let server = RedisServer::start();
    let nodes = nodes(["a", "b", "c", "d"]);
    let before = gateway(&server, &nodes).await;
    for (n, node) in nodes.iter().enumerate() {
        before.begin(node, &n.to_string()).await;
    }
    until_keys(&server, nodes.len()).await;
    server.hang();
    let restarted = Gateway::new(&nodes, store(&server), IDLE);
    let asked = async {
        for (n, node) in nodes.iter().enumerate() {
            assert_eq!(restarted.ask(&n.to_string()).await, pinned(node.name), "nobody moves");
        }
    };
    let goes_on = async {
        tokio::time::sleep(BUDGET * 2).await;
        server.go_on();
    };
    tokio::join!(asked, goes_on);
}

#[tokio::test]
async fn a_store_may_reject_whom_it_cannot_look_up() {
    let mut server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    let gateway = Gateway::new(&nodes, store(&server).on_down(OnDown::Reject), IDLE);
    in_time("it connects", gateway.store.connected()).await;
    gateway.begin(&nodes[1], "1").await;
    until_keys(&server, 1).await;
    server.kill();
    let went = gateway.ask("2").await;
    assert_eq!((went.status, went.to), (StatusCode::SERVICE_UNAVAILABLE, None));
    gateway.until(EngineState::Down).await;
    assert_eq!(gateway.ask("2").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.ask("1").await, pinned("b"), "the local copy goes on");
    assert_eq!(gateway.send(None).await.status, StatusCode::OK, "nothing had to be looked up");
    server.restart();
    gateway.until(EngineState::Up).await;
    assert_eq!(gateway.ask("2").await.verdict, Verdict::Assigned);
}

#[tokio::test]
async fn pins_in_tokens_are_not_concerned() {
    let mut server = RedisServer::start();
    let nodes = nodes(["a", "b"]);
    for on_down in [OnDown::Open, OnDown::Reject] {
        server.restart();
        let store = store(&server).on_down(on_down).build().unwrap();
        let keys = KeyRing::generate().unwrap();
        let chain = Chain::of(learned(&store, IDLE)).or(Cookie::sealed("sid", keys));
        let gateway = Gateway::with(&nodes, store, chain);
        in_time("it connects", gateway.store.connected()).await;
        let (went, token) = gateway.send_for_cookie(None, "sid").await;
        let (home, token) = (went.to.unwrap(), token.unwrap());
        server.kill();
        for n in 0..10 {
            let went = gateway.send(Some(&format!("JSESSIONID=x{n}; sid={token}"))).await;
            assert_eq!(went, pinned(&home), "the token is enough, with {on_down:?}");
        }
        assert!(gateway.store.stats().unanswered() >= 10);
    }
}
