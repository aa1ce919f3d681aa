//! The store of sessions in Redis or Valkey.

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
        memory::{KEEP_DELETED, time_left},
        scope::{self, RecordVersion},
    },
};

/// Longer than any session lasts, and short enough for Redis, in milliseconds: 1000 years.
pub(super) const LONGEST: u128 = 1000 * 60 * 60 * 24 * 365 * 1000;

/// Fenced sessions in Redis or Valkey, for backends in several processes. A handle that is cheap to
/// clone; clones share the connection.
///
/// See [the rules of the fence](crate::session_data): they are kept by a script inside the engine, one call for each
/// load or save. A session is a hash under `session:` and its id, with the fields `data` (a byte for the
/// version, and JSON), `epoch`, `owner`, `saves` and `call`; it expires when its date says so. What is
/// there and is not a session of ours, or of another version, is an error, never a session.
///
/// No call takes longer than the [time budget](Self::time_budget): with the engine down or hung each
/// fails, and a connection is made again when it is back. A save whose answer did not come in time may
/// have been done.
///
/// The engine must not evict (`maxmemory-policy noeviction`): a session that is evicted is lost, and so
/// is the memory that one was deleted. What its replicas have not got when they take over is lost too,
/// fences included.
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
    keep_deleted: Duration,
    shared: bool,
}

/// How many ids are tried for a new session: two in a row would be a fault of the engine's.
pub(super) const TRIES: usize = 8;

pub(super) const BUDGET: Duration = Duration::from_secs(1);

impl<C> RedisStore<C> {
    /// A store behind a connection of your own, for example a `ConnectionManager` with other settings.
    /// It must come back by itself after a failure; a bare `MultiplexedConnection` does not.
    pub fn with_connection(connection: C) -> Self {
        Self {
            connection,
            script: Arc::new(Script::new(include_str!("fence.lua"))),
            prefix: "session:".into(),
            budget: BUDGET,
            keep_deleted: KEEP_DELETED,
            shared: false,
        }
    }

    /// What the keys begin with; default `session:`. Applications that share an engine differ in it.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a call may take; default 1 s, which is also the most that a connection of
    /// [`new`](RedisStore::new) waits for an answer.
    #[must_use]
    pub const fn time_budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// For how long a deleted session cannot be saved again, by a request that had read it before;
    /// default 10 minutes. It should be longer than any request takes.
    #[must_use]
    pub const fn keep_deleted(mut self, time: Duration) -> Self {
        self.keep_deleted = time;
        self
    }

    /// Whether requests also save that borrow the session, or come past the gateway; default `false`.
    /// The later save wins then. Only for applications whose backends keep no copies.
    #[must_use]
    pub const fn shared_saves(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }
}

/// What the script answers.
pub(super) type Words = Vec<Vec<u8>>;

impl<C: ConnectionLike + Clone + Send + Sync> RedisStore<C> {
    /// Runs the script.
    async fn run(
        &self,
        what: &str,
        id: &Id,
        request: Option<&Fence>,
        time: Duration,
        data: &[u8],
    ) -> Result<Words, Error> {
        let (epoch, owner) = match request {
            Some(fence) => {
                (epoch_text(fence.epoch), fence.owner.as_ref().map_or("", |id| id.as_str()))
            }
            None => (String::new(), ""),
        };
        let time = time.as_millis().clamp(1, LONGEST) as u64;
        let mut call = self.script.prepare_invoke();
        call.key(format!("{}{id}", self.prefix)).arg(what).arg(epoch).arg(owner).arg(time);
        let saves = scope::saves_seen(id).map_or(String::new(), |saves| saves.to_string());
        call.arg(if self.shared { "1" } else { "" }).arg(data).arg(saves);
        call.arg(if scope::may_contest() { "1" } else { "" }).arg(Id::default().to_string());
        let mut connection = self.connection.clone();
        let answer = call.invoke_async::<Words>(&mut connection);
        match tokio::time::timeout(self.budget, answer).await {
            Ok(Ok(words)) => Ok(words),
            Ok(Err(error)) => Err(Error::Backend(format!("redis: {error}"))),
            Err(_) => Err(Error::Backend(format!("redis: no answer within {:?}", self.budget))),
        }
    }

