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
