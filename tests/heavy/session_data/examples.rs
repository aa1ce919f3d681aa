//! The examples tell their story to its end.

use std::{
    fs,
    process::{Output, Stdio},
};

use tokio::process::Command;
use tower_sticky_heavy_tests::{example::binary, in_time, redis_server::RedisServer, until};

/// Runs an example that ends by itself.
async fn run(name: &str, args: &[&str]) -> String {
    let mut command = Command::new(binary(name));
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } =
        in_time("the example ends", command.output()).await.unwrap();
    let said = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stderr));
    said
}

fn assert_cart_survives(said: &str) {
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 7, "{said}");
    let owner = lines[1].split_whitespace().nth(2).unwrap();
    assert!(lines[2].ends_with(&format!("{owner} (pinned): apple, bread")), "{said}");
    assert!(lines[3].starts_with(&format!("{owner} is killed")), "{said}");
    // It moves with the first request, or with the second when a connection that was open ends only
    // with the first: then that is sent once more, and borrows.
    let moved = |line: &str| line.contains("(moved): apple, bread");
    assert!(moved(lines[4]) || (lines[4].contains("(borrowed): ") && moved(lines[5])), "{said}");
    assert!(lines[4].ends_with(": apple, bread") && !lines[4].contains(owner), "{said}");
    assert!(lines[5].ends_with(": apple, bread, cheese") && !lines[5].contains(owner), "{said}");
    assert_eq!(lines[6], "The cart is still there.");
}

#[tokio::test]
async fn the_cart_is_still_there_with_a_store_in_memory() {
    assert_cart_survives(&run("session_replication", &[]).await);
}

#[tokio::test]
async fn the_cart_is_still_there_with_a_store_in_redis() {
    let server = RedisServer::start();
    let said = run("session_replication", &["--redis", &server.url()]).await;
    assert!(said.starts_with("Three shops; they share a store in Redis."), "{said}");
    assert_cart_survives(&said);
    assert_eq!(server.command(&["DBSIZE"]), ":1", "one session is in it");
}

#[tokio::test]
async fn of_many_customers_nobody_loses_the_cart() {
    let server = RedisServer::start();
    let said = run("session_replication", &["--redis", &server.url(), "--customers", "300"]).await;
    assert!(said.contains("300 customers fill their carts, 100 of them at shop-"), "{said}");
    assert!(said.ends_with("\n0 carts are lost.\n"), "{said}");
    assert_eq!(server.command(&["DBSIZE"]), ":300");
    // They have the engine's address on their command line, which nobody else has.
    let left = processes().filter(|process| process.command.contains(&server.url()));
    assert_eq!(left.count(), 0, "no shop is left when the story is over");
}

#[tokio::test]
async fn what_the_replica_has_is_still_there() {
    let said = run("replica_aware", &["--customers", "900"]).await;
    assert!(said.contains("900 customers fill their carts, 300 of them at shop-"), "{said}");
    let took_over = said.lines().filter(|line| line.contains("has taken over")).count();
    assert_eq!(took_over, 2, "both of the others take their part: {said}");
    assert!(said.ends_with("\n0 carts are lost.\n"), "{said}");
}

#[tokio::test]
async fn no_shop_is_left_when_the_example_is_killed() {
    let mut command = Command::new(binary("replica_aware"));
    // It would go on for longer than anybody waits.
    command.args(["--customers", "1000000"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut example = command.kill_on_drop(true).spawn().unwrap();
    let id = example.id().unwrap();
    let shops = || processes().filter(|process| process.parent == id).map(|process| process.id);
    if processes().next().is_none() {
        // Here the system does not tell which processes there are.
        return;
    }
    until("three shops run", || shops().count() == 3).await;
    let shops: Vec<_> = shops().collect();
    example.kill().await.unwrap();
    until("they end by themselves", || {
        !processes().any(|process| shops.contains(&process.id) && process.runs)
    })
    .await;
}

struct Running {
    id: u32,
    parent: u32,
    /// Whether it has not ended; it may still be there when nobody has asked how it ended.
    runs: bool,
    command: String,
}

/// All processes; none where there is no such file system.
fn processes() -> impl Iterator<Item = Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name, in brackets, may contain anything; then come the state and the parent's id.
        let mut words = stat.rsplit_once(')')?.1.split_whitespace();
        let runs = words.next()? != "Z";
        let parent = words.next()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Running { id, parent, runs, command })
    })
}
