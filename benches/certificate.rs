//! A certificate for TLS, made by openssl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Failure;

/// A self-signed certificate for `localhost`, over P-256.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub(crate) pem: PathBuf,
}

impl Certificate {
    /// Makes it in `folder`.
    pub(crate) fn make(folder: &Path) -> Result<Self, Failure> {
        let [pem, cert, key] = ["site.pem", "site.crt", "site.key"].map(|name| folder.join(name));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "30", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()?;
        if !made.status.success() {
            return Err("openssl has made no certificate".into());
        }
        fs::write(&pem, [fs::read(&cert)?, fs::read(&key)?].concat())?;
        Ok(Self { cert, key, pem })
    }
}
