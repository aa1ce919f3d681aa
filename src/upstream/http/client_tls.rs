//! `ClientTls`: the options of TLS to a backend.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    error::ConfigError,
    tls::{Roots, TlsVersion, certificates, private_key, provider},
};

/// How a backend's certificate is verified, and who this proxy is.
///
/// Clones share what they were built of, so one value for many backends costs memory once. Connections to one
/// backend resume each other's sessions (RFC 8446, section 2.2). There is no early data: it could be replayed.
///
/// # Example
///
/// ```no_run
/// use tower_sticky::proxy::{ClientTls, Roots, Upstream};
///
/// let tls = ClientTls::new()
///     .roots(Roots::new().file("/etc/gateway/internal-ca.pem")?)
///     .server_name("app.internal")?;
/// let backend = Upstream::with_tls("https://10.0.0.1:8443", tls)?;
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct ClientTls {
    roots: Roots,
    identity: Option<Arc<CertifiedKey>>,
    name: Option<ServerName<'static>>,
    min_version: TlsVersion,
    handshake_timeout: Duration,
    insecure: bool,
    /// Built of the roots, by the first backend that needs it.
    verifier: Arc<OnceLock<Arc<WebPkiServerVerifier>>>,
}

impl ClientTls {
    /// Verifies with the system's root certificates.
    pub fn new() -> Self {
        Self {
            roots: Roots::new().system(),
            identity: None,
            name: None,
            min_version: TlsVersion::Tls12,
            handshake_timeout: Duration::from_secs(2),
            insecure: false,
            verifier: Arc::default(),
        }
    }

    /// The root certificates that are trusted, in place of the system's.
    #[must_use]
    pub fn roots(self, roots: Roots) -> Self {
        Self { roots, verifier: Arc::default(), ..self }
    }

    /// The certificate, with its chain, and the private key that this proxy shows a backend that asks for them
    /// (mutual TLS), in PEM.
    ///
    /// # Errors
    ///
    /// When one of them is malformed, or the key does not belong to the certificate.
    pub fn client_identity(self, cert: &[u8], key: &[u8]) -> Result<Self, ConfigError> {
        let (chain, key) = (certificates(cert)?, private_key(key)?);
        let identity = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
            ConfigError::new(match error {
                Error::InconsistentKeys(_) => {
                    "the private key does not belong to the certificate; the certificate of the key must be \
                     the first one"
                        .into()
                }
                error => format!("the client certificate or its key cannot be used: {error}"),
            })
        })?;
        Ok(Self { identity: Some(Arc::new(identity)), ..self })
    }

    /// The name that is sent to the backend (SNI, RFC 6066) and that its certificate must have; default: the host
    /// of the URL. It is never the `Host` of a request. An IP address is verified, and not sent.
    ///
    /// # Errors
    ///
    /// When it is neither a DNS name nor an IP address.
    pub fn server_name(self, name: &str) -> Result<Self, ConfigError> {
        Ok(Self { name: Some(parse_name(name)?), ..self })
    }

    /// The oldest version that is accepted; default TLS 1.2.
    #[must_use]
    pub fn min_version(self, version: TlsVersion) -> Self {
        Self { min_version: version, ..self }
    }

    /// How long a handshake may take, within [`connect_timeout`](crate::proxy::Upstream::connect_timeout);
    /// default 2 s.
    #[must_use]
    pub fn handshake_timeout(self, limit: Duration) -> Self {
        Self { handshake_timeout: limit, ..self }
    }

    /// **Does not verify the backend**: whoever can redirect its traffic can read and change it. For tests. Each
    /// backend that is built with it logs a warning.
    #[must_use]
    pub fn insecure(self) -> Self {
        Self { insecure: true, ..self }
    }

    /// Whether the backend is not verified.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    pub(super) fn limit(&self) -> Duration {
        self.handshake_timeout
    }

    /// The name to verify for a backend at `host`.
    pub(super) fn name_for(&self, host: &str) -> Result<ServerName<'static>, ConfigError> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host),
        }
    }

    pub(super) fn build(&self) -> Result<ClientConfig, ConfigError> {
        let wrong = |error: &dyn fmt::Display| {
            ConfigError::new(format!("the TLS options do not fit together: {error}"))
        };
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.min_version.and_later())
            .map_err(|error| wrong(&error))?;
        let builder = match self.insecure {
            true => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
            }
            false => builder.with_webpki_verifier(self.verifier()?),
        };
        Ok(match &self.identity {
            Some(identity) => {
                let resolver = SingleCertAndKey::from(CertifiedKey::clone(identity));
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
            None => builder.with_no_client_auth(),
        })
    }

    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, ConfigError> {
        if let Some(verifier) = self.verifier.get() {
            return Ok(verifier.clone());
        }
        let roots = Arc::new(self.roots.store()?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| ConfigError::new(format!("no verifier: {error}")))?;
        Ok(self.verifier.get_or_init(|| verifier).clone())
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, ConfigError> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        ConfigError::new(format!(
            "{name:?} cannot be a server name of TLS; expected a DNS name such as app.internal, or an IP \
             address"
        ))
    })
}

impl Default for ClientTls {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("insecure", &self.insecure)
            .field("roots", &self.roots)
            .field("client_identity", &self.identity.is_some())
            .field("server_name", &self.name)
            .field("min_version", &self.min_version)
            .field("handshake_timeout", &self.handshake_timeout)
            .finish()
    }
}

/// Accepts every certificate. The handshake's signatures are checked nevertheless.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