    async fn write(&self, what: &str, record: &Record) -> Result<Words, Error> {
        let (request, data) = (scope::fence(&record.id), format::write(record)?);
        let words = self.run(what, &record.id, request.as_ref(), time_left(record), &data).await?;
        if let [b"ok", epoch, owner, saves] = slices(&words).as_slice() {
            scope::saved(&record.id, read_seen(epoch, owner, saves)?);
        }
        Ok(words)
    }
}

/// With leading zeros, so that its order as text is that as a number.
pub(super) fn epoch_text(epoch: u64) -> String {
    format!("{epoch:020}")
}

pub(super) fn slices(words: &[Vec<u8>]) -> Vec<&[u8]> {
    words.iter().map(Vec::as_slice).collect()
}

/// What the script says besides that all is well.
pub(super) fn failure(id: &Id, words: &[Vec<u8>]) -> Error {
    let unknown = || {
        let word = words.first().map(|word| String::from_utf8_lossy(word)).unwrap_or_default();
        Error::Backend(format!("redis: an answer that is not known: {word:?}"))
    };
    match slices(words).as_slice() {
        [b"deleted"] => scope::refuse(id, Refused::Deleted, None),
        [b"unfenced"] => scope::refuse(id, Refused::Unfenced, None),
        [b"changed"] => scope::refuse(id, Refused::Changed, None),
        [b"foreign"] => Error::Decode("under the session's key is something else".to_owned()),
        [word, epoch, owner] => match (*word, read_fence(epoch, owner)) {
            (_, Err(error)) => error,
            (b"older", Ok(Some(kept))) => {
                let epoch = scope::fence(id).map_or(0, |fence| fence.epoch);
                scope::refuse(id, Refused::Older { epoch, kept: kept.epoch }, Some(kept))
            }
            (b"held", Ok(Some(kept))) => match kept.owner.clone() {
                Some(owner) => scope::refuse(id, Refused::Held { owner }, Some(kept)),
                None => unknown(),
            },
            _ => unknown(),
        },
        _ => unknown(),
    }
}

/// The fence that is on a record, as the script says it.
pub(super) fn read_fence(epoch: &[u8], owner: &[u8]) -> Result<Option<Fence>, Error> {
    let bad = || Error::Decode("a stored session has an epoch or owner that is none".to_owned());
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

pub(super) fn read_seen(epoch: &[u8], owner: &[u8], saves: &[u8]) -> Result<RecordVersion, Error> {
    let number = std::str::from_utf8(saves).ok().and_then(|text| text.parse().ok());
    let bad = || Error::Decode("a stored session has a number of saves that is none".to_owned());
    let saves = Some(number.ok_or_else(bad)?);
    Ok(RecordVersion { fence: read_fence(epoch, owner)?, saves })
}

#[async_trait]
impl<C> SessionStore for RedisStore<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        for _ in 0..TRIES {
            let words = self.write("create", record).await?;
            match words.first().map(Vec::as_slice) {
                Some(b"ok") => return Ok(()),
                // The id is somebody's; nothing was written.
                Some(b"exists" | b"deleted" | b"foreign") => record.id = Id::default(),
                _ => return Err(failure(&record.id, &words)),
            }
        }
        Err(Error::Backend(format!("redis: {TRIES} ids of 128 random bits were all in use")))
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let words = self.write("save", record).await?;
        match words.first().map(Vec::as_slice) {
            Some(b"ok") => Ok(()),
            _ => Err(failure(&record.id, &words)),
        }
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let request = scope::fence(id);
        let words = self.run("load", id, request.as_ref(), Duration::ZERO, &[]).await?;
        let (seen, found) = match slices(&words).as_slice() {
            [b"ok", epoch, owner, saves, data] => {
                (Some(read_seen(epoch, owner, saves)?), Some(format::read(id, data)?))
            }
            [b"nothing" | b"deleted"] => (None, None),
            _ => return Err(failure(id, &words)),
        };
        scope::saw(id, seen);
        // The engine's clock may be behind.
        Ok(found.filter(|record| !time_left(record).is_zero()))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let words = self.run("delete", id, None, self.keep_deleted, &[]).await?;
        match words.first().map(Vec::as_slice) {
            Some(b"ok") => Ok(()),
            _ => Err(failure(id, &words)),
        }
    }
}

impl<C> fmt::Debug for RedisStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .field("time_budget", &self.budget)
            .field("keep_deleted", &self.keep_deleted)
            .field("shared_saves", &self.shared)
            .finish_non_exhaustive()
    }
}
