//! Pins on Redis or Valkey.

mod builder;
mod cache;
mod cached_pin;
mod compact_instant;
mod connection;
mod engine;
mod keeper;
mod reconnect;
mod script;
mod single_flight;
mod stats;

use std::{fmt, sync::Arc, time::Duration};

pub use ::redis as client;

pub use self::{
    builder::{OnDown, RedisStoreBuilder},
    stats::{EngineState, RedisStats},
};
use self::{cache::Shared, engine::Phase, script::Rule};
use super::{Lookup, OpenSession, PinStore, SessionKey, StoredPin};
use crate::{
    error::ConfigError,
    redis::{Source, parse},
};

/// A session is touched in Redis at most once per this part of its idle time.
const FRACTION: u32 = 16;

/// Pins on [Redis](https://redis.io) or [Valkey](https://valkey.io), which several gateways share. A
/// handle that is cheap to clone; clones share everything.
///
/// The gateways must have the same [`secret`](crate::affinity::Learned::secret), else each of them
/// has keys of its own. Any Redis from 5 on will do; what is needed are `EVALSHA`, `EVAL`, `GET`,
/// `SET`, `PEXPIRE` and `DEL`.
///
/// # What it costs
///
/// Every session that came here has a local copy, which answers without a call: at most once per 1/16
/// of the idle time (or per [`recheck`](RedisStoreBuilder::recheck)) one call tells Redis that the
/// session lives, and asks whether another gateway has moved it. A session that is unknown here is
/// looked up once, by however many requests. Pins are written behind the requests.
///
/// # What is agreed
///
/// - The first gateway that places a session wins: another that placed it at the same time adopts what
///   is there. A session that was moved is moved only from where it is. What the application says
///   itself (it issues the id) replaces what is there, if it is newer.
/// - Epochs never go backwards: when a session stays where it is although it was served elsewhere, its
///   epoch rises above the one that the other backend was told.
/// - A gateway may take a session for being where it was for as long as its copy counts. If it had to
///   fail over from there meanwhile, it adopts the other gateway's choice.
/// - A session is forgotten by Redis between one and 17/16 idle times after its last request, or after the
///   last sixteenth of the idle time in which something of it was under way: a stream that is open for
///   longer keeps the session alive for all gateways.
///
/// # When Redis does not answer
///
/// A call may take the [`time_budget`](RedisStoreBuilder::time_budget). After
/// [some](RedisStoreBuilder::failures) failures in a row, or when the connection breaks, the breaker
/// opens: no request waits, and a task in the background connects anew until a question is answered
/// in time. Only the first connection of a process is waited for as long as it may take (a second, or ten
/// times the budget), for before that nothing is known here. Sessions with a local copy are served by
/// it. Others are [placed by rank or rejected](RedisStoreBuilder::on_down). Pins that could not be
/// written are offered again with the next request of their session, and so are those that Redis has
/// lost.
///
/// Something else under a key of ours counts as nothing, with a warning at most once a minute.
///
/// # Example
///
/// ```
/// # fn run() -> Result<(), tower_sticky::ConfigError> {
/// use tower_sticky::{Key, affinity::Learned, store::RedisStore};
///
/// let store = RedisStore::new("redis://localhost")?;
/// # let text_of_the_key = String::new();
/// let secret = Key::from_base64(&text_of_the_key)?; // the same on every gateway
/// let learned = Learned::cookie("JSESSIONID").store(store.clone()).secret(secret);
/// println!("{:?}", store.stats());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
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
    pub fn from_client(client: client::Client) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(Source::Single(Box::new(client))))
    }

    /// The same for a cluster.
    pub fn from_cluster(client: client::cluster::ClusterClient) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(Source::Cluster(Box::new(client))))
    }

    /// The same for a server that sentinels name, which is asked for anew with each connection.
    pub fn from_sentinel(client: client::sentinel::SentinelClient) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Ok(Source::Sentinel(Box::new(client))))
    }

    /// Connects, and waits until that has worked: for a gateway that would rather not take its first
    /// requests without its pins. Combine it with a timeout. Must be called within a Tokio runtime.
    pub async fn connected(&self) {
        let engine = &self.shared.engine;
        let mut phase = engine.watch();
        engine.wake();
        while !engine.is_up() && phase.wait_for(|phase| *phase == Phase::Up).await.is_ok() {}
    }

    /// What it has done so far, and whether Redis answers.
    pub fn stats(&self) -> RedisStats {
        let engine = &self.shared.engine;
        RedisStats::new(engine.state(), self.shared.writing(), &engine.counters)
    }

    /// How many sessions have a local copy, expired ones included.
    pub fn local_len(&self) -> usize {
        self.shared.table.len()
    }
}

impl PinStore for RedisStore {
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup {
        self.shared.get(key, idle)
    }

    fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession> {
        Some(self.shared.write(key, pin, Rule::Put, idle))
    }

    fn claim(
        &self,
        key: SessionKey,
        pin: StoredPin,
        known: Option<StoredPin>,
        idle: Duration,
    ) -> Option<OpenSession> {
        let rule = Rule::Claim(known.map(|known| known.backend));
        Some(self.shared.write(key, pin, rule, idle))
    }

    fn remove(&self, key: SessionKey) {
        self.shared.remove(key);
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the address nor the password.
        f.debug_struct("RedisStore")
            .field("prefix", &self.shared.engine.call.prefix())
            .field("state", &self.shared.engine.state())
            .field("local", &self.local_len())
            .finish_non_exhaustive()
    }
}
