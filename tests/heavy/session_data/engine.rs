//! The session store in Redis: expiry, invalid data, and outages.

use std::{collections::HashMap, time::Duration};

use axum::http::StatusCode;
use time::OffsetDateTime;
use tokio::time::Instant;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::Error,
};
use tower_sticky::session_data::RedisStore;
use tower_sticky_heavy_tests::{in_time, redis_server::RedisServer, until_ok};

use super::shops::{Client, Fleet};

fn record(count: u32) -> Record {
    Record {
        id: Id::default(),
        data: HashMap::from([("count".to_owned(), count.into())]),
        expiry_date: OffsetDateTime::now_utc() + Duration::from_secs(60),
    }
}

/// Shops with a store in Redis, and a client with a session on shop `a`.
async fn session_on_a(server: &RedisServer) -> (Fleet, Client) {
    let fleet = Fleet::fenced(&RedisStore::new(&server.url()).unwrap());
    let mut client = Client::default();
    fleet.only("a");
    client.ok(&fleet, "/count").await;
    (fleet, client)
}

#[tokio::test]
async fn a_session_expires_in_redis() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap().prefix("shop:");
    let record = record(1);
    store.save(&record).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), Some(record.clone()));
    let key = format!("shop:{}", record.id);
    let left = |key: &str| server.command(&["PTTL", key])[1..].parse::<u64>().unwrap();
    assert!((1..=60_000).contains(&left(&key)), "until the expiry date of the session");
    store.delete(&record.id).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), None);
    assert!((60_001..=600_000).contains(&left(&key)), "the deletion is remembered for ten minutes");
    let error = store.save(&record).await.unwrap_err();
    assert_eq!(error.to_string(), "save refused: the session has been deleted");

    let expired = Record { id: Id(1), expiry_date: OffsetDateTime::UNIX_EPOCH, ..record };
    store.save(&expired).await.unwrap();
    assert_eq!(store.load(&expired.id).await.unwrap(), None, "it has expired");
}

#[tokio::test]
async fn a_new_session_never_takes_the_id_of_another() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap();
    let mut first = record(1);
    store.create(&mut first).await.unwrap();
    let mut second = Record { id: first.id, ..record(2) };
    store.create(&mut second).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(store.load(&first.id).await.unwrap(), Some(first.clone()));
    assert_eq!(store.load(&second.id).await.unwrap(), Some(second));
    store.delete(&first.id).await.unwrap();
    let mut third = Record { id: first.id, ..record(3) };
    store.create(&mut third).await.unwrap();
    assert_ne!(third.id, first.id, "the id of a deleted session is not used again");
}

#[tokio::test]
async fn invalid_data_is_an_error_and_can_be_deleted() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap();
    let id = Id::default();
    let key = format!("session:{id}");
    for (field, bad) in [
        ("data", &b"\x02[1,0,{}]"[..]),
        ("data", b""),
        ("data", b"\x01[1,0,{\"count\":"),
        ("data", b"hello"),
        ("data", b"\xff\xfe"),
        ("epoch", b"7"),
        ("epoch", b"99999999999999999999"),
        ("epoch", b"0000000000000000000x"),
        ("owner", b"\xff"),
        ("owner", b"not an id"),
    ] {
        server.command(&["DEL", &key]);
        store.save(&Record { id, ..record(1) }).await.unwrap();
        server.command(&["HSET", &key, "epoch", "00000000000000000007", "owner", "a"]);
        assert!(store.load(&id).await.unwrap().is_some());
        server.command_bytes(&[b"HSET", key.as_bytes(), field.as_bytes(), bad]);
        let error = store.load(&id).await.unwrap_err();
        assert!(matches!(error, Error::Decode(_)), "{field}: {bad:?}: {error}");
        store.delete(&id).await.unwrap();
        assert_eq!(store.load(&id).await.unwrap(), None, "invalid data can be deleted");
    }
    // A value of another type, and a hash of another program.
    server.command(&["DEL", &key]);
    server.command(&["HSET", &key, "colour", "green"]);
    assert!(matches!(store.load(&id).await, Err(Error::Decode(_))));
    assert!(store.save(&Record { id, ..record(1) }).await.is_err());
    server.command(&["SET", &key, "hello"]);
    assert!(matches!(store.load(&id).await, Err(Error::Backend(_))));
    assert!(store.save(&Record { id, ..record(1) }).await.is_err());
    assert_eq!(server.command(&["GET", &key]), "hello", "a foreign value is not changed");
}

