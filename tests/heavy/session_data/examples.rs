//! The examples tell their story to its end.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    sync::Mutex,
};

use tokio::process::Command;
use tower_sticky_heavy_tests::{in_time, redis_server::RedisServer};

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

/// The example's binary: `target/<profile>/examples/<name>`, near this test's.
fn binary(name: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let this = std::env::current_exe().unwrap();
    let profile = this.ancestors().nth(2).unwrap();
    let binary = profile.join("examples").join(name);
    let _one_at_a_time = BUILDING.lock();
    if !binary.exists() {
        // A test of the whole workspace builds the examples, but one of this package does not.
        let dev = match profile.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let built = std::process::Command::new(env!("CARGO"))
            .args(["build", "--example", name, "--profile", dev, "--target-dir"])
            .arg(profile.parent().unwrap())
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .status();
        assert!(built.unwrap().success(), "the example is built");
    }
    binary
}

fn assert_cart_survives(said: &str) {
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 7, "{said}");
    let owner = lines[1].split_whitespace().nth(2).unwrap();
    assert!(lines[2].ends_with(&format!("{owner} (pinned): apple, bread")), "{said}");
    assert!(lines[3].starts_with(&format!("{owner} is killed")), "{said}");
    assert!(lines[4].ends_with("(moved): apple, bread") && !lines[4].contains(owner), "{said}");
    assert!(lines[5].ends_with("(pinned): apple, bread, cheese"), "{said}");
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
async fn what_the_replica_has_is_still_there() {
    let said = run("replica_aware", &["--customers", "900"]).await;
    assert!(said.contains("900 customers fill their carts, 300 of them at shop-"), "{said}");
    let took_over = said.lines().filter(|line| line.contains("has taken over")).count();
    assert_eq!(took_over, 2, "both of the others take their part: {said}");
    assert!(said.ends_with("\n0 carts are lost.\n"), "{said}");
}
