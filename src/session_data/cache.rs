//! [`FencedCache`]: local copies of sessions, each valid for one epoch.

use std::{
    fmt,
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, EntryAction, EntryResult},
};
use serde_json::Value;
use tokio::time::Instant;
use tower_sessions_core::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::scope::{self, CopyUse};

/// The name under which the generation of a copy is stored in its data. Applications do not use such a
/// name.
const GENERATION: &str = "\0tower-sticky copy";

/// A local cache in front of any session store. A copy of a session that this backend has read or saved is
/// valid **as long as the session stays on this backend**.
///
/// A request that is [pinned](crate::Verdict::Pinned) to this backend uses the copy, if the copy is of the
/// same or a later epoch. All other requests read the store:
///
/// | request | reads | stores a copy |
/// |---|---|---|
/// | pinned, in the epoch of the copy or an earlier one | the copy | after a save |
/// | pinned, in a later epoch; moved or assigned to this backend | the store | yes, unless another backend owns the session now |
/// | borrowed | the store | no, and a save drops the copy |
/// | without a scope or an epoch | the store | no, and a save drops the copy |
///
/// Saves go to the store first, and a failed save drops the copy. With a [fenced store](super) a save that
/// is based on an outdated copy is refused, and other backends cannot save a session while it is on this
/// one, unless [gateways disagree](super#gateways-that-disagree). Outdated data may then be read for up to
/// [`fresh_for`](Self::fresh_for).
///
/// # Logouts
///
/// A deleted session is deleted in the store, and its copy is dropped on the backend that has deleted it. A
/// session that has moved is read from the store on its new backend, and also when it returns. Two kinds of
/// requests can still read the copy of a session that was deleted on another backend: requests to the
/// session's own backend, if another backend had borrowed the session and served the logout, and requests
/// with a token from before a move. They can do so until the copy is older than
/// [`fresh_for`](Self::fresh_for). They cannot save, because the store refuses it.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sessions::SessionManagerLayer;
/// use tower_sticky::session_data::{FencedCache, MemoryStore};
///
/// # let shared = MemoryStore::new();
/// let cache = FencedCache::new(MemoryStore::new(), shared).fresh_for(Duration::from_secs(10));
/// let sessions = SessionManagerLayer::new(cache);
/// ```
#[derive(Clone)]
pub struct FencedCache<L, S> {
    local: L,
    store: S,
    shared: Arc<Shared>,
    fresh_for: Duration,
}

struct Shared {
    /// The valid copies in `local`. Copies that are not listed here are not used.
    copies: Cache<Id, CopyMeta, UnitWeighter, RandomState>,
    next_generation: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CopyMeta {
    /// The generation that the copy in `local` must have. Each read and each save takes one before it calls
    /// the store, so a copy is valid only if no other read or save has begun since, and a late write to
    /// `local` is ignored.
    generation: u64,
    epoch: u64,
    created: Instant,
}

impl<L: SessionStore, S: SessionStore> FencedCache<L, S> {
    /// Caches up to 100,000 sessions of `store` in `local`.
    pub fn new(local: L, store: S) -> Self {
        Self { local, store, shared: Arc::new(Shared::new(100_000)), fresh_for: Self::FRESH_FOR }
    }

    const FRESH_FOR: Duration = Duration::from_secs(30);

    /// The most sessions with a valid copy; default 100,000. It does not limit how many records `local`
    /// holds.
    #[must_use]
    pub fn capacity(mut self, sessions: usize) -> Self {
        self.shared = Arc::new(Shared::new(sessions));
        self
    }

    /// The longest age of a copy that is used; default 30 s. This limits how long a logout on another
    /// backend may go unnoticed, as described under [Logouts](Self#logouts). With `Duration::MAX` only the
    /// epoch is checked.
    #[must_use]
    pub fn fresh_for(mut self, time: Duration) -> Self {
        self.fresh_for = time;
        self
    }

    /// The copy, if there is one that the request may use.
    async fn load_copy(&self, id: &Id, allowed: CopyUse) -> Option<Record> {
        let copy = self.shared.copies.get(id)?;
        if !allowed.read || copy.epoch < allowed.epoch || copy.created.elapsed() >= self.fresh_for {
            return None;
        }
        let mut record = without_scope(self.local.load(id)).await.ok().flatten()?;
        if record.data.remove(GENERATION)?.as_u64() != Some(copy.generation) {
            return None;
        }
        scope::record_copy_load(id, copy.epoch);
        Some(record)
    }

