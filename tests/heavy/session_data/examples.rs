//! Runs the examples `session_replication` and `replica_aware` to their end.

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
    let output = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{output}{}", String::from_utf8_lossy(&stderr));
    output
}

fn assert_cart_survives(output: &str) {
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 7, "{output}");
    let owner = lines[1].split_whitespace().nth(2).unwrap();
    assert!(lines[2].ends_with(&format!("{owner} (pinned): apple, bread")), "{output}");
    assert!(lines[3].starts_with(&format!("{owner} is killed")), "{output}");
    // The session moves with the first request. If the kept connection breaks only then, the first request
    // is sent again and borrows the session, which moves with the second request.
    let moved = |line: &str| line.contains("(moved): apple, bread");
    assert!(moved(lines[4]) || (lines[4].contains("(borrowed): ") && moved(lines[5])), "{output}");
    assert!(lines[4].ends_with(": apple, bread") && !lines[4].contains(owner), "{output}");
    assert!(lines[5].ends_with(": apple, bread, cheese") && !lines[5].contains(owner), "{output}");
    assert_eq!(lines[6], "The cart is still there.");
}

#[tokio::test]
async fn the_cart_survives_with_a_store_in_memory() {
    assert_cart_survives(&run("session_replication", &[]).await);
}

#[tokio::test]
async fn the_cart_survives_with_a_store_in_redis() {
    let server = RedisServer::start();
    let output = run("session_replication", &["--redis", &server.url()]).await;
    assert!(output.starts_with("Three shops; they share a store in Redis."), "{output}");
    assert_cart_survives(&output);
    assert_eq!(server.command(&["DBSIZE"]), ":1", "Redis has one session");
}

#[tokio::test]
async fn no_cart_of_many_customers_is_lost() {
    let server = RedisServer::start();
    let output =
        run("session_replication", &["--redis", &server.url(), "--customers", "300"]).await;
    assert!(output.contains("300 customers fill their carts, 100 of them at shop-"), "{output}");
    assert!(output.ends_with("\n0 carts are lost.\n"), "{output}");
    assert_eq!(server.command(&["DBSIZE"]), ":300");
    // Only the shops have the address of this Redis on their command line.
    let left = processes().filter(|process| process.command.contains(&server.url()));
    assert_eq!(left.count(), 0, "no shop runs after the example has ended");
}

#[tokio::test]
async fn what_the_replica_has_is_still_there() {
    let output = run("replica_aware", &["--customers", "900"]).await;
    assert!(output.contains("900 customers fill their carts, 300 of them at shop-"), "{output}");
    let took_over = output.lines().filter(|line| line.contains("has taken over")).count();
    assert_eq!(took_over, 2, "both other shops take over sessions: {output}");
    assert!(output.ends_with("\n0 carts are lost.\n"), "{output}");
}

#[tokio::test]
async fn shops_end_when_the_example_is_killed() {
    let mut command = Command::new(binary("replica_aware"));
    // Runs for longer than this test.
    command.args(["--customers", "1000000"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut example = command.kill_on_drop(true).spawn().unwrap();
    let id = example.id().unwrap();
    let shops = || processes().filter(|process| process.parent == id).map(|process| process.id);
    if processes().next().is_none() {
        // This system has no list of processes.
        return;
    }
    until("three shops run", || shops().count() == 3).await;
    let shops: Vec<_> = shops().collect();
    example.kill().await.unwrap();
    until("the shops end", || {
        !processes().any(|process| shops.contains(&process.id) && process.runs)
    })
    .await;
}

struct Running {
    id: u32,
    parent: u32,
    /// `false` for a zombie, which has ended.
    runs: bool,
    command: String,
}

/// All processes; none on systems without `/proc`.
fn processes() -> impl Iterator<Item = Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in brackets may contain any character. The state and the parent's id follow.
        let mut words = stat.rsplit_once(')')?.1.split_whitespace();
        let runs = words.next()? != "Z";
        let parent = words.next()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Running { id, parent, runs, command })
    })
}
