//! The example programs that the tests start.

use std::{path::PathBuf, sync::Mutex};

/// The example's binary: `target/<profile>/examples/<name>`, near this test's.
pub fn binary(name: &str) -> PathBuf {
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
            .args(["build", "--all-features", "--example", name, "--profile", dev, "--target-dir"])
            .arg(profile.parent().unwrap())
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .status();
        assert!(built.unwrap().success(), "the example is built");
    }
    binary
}
