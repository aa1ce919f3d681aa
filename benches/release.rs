//! Builds programs for a measurement.

use std::{env, path::PathBuf, process::Command};

use crate::Failure;

/// Builds these examples with these features in release mode, and returns the folder with the programs.
pub(crate) fn build(examples: &[&str], features: &[&str]) -> Result<PathBuf, Failure> {
    let this = env::current_exe()?;
    let target = this.ancestors().nth(2).ok_or("this program is in no target directory")?;
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--target-dir"])
        .arg(target)
        .args(examples.iter().flat_map(|example| ["--example", example]))
        .args(features.iter().flat_map(|feature| ["--features", feature]))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()?;
    match built.success() {
        true => Ok(target.join("release/examples")),
        false => Err("the examples cannot be built".into()),
    }
}