#[tokio::test]
async fn invalid_data_fails_only_requests_of_its_session() {
    let server = RedisServer::start();
    let (fleet, mut client) = session_on_a(&server).await;
    let key = format!("session:{}", client.jar["id"]);
    server.command(&["HSET", &key, "data", "rubbish"]);
    assert_eq!(client.ok(&fleet, "/read").await, "1", "it is read from a copy");
    fleet.only("b");
    let answer = client.get(&fleet, "/read").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.body.contains("its version is 114, expected 1"), "{}", answer.body);
    assert_eq!(Client::default().ok(&fleet, "/count").await, "1");
}

#[tokio::test]
async fn the_store_recovers_after_an_outage() {
    let budget = Duration::from_millis(300);
    let mut server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap().time_budget(budget);
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    assert_eq!(client.ok(&fleet, "/count").await, "1");

    server.hang();
    let began = Instant::now();
    let hung = in_time("the response", client.get(&fleet, "/count")).await;
    assert_eq!(hung.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(began.elapsed() >= budget, "the request waits for the time budget");
    let read = in_time("the response", client.get(&fleet, "/read")).await;
    assert_eq!(read.status, StatusCode::INTERNAL_SERVER_ERROR, "the copy may be outdated");
    assert!(read.body.contains("no answer within 300ms"), "{}", read.body);
    server.go_on();
    // Redis has executed the save that has timed out.
    assert_eq!(client.ok(&fleet, "/read").await, "2");

    server.kill();
    let down = in_time("the response", client.get(&fleet, "/count")).await;
    assert_eq!(down.status, StatusCode::INTERNAL_SERVER_ERROR);
    let down = in_time("the response", client.get(&fleet, "/read")).await;
    assert!(down.body.contains("redis: "), "{}", down.body);

    server.restart();
    let answer = in_time("the store reconnects", async {
        loop {
            let answer = client.get(&fleet, "/count").await;
            if answer.status == StatusCode::OK {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(answer.await.body, "1", "Redis is empty, so a new session begins");
    assert_eq!(client.ok(&fleet, "/count").await, "2");
}

#[tokio::test]
async fn a_server_that_starts_later_is_connected() {
    let mut server = RedisServer::start();
    server.kill();
    let store = RedisStore::new(&server.url()).unwrap();
    assert!(store.load(&Id(1)).await.is_err());
    server.restart();
    until_ok("the store connects", async || store.load(&Id(1)).await).await;
}

#[tokio::test]
async fn invalid_addresses_are_errors() {
    let error = RedisStore::new("http://:secret@example.com").unwrap_err().to_string();
    assert!(error.contains("expected redis://[user:") && !error.contains("secret"), "{error}");
    let elsewhere = std::thread::spawn(|| RedisStore::new("redis://127.0.0.1/").unwrap_err());
    assert!(elsewhere.join().unwrap().to_string().contains("Tokio runtime"));
}

#[tokio::test]
async fn a_copy_costs_no_call() {
    let server = RedisServer::start();
    let (fleet, mut client) = session_on_a(&server).await;
    server.reset_calls();
    for _ in 0..20 {
        assert_eq!(client.ok(&fleet, "/read").await, "1");
    }
    assert_eq!(server.calls("evalsha"), 0, "sessions are read from the copy");
    client.ok(&fleet, "/count").await;
    assert_eq!(server.calls("evalsha"), 1, "the session is saved without a load");
}
