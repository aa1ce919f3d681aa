//! The options of TLS from clients, as they are kept.

use std::time::Duration;

use crate::tls::TlsVersion;

/// Whether clients authenticate with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    Off,
    /// They may. One that cannot be verified fails the handshake.
    Optional,
    /// They must.
    Require,
}

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) strict_sni: bool,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) min_version: TlsVersion,
    pub(super) client_auth: ClientAuth,
    pub(super) tickets: bool,
    pub(super) handshake_timeout: Duration,
    pub(super) reload_every: Duration,
}
