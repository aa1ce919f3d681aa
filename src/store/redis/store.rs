//! The store: a handle.

use std::{fmt, sync::Arc, time::Duration};

use super::{cache::PinCache, engine::Phase, script::WriteCondition, stats::RedisStats};
use crate::store::traits::{Lookup, OpenSession, PinStore, SessionKey, StoredPin};

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
/// of the idle time (or per [`recheck`](crate::store::RedisStoreBuilder::recheck)) one call tells Redis that the
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
/// A call may take the [`time_budget`](crate::store::RedisStoreBuilder::time_budget). After
/// [some](crate::store::RedisStoreBuilder::failures) failures in a row, or when the connection breaks, the breaker
/// opens: no request waits, and a task in the background connects anew until a question is answered
/// in time. Only the first connection of a process is waited for as long as it may take (a second, or ten
/// times the budget), for before that nothing is known here. Sessions with a local copy are served by
/// it. Others are [placed by rank or rejected](crate::store::RedisStoreBuilder::on_down). Pins that could not be
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
    pub(super) shared: Arc<PinCache>,
}

impl RedisStore {
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
        Some(self.shared.write(key, pin, WriteCondition::Put, idle))
    }

    fn claim(
        &self,
        key: SessionKey,
        pin: StoredPin,
        known: Option<StoredPin>,
        idle: Duration,
    ) -> Option<OpenSession> {
        let rule = WriteCondition::Claim(known.map(|known| known.backend));
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
