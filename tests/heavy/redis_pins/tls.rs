//! Pins in Redis over TLS.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tower_sticky::{
    Verdict,
    store::{EngineState, RedisStore, RedisStoreBuilder},
};
use tower_sticky_heavy_tests::{
    again,
    certificates::{Authority, Identity},
    in_time,
    redis_server::RedisServer,
};

use crate::support::{Gateway, LONG_BUDGET, nodes, pinned, until_keys};

const IDLE: Duration = Duration::from_secs(1800);

/// A store that trusts only one authority, and sends a certificate if one is given.
fn store(server: &RedisServer, trusted: &Authority, own: Option<Identity>) -> RedisStoreBuilder {
    let client = server.tls_client(trusted, own);
    RedisStore::from_client(client).time_budget(LONG_BUDGET)
}

/// Asserts that two gateways share pins.
async fn works(store: impl Fn() -> RedisStoreBuilder) {
    let nodes = nodes(["a", "b"]);
    let (first, second) =
        (Gateway::new(&nodes, store(), IDLE), Gateway::new(&nodes, store(), IDLE));
    in_time("the store connects", first.store.connected()).await;
    for n in 0..10 {
        first.begin(&nodes[n % 2], &n.to_string()).await;
    }
    first.written().await;
    for n in 0..10 {
        assert_eq!(second.ask(&n.to_string()).await, pinned(nodes[n % 2].name), "{n}");
    }
    let stats = second.store.stats();
    assert_eq!((stats.state(), stats.found(), stats.failures()), (EngineState::Up, 10, 0));
}

/// Asserts that the store is never connected, and that requests neither fail nor wait for the time budget.
async fn fails(store: RedisStoreBuilder) {
    let nodes = nodes(["a", "b"]);
    let gateway = Gateway::new(&nodes, store, IDLE);
    let began = Instant::now();
    let routed = gateway.ask("1").await;
    assert_eq!((routed.status, routed.verdict), (StatusCode::OK, Verdict::Assigned));
    gateway.until(EngineState::Down).await;
    assert!(
        began.elapsed() < LONG_BUDGET,
        "the failure is detected before the time budget has passed"
    );
    let backend = routed.to.unwrap();
    for n in 2..200 {
        assert_eq!(gateway.ask("1").await, pinned(&backend), "from the local copy");
        let other = gateway.ask(&n.to_string()).await;
        assert_eq!((other.status, other.verdict), (StatusCode::OK, Verdict::Assigned));
        assert_eq!(gateway.store.stats().state(), EngineState::Down);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let stats = gateway.store.stats();
    assert_eq!((stats.connections(), stats.calls()), (0, 0), "it was never up: {stats:?}");
}

#[tokio::test]
async fn a_private_authority_is_trusted() {
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, false, &[]);
    works(|| store(&server, &authority, None)).await;
    until_keys(&server, 10).await;
}

#[tokio::test]
async fn mutual_tls_requires_a_client_certificate() {
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, true, &[]);
    works(|| store(&server, &authority, Some(authority.client()))).await;
    until_keys(&server, 10).await;
    fails(store(&server, &authority, None)).await;
    let stranger = Authority::new("another").client();
    fails(store(&server, &authority, Some(stranger))).await;
}

#[tokio::test]
async fn an_untrusted_server_is_not_used() {
    let server = RedisServer::with_tls(&Authority::new("ours"), false, &[]);
    fails(store(&server, &Authority::new("another"), None)).await;
    // The system does not trust the authority either.
    fails(RedisStore::builder(&server.tls_url()).time_budget(LONG_BUDGET)).await;
    // This port does not support TLS, and waits for more data.
    let plain = server.url().replace("redis:", "rediss:");
    fails(RedisStore::builder(&plain)).await;
}

#[tokio::test]
async fn an_authority_from_the_environment_is_trusted() {
    if let Some(url) = again::address() {
        return works(|| RedisStore::builder(&url).time_budget(LONG_BUDGET)).await;
    }
    let name = "tls::an_authority_from_the_environment_is_trusted";
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, false, &[]);
    again::with_authority(name, &server.authority_file(), &server.tls_url()).await;
    until_keys(&server, 10).await;

    let args = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let cluster = RedisServer::with_tls(&authority, false, &args);
    cluster.form_cluster().await;
    let url = format!("rediss-cluster://{}", cluster.tls_addr());
    again::with_authority(name, &cluster.authority_file(), &url).await;
    until_keys(&cluster, 10).await;
}
