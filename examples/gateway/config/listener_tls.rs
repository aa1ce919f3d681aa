//! The key `tls` of a `[[listener]]`.

use std::path::PathBuf;

use serde::Deserialize;
use tower_sticky::serve::Listener;

use super::{
    Error,
    units::Time,
    words::{ClientAuth, TlsVersion},
};

/// `tls = { … }` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "it is refused then"))]
pub(crate) struct Section {
    certificates: Vec<Certificate>,
    #[serde(default)]
    strict_sni: bool,
    client_ca: Option<PathBuf>,
    client_auth: Option<ClientAuth>,
    min_version: Option<TlsVersion>,
    alpn: Option<Vec<String>>,
    tickets: Option<bool>,
    handshake_timeout: Option<Time<1>>,
    reload_every: Option<Time<10>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with cert and key")]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "it is refused then"))]
struct Certificate {
    cert: PathBuf,
    key: PathBuf,
}

impl Section {
    /// Whether clients may show certificates.
    pub(super) fn asks_for_certs(&self) -> bool {
        self.client_auth.is_some_and(|auth| auth != ClientAuth::Off)
    }
}

#[cfg(feature = "tls")]
pub(crate) use tower_sticky::serve::ServerTls as TlsSettings;

/// There is none in this build.
#[cfg(not(feature = "tls"))]
#[derive(Debug, Clone, Copy)]
pub(crate) enum TlsSettings {}

#[cfg(feature = "tls")]
impl Section {
    /// Reads the files. `key` is that of this table.
    pub(super) fn checked(self, key: &str) -> Result<TlsSettings, Error> {
        if self.certificates.is_empty() {
            let why = "empty; expected at least one { cert = \"site.pem\", key = \"site.key\" }";
            return Err(Error::of(&format!("{key}.certificates"), why));
        }
        let auth = self.client_auth.unwrap_or(ClientAuth::Off);
        match (&self.client_ca, auth) {
            (Some(_), ClientAuth::Off) => {
                let why = "clients are not asked for certificates; set client_auth to \"optional\" or \
                           \"require\", or leave it out";
                return Err(Error::of(&format!("{key}.client_ca"), why));
            }
            (None, ClientAuth::Optional | ClientAuth::Require) => {
                let why =
                    "it needs client_ca, the file with the authorities of client certificates";
                return Err(Error::of(&format!("{key}.client_auth"), why));
            }
            _ => {}
        }
        let mut tls = TlsSettings::builder().strict_sni(self.strict_sni).client_auth(auth.into());
        for (position, pair) in self.certificates.into_iter().enumerate() {
            tls = tls
                .certificate_files(pair.cert, pair.key)
                .map_err(|error| Error::of(&format!("{key}.certificates[{position}]"), error))?;
        }
        if let Some(path) = self.client_ca {
            tls = tls
                .client_ca_file(path)
                .map_err(|error| Error::of(&format!("{key}.client_ca"), error))?;
        }
        if let Some(version) = self.min_version {
            tls = tls.min_version(version.into());
        }
        if let Some(protocols) = &self.alpn {
            let known = |name: &&String| !matches!(name.as_str(), "h2" | "http/1.1");
            if let Some(name) = protocols.iter().find(known) {
                let why = format!("{name:?} is not known; expected \"h2\" and \"http/1.1\"");
                return Err(Error::of(&format!("{key}.alpn"), why));
            }
            tls = tls.alpn(protocols.iter().map(String::as_str));
        }
        if let Some(enabled) = self.tickets {
            tls = tls.tickets(enabled);
        }
        if let Some(timeout) = self.handshake_timeout {
            tls = tls.handshake_timeout(timeout.into());
        }
        if let Some(interval) = self.reload_every {
            tls = tls.reload_every(interval.into());
        }
        tls.build().map_err(|error| Error::of(key, error))
    }
}

#[cfg(not(feature = "tls"))]
impl Section {
    pub(super) fn checked(self, key: &str) -> Result<TlsSettings, Error> {
        let why = "it needs the feature tls, which this gateway was built without; build it with --features \
                   tls, or leave the key out";
        Err(Error::of(key, why))
    }
}

/// Sets the options of TLS.
#[cfg(feature = "tls")]
pub(super) fn apply(
    listener: Listener,
    tls: Option<&TlsSettings>,
    client_cert_header: bool,
) -> Listener {
    match tls {
        Some(tls) => listener.tls(tls.clone()).client_cert_header(client_cert_header),
        None => listener,
    }
}

#[cfg(not(feature = "tls"))]
pub(super) fn apply(listener: Listener, _: Option<&TlsSettings>, _: bool) -> Listener {
    listener
}

/// Reads the certificates again.
#[cfg(feature = "tls")]
pub(crate) fn reload(tls: &TlsSettings) -> Result<(), Error> {
    tls.reload()?;
    Ok(())
}

#[cfg(not(feature = "tls"))]
pub(crate) fn reload(tls: &TlsSettings) -> Result<(), Error> {
    match *tls {}
}
