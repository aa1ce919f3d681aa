//! Servers, clients and processes of the heavy tests, on the loopback interface.

#![allow(missing_docs, missing_debug_implementations, clippy::unwrap_used)]

pub mod again;
pub mod backend_process;
pub mod certificates;
pub mod client;
pub mod demo;
#[path = "../../support/example.rs"]
pub mod example;
pub mod gateway;
#[path = "../../support/kept_connection.rs"]
pub mod kept_connection;
#[path = "../../support/listening.rs"]
pub mod listening;
#[path = "../../support/page.rs"]
pub mod page;
#[path = "../../support/process.rs"]
pub mod process;
pub mod redis_cluster;
pub mod redis_server;
pub mod server;

use std::{future::Future, time::Duration};

/// A timeout that no passing test reaches on any machine.
pub const FOREVER: Duration = Duration::from_secs(60);

/// Waits until a condition named `what` holds.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time(what, wait).await;
}

/// Repeats a call until it succeeds.
pub async fn until_ok<T, E>(what: &str, call: impl AsyncFn() -> Result<T, E>) -> T {
    let succeeds = async {
        loop {
            match call().await {
                Ok(value) => return value,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    in_time(what, succeeds).await
}

/// Waits for a future that must complete.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(FOREVER, future).await;
    result.unwrap_or_else(|_| panic!("timed out: {what}"))
}
