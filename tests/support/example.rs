//! The binary of an example.

#![allow(
    unreachable_pub,
    reason = "a module of the tests of the gateway, and of the library of the heavy tests"
)]

use std::{path::PathBuf, process::Command};

/// The binary of an example: `target/<profile>/examples/<name>`.
pub fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile = this.ancestors().nth(2).unwrap();
    let binary = profile.join("examples").join(name);
    if !binary.exists() {
        // `cargo test` builds the examples, but not for a single test target.
        let name_of_profile = match profile.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "tower-sticky",
                "--all-features",
                "--example",
                name,
            ])
            .args(["--profile", name_of_profile, "--target-dir"])
            .arg(profile.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.unwrap().success(), "the example is built");
    }
    binary
}
