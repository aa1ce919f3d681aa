//! The options of the connections of a listener.

use super::proxy_protocol::ProxyProtocol;
#[cfg(feature = "tls")]
use super::tls::ServerTls;

/// The options of the connections of a listener.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub(super) proxy_protocol: ProxyProtocol,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<ServerTls>,
    #[cfg(feature = "tls")]
    pub(super) client_cert_header: bool,
}

impl Endpoint {
    /// Whether connections begin with HTTP, and have no options.
    pub(super) fn is_plain(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.client_cert_header {
            return false;
        }
        self.proxy_protocol == ProxyProtocol::Off && !self.is_encrypted()
    }

    /// Whether connections use TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }
}
