//! The authorities of client certificates.

use std::sync::Arc;

use rustls::RootCertStore;

use super::source::{ContentHash, Source};
use crate::{error::ConfigError, tls::certificates};

const CLIENT_CA: &str = "file of client authorities";

/// The authorities of client certificates, as they were read last.
#[derive(Debug, Clone)]
pub(super) struct ClientCa {
    source: Source,
    hash: ContentHash,
    failed: Option<ContentHash>,
    pub(super) roots: Arc<RootCertStore>,
}

impl ClientCa {
    pub(super) fn load(source: Source) -> Result<Self, ConfigError> {
        let pem = source.read(CLIENT_CA)?;
        let roots = roots(&source, &pem)?;
        Ok(Self { source, hash: ContentHash::of(&[&pem]), failed: None, roots })
    }

    /// Reads it again. The new one if it has changed; the same content fails silently the next time.
    pub(super) fn reloaded(&mut self) -> Result<Option<Self>, ConfigError> {
        let pem = self.source.read(CLIENT_CA)?;
        let hash = ContentHash::of(&[&pem]);
        if hash == self.hash || self.failed == Some(hash) {
            return Ok(None);
        }
        self.failed = Some(hash);
        let roots = roots(&self.source, &pem)?;
        Ok(Some(Self { source: self.source.clone(), hash, failed: None, roots }))
    }
}

fn roots(source: &Source, pem: &[u8]) -> Result<Arc<RootCertStore>, ConfigError> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(pem).map_err(|error| source.error(CLIENT_CA, error))? {
        roots.add(cert).map_err(|error| source.error(CLIENT_CA, error))?;
    }
    Ok(Arc::new(roots))
}
