//! The client of a connection.

use std::net::{Ipv4Addr, SocketAddr};

use super::{connection_limit::ConnectionPermit, shared::Shared};
use crate::session::Peer;
#[cfg(feature = "tls")]
use crate::session::client_cert::ClientCert;

/// The client of a connection. Its permit is returned when the last clone is dropped, so that an upgraded
/// connection, which leaves hyper, still counts.
#[derive(Debug)]
pub(super) struct Client {
    /// `None` on a Unix socket.
    addr: Option<SocketAddr>,
    trusted: bool,
    https: bool,
    /// What backends are told of the client's certificate, if they are told.
    #[cfg(feature = "tls")]
    client_cert: Option<ClientCert>,
    _permit: ConnectionPermit,
}

impl Client {
    pub(super) fn new(addr: Option<SocketAddr>, shared: &Shared, permit: ConnectionPermit) -> Self {
        Self {
            addr,
            trusted: shared.trusts(addr),
            https: false,
            #[cfg(feature = "tls")]
            client_cert: None,
            _permit: permit,
        }
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// A trusted proxy has told where the client is.
    pub(super) fn set_addr(&mut self, addr: SocketAddr, shared: &Shared) {
        (self.addr, self.trusted) = (Some(addr), shared.trusts(Some(addr)));
    }

    /// The address for the log, unspecified on a Unix socket.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr.unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// The connection is encrypted.
    #[cfg(feature = "tls")]
    pub(super) fn set_https(&mut self) {
        self.https = true;
    }

    /// Backends are told of the client's certificate.
    #[cfg(feature = "tls")]
    pub(super) fn set_client_cert(&mut self, cert: ClientCert) {
        self.client_cert = Some(cert);
    }

    /// What requests are told about it.
    pub(super) fn peer(&self) -> Peer {
        let peer = self.addr.map_or_else(Peer::unix, Peer::new);
        let peer = peer.trusted(self.trusted).https(self.https);
        #[cfg(feature = "tls")]
        let peer = match &self.client_cert {
            Some(cert) => peer.client_cert(cert.clone()),
            None => peer,
        };
        peer
    }
}
