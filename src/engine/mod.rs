//! What the stores of pins and of sessions both need of Redis.

mod address;

use redis::{Client, cluster::ClusterClient, sentinel::SentinelClient};

pub(crate) use self::address::parse;

/// What makes connections.
pub(crate) enum Source {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<SentinelClient>),
}

/// To be called before anything connects over TLS: Rustls panics when it cannot tell which of several
/// implementations of cryptography to use, and with other crates in the program there may be several.
pub(crate) fn provide_cryptography() {
    #[cfg(feature = "redis-tls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