    async fn save_copy(&self, mut record: Record, generation: u64) {
        record.data.insert(GENERATION.to_owned(), Value::from(generation));
        if let Err(error) = without_scope(self.local.save(&record)).await {
            // The session itself was loaded or saved.
            tracing::debug!(%error, "the local copy of a session cannot be saved");
        }
    }
}

impl Shared {
    fn new(capacity: usize) -> Self {
        let capacity = capacity.max(2);
        let hasher = RandomState::default();
        let copies =
            Cache::with(capacity, capacity as u64, UnitWeighter, hasher, Default::default());
        Self { copies, next_generation: AtomicU64::new(0) }
    }

    /// Begins a new copy, which invalidates all earlier ones. Returns its generation.
    fn begin_copy(&self, id: &Id, epoch: u64) -> u64 {
        let generation = self.next_generation.fetch_add(1, Relaxed);
        self.copies.insert(*id, CopyMeta { generation, epoch, created: Instant::now() });
        generation
    }

    /// Sets the epoch of a copy, after the store has answered. Returns `false` if the copy was invalidated
    /// meanwhile.
    fn set_epoch(&self, id: &Id, generation: u64, epoch: u64) -> bool {
        let result = self.copies.entry(id, None, |_, copy| {
            let is_current = copy.generation == generation;
            if is_current {
                copy.epoch = epoch;
            }
            EntryAction::Retain(is_current)
        });
        matches!(result, EntryResult::Retained(true))
    }

    fn invalidate(&self, id: &Id) {
        self.copies.remove(id);
    }
}

/// Invalidates the copy of a session on drop, unless disarmed. This covers a request that is cancelled
/// while it waits for the store, so that the result is unknown.
struct InvalidateOnDrop<'a> {
    shared: &'a Shared,
    id: &'a Id,
    armed: bool,
}

impl<'a> InvalidateOnDrop<'a> {
    fn new(shared: &'a Shared, id: &'a Id) -> Self {
        Self { shared, id, armed: true }
    }

    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for InvalidateOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.shared.invalidate(self.id);
        }
    }
}

/// Runs a future of the local cache without the scope, because the fence does not apply to copies.
async fn without_scope<F: Future>(future: F) -> F::Output {
    scope::enter(None, future).await
}

#[async_trait]
impl<L: SessionStore, S: SessionStore> SessionStore for FencedCache<L, S> {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.store.create(record).await?;
        // No other request knows the id yet.
        if let Some(allowed) = scope::copy_use(&record.id) {
            let generation = self.shared.begin_copy(&record.id, allowed.epoch);
            self.save_copy(record.clone(), generation).await;
        }
        Ok(())
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let guard = InvalidateOnDrop::new(&self.shared, &record.id);
        let allowed = scope::copy_use(&record.id);
        let generation = allowed.map(|allowed| self.shared.begin_copy(&record.id, allowed.epoch));
        self.store.save(record).await?;
        // No copy if another save was in flight, because the order of the two in the store is unknown, or
        // if the session has no owner after this save.
        if let (Some(generation), Some(allowed)) = (generation, scope::copy_use(&record.id))
            && self.shared.set_epoch(&record.id, generation, allowed.epoch)
        {
            guard.disarm();
            self.save_copy(record.clone(), generation).await;
        }
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let Some(allowed) = scope::copy_use(id) else {
            return self.store.load(id).await;
        };
        if let Some(record) = self.load_copy(id, allowed).await {
            return Ok(Some(record));
        }
        let generation = self.shared.begin_copy(id, allowed.epoch);
        let guard = InvalidateOnDrop::new(&self.shared, id);
        let found = self.store.load(id).await?;
        // The record may be of a later epoch, in which the request continues, or belong to another backend.
        if let (Some(record), Some(allowed)) = (&found, scope::copy_use(id)) {
            guard.disarm();
            if self.shared.set_epoch(id, generation, allowed.epoch) {
                self.save_copy(record.clone(), generation).await;
            }
        }
        Ok(found)
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        // Before the store has deleted the record and again afterwards, because another request may have
        // loaded it meanwhile.
        self.shared.invalidate(id);
        let _guard = InvalidateOnDrop::new(&self.shared, id);
        self.store.delete(id).await?;
        if let Err(error) = without_scope(self.local.delete(id)).await {
            tracing::debug!(%error, "the invalid copy of a deleted session cannot be deleted");
        }
        Ok(())
    }
}

impl<L: fmt::Debug, S: fmt::Debug> fmt::Debug for FencedCache<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencedCache")
            .field("local", &self.local)
            .field("store", &self.store)
            .field("copies", &self.shared.copies.len())
            .field("fresh_for", &self.fresh_for)
            .finish()
    }
}
