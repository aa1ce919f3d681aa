//! Redis over TLS.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tower_sticky::{
    Verdict,
    store::{
        EngineState, RedisStore, RedisStoreBuilder,
        client::{Client, ClientTlsConfig, TlsCertificates},
    },
};
use tower_sticky_heavy_tests::{
    again,
    certificates::{Authority, Identity},
    in_time,
    redis_server::RedisServer,
    until,
};

use crate::support::{Gateway, PATIENT, nodes, pinned, until_keys};

const IDLE: Duration = Duration::from_secs(1800);

/// A store that trusts one authority only, and shows a certificate if it has one.
fn store(server: &RedisServer, trusted: &Authority, own: Option<Identity>) -> RedisStoreBuilder {
    let own = own.map(|own| ClientTlsConfig {
        client_cert: own.certificate.into_bytes(),
        client_key: own.key.into_bytes(),
    });
    let certificates =
        TlsCertificates { client_tls: own, root_cert: Some(trusted.pem().into_bytes()) };
    let client = Client::build_with_tls(server.tls_url(), certificates).unwrap();
    RedisStore::from_client(client).time_budget(PATIENT)
}

/// Two gateways share what they learn.
async fn works(store: impl Fn() -> RedisStoreBuilder) {
    let nodes = nodes(["a", "b"]);
    let (first, second) =
        (Gateway::new(&nodes, store(), IDLE), Gateway::new(&nodes, store(), IDLE));
    in_time("it connects", first.store.connected()).await;
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

/// The store never works, and no request fails of it or waits for the time budget.
async fn fails(store: RedisStoreBuilder) {
    let nodes = nodes(["a", "b"]);
    let gateway = Gateway::new(&nodes, store, IDLE);
    let began = Instant::now();
    let went = gateway.ask("1").await;
    assert_eq!((went.status, went.verdict), (StatusCode::OK, Verdict::Assigned));
    gateway.until(EngineState::Down).await;
    assert!(began.elapsed() < PATIENT, "the failure is known before the time is over");
    let home = went.to.unwrap();
    for n in 2..200 {
        assert_eq!(gateway.ask("1").await, pinned(&home), "from the local copy");
        let other = gateway.ask(&n.to_string()).await;
        assert_eq!((other.status, other.verdict), (StatusCode::OK, Verdict::Assigned));
        assert_eq!(gateway.store.stats().state(), EngineState::Down);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let stats = gateway.store.stats();
    assert_eq!((stats.connections(), stats.calls()), (0, 0), "it was never up: {stats:?}");
}

#[tokio::test]
async fn with_an_authority_of_our_own() {
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, false, &[]);
    works(|| store(&server, &authority, None)).await;
    until_keys(&server, 10).await;
}

#[tokio::test]
async fn with_certificates_on_both_sides() {
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, true, &[]);
    works(|| store(&server, &authority, Some(authority.client()))).await;
    until_keys(&server, 10).await;
    fails(store(&server, &authority, None)).await;
    let stranger = Authority::new("another").client();
    fails(store(&server, &authority, Some(stranger))).await;
}

#[tokio::test]
async fn an_engine_that_is_not_trusted_is_none() {
    let server = RedisServer::with_tls(&Authority::new("ours"), false, &[]);
    fails(store(&server, &Authority::new("another"), None)).await;
    // Nor does the system know who has signed it.
    fails(RedisStore::builder(&server.tls_url()).time_budget(PATIENT)).await;
    // And this port does not speak TLS at all: it waits for more.
    let plain = server.url().replace("redis:", "rediss:");
    fails(RedisStore::builder(&plain)).await;
}

#[tokio::test]
async fn an_address_and_the_file_of_an_authority_are_enough() {
    if let Some(url) = again::address() {
        return works(|| RedisStore::builder(&url).time_budget(PATIENT)).await;
    }
    let name = "tls::an_address_and_the_file_of_an_authority_are_enough";
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, false, &[]);
    again::with_authority(name, &server.authority_file(), &server.tls_url()).await;
    until_keys(&server, 10).await;

    let args = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let cluster = RedisServer::with_tls(&authority, false, &args);
    assert_eq!(cluster.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "+OK");
    let ok = || cluster.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    until("the cluster is there", ok).await;
    let url = format!("rediss-cluster://{}", cluster.tls_addr());
    again::with_authority(name, &cluster.authority_file(), &url).await;
    until_keys(&cluster, 10).await;
}
