//! The engine: what is in it, what must not be, and what happens when it is not there.

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
use tower_sticky_heavy_tests::{in_time, redis_server::RedisServer};

use super::shops::{Client, Fleet};

fn record(count: u32) -> Record {
    Record {
        id: Id::default(),
        data: HashMap::from([("count".to_owned(), count.into())]),
        expiry_date: OffsetDateTime::now_utc() + Duration::from_secs(60),
    }
}

#[tokio::test]
async fn a_session_expires_in_the_engine() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap().prefix("shop:");
    let record = record(1);
    store.save(&record).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), Some(record.clone()));
    let key = format!("shop:{}", record.id);
    let left = |key: &str| server.command(&["PTTL", key])[1..].parse::<u64>().unwrap();
    assert!((1..=60_000).contains(&left(&key)), "as the session's date says");
    store.delete(&record.id).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), None);
    assert!((60_001..=600_000).contains(&left(&key)), "the memory of it, ten minutes");
    let error = store.save(&record).await.unwrap_err();
    assert_eq!(error.to_string(), "save refused: the session has been deleted");

    let over = Record { id: Id(1), expiry_date: OffsetDateTime::UNIX_EPOCH, ..record };
    store.save(&over).await.unwrap();
    assert_eq!(store.load(&over.id).await.unwrap(), None, "it is over");
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
    assert_ne!(third.id, first.id, "nor of one that was deleted");
}

#[tokio::test]
async fn bad_data_is_an_error_and_no_more() {
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
        assert_eq!(store.load(&id).await.unwrap(), None, "it can be deleted all the same");
    }
    // A key of another kind, and a hash of somebody else.
    server.command(&["DEL", &key]);
    server.command(&["HSET", &key, "colour", "green"]);
    assert!(matches!(store.load(&id).await, Err(Error::Decode(_))));
    assert!(store.save(&Record { id, ..record(1) }).await.is_err());
    server.command(&["SET", &key, "hello"]);
    assert!(matches!(store.load(&id).await, Err(Error::Backend(_))));
    assert!(store.save(&Record { id, ..record(1) }).await.is_err());
    assert_eq!(server.command(&["GET", &key]), "hello", "what is not ours stays");
}

#[tokio::test]
async fn bad_data_fails_the_request_and_nothing_else() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap();
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    client.ok(&fleet, "/count").await;
    let key = format!("session:{}", client.jar["id"]);
    server.command(&["HSET", &key, "data", "rubbish"]);
    assert_eq!(client.ok(&fleet, "/read").await, "1", "a has a copy");
    fleet.only("b");
    let answer = client.get(&fleet, "/read").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.body.contains("its version is 114, and 1 is known"), "{}", answer.body);
    assert_eq!(Client::default().ok(&fleet, "/count").await, "1");
}

#[tokio::test]
async fn the_engine_goes_and_comes_back() {
    let budget = Duration::from_millis(300);
    let mut server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap().time_budget(budget);
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    assert_eq!(client.ok(&fleet, "/count").await, "1");

    server.hang();
    let began = Instant::now();
    let hung = in_time("an answer", client.get(&fleet, "/count")).await;
    assert_eq!(hung.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(began.elapsed() >= budget, "it was waited for");
    let read = in_time("an answer", client.get(&fleet, "/read")).await;
    assert_eq!(read.status, StatusCode::INTERNAL_SERVER_ERROR, "the copy may be out of date now");
    assert!(read.body.contains("no answer within 300ms"), "{}", read.body);
    server.go_on();
    // The save that was given up was done when the engine went on.
    assert_eq!(client.ok(&fleet, "/read").await, "2");

    server.kill();
    let down = in_time("an answer", client.get(&fleet, "/count")).await;
    assert_eq!(down.status, StatusCode::INTERNAL_SERVER_ERROR);
    let down = in_time("an answer", client.get(&fleet, "/read")).await;
    assert!(down.body.contains("redis: "), "{}", down.body);

    server.restart();
    let answer = in_time("the engine is found again", async {
        loop {
            let answer = client.get(&fleet, "/count").await;
            if answer.status == StatusCode::OK {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(answer.await.body, "1", "it is empty, and a session begins");
    assert_eq!(client.ok(&fleet, "/count").await, "2");
}

#[tokio::test]
async fn an_engine_that_is_not_there_yet_is_found() {
    let mut server = RedisServer::start();
    server.kill();
    let store = RedisStore::new(&server.url()).unwrap();
    assert!(store.load(&Id(1)).await.is_err());
    server.restart();
    let found = async {
        while store.load(&Id(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time("the engine is found", found).await;
}

#[tokio::test]
async fn an_address_that_is_none_is_said_at_once() {
    let error = RedisStore::new("http://:secret@example.com").unwrap_err().to_string();
    assert!(error.contains("expected redis://[user:") && !error.contains("secret"), "{error}");
    let elsewhere = std::thread::spawn(|| RedisStore::new("redis://127.0.0.1/").unwrap_err());
    assert!(elsewhere.join().unwrap().to_string().contains("Tokio runtime"));
}

#[tokio::test]
async fn a_copy_costs_no_call() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap();
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    client.ok(&fleet, "/count").await;
    server.reset_calls();
    for _ in 0..20 {
        assert_eq!(client.ok(&fleet, "/read").await, "1");
    }
    assert_eq!(server.calls("evalsha"), 0, "read from the copy");
    client.ok(&fleet, "/count").await;
    assert_eq!(server.calls("evalsha"), 1, "saved, and not read");
}
