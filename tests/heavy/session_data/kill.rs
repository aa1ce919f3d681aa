//! A shop is killed while it serves writes: acknowledged writes must be found on the other shops.

use std::process::Command;

use tokio::time::Instant;
use tower_sticky_heavy_tests::{example::binary, redis_server::RedisServer};

use super::{
    crowd::{Crowd, Found, Writes},
    processes::Processes,
};

/// A shop with a store at this address, or without a store if it is `none`.
fn with_store(store: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heavy-shop"));
    command.arg(store);
    command
}

/// A shop of the example, which copies carts to the first replica that the gateway names.
fn replica_aware(name: &str) -> Command {
    let mut command = Command::new(binary("replica_aware"));
    command.args(["--shop", name]);
    command
}

/// What customers have observed when their shop was killed.
struct Killed {
    writes: Writes,
    /// The results of the customers' next requests.
    found: Found,
    /// The results for some customers after they have added another item.
    after: Found,
}

/// Kills a shop that has so many sessions. Prints the figures.
async fn kill(what: &str, shops: &mut Processes, sessions: usize) -> Killed {
    let began = Instant::now();
    shops.new_sessions_at("a");
    let mut affected = Crowd::new(sessions, &shops.gateway);
    affected.add().await;
    shops.new_sessions_at("b");
    let mut others = Crowd::new(sessions / 20, &shops.gateway);
    others.add().await;
    let filled = began.elapsed();

    let began = Instant::now();
    let writes = affected.add_until(sessions / 5, || shops.kill("a")).await;
    let written = began.elapsed();

    let began = Instant::now();
    let found = affected.load().await;
    let loaded = began.elapsed();
    // A tenth is enough to see that sessions can be used further.
    let began = Instant::now();
    affected.truncate(sessions / 10);
    affected.add().await;
    let after = affected.load().await;
    println!(
        "{what}: {sessions} sessions made in {filled:.1?}; {writes:?} in {written:.1?}; then all \
         loaded in {loaded:.1?}: {found:?}; a tenth has added and loaded in {:.1?}: {after:?}",
        began.elapsed()
    );

    let unaffected = others.load().await;
    assert_eq!((unaffected.lost, unaffected.refused.len()), (0, 0), "{unaffected:?}");
    Killed { writes, found, after }
}

fn assert_nothing_is_lost(killed: &Killed, sessions: usize) {
    let Killed { writes, found, after } = killed;
    assert_eq!(found.refused.len(), 0, "each next request succeeds without a retry: {found:?}");
    assert_eq!(found.lost, 0, "acknowledged items are found: {found:?}");
    assert!(!found.by.contains_key("a"), "the other shops respond: {found:?}");
    assert!(
        found.by["b"].abs_diff(found.by["c"]) < sessions / 10,
        "both other shops take over: {found:?}"
    );
    assert_eq!(
        (after.refused.len(), after.lost),
        (0, 0),
        "the sessions can be used further: {after:?}"
    );
    let cut_off: usize = writes.failed.values().sum();
    assert!(cut_off > 0, "writes were in flight when the shop was killed: {writes:?}");
    assert_eq!(
        writes.failed.get(&502),
        Some(&cut_off),
        "writes fail for no other reason: {writes:?}"
    );
}

const SESSIONS: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_with_a_store() {
    let server = RedisServer::start();
    let mut shops = Processes::start(|_| with_store(&server.url()), 0);
    let killed = kill("with a store", &mut shops, SESSIONS).await;
    assert_nothing_is_lost(&killed, SESSIONS);
}

/// The negative control.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_carts_are_lost_without_a_store() {
    let mut shops = Processes::start(|_| with_store("none"), 0);
    let killed = kill("without a store", &mut shops, 1000).await;
    assert_eq!(killed.found.lost, 1000, "{:?}", killed.found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_with_replicas() {
    let mut shops = Processes::start(replica_aware, 2);
    let killed = kill("with replicas", &mut shops, SESSIONS).await;
    assert_nothing_is_lost(&killed, SESSIONS);
}

/// The negative control: the gateway names no replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_carts_are_lost_without_replicas() {
    let mut shops = Processes::start(replica_aware, 0);
    let killed = kill("without replicas", &mut shops, 1000).await;
    assert_eq!(killed.found.lost, 1000, "{:?}", killed.found);
}
