//! [`RedisTarget`]: the clients that connect to Redis.

use redis::{Client, ConnectionAddr, cluster::ClusterClient, sentinel::SentinelClient};

/// A client for one server, a cluster, or a master behind sentinels.
pub(crate) enum RedisTarget {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<SentinelClient>),
}

impl RedisTarget {
    /// Must be called before the client connects.
    pub(crate) fn prepare(&self) {
        match self {
            Self::Single(client) => prepare(client),
            // These clients do not say whether they use TLS.
            Self::Cluster(_) | Self::Sentinel(_) => install_crypto_provider(),
        }
    }
}

/// Must be called before the client connects.
pub(crate) fn prepare(client: &Client) {
    if matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }) {
        install_crypto_provider();
    }
}

/// Installs a crypto provider for Rustls unless the program has installed one. Must be called before a
/// connection over TLS: Rustls panics if the crates of a program enable several providers and none is
/// installed.
pub(crate) fn install_crypto_provider() {
    #[cfg(feature = "redis-tls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails if another thread has installed one meanwhile.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
