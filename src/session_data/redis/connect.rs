//! Constructors of [`RedisStore`] that make its connection.

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
    /// A store in the Redis server at `url`. It connects with the first call, so the server need not be
    /// running yet.
    ///
    /// - `redis://[user:password@]host[:port][/db]`, or `unix:///path`,
    /// - `rediss://…` for TLS, with the feature `redis-tls`. The authority that has signed the server's
    ///   certificate must be trusted by the system, or be in the file (PEM) that the environment variable
    ///   `SSL_CERT_FILE` names, which then replaces those of the system. For a client certificate see
    ///   [`from_client`](Self::from_client). If the program has not installed a crypto provider for Rustls
    ///   (`CryptoProvider::install_default`), that of `ring` is installed.
    ///
    /// For a cluster use [`cluster`](Self::cluster). Sentinels are not supported: use an address that
    /// always leads to the master.
    ///
    /// # Errors
    ///
    /// When `url` is invalid, or outside of a Tokio runtime, which the connection needs.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        match parse(url).map_err(|why| refuse(&why))? {
            RedisTarget::Single(client) => Self::from_client(*client),
            RedisTarget::Cluster(_) => {
                Err(refuse("it is the address of a cluster; use RedisStore::cluster"))
            }
            RedisTarget::Sentinel(_) => Err(refuse("sentinels are not supported for session data")),
        }
    }

    /// A store with a given client, for example one with its own certificates. The crate `redis` is
    /// re-exported as [`store::client`](crate::store::client).
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
    ///     root_cert: Some(std::fs::read("our-ca.pem")?), // the only trusted authority
    /// };
    /// let client = Client::build_with_tls("rediss://10.0.0.1", certificates)?;
    /// let store = RedisStore::from_client(client)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_client(client: Client) -> Result<Self, ConfigError> {
        require_runtime()?;
        prepare(&client);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(BUDGET))
            .set_response_timeout(Some(BUDGET))
            // Each call connects again if needed, so no call waits for the retries of others.
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_lazy_with_config(client, config);
        let manager = manager.map_err(|error| ConfigError::new(format!("RedisStore: {error}")))?;
        Ok(Self::with_connection(manager))
    }
}

impl RedisStore<ClusterConnection> {
    /// A store in a cluster with these nodes, of which one is enough:
    /// `redis-cluster://[user:password@]host:port,host:port`, or `rediss-cluster` over TLS as described at
    /// [`new`](RedisStore::new). It connects in the background; the cluster need not be running yet.
    ///
    /// Each session is one key. While a node is down and no replica has taken over, calls for its sessions
    /// fail within the [time budget](Self::time_budget). Calls for the other sessions succeed if the cluster
    /// has `cluster-require-full-coverage no`.
    ///
    /// # Errors
    ///
    /// When `url` is invalid, or outside of a Tokio runtime.
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
            RedisTarget::Single(_) | RedisTarget::Sentinel(_) => Err(refuse(
                "it is not the address of a cluster; use RedisStore::new for a single server",
            )),
        }
    }

    /// A store with a given client, for example one with its own certificates.
    ///
    /// # Errors
    ///
    /// Outside of a Tokio runtime.
    pub fn from_cluster(client: &ClusterClient) -> Result<Self, ConfigError> {
        require_runtime()?;
        install_crypto_provider();
        let config =
            ClusterConfig::new().set_connection_timeout(BUDGET).set_response_timeout(BUDGET);
        Ok(Self::with_connection(client.get_pending_async_connection_with_config(config)))
    }
}

fn require_runtime() -> Result<(), ConfigError> {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => Err(ConfigError::new("RedisStore: call it in a Tokio runtime")),
    }
}

/// The error does not contain the address, which may contain a password.
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
    async fn tls_without_the_feature_is_an_error_that_names_the_feature() {
        let single = RedisStore::new("rediss://:hunter2@localhost").unwrap_err();
        let cluster = RedisStore::cluster("rediss-cluster://:hunter2@localhost").unwrap_err();
        for error in [single.to_string(), cluster.to_string()] {
            assert!(error.contains("TLS needs the feature `redis-tls`"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
