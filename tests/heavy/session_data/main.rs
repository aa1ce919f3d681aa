//! Session data that follows a session: shops with tower-sessions behind a gateway in this process, in
//! memory and over a real Redis.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

/// Runs a scenario over both stores.
macro_rules! over_both_stores {
    ($($name:ident),+ $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::MemoryStore::new()).await;
            })+
        }

        mod in_redis {
            $(#[tokio::test]
            async fn $name() {
                let server = super::RedisServer::start();
                super::$name(super::RedisStore::new(&server.url()).unwrap()).await;
            })+
        }
    };
}

mod agreement;
mod chaos;
mod cluster;
mod crowd;
mod demo;
mod engine;
mod examples;
mod gateways;
mod keys;
mod kill;
mod moves;
mod processes;
mod shops;
mod tls;

/// Epochs are milliseconds: two moves in the same one would have the same.
async fn next_millisecond() {
    let millis = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let now = millis();
    while millis() == now {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
