//! `kill -9` of a shop, in the middle of writes: what was acknowledged is found elsewhere.

use std::process::Command;

use tokio::time::Instant;
use tower_sticky_heavy_tests::{example::binary, redis_server::RedisServer};

use super::{
    crowd::{Crowd, Found, Writes},
    processes::Processes,
};

/// A shop with a store, or with the word `none` without one.
fn with_store(store: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heavy-shop"));
    command.arg(store);
    command
}

/// A shop of the example, which copies carts to the first replica that it is told of.
fn replica_aware(name: &str) -> Command {
    let mut command = Command::new(binary("replica_aware"));
    command.args(["--shop", name]);
    command
}

/// So many sessions are at a shop when it is killed; the figures are printed.
struct Killed {
    writes: Writes,
    /// What its customers found with their next request.
    found: Found,
    /// What some of them found after they had added something more.
    after: Found,
}

async fn kill(what: &str, shops: &mut Processes, sessions: usize) -> Killed {
    let began = Instant::now();
    shops.new_sessions_at("a");
    let mut theirs = Crowd::new(sessions, &shops.gateway);
    theirs.add().await;
    shops.new_sessions_at("b");
    let mut others = Crowd::new(sessions / 20, &shops.gateway);
    others.add().await;
    let filled = began.elapsed();

    let began = Instant::now();
    let writes = theirs.add_until(sessions / 5, || shops.kill("a")).await;
    let written = began.elapsed();

    let began = Instant::now();
    let found = theirs.look().await;
    let looked = began.elapsed();
    // A tenth will do to see that they go on.
    let began = Instant::now();
    theirs.keep(sessions / 10);
    theirs.add().await;
    let after = theirs.look().await;
    println!(
        "{what}: {sessions} sessions made in {filled:.1?}; {writes:?} in {written:.1?}; then all \
         looked in {looked:.1?}: {found:?}; a tenth has added and looked in {:.1?}: {after:?}",
        began.elapsed()
    );

    let undisturbed = others.look().await;
    assert_eq!((undisturbed.lost, undisturbed.refused.len()), (0, 0), "{undisturbed:?}");
    Killed { writes, found, after }
}

fn assert_nothing_is_lost(killed: &Killed, sessions: usize) {
    let Killed { writes, found, after } = killed;
    assert_eq!(found.refused.len(), 0, "each next request is answered at once: {found:?}");
    assert_eq!(found.lost, 0, "what was acknowledged is there: {found:?}");
    assert!(!found.by.contains_key("a"), "by another shop: {found:?}");
    assert!(found.by["b"].abs_diff(found.by["c"]) < sessions / 10, "both take part: {found:?}");
    assert_eq!((after.refused.len(), after.lost), (0, 0), "the sessions go on: {after:?}");
    let cut_off: usize = writes.failed.values().sum();
    assert!(cut_off > 0, "writes were under way when it died: {writes:?}");
    assert_eq!(writes.failed.get(&502), Some(&cut_off), "and for no other reason: {writes:?}");
}

const SESSIONS: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_store_nothing_acknowledged_is_lost() {
    let server = RedisServer::start();
    let mut shops = Processes::start(|_| with_store(&server.url()), 0);
    let killed = kill("with a store", &mut shops, SESSIONS).await;
    assert_nothing_is_lost(&killed, SESSIONS);
}

/// The control: what the store is for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_store_everything_is_lost() {
    let mut shops = Processes::start(|_| with_store("none"), 0);
    let killed = kill("without a store", &mut shops, 1000).await;
    assert_eq!(killed.found.lost, 1000, "{:?}", killed.found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_replica_has_acknowledged_is_lost() {
    let mut shops = Processes::start(replica_aware, 2);
    let killed = kill("with replicas", &mut shops, SESSIONS).await;
    assert_nothing_is_lost(&killed, SESSIONS);
}

/// The control: the same shops, which are not told of replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_replicas_everything_is_lost() {
    let mut shops = Processes::start(replica_aware, 0);
    let killed = kill("without replicas", &mut shops, 1000).await;
    assert_eq!(killed.found.lost, 1000, "{:?}", killed.found);
}
