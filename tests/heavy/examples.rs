//! The examples that run without arguments: they succeed, and print what they document.

#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Stdio;

use tower_sticky_heavy_tests::{example::binary, in_time};

/// The output of an example.
async fn run(name: &str) -> String {
    let mut command = tokio::process::Command::new(binary(name));
    let output = command.kill_on_drop(true).stdin(Stdio::null()).output();
    let output = in_time("the example ends by itself", output).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} ends well: {errors}\n{said}");
    assert_eq!(errors, "", "{name} has nothing to complain of");
    said
}

/// The lines that begin with this text.
fn lines<'a>(said: &'a str, beginning: &str) -> Vec<&'a str> {
    said.lines().map(str::trim).filter(|line| line.starts_with(beginning)).collect()
}

#[tokio::test]
async fn grpc_client() {
    let said = run("grpc_client").await;
    for user in ["ann", "ben", "cleo", "dan"] {
        let line = lines(&said, user)[0];
        let (_, places) = line.split_once("): ").unwrap();
        let server = &places[..1];
        assert_eq!(places, format!("{server} (1), {server} (2), {server} (3)"), "{said}");
    }
    let sessions = lines(&said, "session ");
    let mut homes: Vec<_> = sessions.iter().map(|line| line.split_once(": ").unwrap().1).collect();
    homes.sort_unstable();
    assert_eq!(homes, ["a, a, a", "b, b, b", "c, c, c"], "{said}");
    let killed = lines(&said, "server ")[0].split(' ').nth(1).unwrap();
    let next = lines(&said, "the next call is answered all the same: by ")[0];
    assert!(!next.ends_with(killed), "{said}");
    assert_eq!(
        lines(&said, "what became of it: moved, because: connect-failed").len(),
        1,
        "{said}"
    );
    assert!(lines(&said, "and there it stays")[0].ends_with("call 2"), "{said}");
}

#[tokio::test]
async fn grpc_mesh() {
    let said = run("grpc_mesh").await;
    let asked = lines(&said, "asked ");
    let owner = |line: &str| line.split(' ').nth(2).map(str::to_owned);
    assert_eq!(asked.len(), 5, "{said}");
    let owners: Vec<_> = asked.iter().map(|line| owner(line)).collect();
    assert_eq!((&owners[0], &owners[0]), (&owners[1], &owners[2]), "{said}");
    assert_ne!(owners[2], owners[3], "{said}");
    assert_eq!(owners[3], owners[4], "{said}");
    assert!(
        asked[0].ends_with("and gave a token") && asked[3].ends_with("and gave a token"),
        "{said}"
    );
    assert!(asked[2].ends_with("call 3") && asked[4].ends_with("call 2"), "{said}");
}

#[tokio::test]
async fn mesh() {
    let said = run("mesh").await;
    let asked = lines(&said, "asked ");
    assert_eq!(asked.len(), 4, "{said}");
    assert!(asked[3].ends_with("has the cart: tea, milk, sugar, cake"), "{said}");
}

#[tokio::test]
async fn two_pools() {
    let said = run("two_pools").await;
    // One cookie for each pool, and that of the chat only below its path.
    let sets = said.lines().filter(|line| line.contains(" sets "));
    let sets: Vec<_> = sets.take(3).collect();
    for (line, cookie) in sets.iter().zip(["SHOP; ", "CHAT; ", "API; "]) {
        assert!(line.contains(cookie), "{line}");
    }
    assert!(sets[1].ends_with("Path=/chat"), "{said}");
    let server = |line: &str| line.split(' ').nth(4).unwrap().to_owned();
    let served: Vec<_> = said.lines().filter(|line| line.contains(" is served by ")).collect();
    let servers: Vec<_> = served.iter().map(|line| server(line)).collect();
    assert_eq!(servers[..3], servers[3..6], "everybody stays: {said}");
    let pools = servers[..3].iter().map(|name| name.split('-').next().unwrap());
    assert_eq!(pools.collect::<Vec<_>>(), ["shop", "chat", "api"], "{said}");
    // After one backend of the chat is disabled.
    assert_eq!((&servers[7], &servers[9]), (&servers[0], &servers[2]), "{said}");
    assert_ne!(servers[8], servers[1], "{said}");
    assert!(servers[8].starts_with("chat-"), "{said}");
}

#[tokio::test]
async fn model_cache() {
    let said = run("model_cache").await;
    for conversation in ["red", "green", "blue"] {
        let turns = lines(&said, conversation);
        let worker = turns[0].split(' ').nth(1).unwrap();
        for (turn, read) in turns.iter().zip(["1 of 1", "2 of 3", "2 of 5"]) {
            let told = format!("{conversation}: {worker} read {read} messages: all work and play");
            assert_eq!(*turn, told, "{said}");
        }
    }
    let red = lines(&said, "red: ");
    let worker = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(lines(&said, "worker-"), [format!("{} dies", worker(red[0]))], "{said}");
    assert_eq!(lines(&said, "the response is"), ["the response is broken off"], "{said}");
    // The next worker reads everything, and then it has it.
    assert_ne!(worker(red[3]), worker(red[0]), "{said}");
    assert!(red[3].contains("read 7 of 7 messages"), "{said}");
    assert_eq!(worker(red[4]), worker(red[3]), "{said}");
    assert!(red[4].contains("read 2 of 9 messages"), "{said}");
}
