//! Sessions in this process.

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
    scope::{self, RecordVersion},
};
use crate::util::lock;

/// For how long a store remembers that a session was deleted, unless it is told otherwise: longer than
/// a request takes.
pub(super) const KEEP_DELETED: Duration = Duration::from_secs(600);

/// How many parts the table has, so that its users do not wait for each other.
const PARTS: usize = 16;

/// Later than anything that is asked for: an `Instant` cannot be as far away as a date.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// Fenced sessions in this process: for an application that is one process, and for tests. A handle that
/// is cheap to clone; clones share the sessions, as the backends of a pool do that run in one process.
///
/// See [the rules of the fence](super). A session expires when its date says so. There is no other
/// bound on how many there are; those that have expired are dropped while others are saved.
///
/// # Example
///
/// ```
/// use tower_sessions::SessionManagerLayer;
/// use tower_sticky::session_data::MemoryStore;
///
/// let store = MemoryStore::new();
/// let sessions = SessionManagerLayer::new(store.clone()); // the same for each backend
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    table: Arc<[Mutex<Part>; PARTS]>,
    keep_deleted: Duration,
    shared: bool,
}

#[derive(Default)]
struct Part {
    slots: HashMap<Id, Slot>,
    /// How many there may be before those that have expired are looked for.
    limit: usize,
}

struct Slot {
    until: Instant,
    /// `None` when it was deleted.
    live: Option<Live>,
}

struct Live {
    record: Arc<Record>,
    fence: Option<Fence>,
    /// How often it was saved.
    saves: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self { table: Arc::default(), keep_deleted: KEEP_DELETED, shared: false }
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

    /// How many sessions there are, some of which may have expired or have been deleted.
    pub fn len(&self) -> usize {
        self.table.iter().map(|part| lock(part).slots.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn part(&self, id: &Id) -> MutexGuard<'_, Part> {
        // An id is random, so its last bits are as good as a hash.
        let [first, rest @ ..] = &*self.table;
        let part = match (id.0 as usize) % PARTS {
            0 => first,
            part => rest.get(part - 1).unwrap_or(first),
        };
        lock(part)
    }

    fn try_create(&self, record: &Record) -> bool {
        let fence = scope::fence(&record.id);
        let (now, mut part) = (Instant::now(), self.part(&record.id));
        let free = part.get(&record.id, now).is_none();
        if free {
            part.insert(now, record, fence.clone(), 1);
            scope::saved(&record.id, RecordVersion { fence, saves: Some(1) });
        }
        free
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Part {
    fn get(&mut self, id: &Id, now: Instant) -> Option<&mut Slot> {
        self.slots.get_mut(id).filter(|slot| slot.until > now)
    }

    fn insert(&mut self, now: Instant, record: &Record, fence: Option<Fence>, saves: u64) {
        let until = now + time_left(record).min(FAR);
        let live = Some(Live { record: Arc::new(record.clone()), fence, saves });
        self.put(now, record.id, Slot { until, live });
    }

    fn put(&mut self, now: Instant, id: Id, slot: Slot) {
        if self.slots.len() >= self.limit {
            self.slots.retain(|_, slot| slot.until > now);
            // Each session is looked at a bounded number of times in its life.
            self.limit = (self.slots.len() * 2).max(64);
        }
        self.slots.insert(id, slot);
    }
}

impl Slot {
    fn kept(slot: Option<&Slot>) -> StoredRecord<'_> {
        match slot.map(|slot| slot.live.as_ref()) {
            None => StoredRecord::Nothing,
            Some(None) => StoredRecord::Deleted,
            Some(Some(live)) => StoredRecord::Live(live.fence.as_ref()),
        }
    }
}

/// How long a session still has.
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
        let (now, mut part) = (Instant::now(), self.part(&record.id));
        let slot = part.get(&record.id, now);
        let kept = Slot::kept(slot.as_deref());
        let saves = slot.as_ref().and_then(|slot| slot.live.as_ref()).map(|live| live.saves);
        let seen = scope::saves_seen(&record.id);
        let terms = SaveConditions {
            shared: self.shared,
            may_contest: scope::may_contest(),
            unchanged: seen.is_some() && seen == saves,
        };
        let fence = match fence::save(kept, request.as_ref(), terms) {
            Ok(fence) => fence,
            Err(refused) => {
                return Err(scope::refuse(&record.id, refused, kept.fence().cloned()));
            }
        };
        let saves = saves.unwrap_or(0) + 1;
        part.insert(now, record, fence.clone(), saves);
        drop(part);
        scope::saved(&record.id, RecordVersion { fence, saves: Some(saves) });
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let request = scope::fence(id);
        let (found, seen) = {
            let mut part = self.part(id);
            let slot = part.get(id, Instant::now());
            let raised = fence::load(Slot::kept(slot.as_deref()), request.as_ref()).cloned();
            let live = slot.and_then(|slot| slot.live.as_mut());
            match live {
                Some(live) => {
                    if raised.is_some() {
                        live.fence = raised;
                    }
                    let seen = RecordVersion { fence: live.fence.clone(), saves: Some(live.saves) };
                    (Some(live.record.clone()), Some(seen))
                }
                None => (None, None),
            }
        };
        scope::saw(id, seen);
        Ok(found.map(Arc::unwrap_or_clone))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        let now = Instant::now();
        let slot = Slot { until: now + self.keep_deleted.min(FAR), live: None };
        self.part(id).put(now, *id, slot);
        Ok(())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("sessions", &self.len())
            .field("keep_deleted", &self.keep_deleted)
            .field("shared_saves", &self.shared)
            .finish()
    }
}
