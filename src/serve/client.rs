//! The client of a connection.

use std::net::SocketAddr;

use tokio::sync::OwnedSemaphorePermit;

use crate::session::Peer;

/// The client of a connection. Its permit is returned when the last clone is dropped, so that an upgraded
/// connection, which leaves hyper, still counts.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) addr: SocketAddr,
    trusted: bool,
    _permit: OwnedSemaphorePermit,
}

impl Client {
    pub(super) fn new(addr: SocketAddr, trusted: bool, permit: OwnedSemaphorePermit) -> Self {
        Self { addr, trusted, _permit: permit }
    }

    /// What requests are told about it.
    pub(super) fn peer(&self) -> Peer {
        Peer::new(self.addr).trusted(self.trusted)
    }
}
