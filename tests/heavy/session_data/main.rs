//! Session data in memory and in a real Redis: applications with tower-sessions behind gateways in this
//! process. The applications are shops whose sessions contain a cart or a count.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

/// Runs each test with both stores.
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

/// Waits for the next millisecond. Epochs start as times in milliseconds, so two moves in the same
/// millisecond could have the same epoch.
async fn next_millisecond() {
    let millis = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let now = millis();
    while millis() == now {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
