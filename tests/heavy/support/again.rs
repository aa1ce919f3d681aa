//! A test in a process of its own, with another environment.

use std::{path::Path, process::Stdio};

/// Says to the process that it is one, and for which address.
const ADDRESS: &str = "TOWER_STICKY_TEST_ADDRESS";

/// In the process that [`with_authority`] has started: the address that it is to use.
pub fn address() -> Option<String> {
    std::env::var(ADDRESS).ok()
}

/// Runs the test `name` of this binary again, in a process that trusts only who has signed the
/// certificate in this file.
pub async fn with_authority(name: &str, file: &Path, address: &str) {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env("SSL_CERT_FILE", file);
    command.env(ADDRESS, address).kill_on_drop(true).stdin(Stdio::null());
    let output = super::in_time("the process ends", command.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{address}: {said}\n{errors}");
    assert!(said.contains("1 passed"), "the test was run: {said}");
}
