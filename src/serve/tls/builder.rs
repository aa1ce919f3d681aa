//! `ServerTlsBuilder`: the options of TLS from clients.

use std::{path::Path, time::Duration};

use super::{
    certificate::Pair,
    client_ca::ClientCa,
    server_tls::ServerTls,
    settings::{ClientAuth, Settings},
    source::Source,
};
use crate::{error::ConfigError, tls::TlsVersion};

/// The options of a [`ServerTls`]: certificates, client authentication, protocols and timeouts. Everything is
/// checked by `build`.
#[derive(Debug)]
#[must_use = "it does nothing until it is built"]
pub struct ServerTlsBuilder {
    pairs: Vec<Pair>,
    client_ca: Option<ClientCa>,
    settings: Settings,
}

impl ServerTls {
    /// The options; at least one certificate has to be added.
    pub fn builder() -> ServerTlsBuilder {
        ServerTlsBuilder::new()
    }
}

impl ServerTlsBuilder {
    fn new() -> Self {
        let settings = Settings {
            strict_sni: false,
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            min_version: TlsVersion::Tls12,
            client_auth: ClientAuth::Off,
            tickets: true,
            handshake_timeout: Duration::from_secs(5),
            reload_every: Duration::from_secs(10),
        };
        Self { pairs: Vec::new(), client_ca: None, settings }
    }

    /// Adds a certificate, with the chain that leads to its authority, and its key, from PEM files. There must be
    /// at least one.
    ///
    /// A certificate is chosen by the server name that the client asks for (RFC 6066, section 3): one with this
    /// name, or one with `*` in place of its first label, or the first certificate. The files are read again while
    /// the server runs; see [`reload_every`](Self::reload_every).
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is not PEM, or the key does not fit the certificate.
    pub fn certificate_files(
        mut self,
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, ConfigError> {
        self.pairs.push(Pair::load(Source::file(cert), Source::file(key))?);
        Ok(self)
    }

    /// The same from PEM text, which does not change.
    ///
    /// # Errors
    ///
    /// When it is not PEM, or the key does not fit the certificate.
    pub fn certificate_pem(
        mut self,
        cert: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, ConfigError> {
        self.pairs.push(Pair::load(Source::memory(cert), Source::memory(key))?);
        Ok(self)
    }

    /// Whether the handshake fails when no certificate has the name that the client asks for, or it asks for none;
    /// default `false`.
    pub fn strict_sni(mut self, strict: bool) -> Self {
        self.settings.strict_sni = strict;
        self
    }

    /// The protocols that are offered, the preferred one first (RFC 7301); default `h2` and `http/1.1`. A client
    /// that negotiates none speaks HTTP/1.1.
    pub fn alpn<'a>(mut self, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        self.settings.alpn = protocols.into_iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// The oldest version that is accepted; default TLS 1.2.
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.settings.min_version = version;
        self
    }

    /// The authorities of client certificates, from a PEM file, which is read again as those of
    /// [`certificate_files`](Self::certificate_files).
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or has no valid certificate.
    pub fn client_ca_file(mut self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        self.client_ca = Some(ClientCa::load(Source::file(path))?);
        Ok(self)
    }

    /// The same from PEM text, which does not change.
    ///
    /// # Errors
    ///
    /// When it has no valid certificate.
    pub fn client_ca_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        self.client_ca = Some(ClientCa::load(Source::memory(pem))?);
        Ok(self)
    }

    /// Whether clients authenticate with a certificate of these authorities; default [`ClientAuth::Off`].
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.settings.client_auth = auth;
        self
    }

    /// Whether clients may resume their sessions, which saves most of a handshake; default `true`. The keys of
    /// tickets (RFC 5077) are made by this process and change every six hours.
    pub fn tickets(mut self, enabled: bool) -> Self {
        self.settings.tickets = enabled;
        self
    }

    /// How long a handshake may take, within [`Limits::header_timeout`](super::super::Limits::header_timeout);
    /// default 5 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = timeout.min(Duration::from_secs(24 * 3600));
        self
    }

    /// How often a running server looks whether the content of the files has changed; default 10 s, at least
    /// 10 ms. See [`ServerTls::reload`].
    pub fn reload_every(mut self, interval: Duration) -> Self {
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));
        self.settings.reload_every = interval.clamp(least, most);
        self
    }

    /// Checks the options.
    ///
    /// # Errors
    ///
    /// When there is no certificate, a protocol is neither `h2` nor `http/1.1`, clients shall authenticate and
    /// there is no authority, or there is one and they shall not.
    pub fn build(self) -> Result<ServerTls, ConfigError> {
        if self.pairs.is_empty() {
            return Err(ConfigError::new("TLS has no certificate; add one with its key"));
        }
        let known = |name: &Vec<u8>| matches!(&name[..], b"h2" | b"http/1.1");
        if let Some(name) = self.settings.alpn.iter().find(|name| !known(name)) {
            return Err(ConfigError::new(format!(
                "the ALPN protocol \"{}\" is not known; use \"h2\" and \"http/1.1\"",
                name.escape_ascii()
            )));
        }
        match (self.settings.client_auth, &self.client_ca) {
            (ClientAuth::Off, Some(_)) => Err(ConfigError::new(
                "there are authorities of client certificates, but clients are not asked for one; set the \
                 authentication of clients to optional or require, or remove the authorities",
            )),
            (ClientAuth::Optional | ClientAuth::Require, None) => Err(ConfigError::new(
                "clients are asked for certificates, but no authority of them is named; add one",
            )),
            _ => ServerTls::new(self.pairs, self.client_ca, self.settings),
        }
    }
}
