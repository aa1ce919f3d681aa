//! Sessions in a Redis over TLS.

use std::{collections::HashMap, time::Duration};

use axum::http::StatusCode;
use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::Error,
};
use tower_sticky::{
    session_data::RedisStore,
    store::client::{Client, ClientTlsConfig, TlsCertificates},
};
use tower_sticky_heavy_tests::{
    again,
    certificates::{Authority, Identity},
    in_time,
    redis_server::RedisServer,
    until,
};

use super::shops::{Client as Browser, Fleet};

/// A store that trusts one authority only, and shows a certificate if it has one.
fn store(server: &RedisServer, trusted: &Authority, own: Option<Identity>) -> RedisStore {
    let own = own.map(|own| ClientTlsConfig {
        client_cert: own.certificate.into_bytes(),
        client_key: own.key.into_bytes(),
    });
    let certificates =
        TlsCertificates { client_tls: own, root_cert: Some(trusted.pem().into_bytes()) };
    let client = Client::build_with_tls(server.tls_url(), certificates).unwrap();
    RedisStore::from_client(client).unwrap().time_budget(Duration::from_secs(20))
}

async fn works(store: &(impl SessionStore + Clone)) {
    let fleet = Fleet::fenced(store);
    let mut client = Browser::default();
    fleet.only("a");
    assert_eq!(client.ok(&fleet, "/count").await, "1");
    fleet.only("b");
    assert_eq!(client.ok(&fleet, "/count").await, "2", "another shop reads it from the engine");
    client.ok(&fleet, "/logout").await;
    assert_eq!(client.ok(&fleet, "/read").await, "nobody");
}

/// Says why each call fails.
async fn fails(store: &RedisStore) -> String {
    let data = HashMap::new();
    let expiry_date = OffsetDateTime::now_utc() + Duration::from_secs(60);
    let record = Record { id: Id(1), data, expiry_date };
    assert!(in_time("an answer", store.save(&record)).await.is_err());
    assert!(in_time("an answer", store.delete(&record.id)).await.is_err());
    let error = in_time("an answer", store.load(&record.id)).await.unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    let answer = Browser::default().get(&Fleet::fenced(store), "/count").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", answer.body);
    error.to_string()
}

#[tokio::test]
async fn with_an_authority_of_our_own() {
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, false, &[]);
    works(&store(&server, &authority, None)).await;
}

#[tokio::test]
async fn with_certificates_on_both_sides() {
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, true, &[]);
    works(&store(&server, &authority, Some(authority.client()))).await;
    let why = fails(&store(&server, &authority, None)).await;
    assert!(why.contains("CertificateRequired"), "{why}");
    let stranger = Authority::new("another").client();
    let why = fails(&store(&server, &authority, Some(stranger))).await;
    assert!(why.contains("UnknownCA"), "{why}");
}

#[tokio::test]
async fn an_engine_that_is_not_trusted_is_none() {
    let server = RedisServer::with_tls(&Authority::new("ours"), false, &[]);
    let stores = [
        store(&server, &Authority::new("another"), None),
        RedisStore::new(&server.tls_url()).unwrap().time_budget(Duration::from_secs(20)),
    ];
    for store in stores {
        let why = fails(&store).await;
        assert!(why.contains("invalid peer certificate: UnknownIssuer"), "{why}");
    }
}

#[tokio::test]
async fn an_address_and_the_file_of_an_authority_are_enough() {
    let patience = Duration::from_secs(20);
    match again::address() {
        Some(url) if url.starts_with("rediss-cluster:") => {
            return works(&RedisStore::cluster(&url).unwrap().time_budget(patience)).await;
        }
        Some(url) => return works(&RedisStore::new(&url).unwrap().time_budget(patience)).await,
        None => {}
    }
    let name = "tls::an_address_and_the_file_of_an_authority_are_enough";
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, false, &[]);
    again::with_authority(name, &server.authority_file(), &server.tls_url()).await;

    let args = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let cluster = RedisServer::with_tls(&authority, false, &args);
    assert_eq!(cluster.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "+OK");
    let ok = || cluster.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    until("the cluster is there", ok).await;
    let url = format!("rediss-cluster://{}", cluster.tls_addr());
    again::with_authority(name, &cluster.authority_file(), &url).await;
}
