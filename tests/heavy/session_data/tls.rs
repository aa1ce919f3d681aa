//! Session data in Redis over TLS.

use std::{collections::HashMap, time::Duration};

use axum::http::StatusCode;
use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::Error,
};
use tower_sticky::session_data::RedisStore;
use tower_sticky_heavy_tests::{
    again,
    certificates::{Authority, Identity},
    in_time,
    redis_server::RedisServer,
};

use super::shops::{Client as Browser, Fleet};

/// A store that trusts only one authority, and sends a certificate if one is given.
fn store(server: &RedisServer, trusted: &Authority, own: Option<Identity>) -> RedisStore {
    let client = server.tls_client(trusted, own);
    RedisStore::from_client(client).unwrap().time_budget(Duration::from_secs(20))
}

/// Asserts that two shops share a session.
async fn works(store: &(impl SessionStore + Clone)) {
    let fleet = Fleet::fenced(store);
    let mut client = Browser::default();
    fleet.only("a");
    assert_eq!(client.ok(&fleet, "/count").await, "1");
    fleet.only("b");
    assert_eq!(client.ok(&fleet, "/count").await, "2", "another shop reads it from Redis");
    client.ok(&fleet, "/logout").await;
    assert_eq!(client.ok(&fleet, "/read").await, "none");
}

/// Asserts that each call fails. Returns the error.
async fn fails(store: &RedisStore) -> String {
    let data = HashMap::new();
    let expiry_date = OffsetDateTime::now_utc() + Duration::from_secs(60);
    let record = Record { id: Id(1), data, expiry_date };
    assert!(in_time("the result", store.save(&record)).await.is_err());
    assert!(in_time("the result", store.delete(&record.id)).await.is_err());
    let error = in_time("the result", store.load(&record.id)).await.unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    let answer = Browser::default().get(&Fleet::fenced(store), "/count").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", answer.body);
    error.to_string()
}

#[tokio::test]
async fn a_private_authority_is_trusted() {
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, false, &[]);
    works(&store(&server, &authority, None)).await;
}

#[tokio::test]
async fn mutual_tls_requires_a_client_certificate() {
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
async fn an_untrusted_server_is_not_used() {
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
async fn an_authority_from_the_environment_is_trusted() {
    let budget = Duration::from_secs(20);
    match again::address() {
        Some(url) if url.starts_with("rediss-cluster:") => {
            return works(&RedisStore::cluster(&url).unwrap().time_budget(budget)).await;
        }
        Some(url) => return works(&RedisStore::new(&url).unwrap().time_budget(budget)).await,
        None => {}
    }
    let name = "tls::an_authority_from_the_environment_is_trusted";
    let authority = Authority::new("ours");
    let server = RedisServer::with_tls(&authority, false, &[]);
    again::with_authority(name, &server.authority_file(), &server.tls_url()).await;

    let args = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let cluster = RedisServer::with_tls(&authority, false, &args);
    cluster.form_cluster().await;
    let url = format!("rediss-cluster://{}", cluster.tls_addr());
    again::with_authority(name, &cluster.authority_file(), &url).await;
}
