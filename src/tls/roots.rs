//! `Roots`: the authorities whose certificates are trusted.

use std::{fmt, path::Path, sync::LazyLock};

use rustls::RootCertStore;

use super::pem::certificates;
use crate::error::ConfigError;

/// The certificates of authorities that are trusted. Those of all calls are added together.
///
/// # Example
///
/// ```no_run
/// use tower_sticky::proxy::Roots;
///
/// let roots = Roots::new().system().file("/etc/gateway/internal-ca.pem")?;
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Roots {
    system: bool,
    added: RootCertStore,
}

impl Roots {
    /// No certificates, so that none is trusted until some are added.
    pub fn new() -> Self {
        Self { system: false, added: RootCertStore::empty() }
    }

    /// Adds the system's. They are read once in a process, from the files that OpenSSL reads, or those that the
    /// environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    #[must_use]
    pub fn system(mut self) -> Self {
        self.system = true;
        self
    }

    /// Adds all certificates of a PEM text.
    ///
    /// # Errors
    ///
    /// When there is none, or one is malformed.
    pub fn pem(mut self, pem: &[u8]) -> Result<Self, ConfigError> {
        for certificate in certificates(pem)? {
            self.added.add(certificate).map_err(|error| {
                ConfigError::new(format!("a certificate cannot be that of an authority: {error}"))
            })?;
        }
        Ok(self)
    }

    /// Adds all certificates of a PEM file, which is read now.
    ///
    /// # Errors
    ///
    /// When it cannot be read, it has no certificate, or one is malformed.
    pub fn file(self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let wrong = |why: &dyn fmt::Display| {
            ConfigError::new(format!("the file {} of certificates: {why}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        self.pem(&pem).map_err(|error| wrong(&error))
    }

    /// All of them.
    pub(crate) fn store(&self) -> Result<RootCertStore, ConfigError> {
        let mut store = self.added.clone();
        if self.system {
            store.extend(SYSTEM.roots.iter().cloned());
        }
        if !store.is_empty() {
            return Ok(store);
        }
        Err(ConfigError::new(match self.system {
            true => {
                "the system has no root certificates, so that no server can be verified; install them \
                 (package ca-certificates), set SSL_CERT_FILE, or name a file of certificates to trust"
            }
            false => "there are no root certificates, so that no server can be verified; add some",
        }))
    }
}

/// The system's root certificates. What cannot be read is left out, as other programs do.
static SYSTEM: LazyLock<RootCertStore> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a root certificate of the system was not read");
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    store
});

impl Default for Roots {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots")
            .field("system", &self.system)
            .field("added", &self.added.len())
            .finish()
    }
}
