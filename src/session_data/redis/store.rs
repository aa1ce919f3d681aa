//! [`RedisStore`] and its calls of the script.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{
    Script,
    aio::{ConnectionLike, ConnectionManager},
};
use tower_sessions_core::{
    SessionStore,
    session::{Id, Record},
    session_store::{self, Error},
};

use super::format;
use crate::{
    id::BackendId,
    session_data::{
        Refused,
        fence::Fence,
        memory::time_left,
        options::{StoreOptions, store_options},
        scope::{self, RecordVersion},
    },
};

/// The longest time to live of a key, 1000 years in milliseconds, which Redis accepts.
const LONGEST_MILLIS: u128 = 1000 * 60 * 60 * 24 * 365 * 1000;

/// Fenced sessions in Redis or Valkey, for backends in several processes. A handle that is cheap to
/// clone; clones share the connection.
///
/// See the [rules of the fence](crate::session_data#rules-of-the-fence): a script in Redis implements them,
/// with one call for each load or save. A session is a hash with the key `session:` and its id, and the
/// fields `data` (a version byte, and JSON), `epoch`, `owner`, `saves` and `call`. It expires at its expiry
/// date. A value that is not a session, or of another version, is an error.
///
/// Calls are limited by the [time budget](Self::time_budget). While Redis is down or hangs they fail, and
/// the store reconnects when it is available again. A save that has timed out may have been executed.
///
/// Redis must not evict keys (`maxmemory-policy noeviction`): an evicted session is lost, and so is the
/// mark of a deleted one. Writes that were not replicated before a failover are lost too, including fences.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use tower_sessions::SessionManagerLayer;
/// use tower_sticky::session_data::{FencedCache, MemoryStore, RedisStore};
///
/// let store = RedisStore::new("redis://127.0.0.1:6379/")?;
/// let sessions = SessionManagerLayer::new(FencedCache::new(MemoryStore::new(), store));
/// # Ok::<(), tower_sticky::ConfigError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RedisStore<C = ConnectionManager> {
    connection: C,
    script: Arc<Script>,
    prefix: Arc<str>,
    budget: Duration,
    options: StoreOptions,
}

/// The number of random ids that are tried for a new session.
const MAX_TRIES: usize = 8;

pub(super) const BUDGET: Duration = Duration::from_secs(1);

impl<C> RedisStore<C> {
    /// A store with a given connection, for example a `ConnectionManager` with other settings. The
    /// connection must reconnect by itself after a failure, which a `MultiplexedConnection` does not.
    pub fn with_connection(connection: C) -> Self {
        Self {
            connection,
            script: Arc::new(Script::new(include_str!("fence.lua"))),
            prefix: "session:".into(),
            budget: BUDGET,
            options: StoreOptions::DEFAULT,
        }
    }

    /// The prefix of the keys; default `session:`. Applications that share a Redis need different prefixes.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The longest time that a call may take; default 1 s. A connection of [`new`](RedisStore::new) has a
    /// timeout of 1 s too, so a longer budget has no effect with it.
    #[must_use]
    pub const fn time_budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    store_options!();
}

/// The reply of the script: a status, and its values.
type Reply = Vec<Vec<u8>>;

impl<C: ConnectionLike + Clone + Send + Sync> RedisStore<C> {
    /// Runs a command of the script.
    async fn run(
        &self,
        command: &str,
        id: &Id,
        request: Option<&Fence>,
        time_to_live: Duration,
        data: &[u8],
    ) -> Result<Reply, Error> {
        let (epoch, owner) = match request {
            Some(fence) => {
                (epoch_text(fence.epoch), fence.owner.as_ref().map_or("", |id| id.as_str()))
            }
            None => (String::new(), ""),
        };
        let millis = time_to_live.as_millis().clamp(1, LONGEST_MILLIS) as u64;
        let mut call = self.script.prepare_invoke();
        call.key(format!("{}{id}", self.prefix)).arg(command).arg(epoch).arg(owner).arg(millis);
        let saves = scope::saves_at_load(id).map_or(String::new(), |saves| saves.to_string());
        call.arg(if self.options.shared_saves { "1" } else { "" }).arg(data).arg(saves);
        call.arg(if scope::may_contest() { "1" } else { "" }).arg(Id::default().to_string());
        let mut connection = self.connection.clone();
        let reply = call.invoke_async::<Reply>(&mut connection);
        match tokio::time::timeout(self.budget, reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(Error::Backend(format!("redis: {error}"))),
            Err(_) => Err(Error::Backend(format!("redis: no answer within {:?}", self.budget))),
        }
    }

