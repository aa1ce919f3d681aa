//! A certificate with its key, and what the certificate says: its names and its end.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::source::{ContentHash, Source};
use crate::{
    error::ConfigError,
    tls::{certificates, private_key, provider},
};

/// How long before its end a certificate is warned about.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);

const CERTIFICATE: &str = "certificate file";
const KEY: &str = "key file";

/// A certificate and its key, as they were read last.
#[derive(Debug)]
pub(super) struct Pair {
    cert: Source,
    key: Source,
    hash: ContentHash,
    /// The content that could not be used, so that it is reported once.
    failed: Option<ContentHash>,
    loaded: Loaded,
}

/// A certificate and its key, checked.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    /// DNS names in lower case.
    pub(super) names: Vec<String>,
    not_after: SystemTime,
}

impl Pair {
    pub(super) fn load(cert: Source, key: Source) -> Result<Self, ConfigError> {
        let (cert_pem, key_pem) = (cert.read(CERTIFICATE)?, key.read(KEY)?);
        let hash = ContentHash::of(&[&cert_pem, &key_pem]);
        let loaded = Loaded::parse(&cert, &cert_pem, &key, &key_pem)?;
        loaded.warn_of_expiry(&cert);
        Ok(Self { cert, key, hash, failed: None, loaded })
    }

    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Reads it again. Whether it has changed; on an error the old one stays. The same content fails silently
    /// the next time.
    pub(super) fn reload(&mut self) -> Result<bool, ConfigError> {
        let (cert_pem, key_pem) = (self.cert.read(CERTIFICATE)?, self.key.read(KEY)?);
        let hash = ContentHash::of(&[&cert_pem, &key_pem]);
        if hash == self.hash || self.failed == Some(hash) {
            return Ok(false);
        }
        match Loaded::parse(&self.cert, &cert_pem, &self.key, &key_pem) {
            Ok(loaded) => {
                loaded.warn_of_expiry(&self.cert);
                (self.hash, self.failed, self.loaded) = (hash, None, loaded);
                Ok(true)
            }
            Err(error) => {
                self.failed = Some(hash);
                Err(error)
            }
        }
    }

    /// Warns when the certificate ends soon.
    pub(super) fn warn_of_expiry(&self) {
        self.loaded.warn_of_expiry(&self.cert);
    }
}

impl Loaded {
    fn parse(
        cert: &Source,
        cert_pem: &[u8],
        key: &Source,
        key_pem: &[u8],
    ) -> Result<Self, ConfigError> {
        let chain = certificates(cert_pem).map_err(|error| cert.error(CERTIFICATE, error))?;
        let key_der = private_key(key_pem).map_err(|error| key.error(KEY, error))?;
        let (names, not_after) =
            facts(chain.first()).ok_or_else(|| cert.error(CERTIFICATE, "it is not X.509"))?;
        let key = certified(chain, key_der).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let why =
                    format!("it does not fit the certificate {cert}; use the key of that one");
                key.error(KEY, why)
            }
            error => key.error(KEY, format!("it cannot be used: {error}")),
        })?;
        Ok(Self { key: Arc::new(key), names, not_after })
    }

    fn warn_of_expiry(&self, cert: &Source) {
        match expiry(self.not_after, SystemTime::now()) {
            Expiry::Later => {}
            Expiry::Soon { days } => {
                tracing::warn!(certificate = %cert, days, "the certificate expires soon; renew it");
            }
            Expiry::Past => {
                tracing::warn!(certificate = %cert, "the certificate has expired; renew it");
            }
        }
    }
}

/// When a certificate ends.
#[derive(Debug, PartialEq, Eq)]
enum Expiry {
    Later,
    /// In so many whole days.
    Soon {
        days: u64,
    },
    Past,
}

fn expiry(not_after: SystemTime, now: SystemTime) -> Expiry {
    match not_after.duration_since(now) {
        Ok(left) if left >= WARN_BEFORE => Expiry::Later,
        Ok(left) => Expiry::Soon { days: left.as_secs() / (24 * 3600) },
        Err(_) => Expiry::Past,
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Error> {
    CertifiedKey::from_der(chain, key, &provider())
}

/// The DNS names of a certificate, or its common name if it has none, and when it ends.
fn facts(cert: Option<&CertificateDer<'_>>) -> Option<(Vec<String>, SystemTime)> {
    let (_, cert) = X509Certificate::from_der(cert?).ok()?;
    let mut names = Vec::new();
    if let Ok(Some(alternative)) = cert.subject_alternative_name() {
        for name in &alternative.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
    }
    if names.is_empty() {
        let common = cert.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_ascii_lowercase));
    }
    let not_after = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
    Some((names, UNIX_EPOCH + Duration::from_secs(not_after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_end_within_two_weeks_are_warned_about() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let after = |days: u64| expiry(now + Duration::from_secs(days * 24 * 3600), now);
        assert_eq!(after(14), Expiry::Later);
        assert_eq!(after(13), Expiry::Soon { days: 13 });
        assert_eq!(after(0), Expiry::Soon { days: 0 });
        assert_eq!(expiry(now - Duration::from_secs(1), now), Expiry::Past);
    }

    #[test]
    fn names_and_end_are_read_from_the_certificate() {
        let mut params =
            rcgen::CertificateParams::new(["A.test".to_owned(), "*.b.test".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let (names, not_after) = facts(Some(cert.der())).unwrap();
        assert_eq!(names, ["a.test", "*.b.test"]);
        assert_eq!(not_after, UNIX_EPOCH + Duration::from_secs(1_893_542_400));
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "c.test");
        let cert = params.self_signed(&key).unwrap();
        assert_eq!(facts(Some(cert.der())).unwrap().0.last().unwrap(), "c.test");
        assert!(facts(None).is_none());
    }
}
