//! [`RedisStore`], the handle of the store.

use std::{fmt, sync::Arc, time::Duration};

use super::{breaker::Phase, cache::PinCache, script::WriteCondition, stats::RedisStats};
#[cfg(feature = "metrics")]
use crate::outcome::recording::HistogramTotals;
use crate::store::traits::{Lookup, OpenSession, PinStore, SessionKey, StoredPin};

/// Pins on [Redis](https://redis.io) or [Valkey](https://valkey.io), which several gateways share. A
/// handle that is cheap to clone; clones share everything.
///
/// The gateways must have the same [`secret`](crate::affinity::Learned::secret), or else they use
/// different keys. Redis 5 or later is required, with the commands `EVALSHA`, `EVAL`, `GET`, `SET`,
/// `PEXPIRE` and `DEL`.
///
/// # Cost
///
/// Each session that this gateway has served has a local copy, which answers without a call to Redis. At
/// most once per 1/16 of the idle time (or per [`recheck`](crate::store::RedisStoreBuilder::recheck)) one
/// call renews the session's time to live and reads whether another gateway has moved the session. A
/// session that is unknown here is looked up once, however many requests wait for it. Pins are written in
/// the background.
///
/// # Consistency
///
/// - The first gateway that assigns a session wins: one that has assigned it at the same time adopts the
///   stored pin. A session is moved only from the backend that it is on. A pin to the backend that has
///   issued the session id replaces any older pin.
/// - Epochs never decrease: when a session keeps its backend although another gateway has sent requests to
///   another one, its epoch is raised above the one that the other backend has seen.
/// - A gateway may use an outdated local copy until its next recheck. If it fails over from there, it
///   adopts the pin of the gateway that has moved the session first.
/// - Redis forgets a session between one and 17/16 idle times after its last request on any gateway. A
///   session with a request or stream in flight is renewed every 1/16 of its own idle time, so it does
///   not expire on other gateways.
///
/// # When Redis does not answer
///
/// Each call is limited by the [`time_budget`](crate::store::RedisStoreBuilder::time_budget). After
/// [several](crate::store::RedisStoreBuilder::failures) failures in a row, or when the connection breaks, a
/// circuit breaker opens: no request waits, and a task in the background reconnects until a call is
/// answered in time. Requests wait longer only for the first connection of a process (a second, or ten
/// times the budget), because there are no local copies yet. Sessions with a local copy are served from
/// it. Others are [placed by rank or rejected](crate::store::RedisStoreBuilder::on_down). Pins that could
/// not be written, or that Redis has lost, are written with the next request of their session.
///
/// A value under one of our keys that is not a pin counts as no pin, and is logged at most once a minute.
///
/// # Example
///
/// ```
/// # fn run() -> Result<(), tower_sticky::ConfigError> {
/// use tower_sticky::{Key, affinity::Learned, store::RedisStore};
///
/// let store = RedisStore::new("redis://localhost")?;
/// # let key = String::new();
/// let secret = Key::from_base64(&key)?; // the same on every gateway
/// let learned = Learned::cookie("JSESSIONID").store(store.clone()).secret(secret);
/// println!("{:?}", store.stats());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    pub(super) cache: Arc<PinCache>,
}

impl RedisStore {
    /// Connects, and waits until that has worked: for a gateway that should not serve requests without
    /// its pins. Waits without limit; combine it with a timeout. Must be called within a Tokio runtime.
    pub async fn connected(&self) {
        let engine = &self.cache.engine;
        let mut phase = engine.subscribe();
        engine.connect();
        while !engine.is_up() && phase.wait_for(|phase| *phase == Phase::Up).await.is_ok() {}
    }

    /// Totals since the store was built, and whether Redis answers.
    pub fn stats(&self) -> RedisStats {
        let engine = &self.cache.engine;
        RedisStats::new(engine.state(), self.cache.writes_in_flight(), engine.counters())
    }

    /// How many local copies were evicted to make room for others.
    pub fn local_evictions(&self) -> u64 {
        self.cache.evictions.count()
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn call_times(&self) -> HistogramTotals {
        self.cache.engine.call_times().totals()
    }

    /// The number of local copies, including those of expired sessions.
    pub fn local_len(&self) -> usize {
        self.cache.table.len()
    }
}

impl PinStore for RedisStore {
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup {
        self.cache.get(key, idle)
    }

    fn peek(&self, key: SessionKey, _: Duration) -> Lookup {
        self.cache.peek(key)
    }

    fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession> {
        Some(self.cache.write(key, pin, WriteCondition::Put, idle))
    }

    fn claim(
        &self,
        key: SessionKey,
        pin: StoredPin,
        known: Option<StoredPin>,
        idle: Duration,
    ) -> Option<OpenSession> {
        let condition = WriteCondition::Claim(known.map(|known| known.backend));
        Some(self.cache.write(key, pin, condition, idle))
    }

    fn remove(&self, key: SessionKey) {
        self.cache.remove(key);
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the address, which may contain a password.
        f.debug_struct("RedisStore")
            .field("prefix", &self.cache.engine.commands().prefix())
            .field("state", &self.cache.engine.state())
            .field("local", &self.local_len())
            .finish_non_exhaustive()
    }
}
