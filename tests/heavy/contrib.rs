//! What the tools say of the units of systemd, the image and the manifest in `contrib/`.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tower_sticky_heavy_tests::example::binary;

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib").join(name)
}

/// Runs a program of the environment that `peers/venv.sh` makes.
fn tool(name: &str, args: &[&str]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers-venv/bin").join(name);
    let output = Command::new(&path).args(args).output();
    output.unwrap_or_else(|error| {
        panic!("{error}: {}; make it with tests/heavy/peers/venv.sh", path.display())
    })
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

#[test]
fn hadolint_has_no_objection_to_the_image() {
    let output =
        tool("hadolint", &["--failure-threshold", "info", contrib("Dockerfile").to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "");
}

#[test]
fn the_manifest_is_valid_for_kubernetes() {
    let path = contrib("kubernetes.yaml");
    let output = tool("kubernetes-validate", &["--strict", path.to_str().unwrap()]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("passed for resource").count(), 4, "{said}");
}

#[test]
fn the_units_are_valid_for_systemd() {
    let dir = env::temp_dir().join(format!("units-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let paths = ["gateway.service", "gateway.socket"].map(|name| {
        let unit = fs::read_to_string(contrib(name)).unwrap();
        // The program has to be there.
        let unit = unit.replace("/usr/local/bin/gateway", binary("gateway").to_str().unwrap());
        let path = dir.join(name);
        fs::write(&path, unit).unwrap();
        path
    });
    let output = Command::new("systemd-analyze").arg("verify").args(&paths).output();
    let output = output.expect("systemd-analyze is installed, from the Debian package systemd");
    fs::remove_dir_all(&dir).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "", "it objects to nothing");
}
