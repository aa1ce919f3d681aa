//! [`RedisStoreBuilder`]: the options of a Redis store.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    breaker::Breaker,
    cache::{MAX_WRITES, PinCache},
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

/// Builds a [`RedisStore`].
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
    /// `Err` says why the address is invalid.
    target: Result<RedisTarget, String>,
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
    /// When the address is invalid.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        Self::builder(url).build()
    }

    /// A store at an address:
    ///
    /// - `redis://[user:password@]host[:port][/db]`, or `unix:///path`,
    /// - `redis-cluster://[user:password@]host:port,host:port`,
    /// - `redis-sentinel://[user:password@]host:port,host:port/master[/db]`, where the login is for
    ///   the server and not for the sentinels,
    /// - the same with `rediss` in place of `redis`, over TLS, with the feature `redis-tls`. The authority
    ///   that has signed the server's certificate must be trusted by the system, or be in the file (PEM)
    ///   that the environment variable `SSL_CERT_FILE` names, which then replaces those of the system. For
    ///   a client certificate see [`from_client`](Self::from_client).
    pub fn builder(url: &str) -> RedisStoreBuilder {
        RedisStoreBuilder::new(parse(url))
    }

    /// A store with a given client, for example one with its own certificates. The crate `redis` is
    /// re-exported as [`client`](crate::store::client).
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
    ///     root_cert: Some(std::fs::read("our-ca.pem")?), // the only trusted authority
    /// };
    /// let client = Client::build_with_tls("rediss://10.0.0.1", certificates)?;
    /// let store = RedisStore::from_client(client).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_client(client: ::redis::Client) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(RedisTarget::Single(Box::new(client))))
    }

    /// A store with a given client of a cluster.
    pub fn from_cluster(client: ::redis::cluster::ClusterClient) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(RedisTarget::Cluster(Box::new(client))))
    }

    /// A store with a given client of sentinels. They are asked for the master with each new connection.
    pub fn from_sentinel(client: ::redis::sentinel::SentinelClient) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(RedisTarget::Sentinel(Box::new(client))))
    }
}

impl RedisStoreBuilder {
    pub(super) fn new(target: Result<RedisTarget, String>) -> Self {
        Self {
            target,
            prefix: DEFAULT_PREFIX.to_owned(),
            budget: DEFAULT_BUDGET,
            failures: DEFAULT_FAILURES,
            on_down: OnDown::default(),
            capacity: DEFAULT_CAPACITY,
            recheck: Duration::MAX,
        }
    }

    /// The prefix of the keys in Redis; default `tower-sticky:`. Pools and cookie names that share a Redis
    /// need no prefix each: they are part of the hash in the key.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The longest time that a call to Redis may take, and that a request may wait for it; default 5 ms.
    /// It should be well above the usual round trip.
    pub fn time_budget(mut self, budget: Duration) -> Self {
        self.budget = budget.min(YEAR);
        self
    }

    /// How many failed calls in a row open the circuit breaker; default 5. A broken connection opens it at
    /// once.
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// How sessions without a local copy are handled while Redis does not answer; default
    /// [`OnDown::Open`].
    pub fn on_down(mut self, on_down: OnDown) -> Self {
        self.on_down = on_down;
        self
    }

    /// The approximate number of local copies; default 1,000,000. A copy takes 156 bytes when there are a
    /// million, and at most 190 while the table grows. The table grows as it is filled; when it is full,
    /// the copies of sessions that have not been used for long are dropped.
    pub fn local_capacity(mut self, sessions: usize) -> Self {
        self.capacity = sessions;
        self
    }

    /// How long a local copy is used until Redis is asked again; default, and at most, 1/16 of the idle
    /// time. For this time a gateway may not notice that another one has moved a session whose old backend
    /// still answers. A shorter time costs more calls.
    pub fn recheck(mut self, after: Duration) -> Self {
        self.recheck = after;
        self
    }

    /// Builds the store.
    ///
    /// # Errors
    ///
    /// When the address is invalid, or an option is out of range.
    pub fn build(self) -> Result<RedisStore, ConfigError> {
        let refuse = |what| Err(ConfigError::new(format!("a Redis store has {what}")));
        if self.prefix.is_empty() {
            return refuse("an empty prefix; its keys would mix with others; leave the option out");
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
        let target = self.target.map_err(|why| {
            ConfigError::new(format!(
                "the address of a Redis store cannot be used: {why}; expected \
                 redis://[user:password@]host[:port][/db], rediss://…, unix:///path, \
                 redis-cluster://host:port,host:port or redis-sentinel://host:port,host:port/master"
            ))
        })?;
        let commands = Commands::new(self.prefix);
        let breaker = Breaker::new(target, commands, self.budget, self.failures);
        let (table, evictions) = table::new(self.capacity);
        let cache = PinCache {
            engine: Engine::new(breaker),
            table,
            evictions,
            lookups: SingleFlight::default(),
            writes: Arc::new(Semaphore::new(MAX_WRITES)),
            on_down: self.on_down,
            recheck: self.recheck,
            keep_alive: KeepAlive::default(),
        };
        Ok(RedisStore { cache: Arc::new(cache) })
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the address, which may contain a password.
        f.debug_struct("RedisStoreBuilder")
            .field("prefix", &self.prefix)
            .field("time_budget", &self.budget)
            .field("failures", &self.failures)
            .field("on_down", &self.on_down)
            .field("local_capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
