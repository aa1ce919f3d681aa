//! Where the engine is, and how it is connected to.

use redis::{Client, ConnectionAddr, cluster::ClusterClient, sentinel::SentinelClient};

/// What makes connections.
pub(crate) enum RedisTarget {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<SentinelClient>),
}

impl RedisTarget {
    /// To be called before it connects.
    pub(crate) fn prepare(&self) {
        match self {
            Self::Single(client) => prepare(client),
            // These do not tell.
            Self::Cluster(_) | Self::Sentinel(_) => provide_cryptography(),
        }
    }
}

/// To be called before a client connects.
pub(crate) fn prepare(client: &Client) {
    if matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }) {
        provide_cryptography();
    }
}

/// To be called before anything connects over TLS: Rustls panics when it cannot tell which of several
/// implementations of cryptography to use, and with other crates in the program there may be several.
/// One that the program has installed itself stays.
pub(crate) fn provide_cryptography() {
    #[cfg(feature = "redis-tls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
