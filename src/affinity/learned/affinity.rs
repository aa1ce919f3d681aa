//! `Learned`: the application's own session id, remembered here.

use std::{fmt, hash::Hasher as _, sync::Arc, time::Duration};

use siphasher::sip128::SipHasher13;

use super::{bound::Bound, carrier::Carrier};
use crate::{
    affinity::{
        BoundAffinity,
        cookie::{parse, set_cookie},
        header::header_name,
        token_codec::refuse,
        traits::sealed::Bind,
    },
    error::ConfigError,
    store::{MemoryStore, PinStore},
};

pub(super) const DEFAULT_CAPACITY: usize = 1_000_000;
pub(super) const DEFAULT_IDLE: Duration = Duration::from_secs(30 * 60);

/// The application's own session id, remembered in a table on our side, as HAProxy's `stick store-response`
/// does: for applications that issue an id whose form must not change.
///
/// A session is learned from the response that sets the id, and from then on every request with that
/// id goes to the backend that issued it. The session moves when its backend fails, and is forgotten
/// when the application removes the cookie (or sends the header empty), sets another id, or says
/// [`SessionAction::End`](crate::SessionAction::End). Nothing of ours reaches the client or the
/// backend.
///
/// # Limits
///
/// - The table is in this process, unless another [`store`](Self::store) is given: about 140 bytes
///   per session, [`capacity`](Self::capacity) sessions at most; when it is full those go that have
///   not been used for long.
/// - After a restart, and on another gateway, the ids are unknown, unless the gateways share a store
///   (`store::RedisStore`, with the feature `redis`). Such a request goes where the rank
///   of a hash of its id says, so that all requests with one id agree, and its session is learned
///   again from the answer; but this is not necessarily the backend that has it. An
///   [`Envelope`](crate::affinity::Envelope) has no table and no such limit.
/// - Of several ids in one request the first that is known counts.
///
/// The table has a keyed hash of each id (SipHash-1-3, 128 bits), never the id: who reads it cannot
/// use the sessions in it.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::affinity::Learned;
///
/// let by_cookie = Learned::cookie("JSESSIONID").idle_timeout(Duration::from_secs(3600));
/// let by_header = Learned::header("mcp-session-id").capacity(10_000);
/// ```
#[derive(Clone)]
pub struct Learned {
    carrier: Carrier<String, String>,
    capacity: usize,
    idle: Duration,
    absolute: Option<Duration>,
    secret: Option<crate::token::Key>,
    store: Option<Arc<dyn PinStore>>,
}

impl Learned {
    /// The id is in a cookie that the application sets.
    pub fn cookie(name: impl Into<String>) -> Self {
        Self::new(Carrier::Cookie(name.into()))
    }

    /// The id is in a header: the application's response says it, and the client sends it back.
    pub fn header(name: impl Into<String>) -> Self {
        Self::new(Carrier::Header(name.into()))
    }

    fn new(carrier: Carrier<String, String>) -> Self {
        let (capacity, idle) = (DEFAULT_CAPACITY, DEFAULT_IDLE);
        Self { carrier, capacity, idle, absolute: None, secret: None, store: None }
    }

    /// How many sessions the table in memory remembers, about; default 1,000,000. It grows as it is
    /// filled. Without a meaning for another [`store`](Self::store).
    #[must_use]
    pub fn capacity(mut self, sessions: usize) -> Self {
        self.capacity = sessions;
        self
    }

    /// Forgets a session that has sent no request for this long; default 30 minutes. While a request
    /// or the stream of a response is under way it is not forgotten.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle = timeout;
        self
    }

    /// Forgets a session this long after it began, in whole seconds; default never.
    #[must_use]
    pub fn absolute_timeout(mut self, timeout: Duration) -> Self {
        self.absolute = Some(timeout);
        self
    }

    /// The secret of the hash of the ids; default one by chance, for this process only. Gateways that
    /// share it make the same choice for an id that is unknown, and can share a store.
    #[must_use]
    pub fn secret(mut self, secret: crate::token::Key) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Where the pins are kept; default a [`MemoryStore`] of this layer's own.
    #[must_use]
    pub fn store(mut self, store: impl PinStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    fn check(&self, carrier: &str) -> Result<(), ConfigError> {
        for (name, timeout) in [("idle", Some(self.idle)), ("absolute", self.absolute)] {
            if timeout.is_some_and(|timeout| timeout < Duration::from_secs(1)) {
                let why = format!("the {name} timeout must be at least one second");
                return Err(refuse(carrier, &why));
            }
        }
        if self.capacity == 0 && self.store.is_none() {
            return Err(refuse(carrier, "a capacity of 0 remembers nobody; leave it out"));
        }
        Ok(())
    }
}

impl fmt::Debug for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned")
            .field("carrier", &self.carrier)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Bind for Learned {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let (kind, name) = match &self.carrier {
            Carrier::Cookie(name) => ("cookie", name),
            Carrier::Header(name) => ("header", name),
        };
        self.check(&format!("the {kind} {name:?}"))?;
        let carrier = match &self.carrier {
            Carrier::Cookie(name) => {
                set_cookie::check_name(name)?;
                Carrier::Cookie((parse::Name::new(name), name.clone()))
            }
            Carrier::Header(name) => Carrier::Header(header_name(name)?),
        };
        let secret = match &self.secret {
            Some(secret) => secret.hash_secret(),
            None => crate::token::Key::generate()?.hash_secret(),
        };
        let mut hasher = SipHasher13::new_with_keys(secret[0], secret[1]);
        // One store may serve several pools and names; header names are one however they are written.
        let name = match &carrier {
            Carrier::Cookie(_) => name,
            Carrier::Header(name) => name.as_str(),
        };
        for part in [pool, kind, name] {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part.as_bytes());
        }
        let store = self.store.clone();
        let store = store.unwrap_or_else(|| Arc::new(MemoryStore::new(self.capacity)));
        let absolute = self.absolute.map(|timeout| timeout.as_secs());
        Ok(Arc::new(Bound { carrier, hasher, idle: self.idle, absolute, store }))
    }
}
