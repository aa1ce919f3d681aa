//! `Learned`: the pin of the application's own session id, in a store of the gateway.

use std::{fmt, hash::Hasher as _, sync::Arc, time::Duration};

use siphasher::sip128::SipHasher13;

use super::bound::Bound;
use crate::{
    affinity::{
        BoundAffinity,
        id_source::{BoundSource, IdSource, source_constructors},
        token_options::{check_timeouts, invalid},
        traits::sealed::Bind,
    },
    error::ConfigError,
    store::{MemoryStore, PinStore},
};

pub(super) const DEFAULT_CAPACITY: usize = 1_000_000;
pub(super) const DEFAULT_IDLE: Duration = Duration::from_secs(30 * 60);

/// The application's own session id, remembered in a table of the gateway, as HAProxy's
/// `stick store-response` does: for applications that issue an id whose form must not change.
///
/// A session is learned from the response that sets the id. From then on every request with that id goes
/// to the backend that issued it. The session moves when its backend fails, and is forgotten when the
/// application removes the cookie (or sends the header empty), sets another id, or answers with
/// [`SessionAction::End`](crate::SessionAction::End). Requests and responses are not changed.
///
/// # Limits
///
/// - The table is in this process, unless another [`store`](Self::store) is given: about 140 bytes
///   per session, [`capacity`](Self::capacity) sessions at most; when it is full, the sessions that
///   were not used for the longest time are evicted.
/// - After a restart, and on another gateway, the ids are unknown, unless the gateways share a store
///   (`store::RedisStore`, with the feature `redis`). Such a request is routed by a
///   hash of its id, so all requests with one id go to the same backend, and the session is learned
///   again from the response. This is not necessarily the backend that has the session's data. An
///   [`Envelope`](crate::affinity::Envelope) has no table and no such limit.
/// - Of several ids in one request the first known one counts.
///
/// The table holds a keyed hash of each id (SipHash-1-3, 128 bits), never the id, so a reader of the
/// table cannot take over sessions.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::affinity::Learned;
///
/// let by_cookie = Learned::cookie("JSESSIONID").idle_timeout(Duration::from_secs(3600));
/// let by_header = Learned::header("mcp-session-id").capacity(10_000).end_on_delete(true);
/// let uploads = Learned::location("/files/{id}");
/// ```
///
/// Recipes with real clients: [`mcp`](crate::guide::mcp), [`tus`](crate::guide::tus), [`own_sessions`](crate::guide::own_sessions).
#[derive(Clone)]
pub struct Learned {
    source: IdSource,
    end_on_delete: bool,
    capacity: usize,
    idle: Duration,
    absolute: Option<Duration>,
    secret: Option<crate::token::Key>,
    store: Option<Arc<dyn PinStore>>,
}

impl Learned {
    source_constructors! {
        /// The id is in a cookie that the application sets.
        cookie(name) => IdSource::Cookie,

        /// The id is in a header, which the application sets in a response and the client sends back.
        header(name) => IdSource::Header,

        /// The id is in a parameter of the query, which is decoded. The application tells it in a body, so that it is
        /// learned from the first request that has it: use [`Route`](crate::affinity::Route) if that must reach the
        /// backend that issued it.
        query(name) => IdSource::Query,

        /// The id is in the path of a resource that the application creates, for example `/files/{id}`: it is learned
        /// from the `Location` of a 201 or a redirection, and found in the path of later requests. So an upload
        /// (tus 1.0) continues on the server that holds it.
        ///
        /// The template matches a path with the same segments, whatever follows after the next `/`. In a
        /// [`Chain`](crate::affinity::Chain) an id in the path or in the query is not seen while an earlier member has a
        /// pin.
        location(template) => IdSource::Path,
    }

    fn new(source: IdSource) -> Self {
        Self {
            source,
            end_on_delete: false,
            capacity: DEFAULT_CAPACITY,
            idle: DEFAULT_IDLE,
            absolute: None,
            secret: None,
            store: None,
        }
    }

    /// Whether a session ends with a `DELETE` that succeeds (2xx), as in tus and in the Model Context Protocol;
    /// default `false`.
    #[must_use]
    pub fn end_on_delete(mut self, end: bool) -> Self {
        self.end_on_delete = end;
        self
    }

    /// The approximate number of sessions that the table in memory can hold; default 1,000,000. Memory is
    /// allocated as it fills. Not used with another [`store`](Self::store).
    #[must_use]
    pub fn capacity(mut self, sessions: usize) -> Self {
        self.capacity = sessions;
        self
    }

    /// Forgets a session that has sent no request for this long; default 30 minutes. It is not
    /// forgotten while a request or a response stream is in progress.
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

    /// The secret for the hash of the ids; default a random one of this process. Gateways with the same
    /// secret choose the same backend for an unknown id, and can share a store.
    #[must_use]
    pub fn secret(mut self, secret: crate::token::Key) -> Self {
        self.secret = Some(secret);
        self
    }

    /// The store of the pins; default a [`MemoryStore`] of this layer.
    #[must_use]
    pub fn store(mut self, store: impl PinStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    fn check(&self, carrier: &str) -> Result<(), ConfigError> {
        check_timeouts(carrier, Some(self.idle), self.absolute)?;
        if self.capacity == 0 && self.store.is_none() {
            return Err(invalid(carrier, "a capacity of 0 remembers no session; leave it out"));
        }
        Ok(())
    }
}

impl fmt::Debug for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned")
            .field("source", &self.source)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Bind for Learned {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        self.check(&self.source.describe())?;
        let source = self.source.bind()?;
        let secret = match &self.secret {
            Some(secret) => secret.hash_secret(),
            None => crate::token::Key::generate()?.hash_secret(),
        };
        let mut hasher = SipHasher13::new_with_keys(secret[0], secret[1]);
        // Pools and names that share a store must not share keys. Header names are normalized.
        let (kind, name) = match (&source, &self.source) {
            (BoundSource::Header(name), _) => ("header", name.as_str()),
            (_, IdSource::Cookie(name)) => ("cookie", &**name),
            (_, IdSource::Header(name)) => ("header", &**name),
            (_, IdSource::Query(name)) => ("query", &**name),
            (_, IdSource::Path(name)) => ("location", &**name),
            (_, IdSource::PathParameter(name)) => ("path parameter", &**name),
        };
        for part in [pool, kind, name] {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part.as_bytes());
        }
        let store = self.store.clone();
        let store = store.unwrap_or_else(|| Arc::new(MemoryStore::new(self.capacity)));
        let absolute = self.absolute.map(|timeout| timeout.as_secs());
        let (idle, end_on_delete) = (self.idle, self.end_on_delete);
        Ok(Arc::new(Bound { source, hasher, idle, absolute, end_on_delete, store }))
    }
}
