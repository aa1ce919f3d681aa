//! The configurations that the pages of the guide print.

#![allow(
    unreachable_pub,
    reason = "a module of the tests of the gateway, and of the library of the heavy tests"
)]

use std::{fs, path::Path, path::PathBuf};

use crate::process::Gateway;

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

/// The folder of the guide.
pub fn guide() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide =
        here.ancestors().map(|folder| folder.join("src/guide")).find(|guide| guide.is_dir());
    guide.expect("the packages of the tests are within the project")
}

/// The blocks of code in `language` of a page, in its order.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(guide().join(page));
    let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once(&format!("\n```{language}\n")) {
        let (block, after) = after.split_once("\n```").expect("the block ends");
        blocks.push(format!("{block}\n"));
        rest = after;
    }
    blocks
}

/// The configuration number `number` of a page, with the ports of running servers: 10.0.0.1 is the first of them,
/// 10.0.0.2 the second.
pub fn configuration(page: &str, number: usize, ports: &[u16]) -> String {
    let text = blocks(page, "toml").into_iter().nth(number);
    let mut text = text.unwrap_or_else(|| panic!("{page} has no configuration {number}"));
    for (number, port) in (1..).zip(ports) {
        let named = format!("//10.0.0.{number}:");
        let parts = text.split_once(&named);
        let (before, after) =
            parts.unwrap_or_else(|| panic!("{page} has no backend at 10.0.0.{number}: {text}"));
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        text = format!("{before}//127.0.0.1:{port}{rest}");
    }
    assert!(!text.contains("//10.0.0."), "every backend of the page runs: {text}");
    text.replace("admin = \"127.0.0.1:9090\"", "admin = \"127.0.0.1:0\"")
}

/// A gateway with the configuration number `number` of a page, as it is printed but for the addresses.
pub async fn gateway(page: &str, number: usize, ports: &[u16]) -> Gateway {
    Gateway::configured_with(&configuration(page, number, ports), &[("STICKY_KEY", KEY)]).await
}