    async fn write(&self, command: &str, record: &Record) -> Result<Reply, Error> {
        let (fence, data) = (scope::fence(&record.id), format::encode(record)?);
        let reply = self.run(command, &record.id, fence.as_ref(), time_left(record), &data).await?;
        if let [b"ok", epoch, owner, saves] = slices(&reply).as_slice() {
            scope::record_save(&record.id, parse_version(epoch, owner, saves)?);
        }
        Ok(reply)
    }
}

/// Formats an epoch with leading zeros, so that texts and numbers have the same order.
fn epoch_text(epoch: u64) -> String {
    format!("{epoch:020}")
}

fn slices(reply: &[Vec<u8>]) -> Vec<&[u8]> {
    reply.iter().map(Vec::as_slice).collect()
}

/// The error for a reply other than `ok`.
fn failure(id: &Id, reply: &[Vec<u8>]) -> Error {
    let unknown = || {
        let status = reply.first().map(|status| String::from_utf8_lossy(status));
        Error::Backend(format!("redis: unknown reply: {:?}", status.unwrap_or_default()))
    };
    match slices(reply).as_slice() {
        [b"deleted"] => scope::refuse(id, Refused::Deleted, None),
        [b"unfenced"] => scope::refuse(id, Refused::Unfenced, None),
        [b"changed"] => scope::refuse(id, Refused::Changed, None),
        [b"foreign"] => Error::Decode("the value of the key is not a session".to_owned()),
        [status, epoch, owner] => match (*status, parse_fence(epoch, owner)) {
            (_, Err(error)) => error,
            (b"older", Ok(Some(stored))) => {
                let epoch = scope::fence(id).map_or(0, |fence| fence.epoch);
                scope::refuse(id, Refused::Older { epoch, kept: stored.epoch }, Some(stored))
            }
            (b"held", Ok(Some(stored))) => match stored.owner.clone() {
                Some(owner) => scope::refuse(id, Refused::Held { owner }, Some(stored)),
                None => unknown(),
            },
            _ => unknown(),
        },
        _ => unknown(),
    }
}

/// Parses the fence of a record in a reply.
fn parse_fence(epoch: &[u8], owner: &[u8]) -> Result<Option<Fence>, Error> {
    let bad = || Error::Decode("a stored session has an invalid epoch or owner".to_owned());
    if epoch.is_empty() {
        return Ok(None);
    }
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| bad());
    let epoch = text(epoch)?.parse().map_err(|_| bad())?;
    let owner = match text(owner)? {
        "" => None,
        owner => Some(BackendId::new(owner).map_err(|_| bad())?),
    };
    Ok(Some(Fence { epoch, owner }))
}

fn parse_version(epoch: &[u8], owner: &[u8], saves: &[u8]) -> Result<RecordVersion, Error> {
    let number = std::str::from_utf8(saves).ok().and_then(|text| text.parse().ok());
    let bad = || Error::Decode("a stored session has an invalid number of saves".to_owned());
    let saves = Some(number.ok_or_else(bad)?);
    Ok(RecordVersion { fence: parse_fence(epoch, owner)?, saves })
}

#[async_trait]
impl<C> SessionStore for RedisStore<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        for _ in 0..MAX_TRIES {
            let reply = self.write("create", record).await?;
            match reply.first().map(Vec::as_slice) {
                Some(b"ok") => return Ok(()),
                // The id is in use; nothing was written.
                Some(b"exists" | b"deleted" | b"foreign") => record.id = Id::default(),
                _ => return Err(failure(&record.id, &reply)),
            }
        }
        Err(Error::Backend(format!("redis: {MAX_TRIES} ids of 128 random bits were all in use")))
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let reply = self.write("save", record).await?;
        match reply.first().map(Vec::as_slice) {
            Some(b"ok") => Ok(()),
            _ => Err(failure(&record.id, &reply)),
        }
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let fence = scope::fence(id);
        let reply = self.run("load", id, fence.as_ref(), Duration::ZERO, &[]).await?;
        let (version, found) = match slices(&reply).as_slice() {
            [b"ok", epoch, owner, saves, data] => {
                (Some(parse_version(epoch, owner, saves)?), Some(format::decode(id, data)?))
            }
            [b"nothing" | b"deleted"] => (None, None),
            _ => return Err(failure(id, &reply)),
        };
        scope::record_load(id, version);
        // The clock of Redis may be late.
        Ok(found.filter(|record| !time_left(record).is_zero()))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let reply = self.run("delete", id, None, self.options.keep_deleted, &[]).await?;
        match reply.first().map(Vec::as_slice) {
            Some(b"ok") => Ok(()),
            _ => Err(failure(id, &reply)),
        }
    }
}

impl<C> fmt::Debug for RedisStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .field("time_budget", &self.budget)
            .field("keep_deleted", &self.options.keep_deleted)
            .field("shared_saves", &self.options.shared_saves)
            .finish_non_exhaustive()
    }
}
