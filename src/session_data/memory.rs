//! [`MemoryStore`]: fenced sessions in this process.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::time::Instant;
use tower_sessions_core::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::{
    fence::{self, Fence, SaveConditions, StoredRecord},
    options::{StoreOptions, store_options},
    scope::{self, RecordVersion},
};
use crate::util::lock;

/// The number of shards of the table, each with a lock.
const SHARDS: usize = 16;

/// The longest time until a session expires, because an `Instant` cannot represent every date.
const LONGEST: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// Fenced sessions in this process, for applications with one process and for tests. A handle that is cheap
/// to clone; clones share the sessions.
///
/// See the [rules of the fence](super#rules-of-the-fence). Sessions expire at their expiry date, and are
/// dropped while others are saved. Their number is not limited otherwise.
///
/// # Example
///
/// ```
/// use tower_sessions::SessionManagerLayer;
/// use tower_sticky::session_data::MemoryStore;
///
/// let store = MemoryStore::new();
/// let sessions = SessionManagerLayer::new(store.clone()); // clone it for each backend
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    shards: Arc<[Mutex<Shard>; SHARDS]>,
    options: StoreOptions,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Id, Entry>,
    /// The number of entries from which on expired ones are dropped.
    limit: usize,
}

struct Entry {
    expires: Instant,
    /// `None` if the session was deleted.
    live: Option<Live>,
}

struct Live {
    record: Arc<Record>,
    fence: Option<Fence>,
    /// The number of saves.
    saves: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self { shards: Arc::default(), options: StoreOptions::DEFAULT }
    }

    store_options!();

    /// The number of sessions, including expired and deleted ones.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    /// Whether the store has no sessions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, id: &Id) -> MutexGuard<'_, Shard> {
        // Ids are random, so their last bits need no hash.
        let [first, rest @ ..] = &*self.shards;
        let shard = match (id.0 as usize) % SHARDS {
            0 => first,
            number => rest.get(number - 1).unwrap_or(first),
        };
        lock(shard)
    }

    fn try_create(&self, record: &Record) -> bool {
        let fence = scope::fence(&record.id);
        let (now, mut shard) = (Instant::now(), self.shard(&record.id));
        let free = shard.get(&record.id, now).is_none();
        if free {
            shard.insert(now, record, fence.clone(), 1);
            scope::record_save(&record.id, RecordVersion { fence, saves: Some(1) });
        }
        free
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Shard {
    fn get(&mut self, id: &Id, now: Instant) -> Option<&mut Entry> {
        self.entries.get_mut(id).filter(|entry| entry.expires > now)
    }

    fn insert(&mut self, now: Instant, record: &Record, fence: Option<Fence>, saves: u64) {
        let expires = now + time_left(record).min(LONGEST);
        let live = Some(Live { record: Arc::new(record.clone()), fence, saves });
        self.put(now, record.id, Entry { expires, live });
    }

    fn put(&mut self, now: Instant, id: Id, entry: Entry) {
        if self.entries.len() >= self.limit {
            self.entries.retain(|_, entry| entry.expires > now);
            // Doubled, so that the cost per insertion is constant on average.
            self.limit = (self.entries.len() * 2).max(64);
        }
        self.entries.insert(id, entry);
    }
}

impl Entry {
    fn stored(entry: Option<&Entry>) -> StoredRecord<'_> {
        match entry.map(|entry| entry.live.as_ref()) {
            None => StoredRecord::Missing,
            Some(None) => StoredRecord::Deleted,
            Some(Some(live)) => StoredRecord::Live(live.fence.as_ref()),
        }
    }
}

/// The time until a session expires.
pub(super) fn time_left(record: &Record) -> Duration {
    let left = record.expiry_date - OffsetDateTime::now_utc();
    Duration::try_from(left).unwrap_or_default()
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        while !self.try_create(record) {
            record.id = Id::default();
        }
        Ok(())
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let request = scope::fence(&record.id);
        let (now, mut shard) = (Instant::now(), self.shard(&record.id));
        let entry = shard.get(&record.id, now);
        let stored = Entry::stored(entry.as_deref());
        let saves = entry.as_ref().and_then(|entry| entry.live.as_ref()).map(|live| live.saves);
        let saves_at_load = scope::saves_at_load(&record.id);
        let conditions = SaveConditions {
            shared: self.options.shared_saves,
            may_contest: scope::may_contest(),
            unchanged: saves_at_load.is_some() && saves_at_load == saves,
        };
        let fence = match fence::save(stored, request.as_ref(), conditions) {
            Ok(fence) => fence,
            Err(refused) => {
                return Err(scope::refuse(&record.id, refused, stored.fence().cloned()));
            }
        };
        let saves = saves.unwrap_or(0) + 1;
        shard.insert(now, record, fence.clone(), saves);
        drop(shard);
        scope::record_save(&record.id, RecordVersion { fence, saves: Some(saves) });
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let request = scope::fence(id);
        let (found, version) = {
            let mut shard = self.shard(id);
            let entry = shard.get(id, Instant::now());
            let raised = fence::load(Entry::stored(entry.as_deref()), request.as_ref()).cloned();
            match entry.and_then(|entry| entry.live.as_mut()) {
                Some(live) => {
                    if raised.is_some() {
                        live.fence = raised;
                    }
                    let fence = live.fence.clone();
                    let version = RecordVersion { fence, saves: Some(live.saves) };
                    (Some(live.record.clone()), Some(version))
                }
                None => (None, None),
            }
        };
        scope::record_load(id, version);
        Ok(found.map(Arc::unwrap_or_clone))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let now = Instant::now();
        let expires = now + self.options.keep_deleted.min(LONGEST);
        self.shard(id).put(now, *id, Entry { expires, live: None });
        Ok(())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("sessions", &self.len())
            .field("keep_deleted", &self.options.keep_deleted)
            .field("shared_saves", &self.options.shared_saves)
            .finish()
    }
}
