//! How a store comes to its connection.

use redis::{
    Client,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cluster::{ClusterClient, ClusterConfig},
    cluster_async::ClusterConnection,
};

use super::store::{BUDGET, RedisStore};
use crate::{
    error::ConfigError,
    redis::{RedisTarget, install_crypto_provider, parse, prepare},
};

impl RedisStore {
    /// A store in the engine at `url`. It connects with the first call, so the engine need not be there
    /// yet.
    ///
    /// - `redis://[user:password@]host[:port][/db]`, or `unix:///path`,
    /// - `rediss://…` for TLS, with the feature `redis-tls`. Who has signed the engine's certificate must
    ///   be trusted by the system, or stand in the file (PEM) that the environment variable
    ///   `SSL_CERT_FILE` names, which then counts instead. For a client certificate see
    ///   [`from_client`](Self::from_client). A program with cryptography of its own for Rustls installs
    ///   that first (`CryptoProvider::install_default`), else it gets that of `ring`.
    ///
    /// For a cluster there is [`cluster`](Self::cluster). Sentinels are not asked: give the address at
    /// which the master is always found.
    ///
    /// # Errors
    ///
    /// When `url` cannot be used, or outside of a Tokio runtime, which the connection needs.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        match parse(url).map_err(|why| refuse(&why))? {
            RedisTarget::Single(client) => Self::from_client(*client),
            RedisTarget::Cluster(_) => {
                Err(refuse("it is that of a cluster; use RedisStore::cluster"))
            }
            RedisTarget::Sentinel(_) => Err(refuse("sentinels are not asked for sessions")),
        }
    }

    /// The same over a client that was made by hand, for example with certificates of its own. The
    /// crate `redis` is [`store::client`](crate::store::client).
    ///
    /// # Errors
    ///
    /// Outside of a Tokio runtime.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "redis-tls")]
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_sticky::{
    ///     session_data::RedisStore,
    ///     store::client::{Client, ClientTlsConfig, TlsCertificates},
    /// };
    ///
    /// let certificates = TlsCertificates {
    ///     client_tls: Some(ClientTlsConfig {
    ///         client_cert: std::fs::read("shop.pem")?,
    ///         client_key: std::fs::read("shop.key")?,
    ///     }),
    ///     root_cert: Some(std::fs::read("our-ca.pem")?), // nobody else is trusted
    /// };
    /// let client = Client::build_with_tls("rediss://10.0.0.1", certificates)?;
    /// let store = RedisStore::from_client(client)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_client(client: Client) -> Result<Self, ConfigError> {
        within_runtime()?;
        prepare(&client);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(BUDGET))
            .set_response_timeout(Some(BUDGET))
            // Each call tries again; none waits for those before it.
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_lazy_with_config(client, config);
        let manager = manager.map_err(|error| ConfigError::new(format!("RedisStore: {error}")))?;
        Ok(Self::with_connection(manager))
    }
}

impl RedisStore<ClusterConnection> {
    /// A store in a cluster, which is found by any of these nodes:
    /// `redis-cluster://[user:password@]host:port,host:port`, with `rediss-cluster` over TLS as
    /// [`new`](RedisStore::new) says. It connects in the background; the cluster need not be there yet.
    ///
    /// Each session is one key. While a node is gone, and no replica has taken over, its sessions fail
    /// within the [time budget](Self::time_budget), and those of the other nodes go on, if the cluster
    /// is set up so (`cluster-require-full-coverage no`).
    ///
    /// # Errors
    ///
    /// When `url` cannot be used, or outside of a Tokio runtime.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// use tower_sticky::session_data::RedisStore;
    ///
    /// let store = RedisStore::cluster("redis-cluster://10.0.0.1:6379,10.0.0.2:6379")?;
    /// # drop(store);
    /// # Ok::<(), tower_sticky::ConfigError>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cluster(url: &str) -> Result<Self, ConfigError> {
        match parse(url).map_err(|why| refuse(&why))? {
            RedisTarget::Cluster(client) => Self::from_cluster(&client),
            RedisTarget::Single(_) | RedisTarget::Sentinel(_) => {
                Err(refuse("it is not that of a cluster; use RedisStore::new for a single server"))
            }
        }
    }

    /// The same over a client that was made by hand, for example with certificates of its own.
    ///
    /// # Errors
    ///
    /// Outside of a Tokio runtime.
    pub fn from_cluster(client: &ClusterClient) -> Result<Self, ConfigError> {
        within_runtime()?;
        install_crypto_provider();
        let config =
            ClusterConfig::new().set_connection_timeout(BUDGET).set_response_timeout(BUDGET);
        Ok(Self::with_connection(client.get_pending_async_connection_with_config(config)))
    }
}

fn within_runtime() -> Result<(), ConfigError> {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => Err(ConfigError::new("RedisStore: call it in a Tokio runtime")),
    }
}

/// The address is not repeated: there may be a password in it.
fn refuse(why: &str) -> ConfigError {
    ConfigError::new(format!(
        "RedisStore: the address cannot be used: {why}; expected \
         redis://[user:password@]host[:port][/db], rediss://… or unix:///path, or for \
         RedisStore::cluster redis-cluster://host:port,host:port"
    ))
}

#[cfg(all(test, not(feature = "redis-tls")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tls_without_its_feature_says_which() {
        let single = RedisStore::new("rediss://:hunter2@localhost").unwrap_err();
        let cluster = RedisStore::cluster("rediss-cluster://:hunter2@localhost").unwrap_err();
        for error in [single.to_string(), cluster.to_string()] {
            assert!(error.contains("TLS needs the feature `redis-tls`"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
