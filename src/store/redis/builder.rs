//! How a Redis store is to behave.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    RedisStore,
    cache::{Shared, WRITES},
    engine::Engine,
    keeper::Keeper,
    script::Call,
    single_flight::Flights,
};
use crate::{error::ConfigError, redis::Source, store::table, util::clock::YEAR};

const DEFAULT_PREFIX: &str = "tower-sticky:";
const DEFAULT_BUDGET: Duration = Duration::from_millis(5);
const DEFAULT_FAILURES: u32 = 5;
const DEFAULT_CAPACITY: usize = 1_000_000;

/// What becomes of a session that must be looked up while Redis does not answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnDown {
    /// The rest of a chain decides, else the rank of the session's id, which is the same on every
    /// gateway and most often where the session is.
    #[default]
    Open,
    /// The request fails with [`StickyError::StoreUnavailable`](crate::StickyError::StoreUnavailable)
    /// (503), unless another member of a chain knows the session. Requests without an id do not.
    Reject,
}

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
    source: Result<Source, String>,
    prefix: String,
    budget: Duration,
    failures: u32,
    on_down: OnDown,
    capacity: usize,
    recheck: Duration,
}

impl RedisStoreBuilder {
    pub(super) fn new(source: Result<Source, String>) -> Self {
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
        let engine = Engine::new(source, Call::new(self.prefix), self.budget, self.failures);
        let shared = Shared {
            engine: Arc::new(engine),
            table: table::new(self.capacity),
            flights: Flights::default(),
            writes: Arc::new(Semaphore::new(WRITES)),
            on_down: self.on_down,
            recheck: self.recheck,
            keeper: Keeper::default(),
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
