//! How a Redis store is to behave.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    cache::{PinCache, WRITES},
    engine::Engine,
    keep_alive::KeepAlive,
    on_down::OnDown,
    script::Commands,
    single_flight::SingleFlight,
    store::RedisStore,
};
use crate::{
    error::ConfigError,
    redis::{RedisTarget, parse},
    store::table,
    util::clock::YEAR,
};

const DEFAULT_PREFIX: &str = "tower-sticky:";
const DEFAULT_BUDGET: Duration = Duration::from_millis(5);
const DEFAULT_FAILURES: u32 = 5;
const DEFAULT_CAPACITY: usize = 1_000_000;

/// Makes a [`RedisStore`].
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::store::{OnDown, RedisStore};
///
/// let store = RedisStore::builder("redis://localhost/1")
///     .prefix("shop:pins:")
///     .time_budget(Duration::from_millis(10))
///     .on_down(OnDown::Reject)
///     .build()?;
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[must_use]
pub struct RedisStoreBuilder {
    /// Or what is wrong with the address.
    source: Result<RedisTarget, String>,
    prefix: String,
    budget: Duration,
    failures: u32,
    on_down: OnDown,
    capacity: usize,
    recheck: Duration,
}

impl RedisStore {
    /// A store with the defaults of [`builder`](Self::builder). It connects with the first request
    /// that needs it.
    ///
    /// # Errors
    ///
    /// When the address cannot be used.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        Self::builder(url).build()
    }

    /// A store at an address:
    ///
    /// - `redis://[user:password@]host[:port][/db]`, or `unix:///path`,
    /// - `redis-cluster://[user:password@]host:port,host:port`,
    /// - `redis-sentinel://[user:password@]host:port,host:port/master[/db]`, where the login is for
    ///   the server and not for the sentinels,
    /// - with `rediss` in place of `redis` all of these over TLS, with the feature `redis-tls`. Who has
    ///   signed the server's certificate must be trusted by the system, or stand in the file (PEM) that
    ///   the environment variable `SSL_CERT_FILE` names, which then counts instead. For a client
    ///   certificate see [`from_client`](Self::from_client).
    pub fn builder(url: &str) -> RedisStoreBuilder {
        RedisStoreBuilder::new(parse(url))
    }

    /// A store over a client that was made by hand, for example with certificates of its own. The crate
    /// `redis` is [`client`](crate::store::client).
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "redis-tls")]
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_sticky::store::{
    ///     RedisStore,
    ///     client::{Client, ClientTlsConfig, TlsCertificates},
    /// };
    ///
    /// let certificates = TlsCertificates {
    ///     client_tls: Some(ClientTlsConfig {
    ///         client_cert: std::fs::read("gateway.pem")?,
    ///         client_key: std::fs::read("gateway.key")?,
    ///     }),
    ///     root_cert: Some(std::fs::read("our-ca.pem")?), // nobody else is trusted
    /// };
    /// let client = Client::build_with_tls("rediss://10.0.0.1", certificates)?;
    /// let store = RedisStore::from_client(client).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_client(client: ::redis::Client) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(RedisTarget::Single(Box::new(client))))
    }

    /// The same for a cluster.
    pub fn from_cluster(client: ::redis::cluster::ClusterClient) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(RedisTarget::Cluster(Box::new(client))))
    }

    /// The same for a server that sentinels name, which is asked for anew with each connection.
    pub fn from_sentinel(client: ::redis::sentinel::SentinelClient) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(RedisTarget::Sentinel(Box::new(client))))
    }
}

impl RedisStoreBuilder {
    pub(super) fn new(source: Result<RedisTarget, String>) -> Self {
        Self {
            source,
            prefix: DEFAULT_PREFIX.to_owned(),
            budget: DEFAULT_BUDGET,
            failures: DEFAULT_FAILURES,
            on_down: OnDown::default(),
            capacity: DEFAULT_CAPACITY,
            recheck: Duration::MAX,
        }
    }

    /// What the keys in Redis begin with; default `tower-sticky:`. Pools and names need none of
    /// their own: they are in the hash that follows.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// For how long one call to Redis may take, and a request may wait for it; default 5 ms. Must be
    /// well above the usual round trip.
    pub fn time_budget(mut self, budget: Duration) -> Self {
        self.budget = budget.min(YEAR);
        self
    }

    /// How many calls in a row must fail until no more are made for a while; default 5. One that
    /// breaks the connection is enough.
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// What becomes of sessions without a local copy while Redis does not answer; default
    /// [`OnDown::Open`].
    pub fn on_down(mut self, on_down: OnDown) -> Self {
        self.on_down = on_down;
        self
    }

    /// How many sessions have a local copy, about; default 1,000,000. 156 bytes each at a million of
    /// them, and at most 190 while the table grows. It grows as it is filled, and when it is full old
    /// sessions go that have not been used for long.
    pub fn local_capacity(mut self, sessions: usize) -> Self {
        self.capacity = sessions;
        self
    }

    /// For how long a local copy counts at most until Redis is asked again; by default, and never
    /// longer than, 1/16 of the idle time. For as long a gateway may not notice that another one has
    /// moved a session whose old backend still answers. Shorter is more calls.
    pub fn recheck(mut self, after: Duration) -> Self {
        self.recheck = after;
        self
    }

    /// Makes the store.
    ///
    /// # Errors
    ///
    /// When the address cannot be used, or an option makes no sense.
    pub fn build(self) -> Result<RedisStore, ConfigError> {
        let refuse = |what| Err(ConfigError::new(format!("a Redis store has {what}")));
        if self.prefix.is_empty() {
            return refuse("an empty prefix; its keys would mix with others; leave it out");
        }
        if self.budget < Duration::from_millis(1) {
            return refuse("a time budget below 1 ms; no call would succeed; expected some 5 ms");
        }
        if self.failures == 0 {
            return refuse("failures(0), so that it would never be asked; use at least 1");
        }
        if self.capacity == 0 {
            return refuse("a local capacity of 0; every request would be a call; leave it out");
        }
        if self.recheck.is_zero() {
            return refuse("a recheck of zero; every request would be a call; leave it out");
        }
        let source = self.source.map_err(|why| {
            ConfigError::new(format!(
                "the address of a Redis store cannot be used: {why}; expected \
                 redis://[user:password@]host[:port][/db], rediss://…, unix:///path, \
                 redis-cluster://host:port,host:port or redis-sentinel://host:port,host:port/master"
            ))
        })?;
        let engine = Engine::new(source, Commands::new(self.prefix), self.budget, self.failures);
        let shared = PinCache {
            engine: Arc::new(engine),
            table: table::new(self.capacity),
            flights: SingleFlight::default(),
            writes: Arc::new(Semaphore::new(WRITES)),
            on_down: self.on_down,
            recheck: self.recheck,
            keep_alive: KeepAlive::default(),
        };
        Ok(RedisStore { shared: Arc::new(shared) })
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the address nor the password.
        f.debug_struct("RedisStoreBuilder")
            .field("prefix", &self.prefix)
            .field("time_budget", &self.budget)
            .field("failures", &self.failures)
            .field("on_down", &self.on_down)
            .field("local_capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
